"""Many tars in a folder, as one: the shards that webdataset and img2dataset write."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path, PurePosixPath

from simclr.data.files.archive import Archive, FolderArchive
from simclr.data.files.contents import PassedOver, ending
from simclr.data.files.packed import TarArchive, open_archive
from simclr.data.files.pixels import image_endings

ENDINGS = frozenset({".tar"})  # one that is compressed would have to be unpacked as a whole


class Shards:
    """The members of all tars of a folder, "train/0001.tar/000017.jpg". endings: of the members that are read."""

    remedy = "fetch that shard again, or take it out"

    def __init__(self, path: Path, endings: Set[str]) -> None:
        self.path, self.endings, self.passed_over = path, endings, PassedOver()
        self._folder = FolderArchive(path, ENDINGS)
        self._tars: dict[str, TarArchive] = {}

    def names(self) -> list[str]:
        self._tars = {shard: TarArchive(self.path / shard, self.endings) for shard in self._folder.names()}
        names = [f"{shard}/{name}" for shard, tar in self._tars.items() for name in tar.names()]
        self.passed_over = self._folder.passed_over
        for shard, tar in self._tars.items():
            self.passed_over.include(tar.passed_over, f"{shard}/")
        return names

    def read(self, name: str, limit: int) -> bytes:
        shard = next(place for place in map(str, PurePosixPath(name).parents) if place in self._tars)
        return self._tars[shard].read(name.removeprefix(f"{shard}/"), limit)

    def fingerprint(self) -> str:
        return f"shards {self._folder.fingerprint()}"


def open_archive_or_shards(root: Path, endings: Set[str], key: str = "data.root") -> Archive:
    """As `open_archive`; but a folder that holds tars and no image is one of shards."""
    if root.is_dir():
        kinds = {ending(name) for name in FolderArchive(root, image_endings() | ENDINGS).names()}
        if kinds == ENDINGS:
            return Shards(root, endings)
    return open_archive(root, endings, key)
