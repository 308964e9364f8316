"""Images in tables, as Hugging Face's own library writes them; against the same images in a folder."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simclr.data import hub
from simclr.data.files.download import NotHere, no_downloads
from simclr.data.files.rows import Rows
from simclr.data.folder import ImageFolder
from simclr.data.parquet import ParquetImages
from simclr.data.store import Splits
from simclr.errors import InputError
from tests.conftest import Run, image_bytes, only_run, write_folder

pytestmark = pytest.mark.usefixtures("no_hang")

CLASSES = ["cat", "dog"]


def images(count: int, first: int = 0) -> list[bytes]:
    """Of another shade each."""
    return [image_bytes(np.full((12, 9, 3), first + i, np.uint8)) for i in range(count)]


def schema_like_theirs(names: list[str]) -> pa.Schema:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema([
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("label", pa.int64()),
    ])  # fmt: skip
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def table(pixels: list[bytes | None], labels: list[int | None], names: list[str] = CLASSES) -> pa.Table:
    cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pixels)]
    return pa.table({"image": cells, "label": labels}, schema=schema_like_theirs(names))


def write(path: Path, content: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, **options)
    return path


def load(root: Path | str, **choices: Any) -> Splits:
    return ParquetImages(str(root), 8, 0.34, **choices).load()


def test_the_contents_are_those_of_the_same_images_in_folders(tmp_path):
    pixels = images(20)
    root = tmp_path / "tables"
    write(root / "data" / "train-00000-of-00002.parquet", table(pixels[:7], [0] * 7), row_group_size=3)
    write(root / "data" / "train-00001-of-00002.parquet", table(pixels[7:14], [1] * 7))
    write(root / "data" / "validation-00000-of-00001.parquet", table(pixels[14:], [0, 0, 0, 1, 1, 1]))
    files = {f"train/{CLASSES[i // 7]}/{i:02}.png": data for i, data in enumerate(pixels[:14])}
    files |= {f"val/{CLASSES[i // 3]}/{i:02}.png": data for i, data in enumerate(pixels[14:])}
    ours, folder = load(root), ImageFolder(str(write_folder(tmp_path / "folder", files)), 8, 0.34).load()
    assert ours.val is not None
    assert folder.val is not None
    assert (ours.train.key, ours.val.key) == (folder.train.key, folder.val.key)
    assert ours.train.classes == CLASSES


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_an_arrow_data_set_saved_to_disk(tmp_path, kind):
    for split, first in (("train", 0), ("validation", 50)):
        path = tmp_path / "saved" / split / "data-00000-of-00001.arrow"
        path.parent.mkdir(parents=True)
        content = table(images(6, first), [0, 1] * 3)
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(path, content.schema) as writer:
            writer.write_table(content)
        (path.parent / "state.json").write_text("{}")
    loaded = load(tmp_path / "saved")
    assert loaded.val is not None
    assert (len(loaded.train), len(loaded.val), loaded.train.classes) == (6, 6, CLASSES)
    assert loaded.val.pixels[0, 0, 0, 0] == 50


def test_tables_that_mean_other_classes_by_one_number_are_refused(tmp_path):
    write(tmp_path / "train.parquet", table(images(6), [0, 1] * 3))
    write(tmp_path / "validation.parquet", table(images(6, 50), [0, 1] * 3, CLASSES[::-1]))
    with pytest.raises(
        InputError, match=r"schemas of train\.parquet and validation\.parquet name other classes of label"
    ):
        load(tmp_path)
    plain = table(images(6, 50), [0, 1] * 3).replace_schema_metadata(None)
    write(tmp_path / "validation.parquet", plain)  # one that names none means the same
    assert load(tmp_path).train.classes == CLASSES


@pytest.mark.slow
def test_what_their_own_library_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    pixels = [Image.open(io.BytesIO(data)) for data in images(8)]
    content = datasets.Dataset.from_dict({"image": pixels, "label": [0, 1] * 4}, features=features)
    content.to_parquet(str(tmp_path / "all.parquet"))
    content.save_to_disk(str(tmp_path / "saved"))
    one, other = load(tmp_path / "all.parquet"), load(tmp_path / "saved")
    assert one.train.key == other.train.key
    assert one.train.classes == CLASSES


def test_rows_are_read_in_any_order_and_group(tmp_path):
    pixels = images(200)
    path = write(tmp_path / "all.parquet", table(list(pixels), [0] * 200), row_group_size=90)
    archive = Rows(path)
    for row in (0, 199, 63, 64, 90, 89, 180, 1):
        assert archive.read(f"all.parquet#{row}", 2**20) == pixels[row]


def test_plain_bytes_texts_for_labels_and_a_column_that_says_the_split(tmp_path):
    content = pa.table({
        "number": list(range(9)),
        "photo": pa.array(images(9), pa.large_binary()),
        "species": ["owl", "ant", "owl", "ant", "owl", "ant", "owl", "ant", "owl"],
        "part": ["train"] * 4 + ["dev"] * 3 + ["test"] * 2,
    })  # fmt: skip
    path = write(tmp_path / "birds.parquet", content)
    loaded = load(path, label_column="species", split_column="part")
    assert loaded.val is not None
    assert (len(loaded.train), len(loaded.val), loaded.train.classes) == (4, 3, ["ant", "owl"])
    assert loaded.val.labels is not None
    assert loaded.val.labels.tolist() == [1, 0, 1]
    assert load(path).train.labels is None  # none is called as labels usually are


def test_without_a_split_a_part_of_each_class_is_held_out(tmp_path):
    loaded = load(write(tmp_path / "all.parquet", table(list(images(18)), [0, 1, 2] * 6, ["a", "b", "c"])))
    assert loaded.val is not None
    assert (len(loaded.train), len(loaded.val)) == (12, 6)
    assert loaded.val.labels is not None
    assert np.bincount(loaded.val.labels).tolist() == [2, 2, 2]


def test_broken_rows_stop_or_are_left_out_by_their_numbers(tmp_path, caplog):
    pixels: list[bytes | None] = list(images(8))
    pixels[2], pixels[5] = None, b"no image"
    path = write(tmp_path / "all.parquet", table(pixels, [0, 1] * 4))
    with pytest.raises(InputError) as caught:
        load(path)
    assert "all.parquet#2 has no image, and names 2.png" in str(caught.value)
    assert "all.parquet#5 cannot be decoded" in str(caught.value)
    loaded = load(path, on_broken="skip")
    assert len(loaded.train) + (0 if loaded.val is None else len(loaded.val)) == 6


def test_rows_without_a_label_stop_or_are_counted_and_a_set_without_any_has_none(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path / "some.parquet", table(list(images(8)), [0, 1, -1, 1, 0, None, 0, 1]))
    with pytest.raises(InputError, match=r"row 2 of some\.parquet has label=-1, and others have a label"):
        load(path)
    loaded = load(path, on_broken="skip")
    assert loaded.val is not None
    assert len(loaded.train) + len(loaded.val) == 6
    assert "2 × rows without a label (some.parquet#2)" in caplog.text
    assert load(write(tmp_path / "none.parquet", table(list(images(8)), [-1] * 8))).train.labels is None


def of_labels(labels: list[Any]) -> pa.Table:
    return pa.table({"image": images(2), "label": labels})


def two_columns() -> pa.Table:
    return pa.table({"left": pa.array(images(2)), "right": pa.array(images(2))})


@pytest.mark.parametrize(
    ("files", "choices", "said"),
    [
        ({"a.parquet": pa.table({"x": [1]})}, {}, "has no column of encoded images; name it with data.image_column="),
        ({"a.parquet": two_columns()}, {}, "has several columns of bytes (left, right)"),
        ({"a.parquet": two_columns()}, {"image_column": "up"}, "has no column of encoded images called up"),
        (
            {"train.parquet": two_columns(), "val.parquet": pa.table({"x": [1]})},
            {"image_column": "left"},
            "val.parquet",
        ),
        ({"a.parquet": table([*images(2)], [0, 1])}, {"label_column": "kind"}, "data.label_column= names one; it has"),
        ({"a.parquet": of_labels([0.5, 1.5])}, {}, "the column label holds float; labels are all whole numbers or all"),
        ({"a.parquet": of_labels([[0], [1, 2]])}, {}, "the column label holds list; labels are"),
        ({"a.parquet": of_labels([0, 1]), "b.parquet": of_labels(["x", "y"])}, {}, "the column label holds int, str;"),
        ({"a.parquet": table([*images(2)], [0, 9])}, {}, "label=9 is none of the 2 classes that the schema names"),
        (
            {"train.parquet": table([*images(2)], [0, 1]), "test.parquet": table([*images(2)], [0, 1])},
            {},
            "data.val=test judges on that one",
        ),
        ({"test.parquet": table([*images(2)], [0, 1])}, {}, "has no split to train on; name it with data.train="),
        ({"a.parquet": table([*images(2)], [0, 1])}, {"val": "b"}, "has no split called b, as data.val= names one"),
        ({}, {}, "holds no tables (files that end in .arrow or .parquet)"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path, files, choices, said):
    root = tmp_path / "root"
    root.mkdir()
    for name, content in files.items():
        write(root / name, content)
    with pytest.raises(InputError) as caught:
        load(root, **choices)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_that_is_cut_short(tmp_path, name):
    path = write(tmp_path / "whole.parquet", table(list(images(8)), [0, 1] * 4))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / name).write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot be read as .*; fetch it again"):
        load(tmp_path / "cut")


def test_named_splits(tmp_path):
    for name, first in (("train", 0), ("test", 20), ("unsupervised", 40)):
        write(tmp_path / "root" / f"{name}-00000-of-00001.parquet", table(list(images(6, first)), [0, 1] * 3))
    loaded = load(tmp_path / "root", val="test")
    assert loaded.val is not None
    assert (loaded.train.pixels[0, 0, 0, 0], loaded.val.pixels[0, 0, 0, 0]) == (0, 20)
    held_out = load(tmp_path / "root", train="train", store=str(tmp_path))
    assert held_out.val is not None
    assert len(held_out.train) + len(held_out.val) == 6


def test_the_hub_is_asked_once_and_not_where_nothing_may_be_fetched(tmp_path, monkeypatch):
    """What huggingface_hub is asked for; it is not here to be asked itself."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    write(tmp_path / "data" / "train.parquet", table(list(images(6)), [0, 1] * 3))
    asked = []

    def snapshot_download(name, **how):
        asked.append((name, how["repo_type"], how["revision"], how["local_files_only"]))
        if how["local_files_only"]:
            raise OSError("nothing is kept\nsecond line")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load("hf://owner/name@refs/convert/parquet").train.classes == CLASSES
    with no_downloads(), pytest.raises(NotHere, match=r"cannot fetch data.root=hf://owner/name \(nothing is kept\); "):
        hub.fetched("hf://owner/name")
    assert asked == [
        ("owner/name", "dataset", "refs/convert/parquet", False),
        ("owner/name", "dataset", None, True),
    ]
    with pytest.raises(InputError, match="write hf://OWNER/NAME"):
        hub.fetched("hf://owner")


@pytest.mark.slow
def test_a_run_trains_goes_on_and_is_judged(run: Run, tmp_path):
    write(tmp_path / "tables" / "train.parquet", table(list(images(40)), [0, 1] * 20))
    write(tmp_path / "tables" / "val.parquet", table(list(images(20, 100)), [0, 1] * 10))
    tiny = ("data=parquet", "data.root=tables", "data.size=16", "batch_size=16", "precision=32", "callbacks=none")
    run("train.py", *tiny, "epochs=1")
    run("train.py", *tiny, "epochs=2", f"resume={only_run(tmp_path / 'outputs')}")
    for run_dir in (tmp_path / "outputs").iterdir():
        assert "linear top-1" in run("linear_eval.py", f"run={run_dir}").stdout


@pytest.mark.slow
def test_the_hub_out_of_reach_is_one_line(run: Run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = run("train.py", "data=parquet", "data.root=hf://owner/name", check=False, fresh=True)
    assert done.returncode == 1
    assert "error: cannot fetch data.root=hf://owner/name (" in done.stderr
    assert "put the .parquet files of its Files page into a folder" in done.stderr
    assert "Traceback" not in done.stderr
