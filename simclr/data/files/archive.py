"""Where compressed images are read from, a folder or a zip. Neither is trusted, and nothing is unpacked to disk."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from simclr.checks import is_whole
from simclr.errors import InputError

MAX_DIRECTORY = 2**26  # bytes of a zip's table of contents; that of Tiny ImageNet takes a quarter of it
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # zipfile decompresses the others without a bound on memory


class Archive(Protocol):
    """A read-only tree of files. It travels to other processes, so it opens what it needs where it is used."""

    path: Path

    def names(self) -> list[str]:
        """Every file, as a path with forward slashes relative to the top, sorted. Raises InputError."""

    def read(self, name: str, limit: int) -> bytes:
        """The contents of one file. Raises InputError where it cannot be read or is longer than `limit` bytes."""

    def fingerprint(self) -> str:
        """Changes when the tree's contents change. Raises InputError where the tree cannot be read."""


def shown(name: object) -> str:
    """A file's name as one printable line: control characters and bytes that are no UTF-8 are escaped."""
    text = str(name)
    return text if text.isprintable() else repr(text)[1:-1]


def composed(name: str) -> str:
    """A name in the one spelling of Unicode that names are compared in: macOS takes é apart, Linux leaves it whole."""
    return unicodedata.normalize("NFC", name)


def path_of(key: str, value: object) -> Path:
    """The path, absolute, that a user gave as the value of `key`; ~ is the home. Raises InputError for what is none."""
    try:
        if not isinstance(value, str) and not is_whole(value):  # a folder may be called 2024
            raise ValueError("it is no path")
        if value == "":
            raise ValueError("it is empty")
        path = Path(str(value)).expanduser().resolve()
        # Refuses what is too long or behind a closed door; exists() says no to it, from Python 3.14 on.
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
        return path
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{key}={shown(value)} is not usable ({shown(reason)}); give another path") from error


class FolderArchive:
    """The files below a folder whose name ends in one of `endings` (lower case, ".jpg"); links are followed.

    What is no regular file (a pipe, a device) and links that lead nowhere are passed over.
    """

    def __init__(self, path: Path, endings: Set[str]) -> None:
        self.path, self.endings = path, endings

    def names(self) -> list[str]:
        return sorted(self._scan())

    def _scan(self) -> dict[str, os.stat_result]:
        found = {}
        seen: dict[tuple[int, int], Path] = {}
        for place, folders, files in os.walk(self.path, onerror=self._refuse, followlinks=True):
            folders.sort()
            folder = Path(place)
            status = folder.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), folder)
            if first != folder:
                folders.clear()
                if first in folder.parents:  # a link in a circle: all that is here has been found
                    continue
                raise InputError(
                    f"{shown(first)} and {shown(folder)} are one folder, and its images would count twice; remove "
                    "the link"
                )
            inside = folder.relative_to(self.path)
            for file in files:
                if os.path.splitext(file)[1].lower() not in self.endings:
                    continue
                try:
                    status = os.stat(os.path.join(place, file))
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ELOOP):
                        continue
                    self._refuse(error)
                if stat.S_ISREG(status.st_mode):
                    found[(inside / file).as_posix()] = status
        return found

    def _refuse(self, error: OSError, name: str = "") -> NoReturn:
        raise InputError(
            f"{shown(error.filename or name)} cannot be read ({error.strerror}); make it readable, or take it out of "
            f"{shown(self.path)}"
        ) from error

    def read(self, name: str, limit: int) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(size + 1) if size <= limit else b""
        except OSError as error:
            self._refuse(error, name)
        if size > limit:
            raise InputError(
                f"{shown(name)} in {shown(self.path)} is longer than {limit:,} bytes; replace or remove that file"
            )
        return data

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, status in sorted(self._scan().items()):
            digest.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return f"folder {digest.hexdigest()[:16]}"


class _Bounded(io.BufferedReader):
    """A file that refuses a huge read; zipfile reads a table of contents, however long, in one."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise InputError(
                f"{shown(self.raw.name)} has a table of contents of {size:,} bytes, more than any data set that this "  # type: ignore[attr-defined]
                "project reads; fetch the zip again"
            )
        return super().read(size)


class ZipArchive:
    """The members of a zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._owner: int | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_zip": None, "_owner": None}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share its parent's file offset, so each process opens its own.
        if self._zip is None or self._owner != os.getpid():
            try:
                file = _Bounded(io.FileIO(self.path))
                self._zip, self._owner = zipfile.ZipFile(file), os.getpid()
            except InputError:
                raise
            except Exception as error:  # zipfile has a dozen of kinds for a damaged table of contents
                raise InputError(
                    f"{shown(self.path)} is not a whole zip file ({shown(error)}); it was probably cut short: delete "
                    "it and fetch it again"
                ) from error
        return self._zip

    def names(self) -> list[str]:
        files: set[str] = set()
        for info in self._open().infolist():
            name = info.orig_filename
            if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) or "\\" in name:
                self._refuse(name, "has a name that may lead out of the archive")
            if not name or "\0" in name:
                self._refuse(name, "has an empty name, or one with a zero byte in it")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(name, "is a link or a device, not a file")
            if name in files:
                self._refuse(name, "is there twice")
            if not name.endswith("/"):
                files.add(name)
        return sorted(files)

    def read(self, name: str, limit: int) -> bytes:
        try:
            archive = self._open()
            info = archive.getinfo(name)
            if info.flag_bits & 1:
                self._refuse(name, "is encrypted")
            if info.compress_type not in METHODS:
                self._refuse(name, f"is compressed by method {info.compress_type}, not by the usual deflate")
            if info.file_size > limit:
                self._refuse(name, f"is longer than {limit:,} bytes")
            with archive.open(info) as file:
                return file.read(info.file_size)  # bounds what is decompressed; what lies about its size fails its CRC
        except InputError:
            raise
        except Exception as error:  # as above
            self._refuse(name, f"cannot be read ({type(error).__name__}: {error})", error)

    def _refuse(self, name: str, what: str, cause: Exception | None = None) -> NoReturn:
        raise InputError(
            f"{shown(name)} in {shown(self.path)} {shown(what)}; fetch the zip again, or pack it anew from images "
            "that you trust"
        ) from cause

    def fingerprint(self) -> str:
        status = self.path.stat()
        return f"zip {status.st_size} {status.st_mtime_ns}"
