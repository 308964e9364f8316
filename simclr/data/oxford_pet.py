"""Oxford-IIIT Pet (Parkhi et al. 2012): 7,349 photographs of 37 breeds of cats and dogs, with masks of the animal."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.progress import track

from simclr.data import columns
from simclr.data.files.archive import Archive, FolderArchive
from simclr.data.files.contents import shown
from simclr.data.files.download import download
from simclr.data.files.pixels import MAX_PIXELS, image_endings
from simclr.data.opening import check_on_broken
from simclr.data.published import PublishedSet
from simclr.data.store import Plan, Split
from simclr.errors import InputError

MAX_BYTES = 2**24  # of a listing or a mask; the largest has 0.2 MB
TRIMAP = {1: 1, 2: 0, 3: columns.UNKNOWN}  # animal, ground, and the edge, which the authors left open


class OxfordPet(PublishedSet):
    """Oxford-IIIT Pet from its folder with images/ and annotations/ (as torchvision leaves it, packed or not), or
    downloaded.

    root, size, store, download: as of any published set; an image's shorter side is scaled to `size`, and its centre
    kept, and its mask's alike. on_broken: whether images that cannot be decoded end the command ("stop") or are left
    out ("skip"). Learned from is trainval, judged on test. Columns: labels (breeds), masks (ground and animal).
    """

    name, kind, folder, anchor = "Oxford-IIIT Pet", "oxford_pet", "oxford-iiit-pet", "annotations/trainval.txt"
    url, md5 = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"
    annotations = (
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
        "95a8c909bbe2e81eed6a22bccdf3f68f",
    )
    megabytes = 811
    licence = "Creative Commons Attribution-ShareAlike 4.0; the photographs' copyright stays with their owners."
    endings = image_endings() | {".txt", ".xml", ".mat"}

    def __init__(
        self, root: str, size: int, store: str | None = None, download: bool | None = None, on_broken: str = "stop"
    ) -> None:
        super().__init__(root, size, store, download)
        check_on_broken(on_broken)
        self.on_broken = on_broken

    @property
    def file(self) -> str:
        return f"{self.folder}.tar.gz"

    @property
    def fetched(self) -> tuple[str, ...]:
        return tuple(url.rpartition("/")[2] for url in (self.url, self.annotations[0]))

    def _fetch(self) -> Archive:
        """Both archives, unpacked side by side; last the one with the anchor, so that a set that has it is whole."""
        folder = self.root / self.folder
        for url, md5 in ((self.url, self.md5), self.annotations):
            packed = folder / url.rpartition("/")[2]
            inner = packed.name.removesuffix(".tar.gz")
            if not (folder / inner).is_dir():
                download(url, packed, md5, hint="or choose other images with data=")
                _unpack(packed, folder / inner)
        return FolderArchive(folder, self.endings)

    def plan(self, archive: Archive) -> Plan:
        top, there = self.top(archive), set(archive.names())
        listed = {
            split: self._listed(archive, top, file, there) for split, file in (("train", "trainval"), ("val", "test"))
        }
        breeds = {label: _breed(name) for split in listed.values() for name, label in split}
        classes = [breeds[label] for label in sorted(breeds)]
        place = {label: index for index, label in enumerate(sorted(breeds))}
        return {
            split: Split(
                [f"{top}images/{name}.jpg" for name, _ in pets],
                {
                    "labels": columns.labels([place[label] for _, label in pets], classes),
                    "masks": columns.masks(self._masks(archive, top, [name for name, _ in pets]), ["ground", "animal"]),
                },
            )
            for split, pets in listed.items()
        }

    def _listed(self, archive: Archive, top: str, split: str, there: set[str]) -> list[tuple[str, int]]:
        """Name and number of the breed of every image. Raises InputError for a listing that is not true."""
        listing, again = f"{top}annotations/{split}.txt", f"fetch {self.annotations[0]} again"
        if listing not in there:
            raise InputError(f"{shown(archive.path)} has no {shown(listing)}; {again}")
        try:
            lines = archive.read(listing, MAX_BYTES).decode().splitlines()
            words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
            pets = [(name, int(breed)) for name, breed, *_ in words]
        except ValueError as error:
            raise InputError(
                f"{shown(archive.path)} has no readable {shown(listing)} ({shown(error)}); {again}"
            ) from error
        files = [f"{top}{file}" for name, _ in pets for file in (f"images/{name}.jpg", _trimap(name))]
        missing = sorted(set(files) - there)
        if missing or not pets:
            first = f", {shown(missing[0])} first" if missing else ""
            raise InputError(
                f"{shown(archive.path)} lacks {len(missing):,} of the files that {shown(listing)} asks for{first}; "
                f"fetch {self.url} and {self.annotations[0]} again"
            )
        return pets

    def _masks(self, archive: Archive, top: str, names: list[str]) -> np.ndarray:
        """uint8 [N, size, size], cut as the images are. Raises InputError for a file that is no mask."""
        masks = np.empty((len(names), self.size, self.size), np.uint8)
        values = np.full(256, 254, np.uint8)  # 254: no part of a trimap
        values[list(TRIMAP)] = list(TRIMAP.values())
        for row, name in enumerate(track(names, "Reading masks", transient=True)):
            member = f"{top}{_trimap(name)}"
            try:
                with Image.open(io.BytesIO(archive.read(member, MAX_BYTES)), formats=("PNG",)) as image:
                    if image.width * image.height > MAX_PIXELS:
                        raise ValueError(f"{image.width} × {image.height} pixels")
                    cut = ImageOps.fit(image.convert("L") if image.mode != "P" else image, masks.shape[1:], NEAREST)
                masks[row] = values[np.asarray(cut)]
                if (masks[row] == 254).any():
                    raise ValueError("other numbers than 1, 2 and 3")
            except (OSError, ValueError, SyntaxError) as error:
                raise InputError(
                    f"{shown(member)} in {shown(archive.path)} is no mask ({shown(error)}); fetch "
                    f"{self.annotations[0]} again"
                ) from error
        return masks


NEAREST = Image.Resampling.NEAREST


def _breed(name: str) -> str:
    """ "great_pyrenees_12" is a Great Pyrenees, as torchvision writes it."""
    return " ".join(word.title() for word in name.rpartition("_")[0].split("_"))


def _trimap(name: str) -> str:
    return f"annotations/trimaps/{name}.png"


def _unpack(packed: Path, folder: Path) -> None:
    """Unpack a checked archive of one folder to `folder`, which appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.unpacking")  # hidden, so that nobody takes it for the set
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(packed) as archive:
            archive.extractall(unfinished, filter="data")
        os.replace(unfinished / folder.name, folder)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"cannot unpack {shown(packed)} ({shown(error)}); free some space, or fetch it again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    packed.unlink()
