"""Folders with links, pipes, strange names and what cannot be read; paths that are none."""

import os
import re
import shutil

import numpy as np
import pytest

from simclr.data.files.archive import FolderArchive
from simclr.data.folder import ImageFolder
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import image_bytes, tiny_imagenet_files, write_folder

pytestmark = pytest.mark.usefixtures("no_hang")

GOOD = image_bytes(np.full((9, 9, 3), 100, np.uint8))


def test_what_is_no_regular_file_is_passed_over(tmp_path):
    root = write_folder(tmp_path / "p", {"good.jpg": GOOD})
    os.mkfifo(root / "pipe.jpg")  # opening it would wait for a writer, for ever
    (root / "folder.jpg").mkdir()
    (root / "zeros.jpg").symlink_to("/dev/zero")  # reading it would never end
    (root / "dangling.jpg").symlink_to("nowhere")
    (root / "itself.jpg").symlink_to("itself.jpg")
    assert len(ImageFolder(str(root), 16, 0.1).load().train) == 1


def test_links_in_a_circle_come_to_an_end(tmp_path):
    root = write_folder(tmp_path / "p", {"a/1.png": GOOD, "b/2.png": GOOD, "b/3.png": GOOD})
    for name in ("one", "two", "three"):  # three links: 3**40 folders, before the system gives up
        (root / "a" / name).symlink_to(root)
    (root / "b" / "back").symlink_to(".")
    assert FolderArchive(root, {".png"}).names() == ["a/1.png", "b/2.png", "b/3.png"]


def test_one_folder_under_two_names_is_refused(tmp_path):
    root = write_folder(tmp_path / "p", {"a/1.png": GOOD})
    (root / "b").symlink_to("a")
    with pytest.raises(InputError, match=r"p/a and .*p/b are one folder.*remove the link"):
        ImageFolder(str(root), 16, 0.1).load()


def test_linked_folders_and_images_are_read(tmp_path):
    write_folder(tmp_path / "elsewhere", {"1.png": GOOD})
    root = write_folder(tmp_path / "p", {"b/2.png": GOOD})
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert FolderArchive(root, {".png"}).names() == ["a/1.png", "b/2.png", "b/3.png"]


NAMES = ["dög é", "two  words", "it's", 'say "x"', "new\nline", "\x1b[31mred", "日本", "🐈", "-rf", "\udcff\udcfe"]


def test_names_of_every_kind(tmp_path, caplog, capfd):
    images = [image_bytes(np.full((9, 9, 3), shade, np.uint8)) for shade in range(2 * len(NAMES))]
    files = {f"{name}/{name}{i}.png": images.pop() for name in NAMES for i in range(2)}
    root = write_folder(tmp_path / "p \udcff\n", files)
    for _ in range(2):  # built, then read back
        with caplog.at_level("INFO"):
            _, train, val = ImageFolder(str(root), 16, 0.2).load()
        assert val is not None
        assert (len(train), len(val), train.classes) == (10, 10, sorted(NAMES))
    for record in caplog.records:
        assert record.getMessage().isprintable()
        record.getMessage().encode()
    (root / NAMES[4] / "bad\n\udcfe.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"new\\nline/bad\\n\\udcfe\.png in .* cannot be decoded") as error:
        ImageFolder(str(root), 16, 0.2).load()
    assert str(error.value).isprintable()


@pytest.mark.parametrize("top", ["", "train/"])
def test_one_class_is_no_label(tmp_path, caplog, top):
    files = {f"{top}cats/{i}.png": GOOD for i in range(20)}
    root = write_folder(tmp_path / "p", files | ({"val/cats/1.png": GOOD} if top else {}))
    with caplog.at_level("INFO"):
        _, train, val = ImageFolder(str(root), 16, 0.1).load()
    assert (len(train), train.labels) == (20, None)
    assert (val is None) == (not top)
    assert "no labels (which take folders of two classes)" in caplog.text


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    root = write_folder(tmp_path / "p", {"good.jpg": GOOD})
    (root / "memory.jpg").symlink_to("/proc/self/mem")  # a regular file, whoever asks, whose first byte is an error
    with pytest.raises(InputError, match=r"memory\.jpg cannot be read \(Input/output error\); make it readable"):
        ImageFolder(str(root), 16, 0.1).load()


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "p", {"good.jpg": GOOD})
    monkeypatch.chdir(root)
    for _ in range(25):  # deeper than a path can be long
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"ddd cannot be read \(File name too long\)"):
        ImageFolder(str(root), 16, 0.1).load()
    shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(tmp_path):
    for name in ("shut.jpg", "shut"):
        root = write_folder(tmp_path / f"p-{name}", {"good.jpg": GOOD, "shut/1.jpg": GOOD, "shut.jpg": GOOD})
        (root / name).chmod(0)
        with pytest.raises(InputError, match=rf"{re.escape(name)} cannot be read \(Permission denied\)"):
            ImageFolder(str(root), 16, 0.1).load()
        (root / name).chmod(0o700)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    root = write_folder(tmp_path / "p", {"good.jpg": GOOD})
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=r"huge\.jpg in .*p is longer than 268,435,456 bytes"):
        ImageFolder(str(root), 16, 0.1).load()


@pytest.mark.parametrize("root", [None, True, 3.5, [], "", "a\0b", "x" * 5000, "~nobody-of-this-name/x"])
@pytest.mark.parametrize("source", [TinyImageNet, ImageFolder])
def test_what_is_no_path(source, root):
    fraction = {"val_fraction": 0.1} if source is ImageFolder else {}
    with pytest.raises(ValueError, match=r"^root=.*is not usable"):
        source(root, size=16, **fraction)
    with pytest.raises(ValueError, match=r"^store=.*is not usable"):
        source("data", size=16, store=root or "", **fraction)


def test_a_file_for_a_folder_and_a_folder_for_a_file(tmp_path):
    (tmp_path / "notes").write_text("text")
    with pytest.raises(InputError, match=r"notes is not a folder, nor a zip or a tar; give one that holds images"):
        ImageFolder(str(tmp_path / "notes"), 16, 0.1).load()
    with pytest.raises(InputError, match=r"notes is not a whole zip file"):
        TinyImageNet(str(tmp_path / "notes"), 64).load()
    folder = write_folder(tmp_path / "folder.zip", tiny_imagenet_files())
    assert len(TinyImageNet(str(folder), 64).load().train) == 6
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe is no file and no folder"):
        TinyImageNet(str(tmp_path / "pipe"), 64).load()
    with pytest.raises(InputError, match=r"cannot write to /proc/nothing .*fetch http"):
        TinyImageNet("/proc/nothing", 64, download=True).load()


WHOLE, APART = "Caf\u00e9", "Cafe\u0301"  # as Linux and as macOS write it


def shades(count: int) -> list[bytes]:
    return [image_bytes(np.full((9, 9, 3), 10 * shade, np.uint8)) for shade in range(count)]


def test_two_spellings_of_a_name_are_one_class(tmp_path, caplog):
    one, two, three, four = shades(4)
    files = {f"{WHOLE}/1.png": one, f"{APART}/2.png": two, "Zoo/3.png": three, "Zoo/4.png": four}
    _, train, val = ImageFolder(str(write_folder(tmp_path / "p", files)), 9, 0.5).load()
    assert train.classes == [WHOLE, "Zoo"]
    assert sorted([*train.labels, *val.labels]) == [0, 0, 1, 1]
    assert f"Several folders are called '{WHOLE}', each spelled another way" in caplog.text
    files = {f"train/{APART}/1.png": one, f"val/{WHOLE}/2.png": two, "train/Zoo/3.png": three, "val/Zoo/4.png": four}
    _, train, val = ImageFolder(str(write_folder(tmp_path / "q", files)), 9, 0.5).load()
    assert (train.labels.tolist(), val.labels.tolist(), val.classes) == ([0, 1], [0, 1], [WHOLE, "Zoo"])


def test_a_copy_on_another_system_has_the_same_contents(tmp_path):
    """There é comes apart in every name, and as plain text such a name lies elsewhere among the others."""
    images = dict(zip([f"{WHOLE}/1.png", f"{WHOLE}/2.png", "Cafz/3.png", "Cafz/4.png"], shades(4), strict=True))
    apart = {name.replace(WHOLE, APART): image for name, image in images.items()}
    assert [images[name] for name in sorted(images)] != [apart[name] for name in sorted(apart)]
    one, other = (
        ImageFolder(str(write_folder(tmp_path / root, files)), 9, 0.5).load()
        for root, files in (("linux", images), ("mac", apart))
    )
    assert (one.train.key, one.val.key) == (other.train.key, other.val.key)


def test_names_that_differ_in_case_or_blanks_are_said(tmp_path, caplog):
    names = ["Cat", "cat", "cat ", "dog", "STRASSE", "straße"]
    root = write_folder(tmp_path / "p", {f"{name}/1.png": image for name, image in zip(names, shades(6), strict=True)})
    for _ in range(2):  # built, then read back
        caplog.clear()
        assert ImageFolder(str(root), 9, 0.5).load().train.classes == sorted(names)
        assert "The classes 'Cat', 'cat', 'cat ' differ in case or blanks alone" in caplog.text
        assert "The classes 'STRASSE', 'straße' differ" in caplog.text
        assert "dog" not in caplog.text
    files = {"train/Cat/1.png": GOOD, "train/dog/1.png": GOOD, "val/cat/1.png": GOOD}
    with pytest.raises(InputError, match=r"val has the class cat, and .*train has not; .*or give it the name of 'Cat'"):
        ImageFolder(str(write_folder(tmp_path / "q", files)), 9, 0.5).load()
