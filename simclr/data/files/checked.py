"""Files of an archive that are known by their md5: read, and refused where they are not those."""

from __future__ import annotations

import hashlib

from simclr.data.files.archive import Archive
from simclr.data.files.contents import shown
from simclr.errors import InputError


def read_checked(archive: Archive, name: str, md5: str, limit: int, url: str) -> bytes:
    """The contents of one file of at most `limit` bytes, the very ones that have that md5.

    Raises InputError where it is missing, damaged or another; url: where the whole is to be had.
    """
    if name not in archive.names():
        raise InputError(f"{shown(archive.path)} has no {shown(name)}; fetch {url} again")
    data = archive.read(name, limit)
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise InputError(
            f"{shown(name)} in {shown(archive.path)} is not the published file (its md5 is not {md5}): damaged, or "
            f"changed; fetch {url} again"
        )
    return data
