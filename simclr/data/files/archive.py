"""Where compressed images are read from: what every kind of place can do, and the folder. None is trusted."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from simclr.checks import is_whole
from simclr.data.files.contents import UNREAD, PassedOver, junk_folder, shown
from simclr.errors import InputError


class Archive(Protocol):
    """A read-only tree of files. It travels to other processes, so it opens what it needs where it is used.

    passed_over: what names() has left out.
    """

    path: Path
    passed_over: PassedOver

    @property
    def remedy(self) -> str:
        """What to do where a file in it is damaged, as half a sentence."""

    def names(self) -> list[str]:
        """Every file that is to be read, as a path with forward slashes relative to the top, sorted.

        Raises InputError.
        """

    def read(self, name: str, limit: int) -> bytes:
        """The contents of one file.

        Raises Damaged where they are longer than `limit` bytes or not whole; InputError where the system refuses them.
        """

    def fingerprint(self) -> str:
        """Changes when the tree's contents change. Raises InputError where the tree cannot be read."""


class Damaged(InputError):
    """One file of an archive cannot be used; others may be. what: the words for it, "is encrypted"."""

    def __init__(self, archive: Archive, name: str, what: str) -> None:
        super().__init__(f"{shown(name)} in {shown(archive.path)} {shown(what)}; {archive.remedy}")
        self.what = what


def composed(name: str) -> str:
    """A name in the one spelling of Unicode that names are compared in: macOS takes é apart, Linux leaves it whole."""
    return unicodedata.normalize("NFC", name)


def path_of(key: str, value: object) -> Path:
    """The path, absolute, that a user gave as the value of `key`; ~ is the home. Raises ValueError for what is none."""
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
        raise ValueError(f"{key}={shown(value)} is not usable ({shown(reason)}); give another path") from error


class FolderArchive:
    """The files below a folder whose name ends in one of `endings` (lower case, ".jpg"); links are followed.

    What is no regular file (a pipe, a device), links that lead nowhere and hidden folders are passed over.
    """

    remedy = "replace or remove what is broken"

    def __init__(self, path: Path, endings: Set[str]) -> None:
        self.path, self.endings, self.passed_over = path, endings, PassedOver()

    def names(self) -> list[str]:
        self.passed_over = PassedOver()
        return sorted(self._scan(self.endings, self.passed_over))

    def _scan(self, endings: Set[str], passed: PassedOver) -> dict[str, os.stat_result]:
        found = {}
        seen: dict[tuple[int, int], Path] = {}
        for place, folders, files in os.walk(self.path, onerror=self._refuse, followlinks=True):
            folder = Path(place)
            inside = folder.relative_to(self.path)
            for name in filter(junk_folder, folders):
                passed.add(f"{name}/", (inside / name).as_posix())
            folders[:] = sorted(name for name in folders if not junk_folder(name))
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
            for file in sorted(files):
                name = (inside / file).as_posix()
                if not passed.keeps(name, endings):
                    continue
                try:
                    status = os.stat(os.path.join(place, file))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        self._refuse(error)
                    passed.add("links that lead nowhere", name)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[name] = status
                else:
                    passed.add("pipes and devices", name)
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
            raise Damaged(self, name, f"is longer than {limit:,} bytes")
        return data

    def fingerprint(self) -> str:
        # Images that cannot be read count, too: that there are more of them has to be said.
        files = self._scan(self.endings | UNREAD, PassedOver())
        digest = hashlib.sha256()
        for name, status in sorted(files.items()):
            digest.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return f"folder {digest.hexdigest()[:16]}"


def said_of_broken(archive: Archive, broken: dict[str, str], count: int) -> str:
    """Which of `count` images of an archive cannot be used, the first ten by name, each with what is wrong."""
    if len(broken) == 1:
        ((name, what),) = broken.items()
        return f"{shown(name)} in {shown(archive.path)} {shown(what)}"
    some = ", ".join(f"{shown(name)} {shown(what)}" for name, what in list(broken.items())[:10])
    more = f" and {len(broken) - 10:,} more" if len(broken) > 10 else ""
    return f"{len(broken):,} of the {count:,} images in {shown(archive.path)} cannot be used: {some}{more}"
