"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from simclr.errors import InputError


def is_file(path: Path) -> bool:
    """Whether there is a file at `path`. Raises InputError where the system cannot tell.

    Path.is_file() says no then, from Python 3.14 on, and what a network drive hides for a moment would be written over.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot look at {path} ({error.strerror}); give another path, or try again later") from error


def digest_of(path: Path) -> str | None:
    """Sixteen hexadecimal digits that a file's content alone decides; None where there is no file."""
    try:
        state = path.stat()
        return _digest_of(path, state.st_mtime_ns, state.st_size) if stat.S_ISREG(state.st_mode) else None
    except OSError:
        return None


@cache
def _digest_of(path: Path, mtime: int, size: int) -> str:
    """A file is read once for all the jobs of a sweep. mtime, size: of the file, as it is now."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            content.update(part)
    return content.hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a neighbouring path to write to; on leaving, that file is on disk and takes the place of `path`.

    So a reader, a kill and a power loss meet the old file or the new one, never a part. Where writing fails, the old
    one stays and nothing else is left. Folders are made. Raises InputError where the disk is full or not writable.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        to_disk(unfinished)
        unfinished.replace(path)
        to_disk(path.parent)  # its new name, too
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); what it held is unharmed: free some space, or choose "
            "another folder, and repeat the command"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, has left the system's memory for the disk."""
    if path.is_dir():
        with suppress(OSError):  # not every system and file system opens folders
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
