"""Images in one file, a zip or a tar, which is not trusted and never unpacked under names of its own."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO, Any

from simclr.data.files.archive import Archive, Damaged, FolderArchive
from simclr.data.files.contents import PassedOver, shown
from simclr.errors import InputError

MAX_DIRECTORY = 2**26  # bytes of a zip's table of contents; that of Tiny ImageNet takes a quarter of it
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # zipfile decompresses the others without a bound on memory
PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}  # of a tar, by first bytes
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
CHUNK = 2**20
BLOCK = 512  # bytes; a tar is made of them


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, compressed or not, by its contents or else by its name. Raises InputError."""
    try:
        with path.open("rb") as file:
            start = file.read(BLOCK)
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror}); make it readable") from error
    tar = start[257:262] == b"ustar" or start.startswith(tuple(PACKED))
    return tar or (path.name.lower().endswith(ENDINGS[1:]) and not start.startswith(b"PK"))


class _Packed(ABC):
    """What zips and tars have in common. endings: of the files that are read, None for all."""

    kind = ""

    def __init__(self, path: Path, endings: Set[str] | None = None) -> None:
        self.path, self.endings, self.passed_over = path, endings, PassedOver()

    @property
    def remedy(self) -> str:
        return f"fetch the {self.kind} again, or pack it anew from images that you trust"

    @abstractmethod
    def _members(self) -> Iterator[tuple[str, bool, bool]]:
        """Of every member its name, whether it is a file or a folder, and whether it is a folder."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """As of any archive."""

    def names(self) -> list[str]:
        self.passed_over = PassedOver()
        files: set[str] = set()
        for name, plain, folder in self._members():
            if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) or "\\" in name:
                raise Damaged(self, name, "has a name that may lead out of the archive")
            if not name or "\0" in name:
                raise Damaged(self, name, "has an empty name, or one with a zero byte in it")
            if not plain:
                raise Damaged(self, name, "is a link or a device, not a file")
            if name in files:
                raise Damaged(self, name, "is there twice")
            if not folder:
                files.add(name)
        return [name for name in sorted(files) if self.passed_over.keeps(name, self.endings)]

    def fingerprint(self) -> str:
        status = self.path.stat()
        return f"{self.kind} {status.st_size} {status.st_mtime_ns}"

    def _cut_short(self, error: Exception | str) -> InputError:
        return InputError(
            f"{shown(self.path)} is not a whole {self.kind} file ({shown(error)}); it was probably cut short: delete "
            "it and fetch it again"
        )


class _Bounded(io.BufferedReader):
    """A file that refuses a huge read; zipfile and tarfile read what describes members, however long, in one."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise InputError(
                f"{shown(self.raw.name)} has a table of contents of {size:,} bytes, more than any data set that this "  # type: ignore[attr-defined]
                "project reads; fetch it again"
            )
        return super().read(size)


class ZipArchive(_Packed):
    """The members of a zip file."""

    kind = "zip"
    _zip: zipfile.ZipFile | None = None
    _owner: int | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_zip": None, "_owner": None}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share its parent's file offset, so each process opens its own.
        if self._zip is None or self._owner != os.getpid():
            try:
                file = _Bounded(io.FileIO(self.path))
                self._zip, self._owner = zipfile.ZipFile(file), os.getpid()
            except InputError:
                raise
            except Exception as error:  # zipfile has a dozen of kinds for a damaged table of contents
                raise self._cut_short(error) from error
        return self._zip

    def _members(self) -> Iterator[tuple[str, bool, bool]]:
        for info in self._open().infolist():
            plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            yield info.orig_filename, plain, info.orig_filename.endswith("/")

    def read(self, name: str, limit: int) -> bytes:
        try:
            archive = self._open()
            info = archive.getinfo(name)
            if info.flag_bits & 1:
                raise Damaged(self, name, "is encrypted")
            if info.compress_type not in METHODS:
                raise Damaged(self, name, f"is compressed by method {info.compress_type}, not by the usual deflate")
            if info.file_size > limit:
                raise Damaged(self, name, f"is longer than {limit:,} bytes")
            with archive.open(info) as file:
                return file.read(info.file_size)  # bounds what is decompressed; what lies about its size fails its CRC
        except InputError:
            raise
        except Exception as error:  # as above
            what = f"cannot be read ({type(error).__name__}: {error})"
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # no fault of this member's
                raise InputError(f"{shown(self.path)}: {shown(name)} {shown(what)}; try again later") from error
            raise Damaged(self, name, what) from error


class TarArchive(_Packed):
    """The members of a tar file. One that is compressed is unpacked, as a whole, into a temporary file."""

    kind = "tar"
    _plain: Path | None = None  # the tar, uncompressed
    _places: dict[str, tuple[int, int]]  # where the members' bytes begin in it, and how many they are

    def _members(self) -> Iterator[tuple[str, bool, bool]]:
        self._places, end = {}, 0
        try:
            if self._plain is None:
                self._plain = self._unpacked()
            with _Bounded(io.FileIO(self._plain)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    name = re.sub(r"^(\./)+", "", member.name)
                    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                    if name in ("", ".") and member.isdir():
                        continue
                    self._places.setdefault(name, (member.offset_data, member.size))
                    yield name, (member.isreg() and not member.issparse()) or member.isdir(), member.isdir()
                file.seek(end)
                if file.read(BLOCK) != bytes(BLOCK):
                    raise self._cut_short("its end is missing")
        except (tarfile.TarError, EOFError, lzma.LZMAError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._cut_short(error) from error

    def _unpacked(self) -> Path:
        """The tar itself, or a temporary file with what it decompresses to. Raises InputError where that is huge."""
        with self.path.open("rb") as file:
            opened = next((how for magic, how in PACKED.items() if file.peek(8).startswith(magic)), None)
        if opened is None:
            return self.path
        handle, name = tempfile.mkstemp(prefix="simclr-", suffix=".tar")
        weakref.finalize(self, Path(name).unlink, missing_ok=True)  # at exit at the latest
        left = shutil.disk_usage(name).free // 2
        packed: IO[bytes]
        with os.fdopen(handle, "wb") as plain, opened(self.path, "rb") as packed:
            while chunk := packed.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise InputError(
                        f"{shown(self.path)} unpacks to more than half of what is free in {tempfile.gettempdir()}; "
                        "unpack it yourself and give the folder, or set TMPDIR to a folder with more room"
                    )
                plain.write(chunk)
        return Path(name)

    def read(self, name: str, limit: int) -> bytes:
        assert self._plain is not None  # names() has been called
        place, size = self._places[name]
        if size > limit:
            raise Damaged(self, name, f"is longer than {limit:,} bytes")
        try:
            with self._plain.open("rb") as file:
                file.seek(place)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{shown(self._plain)} cannot be read ({error.strerror}); try again later") from error
        if len(data) < size:
            raise Damaged(self, name, "is cut short")
        return data


def open_archive(root: Path, endings: Set[str], key: str = "data.root") -> Archive:
    """The images that `key` names: a folder, a zip or a tar. Raises InputError where it is none of them."""
    if root.is_dir():
        return FolderArchive(root, endings)
    if not root.is_file():
        raise InputError(f"{key}={shown(root)} does not exist; give a folder, a zip or a tar of images")
    if is_tar(root):
        return TarArchive(root, endings)
    if root.suffix.lower() == ".zip":
        return ZipArchive(root, endings)
    raise InputError(f"{key}={shown(root)} is not a folder, nor a zip or a tar; give one that holds images")
