"""Where a store of decoded images is kept: beside its source, where data.store says, or in the user's cache."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from simclr.data.files.packed import ENDINGS

# What it means that one may not, or cannot, write beside the source at all; a full disk is another matter.
CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


def places(owner: str, source: Path, size: int, parent: Path | None) -> Iterator[Path]:
    """The folders that the store of a source may lie in, the preferred one first.

    owner: the source's kind and path. parent: the folder to keep stores in; None for beside the source or, where that
    cannot be written, in the user's cache folder. Two sources of one name get two folders: the second's has a hash.
    """
    name = source.name
    for end in sorted(ENDINGS, key=len, reverse=True):
        if name.lower().endswith(end) and len(name) > len(end):
            name = name[: -len(end)]
            break
    marked = f"{name[:100]}-{hashlib.sha256(owner.encode(errors='surrogateescape')).hexdigest()[:8]}"
    folder = parent or source.parent
    yield folder / f"{name}.store-{size}"
    yield folder / f"{marked}.store-{size}"
    if parent is None:
        yield user_cache_path("simclr-lab") / f"{marked}.store-{size}"


def belongs_to_another(folder: Path, owner: str) -> bool:
    """Whether a store lies in `folder` that was made of another source."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        return json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("owner", owner) != owner
    return False
