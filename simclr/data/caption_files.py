"""Captions in files beside their images: what webdataset's shards and img2dataset's folders hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from simclr.data.caption_tables import Row, Table
from simclr.data.files.archive import Archive
from simclr.data.files.contents import ending
from simclr.data.files.shards import ENDINGS as SHARDS
from simclr.data.layout import ROLES

BESIDE = (".txt", ".json")  # of an image's captions, whose file is called like it; the first of them is taken
MAX_BYTES = 2**22  # of one such file


class CaptionFiles:
    """Which texts of an archive, files that end as BESIDE, are captions of one of its images.

    captions: for each image the file of its captions, by name, in order. others: texts that lie beside no image.
    """

    def __init__(self, archive: Archive, images: Collection[str], texts: Collection[str]) -> None:
        by_kind = sorted(texts, key=lambda name: BESIDE.index(ending(name)), reverse=True)
        of_stem = {_stem(name): name for name in by_kind}
        stems = {_stem(image) for image in images}
        self.archive = archive
        self.captions = {image: of_stem[_stem(image)] for image in sorted(images) if _stem(image) in of_stem}
        self.others = [name for name in texts if _stem(name) not in stems]

    def rows(self, encoding: str, columns: Mapping[str, str | None]) -> Iterator[Row]:
        """Every caption of every image. A line of a .txt is one, and a .json is an object that has one, or a list.

        encoding, columns: as of a `Table`. The split is what the object says, or else the folders or the shard that
        the image lies in. Raises InputError for what is no caption.
        """
        for image, name in self.captions.items():
            table = Table(self.archive.read(name, MAX_BYTES), name, encoding, columns)
            for row in table.of(image):
                yield row if row.split is not None else row._replace(split=_split_of(image))


def _stem(name: str) -> str:
    return name[: len(name) - len(ending(name))]


def _split_of(image: str) -> str | None:
    """What the names of the folders around an image, or of its shard ("cc3m-train-0001.tar"), say of its split."""
    for folder in image.split("/")[:-1]:
        words = re.split(r"[\W\d_]+", folder.casefold()) if ending(folder) in SHARDS else [folder.casefold()]
        found = next((role for role, said in ROLES.items() if any(map(said.fullmatch, words))), None)
        if found is not None:
            return found
    return None
