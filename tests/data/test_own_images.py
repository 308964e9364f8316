"""People's own folders of images as they really are: splits by any name, junk, strays, formats that are not read."""

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr.data.folder import ImageFolder
from simclr.data.store import Splits
from simclr.errors import InputError
from tests.conftest import image_bytes, tiny_imagenet_files, write_folder
from tests.data.test_hostile_tar import MODES

pytestmark = pytest.mark.usefixtures("no_hang")

Files = dict[str, bytes]


def files(*names: str) -> Files:
    """Images, each of another shade."""
    return {name: image_bytes(np.full((8, 8, 3), i, np.uint8)) for i, name in enumerate(names)}


def classes(top: str = "", count: int = 3) -> list[str]:
    return [f"{top}{name}/{i}.png" for name in ("cat", "dog") for i in range(count)]


def load(root: Path, **choices: Any) -> Splits:
    return ImageFolder(str(root), 8, 0.34, **choices).load()


def counts(images: Splits) -> tuple[int, int, list[str]]:
    return len(images.train), 0 if images.val is None else len(images.val), images.train.classes


JUNK = {
    "._1.jpg": "._*",
    "cat/._1.png": "._*",
    ".DS_Store": ".DS_Store",
    "cat/Thumbs.db": "Thumbs.db",
    "dog/desktop.ini": "desktop.ini",
    "__MACOSX/cat/._0.png": "__MACOSX/",
    ".git/objects/1.png": ".git/",
    ".ipynb_checkpoints/1-checkpoint.png": ".ipynb_checkpoints/",
    "cat/.hidden.png": "hidden files",
}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path, caplog, kind):
    everything = files(*classes()) | dict.fromkeys(JUNK, b"junk")
    root = write_folder(tmp_path / "p", everything)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            for name, content in everything.items():
                archive.writestr(name, content)
        root = tmp_path / "p.zip"
    elif kind == "tar":
        with tarfile.open(tmp_path / "p.tar", "w") as archive:
            archive.add(root, ".")
        root = tmp_path / "p.tar"
    for _ in range(2):  # built, then read back
        caplog.clear()
        with caplog.at_level("INFO"):
            assert counts(load(root)) == (4, 2, ["cat", "dog"])
        (said,) = [record for record in caplog.records if "Passed over" in record.getMessage()]
        assert said.levelname == "INFO"  # nothing that somebody would miss
        for name, label in JUNK.items():
            assert f" × {label} (" in said.getMessage(), name
        assert "2 × ._* (._1.jpg)" in said.getMessage()


def test_images_in_formats_that_are_not_read_are_counted_with_an_example(tmp_path, caplog):
    others = ["cat/1.HEIC", "cat/2.heic", "dog/a.psd", "dog/b.CR2", "notes.txt", "README"]
    root = write_folder(tmp_path / "p", files(*classes()) | dict.fromkeys(others, b""))
    assert counts(load(root)) == (4, 2, ["cat", "dog"])
    (said,) = [record.getMessage() for record in caplog.records if "Passed over" in record.getMessage()]
    for words in ("2 × .heic (cat/1.HEIC)", "1 × .psd (dog/a.psd)", "1 × .cr2 (dog/b.CR2)", "1 × .txt (notes.txt)"):
        assert words in said
    caplog.clear()
    (root / "cat" / "3.heic").write_bytes(b"")  # of no use, but to be said
    load(root)
    assert "3 × .heic (cat/1.HEIC)" in caplog.text
    only = write_folder(tmp_path / "q", {"a/1.heic": b"", "b/2.heic": b""})
    with pytest.raises(InputError, match=r"q holds no images .*; there is 2 × \.heic \(a/1\.heic\)"):
        load(only)


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "train_images", "Training Set", "train-data"])
@pytest.mark.parametrize("val", ["val", "VALID", "validation", "Val_images"])
def test_splits_are_recognised_however_they_are_spelled(tmp_path, train, val):
    root = write_folder(tmp_path / "p", files(*classes(f"{train}/"), *classes(f"{val}/", 2)))
    assert counts(load(root)) == (6, 4, ["cat", "dog"])


def test_what_lies_beside_train_and_val_is_passed_over_and_said(tmp_path, caplog):
    names = [*classes("train/"), *classes("valid/", 2), *classes("test/"), "unlabelled/1.png", "montage.png"]
    assert counts(load(write_folder(tmp_path / "p", files(*names)))) == (6, 4, ["cat", "dog"])
    (said,) = [record for record in caplog.records if "Passed over" in record.getMessage()]
    assert said.levelname == "WARNING"
    for words in ("6 × test/ (test/cat/0.png)", "1 × unlabelled/ (", "1 × images beside the splits (montage.png)"):
        assert words in said.getMessage()


@pytest.mark.parametrize("around", ["", "photos/", "a/b/"])
def test_train_alone_holds_the_classes_and_a_part_is_held_out(tmp_path, around):
    assert counts(load(write_folder(tmp_path / "p", files(*classes(f"{around}train/"))))) == (4, 2, ["cat", "dog"])


AMBIGUOUS = {
    "train and test": (["train/", "test/"], "data.val=test judges on that folder, data.train=train leaves it out"),
    "two to train on": (["train/", "training/"], "several folders to train on .*data.train=FOLDER"),
    "two to validate on": (["train/", "val/", "valid/"], "several folders to validate on .*data.val=FOLDER"),
    "none to train on": (["val/", "test/"], "no folder to train on.*data.train=FOLDER"),
    "a class or a split": (
        ["train/", "car/", "bus/"],
        "train/ beside bus/, car/: data.train=train .*data.train=. takes",
    ),
}


@pytest.mark.parametrize(("tops", "said"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_can_be_taken_in_two_ways_is_refused_with_the_key_to_say_it(tmp_path, tops, said):
    root = write_folder(tmp_path / "p", files(*(name for top in tops for name in classes(top))))
    with pytest.raises(InputError, match=said):
        load(root)


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        ({"val": "test"}, (6, 4, ["cat", "dog"])),
        ({"train": "train"}, (4, 2, ["cat", "dog"])),
        ({"train": "test", "val": "train"}, (4, 6, ["cat", "dog"])),
        ({"train": "."}, (7, 3, ["test", "train"])),
        ({"train": "./train/", "val": "test/"}, (6, 4, ["cat", "dog"])),
    ],
)
@pytest.mark.parametrize("around", ["", "photos/"])
def test_the_keys_say_which_folder_is_which(tmp_path, around, choices, wanted):
    root = write_folder(tmp_path / "p", files(*classes(f"{around}train/"), *classes(f"{around}test/", 2)))
    if around and choices == {"train": "."}:
        wanted = (10, 0, [])  # root itself, in which there is one folder
    assert counts(load(root, **choices)) == wanted
    assert counts(load(root, train="train")) == (4, 2, ["cat", "dog"])  # another choice is another store


def test_classes_that_are_called_like_a_split_are_classes(tmp_path):
    """Vehicles, say."""
    names = [f"{name}/{i}.png" for name in ("car", "train", "ship") for i in range(3)]
    assert counts(load(write_folder(tmp_path / "p", files(*names)))) == (6, 3, ["car", "ship", "train"])


@pytest.mark.parametrize("top", [None, True, "", 1.5, [], "../elsewhere", "/etc"])
def test_what_is_no_folder_of_root(tmp_path, top):
    if top is not None:
        for key in ("train", "val"):
            with pytest.raises(ValueError, match=rf"^{key}=.* is not usable"):
                ImageFolder(str(tmp_path), 8, 0.1, **{key: top})
    with pytest.raises(InputError, match=r"holds no images in absent/"):
        load(write_folder(tmp_path / "p", files(*classes())), train="absent")


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_loose_image_does_not_cost_the_labels(tmp_path, caplog, top):
    names = [*classes(top), f"{top}contact sheet.png", *(classes("val/") if top else [])]
    images = load(write_folder(tmp_path / "p", files(*names)))
    assert images.train.classes == ["cat", "dog"]
    assert f"1 × images beside the classes ({top}contact sheet.png)" in caplog.text


def test_where_most_images_are_loose_there_are_no_labels_and_none_is_lost(tmp_path, caplog):
    names = [*classes(count=1), *(f"{i}.png" for i in range(9))]
    assert counts(load(write_folder(tmp_path / "p", files(*names)))) == (11, 0, [])
    assert "Most images of" in caplog.text
    assert "Passed over" not in caplog.text


def test_a_folder_around_the_classes_is_named(tmp_path, caplog):
    root = write_folder(tmp_path / "p", files(*classes("photos/")))
    assert counts(load(root)) == (6, 0, [])
    assert "All images lie in photos/, whose folders are classes if data.root names it" in caplog.text
    caplog.clear()
    assert counts(load(root / "photos")) == (4, 2, ["cat", "dog"])
    assert "All images" not in caplog.text


@pytest.mark.parametrize("around", ["", "photos/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "tar.xz"])
def test_packed_images_are_those_of_the_folder(tmp_path, kind, around):
    everything = files(*classes(f"{around}train/"), *classes(f"{around}val/", 2))
    root = write_folder(tmp_path / "p", everything)
    packed = tmp_path / f"packed.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(root))
    else:
        with tarfile.open(packed, MODES[kind]) as archive:
            archive.add(root, ".")
    one, other = load(root), load(packed)
    assert [store.key for store in one] == [store.key for store in other]
    assert (tmp_path / "packed.store-8").is_dir()


def test_classes_in_a_zip_lie_below_the_folder_that_packing_adds(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name, content in files(*classes("photos/")).items():
            archive.writestr(name, content)
    assert counts(load(tmp_path / "photos.zip")) == (4, 2, ["cat", "dog"])


def test_tiny_imagenets_own_layout_is_sent_to_its_source(tmp_path):
    root = write_folder(tmp_path / "p", tiny_imagenet_files())
    with pytest.raises(InputError, match=r"data=tiny_imagenet data\.root=.*p; sort other images into a folder"):
        load(root)


def test_tiny_imagenet_with_a_sorted_val_is_read_as_it_is(tmp_path):
    everything = tiny_imagenet_files()
    for i, wnid in enumerate(["n01", "n03", "n02", "n01"]):
        everything[f"val/{wnid}/images/val_{i}.JPEG"] = everything.pop(f"val/images/val_{i}.JPEG")
    everything.pop("test/images/test_0.JPEG")
    images = load(write_folder(tmp_path / "p", everything))
    assert counts(images) == (6, 4, ["n01", "n02", "n03"])
    assert images.val is not None
    assert images.val.labels is not None
    assert images.val.labels.tolist() == [0, 0, 1, 2]
