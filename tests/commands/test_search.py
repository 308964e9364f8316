"""Finding images from the command line: by an image, by a sentence, and what is refused."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from PIL import Image

from simclr.commands.arguments import named
from simclr.commands.embed import embed
from simclr.commands.search import search
from simclr.errors import InputError
from simclr.runs.assemble import reassemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.configs import CONFIGS
from tests.commands.test_clip import CLIP, error_of
from tests.conftest import Run, command, image_bytes, only_run, write_folder, write_zip

random = np.random.default_rng(0)
PIXELS = {f"{i:02}.png": random.integers(0, 255, (16, 16, 3), dtype=np.uint8) for i in range(12)}
FILES = {f"some photos/{name}": image_bytes(pixels) for name, pixels in PIXELS.items()}


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory, command_server) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    done = command_server(command("train.py", *CLIP, "epochs=1", "callbacks=none"), folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs")


def listed(page: Path) -> list[tuple[float, str]]:
    """The hits of a page: similarity and name, in order."""
    return [
        (float(value), name) for value, name in re.findall(r"<small>(\S+) · (.*?)</small>", page.read_text("utf-8"))
    ]


def shown(page: Path) -> list[Image.Image]:
    """The images on a page, that of the query first if it is one."""
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text("utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]


@pytest.mark.slow
def test_an_image_finds_itself_first_and_the_others_by_the_cosine_of_their_features(run: Run, finished, tmp_path):
    """In a folder, in a zip, and a second time from what was kept; cosines by hand."""
    run_dir = shutil.copytree(only_run(finished / "outputs"), tmp_path / "run")
    root = write_folder(tmp_path / "mine", FILES)
    query = root / "some photos" / "05.png"

    def kept() -> list[Path]:
        return list((run_dir / "features").glob("*.safetensors"))

    before = len(kept())
    backbone = reassemble(load_checkpoint(last_checkpoint(run_dir)), ["backbone"])["backbone"].eval()
    with torch.no_grad():
        images = torch.from_numpy(np.stack(list(PIXELS.values()))).permute(0, 3, 1, 2) / 255
        features = F.normalize(backbone(images), dim=1)
    cosines = dict(zip(PIXELS, (features @ features[5]).tolist(), strict=True))
    best = sorted(cosines, key=lambda name: -cosines[name])[:4]

    for images_at in (str(root), str(write_zip(tmp_path / "all.zip", FILES)), str(root)):
        done = run("simclr.search", f"run={run_dir}", str(query), images_at, "count=4", "output=found.html")
        assert "Warning" not in done.stderr
        found = listed(tmp_path / "found.html")
        assert [Path(name).name for _, name in found] == best
        assert [value for value, _ in found] == pytest.approx([cosines[name] for name in best], abs=6e-4)
    assert len(kept()) - before == 2  # of the folder and of the zip
    page = tmp_path / "found.html"
    link = re.search(r'<a href="file://([^"]+)"', page.read_text("utf-8"))
    assert link is not None
    assert Path(link[1].replace("%20", " ")) == query
    asked, first, *_ = (np.asarray(image, np.float64) for image in shown(page))
    assert abs(asked - first).mean() < 1

    (root / "some photos" / "05.png").write_bytes(FILES["some photos/06.png"])  # what was kept is not stale
    run("simclr.search", f"run={run_dir}", str(query), str(root), "count=2", "output=found.html")
    assert [value for value, _ in listed(page)] == pytest.approx([1, 1], abs=6e-4)


def test_a_sentence_finds_what_the_towers_say_it_is_near(run: Run, clip_run, tmp_path):
    root = write_folder(tmp_path / "mine", FILES)
    said = run("simclr.search", f"run={clip_run}", "a red star, <b>bold</b>", str(root), "count=12").stdout
    parts = reassemble(load_checkpoint(last_checkpoint(clip_run)), ["backbone", "head", "text"])
    with torch.no_grad():
        images = torch.from_numpy(np.stack(list(PIXELS.values()))).permute(0, 3, 1, 2) / 255
        embeddings = F.normalize(parts["head"](parts["backbone"].eval()(images)), dim=1)
        cosines = embeddings @ F.normalize(parts["text"].eval().embed(["a red star, <b>bold</b>"])[0], dim=0)
    page = clip_run / "search_a-red-star-b-bold-b.html"
    assert str(page) in said
    assert {name: value for value, name in listed(page)} == pytest.approx(
        {f"some photos/{name}": value for name, value in zip(PIXELS, cosines.tolist(), strict=True)}, abs=6e-4
    )
    assert "<h1>a red star, &lt;b&gt;bold&lt;/b&gt;</h1>" in page.read_text("utf-8")

    run("simclr.search", f"run={clip_run}", "a red star", "output=own.html", "count=3")
    found = listed(tmp_path / "own.html")
    assert [value for value, _ in found] == sorted((value for value, _ in found), reverse=True)
    assert all(re.fullmatch(r"validation image \d+", name) for _, name in found)


@pytest.mark.slow
def test_broken_images_are_said_and_left_out_each_time(run: Run, clip_run, tmp_path):
    root = write_folder(tmp_path / "mine", FILES | {"bad.png": b"no image"})
    for _ in range(2):
        done = run("simclr.search", f"run={clip_run}", "a star", str(root), "count=50", "output=found.html")
        assert "bad.png" in done.stdout + done.stderr
        assert len(listed(tmp_path / "found.html")) == 12


@pytest.mark.slow
def test_what_cannot_be_searched_is_refused_in_a_line(run: Run, finished, clip_run, tmp_path):
    run_dir = only_run(finished / "outputs")
    root = write_folder(tmp_path / "mine", FILES)
    (tmp_path / "empty").mkdir()
    (root / "bad.png").write_bytes(b"no image")
    (tmp_path / "mine.html").write_text("of mine")
    for overrides, said in (
        ((f"run={run_dir}", "query=two dogs", f"images={root}"), "query=two dogs is no image, and this run reads no"),
        ((f"run={clip_run}",), "say what to look for"),
        ((f"run={clip_run}", "query=dog.jpg", f"images={root}"), "query=dog.jpg does not exist"),
        ((f"run={clip_run}", "query=a dog", "images=nowhere"), "nowhere does not exist"),
        ((f"run={clip_run}", "query=a dog", f"images={tmp_path / 'empty'}"), "holds no images"),
        ((f"run={clip_run}", f"query={root / 'bad.png'}", f"images={root}"), "bad.png cannot be decoded"),
        ((f"run={clip_run}", "query=a dog", f"output={tmp_path / 'mine.html'}"), "was not written by this command"),
        ((f"run={clip_run}", "query=a dog", f"output={tmp_path}"), "is a folder"),
        ((f"run={clip_run}", "query=a dog", "count=0"), "count=0"),
    ):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(InputError, match=re.escape(said)):
            search(compose("search", list(overrides)))
    done = run("simclr.search", f"run={clip_run}", "two", "dogs", str(root), check=False)
    assert "is one argument too many; write a sentence in quotes" in error_of(done)
    assert (tmp_path / "mine.html").read_text() == "of mine"


@pytest.mark.parametrize("layer", ["features", "head"])
def test_features_of_any_images_go_into_one_file(run: Run, clip_run, tmp_path, layer):
    """By hand from the same weights; a broken image is said and left out."""
    root = write_folder(tmp_path / "mine", FILES | {"bad.png": b"no image"})
    done = run("simclr.embed", f"run={clip_run}", str(root), f"layer={layer}", "output=mine.npz")
    assert "bad.png" in done.stdout + done.stderr
    scope: dict[str, Any] = {"numpy": np}
    lines = "\n".join(re.findall(r"^    (.+)$", done.stdout, re.MULTILINE))
    exec(lines.replace("'mine.npz'", repr(str(tmp_path / "mine.npz"))), scope)
    parts = reassemble(load_checkpoint(last_checkpoint(clip_run)), ["backbone", "head"])
    network = torch.nn.Sequential(*(parts[name] for name in ("backbone", "head")[: 1 + (layer == "head")])).eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(np.stack(list(PIXELS.values()))).permute(0, 3, 1, 2) / 255)
    assert scope["names"].tolist() == [f"some photos/{name}" for name in PIXELS]
    torch.testing.assert_close(torch.from_numpy(scope["features"]), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_same_as_a_table_that_pandas_reads(run: Run, clip_run, tmp_path):
    """As many batches as images, of which the second and the last are broken."""
    names = [f"{i}.png" for i in range(200)]
    files = {name: image_bytes(np.full((9, 9, 3), i, np.uint8)) for i, name in enumerate(names)}
    files |= {"1.png": b"no image", "99.png": b"no image"}
    root = write_folder(tmp_path / "mine", files)
    run("simclr.embed", f"run={clip_run}", str(root), "output=mine.npz")
    done = run("simclr.embed", f"run={clip_run}", str(root), "output=mine.parquet")
    scope: dict[str, Any] = {"pandas": pandas}
    lines = "\n".join(re.findall(r"^    (.+)$", done.stdout, re.MULTILINE))
    exec(lines.replace("'mine.parquet'", repr(str(tmp_path / "mine.parquet"))), scope)
    content = np.load(tmp_path / "mine.npz")
    assert scope["rows"]["name"].tolist() == content["names"].tolist() == sorted(set(names) - {"1.png", "99.png"})
    np.testing.assert_array_equal(np.stack(scope["rows"]["features"]), content["features"])
    run("simclr.embed", f"run={clip_run}", str(root), "output=mine.parquet")  # its own, so it may be written again
    (tmp_path / "theirs.parquet").write_bytes(b"PAR1 of theirs")
    done = run("simclr.embed", f"run={clip_run}", str(root), "output=theirs.parquet", check=False)
    assert "was not written by this command" in done.stderr
    assert (tmp_path / "theirs.parquet").read_bytes() == b"PAR1 of theirs"


def test_what_cannot_be_embedded_is_refused_in_a_line(clip_run, tmp_path):
    (tmp_path / "mine.npz").write_text("of mine")
    (tmp_path / "bad.png").write_text("no image")
    for overrides, said in (
        ((), "say which images"),
        ((f"images={tmp_path}", "layer=neck"), "layer=neck is not known"),
        ((f"images={tmp_path}", f"output={tmp_path / 'mine.npz'}"), "was not written by this command"),
        ((f"images={tmp_path}", "output=mine.txt"), "ends in .npz (NumPy's) or .parquet"),
        ((f"images={tmp_path}", f"output={tmp_path / 'new.npz'}"), "bad.png"),
        ((f"images={tmp_path}", "part=target_backbone"), "part=target_backbone is not in this checkpoint"),
    ):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(InputError, match=re.escape(said)):
            embed(compose("embed", [f"run={clip_run}", *overrides]))
    assert (tmp_path / "mine.npz").read_text() == "of mine"
    assert not (tmp_path / "new.npz").exists()


def test_arguments_without_a_key_get_one():
    keys = ("query", "images")
    assert named(["run=R", "null", "a b/"], keys) == ["run=R", 'query="null"', "images=a b/"]
    assert named(["--cfg", "job", "dogs, cats: {2}", "count=3"], keys) == [
        "--cfg", "job", 'query="dogs, cats: {2}"', "count=3",
    ]  # fmt: skip
    with pytest.raises(InputError, match="one argument too many"):
        named(["a", "b", "c"], keys)
