"""Food-101 (Bossard, Guillaumin & Van Gool 2014): photographs of up to 512 pixels, 1,000 of each of 101 dishes."""

from __future__ import annotations

import json

from simclr.data import columns
from simclr.data.files.archive import Archive
from simclr.data.files.contents import shown
from simclr.data.files.pixels import image_endings
from simclr.data.opening import check_on_broken
from simclr.data.published import PublishedSet
from simclr.data.store import Plan, Split
from simclr.errors import InputError

MAX_TEXT = 2**24  # bytes of a listing; that of the training images has 2 MB


class Food101(PublishedSet):
    """Food-101 from its archive, the folder that it unpacks to (as torchvision leaves it), or downloaded.

    root, size, store, download: as of any published set; an image's shorter side is scaled to `size`, and its centre
    kept. on_broken: whether images that cannot be decoded end the command ("stop") or are left out ("skip").
    The archive's md5 is checked where it is downloaded; after that meta/train.json and meta/test.json say which images
    there are to be. The training images are noisy on purpose; the test images are what is judged on.
    """

    name, kind, folder, anchor = "Food-101", "food101", "food-101", "meta/train.json"
    # torchvision keeps these two to itself; a test holds them against it.
    url, md5 = "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"
    megabytes = 4997
    licence = (
        "The photographs belong to those who posted them on foodspotting.com; what goes beyond scientific fair use is "
        "to be agreed with them (the archive's license_agreement.txt)."
    )
    endings = image_endings() | {".json", ".txt"}

    def __init__(
        self, root: str, size: int, store: str | None = None, download: bool | None = None, on_broken: str = "stop"
    ) -> None:
        super().__init__(root, size, store, download)
        check_on_broken(on_broken)
        self.on_broken = on_broken

    def plan(self, archive: Archive) -> Plan:
        top, there = self.top(archive), set(archive.names())
        listed = {
            split: self._listed(archive, top, file, there) for split, file in (("train", "train"), ("val", "test"))
        }
        classes = sorted(listed["train"])
        if sorted(listed["val"]) != classes:
            raise InputError(
                f"{shown(archive.path)} lists other dishes in meta/test.json than in meta/train.json; fetch {self.url} "
                "again"
            )
        for name in sorted(there.difference(*(names for of in listed.values() for names in of.values()))):
            if name.startswith(f"{top}images/"):
                archive.passed_over.add("images that are in no listing", name, serious=True)
        words = [dish.replace("_", " ") for dish in classes]
        return {
            split: Split(
                [name for dish in classes for name in of[dish]],
                {"labels": columns.labels([label for label, dish in enumerate(classes) for _ in of[dish]], words)},
            )
            for split, of in listed.items()
        }

    def _listed(self, archive: Archive, top: str, split: str, there: set[str]) -> dict[str, list[str]]:
        """The images of every dish, by their names in the archive. Raises InputError for a listing that is not true."""
        listing = f"{top}meta/{split}.json"
        fault, again = f"{shown(archive.path)} has no readable {shown(listing)}", f"fetch {self.url} again"
        if listing not in there:
            raise InputError(f"{fault}; {again}")
        try:
            dishes = json.loads(archive.read(listing, MAX_TEXT))
            names = {dish: [f"{top}images/{name}.jpg" for name in images] for dish, images in dishes.items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{fault} ({shown(error)}); {again}") from error
        missing = sorted({name for images in names.values() for name in images} - there)
        if missing:
            raise InputError(
                f"{shown(archive.path)} lacks {len(missing):,} of the images in {shown(listing)}, {shown(missing[0])} "
                f"first; {again}"
            )
        return names
