"""Tiny ImageNet from a zip and from a folder, whole and broken."""

import logging
import zipfile

import numpy as np
import pytest

from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import tiny_imagenet_files, write_folder, write_zip


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


def test_a_mistyped_path_is_not_downloaded_to(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.zip does not exist"):
        TinyImageNet(str(tmp_path / "nothing.zip"), 64).load()


@pytest.mark.realdata
def test_the_real_subset(real_subset, tmp_path):
    _, train, val = TinyImageNet(str(real_subset), 64, str(tmp_path / "store")).load()
    assert (len(train), len(val), len(train.classes)) == (20_000, 10_000, 200)
    assert np.bincount(train.labels).tolist() == [100] * 200
    assert np.bincount(val.labels).tolist() == [50] * 200
    gray = [bool((image == image[..., :1]).all()) for image in val.pixels]
    assert sum(gray) >= 168  # the validation images that are stored as grayscale; coloured files may hold gray too
    assert (val.boxes[:, 2] >= val.boxes[:, 0]).all()
