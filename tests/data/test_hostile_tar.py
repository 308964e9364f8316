"""Tar files that were made to harm, or are not whole: one clear error, and nothing outside of the store is written."""

import gzip
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr.data.files.packed import TarArchive
from simclr.data.folder import ImageFolder
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import image_bytes, tiny_imagenet_files

pytestmark = pytest.mark.usefixtures("no_hang")

GOOD = image_bytes(np.full((9, 9, 3), 100, np.uint8))
MODES: dict[str, Any] = {"tar": "w", "tgz": "w:gz", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(GOOD) if kind == tarfile.REGTYPE else 0
    for key, value in more.items():
        setattr(info, key, value)
    return info


def write_tar(path: Path, *members: tarfile.TarInfo, mode: Any = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for info in (member("a/good.png"), *members):
            archive.addfile(info, io.BytesIO(GOOD))
    return path


HOSTILE = {
    "absolute": (member("/etc/x.png"), "has a name that may lead out"),
    "climbing": (member("a/../../x.png"), "has a name that may lead out"),
    "a drive": (member("C:/x.png"), "has a name that may lead out"),
    "a symbolic link": (member("x.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link or a device"),
    "a hard link": (member("x.png", tarfile.LNKTYPE, linkname="a/good.png"), "is a link or a device"),
    "a device": (member("x.png", tarfile.CHRTYPE), "is a link or a device"),
    "a pipe": (member("x.png", tarfile.FIFOTYPE), "is a link or a device"),
    "there twice": (member("./a/good.png"), "is there twice"),
}


@pytest.mark.parametrize(("info", "said"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_that_could_harm_are_refused(tmp_path, mode, info, said):
    path = write_tar(tmp_path / "t.tar", info, mode=mode)
    with pytest.raises(InputError, match=rf"in .*t\.tar {said}"):
        ImageFolder(str(path), 16, 0.1, str(tmp_path / "store")).load()
    assert not list(tmp_path.rglob("*.png"))


def test_what_is_read_agrees_with_tarfile(tmp_path):
    path = write_tar(tmp_path / "t.tar.gz", member("b/" + "long" * 60 + "é.png"), mode="w:gz")
    archive = TarArchive(path, {".png"})
    with tarfile.open(path) as theirs:
        assert archive.names() == sorted(theirs.getnames())
        for name in archive.names():
            opened = theirs.extractfile(name)
            assert opened is not None
            assert archive.read(name, 2**20) == opened.read()
    with pytest.raises(InputError, match="is longer than 10 bytes"):
        archive.read("a/good.png", 10)


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tar.xz", "t.tar.bz2"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.8])
def test_a_tar_that_is_cut_short_is_named(tmp_path, name, part):
    files = [member(f"b/{i}.png") for i in range(50)]
    path = write_tar(tmp_path / name, *files, mode=MODES[name[2:]])
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data)) // 512 * 512])  # between two members, where tarfile sees an end
    with pytest.raises(InputError, match=rf"{name} is not a whole tar file .*fetch it again"):
        ImageFolder(str(path), 16, 0.1, str(tmp_path / "store")).load()


def test_damaged_tars_end_in_one_line(tmp_path):
    path = write_tar(tmp_path / "t.tar", *(member(f"b/{i}.png") for i in range(4)))
    data, random = path.read_bytes(), np.random.default_rng(0)
    refused = []
    for _ in range(300):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 4):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        archive = TarArchive(path, {".png"})
        try:
            for name in archive.names():
                archive.read(name, 2**20)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("t.tar" in message and message.isprintable() for message in refused)


def test_what_unpacks_to_more_than_the_disk_has_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    usage = shutil.disk_usage(tmp_path)._replace(free=2**24)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(InputError, match=r"bomb\.tar\.gz unpacks to more than half of what is free"):
        TinyImageNet(str(tmp_path / "bomb.tar.gz"), 64).load()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_headers_absurd_length_is_not_read_into_memory(tmp_path):
    """A pax header that says it is 8 GB long, in a sparse file that is."""
    info = member("x", tarfile.XHDTYPE, size=2**33)
    with (tmp_path / "t.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 4096)
    with pytest.raises(InputError, match=r"t\.tar has a table of contents of 8,589,93\d,\d+ bytes"):
        ImageFolder(str(tmp_path / "t.tar"), 16, 0.1).load()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.bz2"])
def test_tiny_imagenet_from_a_tar(tmp_path, kind):
    path = tmp_path / f"tiny-imagenet-200.{kind}"
    with tarfile.open(path, MODES[kind]) as archive:
        for name, content in tiny_imagenet_files().items():
            info = tarfile.TarInfo(f"./tiny-imagenet-200/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for root in (path, tmp_path):  # itself, and the folder it lies in
        assert len(TinyImageNet(str(root), 64).load().train) == 6
    assert (tmp_path / "tiny-imagenet-200.store-64").is_dir()
