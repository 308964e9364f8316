"""Tiny ImageNet from a zip and from a folder, whole and broken."""

import logging
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from simclr.data.folder import ImageFolder
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import tiny_imagenet_files, write_folder, write_zip

Files = dict[str, bytes]


def test_zip_and_folder_give_the_same(tmp_path):
    files = tiny_imagenet_files()
    from_zip = TinyImageNet(str(write_zip(tmp_path / "some name.zip", files)), 64).load()
    write_folder(tmp_path / "tiny-imagenet-200", files)
    from_folder = TinyImageNet(str(tmp_path / "tiny-imagenet-200"), 64).load()
    from_parent = TinyImageNet(str(tmp_path), 64).load()
    for one, other in zip(from_zip + from_folder, from_folder + from_parent, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.boxes, other.boxes)
        assert one.key == other.key
    assert (tmp_path / "some name.store-64").is_dir()


def test_labels_boxes_and_gray_images(tmp_path):
    _, train, val = TinyImageNet(str(write_zip(tmp_path / "t.zip", tiny_imagenet_files())), 64).load()
    assert train.classes == ["n03", "n01", "n02"]
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.boxes[:2].tolist() == [[1, 2, 3, 4], [-1, -1, -1, -1]]
    assert val.labels.tolist() == [1, 0, 2, 1]
    assert val.boxes[2].tolist() == [2, 10, 20, 30]
    gray = train.pixels[2]
    assert (gray == gray[..., :1]).all()
    assert not (train.pixels[3] == train.pixels[3][..., :1]).all()


def test_true_counts_are_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        TinyImageNet(str(write_zip(tmp_path / "t.zip", tiny_imagenet_files())), 64).load()
    assert "6 training images of 3 classes, 4 validation images" in caplog.text


def broken(files: dict[str, bytes], *, without: str = "", replace: tuple[str, bytes] | None = None) -> dict[str, bytes]:
    files = {name: content for name, content in files.items() if not (without and without in name)}
    return files | ({replace[0]: replace[1]} if replace else {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": "train/n02/images"}, r"no training images of 1 of the 3 classes.*n02"),
        ({"without": "val/images/val_2"}, r"lists val_2\.JPEG.*has no val/images/val_2\.JPEG"),
        ({"without": "val_annotations"}, r"no readable val/val_annotations\.txt"),
        ({"without": "wnids.txt"}, r"has no wnids\.txt"),
        ({"replace": ("val/images/extra.JPEG", b"")}, r"extra\.JPEG, which .* does not list"),
        ({"replace": ("train/n01/images/n01_1.JPEG", b"no image")}, r"n01_1\.JPEG .* cannot be decoded"),
        ({"replace": ("val/val_annotations.txt", b"val_0.JPEG\tn99\t0\t0\t1\t1")}, r"class n99"),
        ({"replace": ("val/val_annotations.txt", b"val_0.JPEG\tn01\t0")}, r"line 1 in val/val_annotations\.txt"),
        ({"replace": ("val/val_annotations.txt", b"\xff\xfe")}, r"no readable val/val_annotations\.txt"),
        (
            {"replace": ("train/n01/n01_boxes.txt", b"n01_0.JPEG\tx\t0\t0\t1")},
            r"line 1 in train/n01/n01_boxes\.txt that cannot be read",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_what_is_broken_is_named(tmp_path, kind, change, message):
    files = broken(tiny_imagenet_files(), **change)
    root = write_zip(tmp_path / "t.zip", files) if kind == "zip" else write_folder(tmp_path / "t", files)
    with pytest.raises(InputError, match=message):
        TinyImageNet(str(root), 64, str(tmp_path / "store")).load()


def test_a_truncated_zip_is_named(tmp_path):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"t\.zip is not a whole zip file .*fetch it again"):
        TinyImageNet(str(path), 64).load()


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(InputError, match=r"has no wnids\.txt"):
        TinyImageNet(str(tmp_path / "t.zip"), 64).load()


def moved(files: Files, how: Callable[[str, str], str]) -> Files:
    """val/ sorted into folders; how(class, file) gives the new path."""
    listing = files["val/val_annotations.txt"].decode().splitlines()
    class_of = {name: wnid for name, wnid, *_ in (line.split("\t") for line in listing)}
    return {
        how(class_of[name.rpartition("/")[2]], name.rpartition("/")[2])
        if name.startswith("val/images/")
        else name: data
        for name, data in files.items()
    }


def relisted(files: Files, name: str, change: Callable[[bytes], bytes]) -> Files:
    return files | {name: change(files[name])}


def without(files: Files, name: str) -> Files:
    return {other: data for other, data in files.items() if other != name}


def lower(files: Files) -> Files:
    return {name.replace(".JPEG", ".jpg"): data for name, data in files.items()}


ANNOTATIONS = "val/val_annotations.txt"
VARIANTS: dict[str, Callable[[Files], Files]] = {
    "val sorted": lambda files: moved(files, lambda wnid, name: f"val/{wnid}/{name}"),
    "val sorted, with images/": lambda files: moved(files, lambda wnid, name: f"val/{wnid}/images/{name}"),
    "val in val itself": lambda files: moved(files, lambda wnid, name: f"val/{name}"),
    "val sorted in part": lambda files: moved(
        files, lambda wnid, name: f"val/{'images' if name == 'val_1.JPEG' else wnid}/{name}"
    ),
    "val copied": lambda files: files | moved(files, lambda wnid, name: f"val/{wnid}/{name}"),
    "train without images/": lambda files: {
        name.replace("/images/", "/") if name.startswith("train/") else name: data for name, data in files.items()
    },
    ".jpg": lower,
    ".jpg in the listings too": lambda files: {
        name: data.replace(b".JPEG", b".jpg") if name.endswith(".txt") else data for name, data in lower(files).items()
    },
    "a mark at the beginning": lambda files: relisted(
        relisted(files, "wnids.txt", lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")),
        ANNOTATIONS,
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
    ),
    "no words.txt": lambda files: without(files, "words.txt"),
    "junk": lambda files: (
        files
        | {f"{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}": b"" for name in files if "/" in name}
        | {"val/images/.DS_Store": b"", "train/n01/images/Thumbs.db": b"", "__MACOSX/._wnids.txt": b""}
    ),
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_what_scripts_and_systems_make_of_it_is_the_same_data_set(tmp_path, kind, change):
    files = tiny_imagenet_files()
    official = TinyImageNet(str(write_zip(tmp_path / "official.zip", files)), 64).load()
    changed = change(files)
    root = write_zip(tmp_path / "t.zip", changed) if kind == "zip" else write_folder(tmp_path / "t", changed)
    assert [store.key for store in TinyImageNet(str(root), 64).load()] == [store.key for store in official]


def test_a_sorted_val_needs_no_listing(tmp_path):
    files = without(moved(tiny_imagenet_files(), lambda wnid, name: f"val/{wnid}/{name}"), ANNOTATIONS)
    files["val/n02/val_10.JPEG"] = files["val/n01/val_3.JPEG"]
    val = TinyImageNet(str(write_folder(tmp_path / "t", files)), 64).load().val
    assert val is not None
    assert val.labels is not None
    assert val.labels.tolist() == [1, 0, 2, 1, 2]  # in the order of their numbers
    assert val.boxes is not None
    assert (val.boxes == -1).all()


def test_what_is_passed_over_is_said(tmp_path, caplog):
    more = ["train/n01/images/copies/1.jpg", "train/n99/images/n99_0.JPEG", "backup/2.jpg", "3.jpg", "train/n01/x.heic"]
    files = tiny_imagenet_files() | dict.fromkeys(more, b"never read")
    assert len(TinyImageNet(str(write_folder(tmp_path / "t", files)), 64).load().train) == 6
    (said,) = [record.getMessage() for record in caplog.records if "Passed over" in record.getMessage()]
    for words in (
        "1 × train/ (train/n01/images/copies/1.jpg)",
        "1 × train/, of no class in wnids.txt (train/n99/images/n99_0.JPEG)",
        "1 × backup/ (backup/2.jpg)",
        "1 × images beside train/ and val/ (3.jpg)",
        "1 × .heic (train/n01/x.heic)",
    ):
        assert words in said
    assert "test_0" not in said  # unlabelled, and never used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: moved(files, lambda wnid, name: f"val/n02/{name}"),
            r"has val/n02/val_0\.JPEG, and val/val_annotations\.txt gives val_0\.JPEG the class n01; move",
        ),
        (
            lambda files: moved(files, lambda wnid, name: f"val/cats/{name}"),
            r"has val/cats/val_\d\.JPEG, and cats is no class in wnids\.txt",
        ),
        (
            lambda files: without(files, ANNOTATIONS),
            r"no readable val/val_annotations\.txt; .*or sort all of val/ into a folder for each class",
        ),
    ],
)
def test_labels_that_are_not_certain_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        TinyImageNet(str(write_folder(tmp_path / "t", change(tiny_imagenet_files()))), 64).load()


@pytest.mark.parametrize("inside", ["tiny-imagenet-200", "tiny-imagenet-200/tiny-imagenet-200", "data", "a/b"])
def test_folders_around_it_are_looked_into(tmp_path, inside):
    write_folder(tmp_path / "t" / inside, tiny_imagenet_files())
    assert len(TinyImageNet(str(tmp_path / "t"), 64, str(tmp_path / "store")).load().train) == 6


def test_two_of_them_and_a_part_of_one_are_refused(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / "t" / name, tiny_imagenet_files())
    with pytest.raises(InputError, match=r"holds several: .*/a and .*/b; give one"):
        TinyImageNet(str(tmp_path / "t"), 64).load()
    with pytest.raises(InputError, match=r"train is a part of Tiny ImageNet; give the whole: data\.root=.*/a$"):
        TinyImageNet(str(tmp_path / "t" / "a" / "train"), 64).load()


class Downloads(Exception):
    """What would be the download."""


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, target: Path, *_: object, **__: object) -> None:
        raise Downloads(target)

    monkeypatch.setattr("simclr.data.published.download", download)


@pytest.mark.usefixtures("no_download")
def test_it_is_downloaded_where_that_is_asked_for_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs = write_folder(tmp_path / "photographs", {"2024/summer/1.JPG": b""})
    notes = write_folder(tmp_path / "notes", {"notes.txt": b""})
    empty = write_folder(tmp_path / "empty", {"tiny-imagenet-200.zip.part": b"", ".DS_Store": b""})
    for root, said in (
        (photographs, r"holds images, but .*for images of your own add data=image_folder"),
        (notes, r"holds other files and no Tiny ImageNet; .*data\.download=true"),
        (tmp_path / "mistyped", r"does not exist; is it mistyped\?.*data\.download=true"),
        (tmp_path / "mis" / "typed", r"does not exist; is it mistyped\?"),
        (tmp_path / "nothing.zip", r"nothing\.zip does not exist"),
        (tmp_path / "nothing.tar.gz", r"nothing\.tar\.gz does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            TinyImageNet(str(root), 64).load()
    for root, download in (
        (empty, None),
        (Path("data"), None),
        (photographs, True),
        (tmp_path / "mis" / "typed", True),
    ):
        with pytest.raises(Downloads, match=str(root / "tiny-imagenet-200.zip")):
            TinyImageNet(str(root), 64, download=download).load()
        with pytest.raises(InputError, match=r"data\.download=false"):
            TinyImageNet(str(root), 64, download=False).load()
    write_folder(tmp_path / "data", {"notes.txt": b""})
    with pytest.raises(Downloads):
        TinyImageNet("data", 64).load()
    write_folder(tmp_path / "data", {"mine/1.png": b""})
    with pytest.raises(InputError, match="holds images"):
        TinyImageNet("data", 64).load()


@pytest.mark.parametrize("source", [TinyImageNet, partial(ImageFolder, val_fraction=0.1)])
def test_choices_that_there_are_not(source):
    for key, value in (("on_broken", "ignore"), ("on_broken", None), ("size", 0)):
        with pytest.raises(ValueError, match=f"^{key}={value} is not usable"):
            source(**{"root": "data", "size": 64} | {key: value})
    with pytest.raises(ValueError, match=r"^download=maybe is not usable"):
        TinyImageNet("data", 64, download="maybe")


@pytest.mark.slow
@pytest.mark.realdata
def test_the_real_subset(real_subset, tmp_path):
    _, train, val = TinyImageNet(str(real_subset), 64, str(tmp_path / "store")).load()
    assert (len(train), len(val), len(train.classes)) == (20_000, 10_000, 200)
    assert np.bincount(train.labels).tolist() == [100] * 200
    assert np.bincount(val.labels).tolist() == [50] * 200
    gray = [bool((image == image[..., :1]).all()) for image in val.pixels]
    assert sum(gray) >= 168  # the validation images that are stored as grayscale; coloured files may hold gray too
    assert (val.boxes[:, 2] >= val.boxes[:, 0]).all()
