"""Captions on disk: every kind of table gives what was written, and what is wrong with one is counted or refused."""

import csv
import io
import json
import logging
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from simclr.data.image_text import ImageText
from simclr.data.store import ImageStore
from simclr.errors import InputError
from tests.conftest import image_bytes, write_folder, write_zip

HARD = ['she said "hello, world"', "two dogs; 🐶 and 🐱", "كلب يركض", "first line\nsecond line", "tab\there | bar"]
CAPTIONS = {
    f"{name}.png": [f"a {name}", f"one more {name}, {hard}"]
    for name, hard in zip(("dog", "cat", "bird", "boat", "tree", "car"), [*HARD, "end"], strict=True)
}
SPLIT = dict(zip(CAPTIONS, ["train", "train", "train", "restval", "val", "test"], strict=True))
ROWS = [{"image": image, "caption": text, "split": SPLIT[image]} for image in CAPTIONS for text in CAPTIONS[image]]


def images(*names: str, at: str = "images/") -> dict[str, bytes]:
    return {
        f"{at}{name}": image_bytes(np.full((10 + i, 12, 3), 30 * i + 20, np.uint8))
        for i, name in enumerate(names or CAPTIONS)
    }


def table(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def karpathy() -> bytes:
    entries = [
        {"filepath": "images", "filename": image, "split": SPLIT[image], "sentences": [{"raw": t} for t in texts]}
        for image, texts in CAPTIONS.items()
    ]
    return json.dumps({"dataset": "mine", "images": entries}).encode()


def lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def said(store: ImageStore) -> list[list[str]]:
    column = store.columns["captions"]
    return [list(column.names[start:end]) for start, end in column.values]


FORMS: dict[str, bytes] = {
    "captions.csv": table(ROWS),
    "semicolons.csv": table(ROWS, ";"),
    "bars.csv": table([{"image_name": r["image"], "comment": r["caption"], "split": r["split"]} for r in ROWS], "|"),
    "utf16.csv": table(ROWS).decode().encode("utf-16"),
    "rows.jsonl": lines(ROWS),
    "lists.jsonl": lines([{"file_name": i, "captions": c, "split": SPLIT[i]} for i, c in CAPTIONS.items()]),
    "dataset.json": karpathy(),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", FORMS)
def test_every_kind_of_table_gives_what_was_written(tmp_path, name, packed):
    files = images() | {name: FORMS[name]}
    root = write_zip(tmp_path / "all.zip", files) if packed else write_folder(tmp_path / "all", files)
    splits = ImageText(str(root), 8).load()
    assert said(splits.train) == [CAPTIONS[image] for image in list(CAPTIONS)[:4]]
    assert splits.val is not None
    assert said(splits.val) == [CAPTIONS["tree.png"]]
    shades = [int(image.mean().round()) for image in splits.train.pixels]
    assert shades == [20, 50, 80, 110]  # each caption with its own image
    again = ImageText(str(root), 8).load()
    assert (again.train.key, said(again.train)) == (splits.train.key, said(splits.train))


def test_other_captions_are_other_images_to_a_run(tmp_path):
    keys = set()
    for number, text in enumerate(("a dog", "a cat")):
        rows = [row | {"caption": text} for row in ROWS[::2]]
        root = write_folder(tmp_path / str(number), images() | {"captions.csv": table(rows)})
        keys.add(ImageText(str(root), 8).load().train.key)
    assert len(keys) == 2


def test_quotes_in_a_tsv_are_letters(tmp_path):
    text = 'image\tcaption\n"dog".png\tthe "best" dog, ever\ncat.png\t5" of cat\n'
    root = write_folder(tmp_path / "all", images('"dog".png', "cat.png", at="") | {"captions.tsv": text.encode()})
    splits = ImageText(str(root), 8, val_fraction=0.5).load()
    assert splits.val is not None
    assert sorted([*said(splits.train), *said(splits.val)]) == [['5" of cat'], ['the "best" dog, ever']]


def test_coco_has_its_captions_in_annotations(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "dog.png"}, {"id": 9, "file_name": "cat.png"}],
        "annotations": [{"image_id": 9, "caption": "a cat"}, {"image_id": 7, "caption": "a dog"}],
    }
    files = images("dog.png", "cat.png", "bird.png") | {"train.json": json.dumps(content).encode()}
    val = table([{"image": "bird.png", "caption": "a bird"}])
    root = write_folder(tmp_path / "all", files)
    (tmp_path / "val.csv").write_bytes(val)
    splits = ImageText(str(root), 8, "train.json", str(tmp_path / "val.csv")).load()
    assert said(splits.train) == [["a cat"], ["a dog"]]
    assert splits.val is not None
    assert said(splits.val) == [["a bird"]]


def test_nothing_is_left_out_in_silence(tmp_path, caplog):
    rows = [*ROWS, ROWS[0], {"image": "cat.png", "caption": "  ", "split": "train"}]
    files = images(*CAPTIONS, "nobody.png") | {"captions.csv": table(rows)}
    with caplog.at_level(logging.INFO):
        ImageText(str(write_folder(tmp_path / "all", files)), 8).load()
    assert "2 × rows of test (line 13: car.png)" in caplog.text  # one caption goes over two lines
    assert "1 × rows that repeat another (line 15: dog.png)" in caplog.text
    assert "1 × rows without a caption (line 16: cat.png)" in caplog.text
    assert "1 × images without captions (images/nobody.png)" in caplog.text


def test_an_image_that_is_missing_stops_or_is_counted(tmp_path, caplog):
    files = images(*list(CAPTIONS)[1:]) | {"captions.csv": table(ROWS)}
    root = str(write_folder(tmp_path / "all", files))
    with pytest.raises(InputError, match=r"line 2 names the image dog.png, which is not in .*data.on_broken=skip"):
        ImageText(root, 8).load()
    with caplog.at_level(logging.INFO):
        assert len(ImageText(root, 8, on_broken="skip").load().train) == 3
    assert "2 × rows whose image is missing (line 2: dog.png)" in caplog.text


WRONG = {
    "a quote that is not closed": (b'image,caption\ndog.png,"a dog\ncat.png,a cat\n', "line 2 of .* is broken"),
    "a quote in the middle": (b'image,caption\ndog.png,"a" dog"\n', "line 2 of .* is broken"),
    "a field too many": (b"image,caption\ndog.png,a dog, a cat\n", "line 2 of .* has 3 fields, where the first has 2"),
    "another encoding": ("image,caption\ndog.png,un café\n".encode("latin-1"), "line 2 of .* is not text in utf-8"),
    "no caption column": (b"image,words\ndog.png,a dog\n", "line 1 of .* has no caption column, but 'image', 'words'"),
    "a split of no known name": (b"image,caption,split\ndog.png,a dog,fold1\n", "line 2 of .* is in the split 'fold1'"),
    "two splits of one image": (
        b"image,caption,split\ndog.png,a dog,train\ndog.png,one dog,val\n",
        "line 3 puts the image dog.png into val, and an earlier one into train",
    ),
    "no rows": (b"image,caption\n", "has no rows"),
    "no captions": (b"image,caption\ndog.png,\n", "no row of the train split has both an image and a caption"),
    "no image": (b"image,caption\n,a dog\n", "line 2 of .* names no image"),
    "an image of two places": (b"image,caption\nsame.png,a dog\n", "names the image same.png, which may be"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_is_wrong_is_refused_by_line(tmp_path, what):
    data, message = WRONG[what]
    files = images() | images("same.png", at="a/") | images("same.png", at="b/") | {"captions.csv": data}
    root = write_folder(tmp_path / "all", files)
    with pytest.raises(InputError, match=message):
        ImageText(str(root), 8).load()


JSONS = {
    "{not json": "line 1 of .* is no JSON",
    "[1, 2]": "line 1 of .* is no JSON object",
    '{"image": "dog.png", "caption": 7}': "line 1 of .* has 7 for a caption, which is no text",
    '{"image": 7, "caption": "a dog"}': "line 1 of .* names no image",
    '{"picture_of": "dog.png", "caption": "a dog"}': "line 1 of .* has no image column",
}


@pytest.mark.parametrize("text", JSONS)
def test_json_lines_that_are_wrong_are_refused_by_line(tmp_path, text):
    root = write_folder(tmp_path / "all", images() | {"captions.jsonl": text.encode()})
    with pytest.raises(InputError, match=JSONS[text]):
        ImageText(str(root), 8).load()


def test_which_table_is_asked_where_there_are_several(tmp_path):
    files = images() | {"one.csv": table(ROWS), "two.csv": table(ROWS[:2])}
    root = str(write_folder(tmp_path / "all", files))
    with pytest.raises(InputError, match=r"several tables \('one.csv', 'two.csv'\); say which .* data.captions="):
        ImageText(root, 8).load()
    assert len(ImageText(root, 8, "one.csv").load().train) == 4
    with pytest.raises(InputError, match=r"data.captions=three.csv is no file"):
        ImageText(root, 8, "three.csv").load()


def test_another_encoding_and_other_columns_are_taken_as_told(tmp_path):
    rows = [{"bild": image, "satz": f"un café {image}"} for image in CAPTIONS]
    files = images() | {"captions.csv": table(rows).decode().encode("latin-1")}
    root = str(write_folder(tmp_path / "all", files))
    source = ImageText(root, 8, image_column="bild", caption_column="satz", encoding="latin-1", val_fraction=0.3)
    splits = source.load()
    assert splits.val is not None
    assert len(splits.val) == 2
    assert all("café" in text for store in (splits.train, splits.val) for of_image in said(store) for text in of_image)
    assert not np.isin(splits.val.digests, splits.train.digests).any()


def test_a_caption_of_ten_thousand_words_is_kept_whole(tmp_path):
    long = " ".join(["word"] * 10_000)
    rows = [{"image": image, "caption": long} for image in CAPTIONS]
    root = write_folder(tmp_path / "all", images() | {"captions.csv": table(rows)})
    assert said(ImageText(str(root), 8).load().train)[0] == [long]


def sample(key: str, *captions: str) -> dict[str, bytes]:
    """An image of webdataset's, and its captions beside it."""
    shade = sum(key.encode()) % 200
    return {f"{key}.png": image_bytes(np.full((9, 12, 3), shade, np.uint8)), f"{key}.txt": "\n".join(captions).encode()}


def write_shards(root: Path, **shards: Mapping[str, bytes]) -> Path:
    root.mkdir()
    for shard, files in shards.items():
        with tarfile.open(root / f"{shard.replace('_', '-')}.tar", "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root


DOGS = sample("000", "a dog", *HARD[:3]) | sample("001", "a cat") | sample("002", "a bird")


def test_webdataset_shards_are_one_set_whose_splits_the_shards_name(tmp_path):
    described = sample("000") | {"000.json": json.dumps({"caption": ["a boat", "some boat"], "width": 12}).encode()}
    del described["000.txt"]
    shards = {"flickr_train_0000": DOGS, "flickr_train_0001": sample("000", "a tree"), "flickr_val_0000": described}
    root = write_shards(tmp_path / "shards", **shards)
    (root / "0000_stats.json").write_text('{"count": 3}')  # img2dataset writes such
    splits = ImageText(str(root), 8).load()
    assert said(splits.train) == [["a dog", *HARD[:3]], ["a cat"], ["a bird"], ["a tree"]]
    assert splits.val is not None
    assert said(splits.val) == [["a boat", "some boat"]]
    shades = [sum(key.encode()) % 200 for key in ("000", "001", "002", "000")]
    assert [int(image.mean()) for image in splits.train.pixels] == shades  # each caption with its own image


def test_files_beside_images_say_the_same_wherever_these_lie(tmp_path):
    places = {
        "folder": write_folder(tmp_path / "folder", DOGS),
        "zip": write_zip(tmp_path / "all.zip", DOGS),
        "tar": write_shards(tmp_path / "tars", one=DOGS) / "one.tar",
        "shards": tmp_path / "tars",
        "below": write_folder(tmp_path / "below", {f"00000/{name}": data for name, data in DOGS.items()}),
    }
    (tmp_path / "folder" / "0_stats.json").write_text("{}")
    found = {}
    for place, root in places.items():
        splits = ImageText(str(root), 8, val_fraction=0.4, store=str(tmp_path / f"store-{place}")).load()
        found[place] = (splits.train.key, said(splits.train))
    assert len({key for key, _ in found.values()}) == 1
    assert all(texts == found["folder"][1] for _, texts in found.values())


def test_what_lies_beside_an_image_is_counted_or_refused(tmp_path, caplog):
    files = DOGS | sample("003", "") | sample("004", "no image") | sample("005") | {"train.csv/README.txt": b"read me"}
    del files["004.png"], files["005.txt"]
    with caplog.at_level(logging.INFO):
        splits = ImageText(str(write_shards(tmp_path / "shards", one=files)), 8, val_fraction=0.4).load()
    assert len(splits.train) + len(splits.val or ()) == 3
    assert "2 × texts beside no image (one.tar/004.txt)" in caplog.text
    assert "1 × rows without a caption (one.tar/003.txt: one.tar/003.png)" in caplog.text
    assert "1 × images without captions (one.tar/005.png)" in caplog.text

    for number, (name, data, message) in enumerate(
        [
            ("001.txt", "un café".encode("latin-1"), "line 1 of one.tar/001.txt is not text in utf-8"),
            ("001.json", b'{"caption": 7}', "the content of one.tar/001.json has 7 for a caption"),
            ("001.json", b'{"label": 7}', "the content of one.tar/001.json has no caption column, but 'label'"),
        ]
    ):
        wrong = {key: value for key, value in DOGS.items() if key != "001.txt"} | {name: data}
        with pytest.raises(InputError, match=message):
            ImageText(str(write_shards(tmp_path / str(number), one=wrong)), 8).load()


def test_a_shard_that_is_cut_short_is_named(tmp_path):
    root = write_shards(tmp_path / "shards", one=DOGS, two=sample("009", "a car"))
    (root / "two.tar").write_bytes((root / "two.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"two.tar is not a whole tar file"):
        ImageText(str(root), 8).load()


def test_shards_that_have_changed_are_read_again(tmp_path):
    root = write_shards(tmp_path / "shards", one=DOGS)
    before = ImageText(str(root), 8, val_fraction=0.4).load()
    shutil.rmtree(root)
    write_shards(root, one=DOGS | sample("001", "something else"))
    after = ImageText(str(root), 8, val_fraction=0.4).load()
    everything = [
        {text for of_image in (*said(splits.train), *said(splits.val or splits.train)) for text in of_image}
        for splits in (before, after)
    ]
    assert everything[0] ^ everything[1] == {"a cat", "something else"}


def test_a_table_goes_before_texts_that_a_few_images_have(tmp_path, caplog):
    root = write_folder(tmp_path / "all", images() | {"captions.csv": table(ROWS), "images/dog.txt": b"of a dog"})
    with caplog.at_level(logging.INFO):
        assert said(ImageText(str(root), 8).load().train)[0] == CAPTIONS["dog.png"]
    assert "1 × .txt (images/dog.txt)" in caplog.text
