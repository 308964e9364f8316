"""Zips that are broken or meant to do harm: one clear error, nothing written, memory bounded."""

import stat
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest

from simclr.data.files.packed import MAX_DIRECTORY, ZipArchive
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import Run, tiny_imagenet_files, write_zip

pytestmark = pytest.mark.usefixtures("no_hang")

PICTURE = "train/n02/images/n02_1.JPEG"


def load_zip(path: Path) -> None:
    TinyImageNet(str(path), 64, str(path.parent / "store")).load()


def add(path: Path, name: str, content: bytes = b"x", mode: int = 0, method: int = zipfile.ZIP_STORED) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a duplicate name
        archive.writestr(info, content)


def patch(path: Path, name: str, offset: int, value: bytes) -> None:
    """Overwrite a field of a member's entry in the zip's table of contents."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(f"tiny-imagenet-200/{name}".encode()) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    ["../x.txt", "tiny-imagenet-200/../../x.txt", "/etc/x.txt", "a\\..\\..\\x.txt", "C:/x.txt", "C:x", "\\\\host\\x"],
)
def test_a_name_that_leads_out_of_a_zip_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    add(path, name)
    with pytest.raises(InputError, match=r"has a name that may lead out of the archive; fetch the zip again") as error:
        load_zip(path)
    assert repr(name)[1:-1] in str(error.value) or name in str(error.value)
    assert {file.name for file in tmp_path.rglob("*")} <= {"t.zip", "store", "t.store-64.lock"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    add(path, "tiny-imagenet-200/train/n01/images/n01_7.JPEG", b"/etc/passwd", kind | 0o777)
    with pytest.raises(InputError, match=r"n01_7\.JPEG in .*t\.zip is a link or a device"):
        load_zip(path)


def test_a_member_that_is_there_twice_and_names_that_are_none(tmp_path):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    add(path, f"tiny-imagenet-200/{PICTURE}", b"another")
    with pytest.raises(InputError, match=r"n02_1\.JPEG in .*t\.zip is there twice"):
        load_zip(path)
    path = write_zip(tmp_path / "z.zip", tiny_imagenet_files())
    path.write_bytes(path.read_bytes().replace(b"n02_1.JPEG", b"n02_1\0JPEG"))
    with pytest.raises(InputError, match=r"an empty name, or one with a zero byte"):
        load_zip(path)
    path = write_zip(tmp_path / "e.zip", tiny_imagenet_files())
    add(path, "")
    with pytest.raises(InputError, match=r"an empty name"):
        load_zip(path)


def test_an_encrypted_member_and_an_unusual_compression(tmp_path):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    patch(path, PICTURE, 8, b"\x01\x00")
    with pytest.raises(InputError, match=r"n02_1\.JPEG in .*t\.zip is encrypted"):
        load_zip(path)
    files = tiny_imagenet_files()
    content = files.pop(PICTURE)
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        (tmp_path / "l.zip").unlink(missing_ok=True)
        path = write_zip(tmp_path / "l.zip", files)
        add(path, f"tiny-imagenet-200/{PICTURE}", content, method=method)
        with pytest.raises(InputError, match=r"n02_1\.JPEG in .*l\.zip is compressed by method \d+, not by .*deflate"):
            load_zip(path)


@pytest.mark.parametrize("damaged", [PICTURE, "val/val_annotations.txt"])
def test_a_member_whose_checksum_fails_is_named(tmp_path, damaged):
    files = tiny_imagenet_files()
    path = write_zip(tmp_path / "t.zip", files)
    data = path.read_bytes()
    position = data.index(files[damaged]) + len(files[damaged]) // 2
    path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    with pytest.raises(
        InputError, match=rf"{Path(damaged).name} in .*t\.zip cannot be read .*CRC.*fetch the zip again"
    ):
        load_zip(path)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    files = tiny_imagenet_files()
    path = write_zip(tmp_path / "t.zip", {name: files[name] for name in files if name != PICTURE})
    add(path, f"tiny-imagenet-200/{PICTURE}", bytes(2**26), method=zipfile.ZIP_DEFLATED)
    patch(path, PICTURE, 24, struct.pack("<I", 100))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"n02_1\.JPEG in .* cannot be read \(BadZipFile: Bad CRC-32"):
        ZipArchive(path).read(f"tiny-imagenet-200/{PICTURE}", 2**30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21  # of the 2**26 bytes that are packed


def test_a_bomb_that_declares_its_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    patch(path, PICTURE, 24, struct.pack("<I", 2**31))
    with pytest.raises(InputError, match=r"n02_1\.JPEG in .*t\.zip is longer than 268,435,456 bytes"):
        load_zip(path)
    files = tiny_imagenet_files()
    path = write_zip(tmp_path / "w.zip", {name: files[name] for name in files if name != "wnids.txt"})
    add(path, "tiny-imagenet-200/wnids.txt", b"n01\n" * 2**22 + b"n01\n", method=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"wnids\.txt in .*w\.zip is longer than 16,777,216 bytes"):
        load_zip(path)


def test_a_zip_of_very_many_entries_is_refused_before_they_are_read(tmp_path):
    size = MAX_DIRECTORY + 46
    with (tmp_path / "t.zip").open("wb") as file:
        file.truncate(size)  # sparse; where a table of contents would be
        file.seek(size)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, size, 0, 0))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"t\.zip has a table of contents of 67,108,910 bytes"):
        load_zip(tmp_path / "t.zip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


@pytest.mark.parametrize("content", [b"", b"just text", b"PK\x05\x06" + bytes(17), b"PK\x03\x04" * 100])
def test_what_is_no_zip_is_named(tmp_path, content):
    (tmp_path / "t.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.zip is not a whole zip file .*fetch it again"):
        load_zip(tmp_path / "t.zip")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("wnids.txt", b"n03\nn01\nn02\nn01", r"names the class n01 twice in wnids\.txt"),
        ("wnids.txt", b"\n", r"names no class in wnids\.txt"),
        ("val/val_annotations.txt", b"", r"lists no image in val/val_annotations\.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\t0\t0\t1\t1\n" * 2, r"lists val_0\.JPEG twice"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\t0\t0\t1\t99999", r"line 1 in val/val_annotations\.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\t0\t0\t1\t" + b"9" * 5000, r"line 1 in val/val_annotations"),
    ],
)
def test_listings_that_contradict_themselves(tmp_path, name, content, said):
    with pytest.raises(InputError, match=said) as error:
        load_zip(write_zip(tmp_path / "t.zip", tiny_imagenet_files() | {name: content}))
    assert len(str(error.value)) < 500


def test_the_command_ends_with_one_line(run: Run, tmp_path):
    path = write_zip(tmp_path / "t.zip", tiny_imagenet_files())
    add(path, "../../planted.txt")
    done = run("train.py", "data.root=t.zip", "batch_size=2", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ../../planted.txt in ")
    assert not any((folder / "planted.txt").exists() for folder in (tmp_path, *tmp_path.parents))
