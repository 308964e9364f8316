"""Any folder tree of pictures, of any size, with or without labels."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from simclr.data.archive import FolderArchive, path_of, shown
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.decode import BITS, formats
from simclr.data.store import Pictures, Plan, Split, check_size, open_store
from simclr.errors import InputError
from simclr.numbers import is_finite, is_whole

log = logging.getLogger(__name__)


def picture_endings() -> set[str]:
    """The endings, such as ".jpg", of the files that are decoded."""
    return {ending for ending, format in Image.registered_extensions().items() if format in formats()}


class ImageFolder:
    """The pictures below a folder, each scaled and centre-cropped to size × size.

    root: `root/train/...` and `root/val/...` where both exist; otherwise all pictures below root, of which
    `val_fraction` (a fixed shuffle) become the validation pictures if there are labels. A picture's label is the first
    folder on its path; where some picture lies in no folder, or all lie in the same, there are no labels.
    store: the folder for decoded pictures, None for beside root. bits: 8 to 16, how many of a gray picture of 16 bits
    are in use, the lowest; they are scaled to the range from black to white.
    """

    def __init__(self, root: str, size: int, val_fraction: float, store: str | None = None, bits: int = BITS) -> None:
        check_size(size)
        if not is_finite(val_fraction) or not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction={val_fraction} is not usable; it lies between 0 and 1")
        if not is_whole(bits) or not 8 <= bits <= BITS:
            raise InputError(f"data.bits={bits} is not usable; it is a whole number from 8 to {BITS}")
        self.root = path_of("data.root", root)
        self.size, self.val_fraction, self.bits = size, val_fraction, bits
        self.store = None if store is None else path_of("data.store", store)

    def load(self) -> Pictures:
        """Open the store, after decoding the pictures if need be. Raises InputError for unusable data."""
        if not self.root.is_dir():
            raise InputError(f"data.root={shown(self.root)} is not a folder; give one that holds pictures")
        archive = FolderArchive(self.root, picture_endings())
        pictures = open_store(archive, self.size, lambda: self._plan(archive), "image_folder", self.store, self.bits)
        warn_of_little_contrast(pictures)
        if pictures.val is None and pictures.train.labels is not None:
            count = len(pictures.train)
            order = np.random.default_rng(count).permutation(count)
            held_out = max(1, round(self.val_fraction * count))
            if held_out >= count:
                raise InputError(
                    f"data.root={shown(self.root)} holds {count} pictures, too few to hold data.val_fraction="
                    f"{self.val_fraction} out; use a smaller one or more pictures"
                )
            train, val = order[held_out:], order[:held_out]
            pictures = Pictures(pictures.train.select(np.sort(train)), pictures.train.select(np.sort(val)))
        log.info(
            "%s: %s training pictures, %s validation pictures, %s.",
            shown(self.root),
            f"{len(pictures.train):,}",
            f"{0 if pictures.val is None else len(pictures.val):,}",
            f"{len(pictures.train.classes)} classes"
            if pictures.train.classes
            else "no labels (which take folders of two classes)",
        )
        return pictures

    def _plan(self, archive: FolderArchive) -> Plan:
        names = archive.names()
        if not names:
            raise InputError(f"data.root={shown(self.root)} holds no pictures (files that end in .jpg, .png, ...)")
        split = (self.root / "train").is_dir() and (self.root / "val").is_dir()
        members: dict[str, list[str]] = {"train/": [], "val/": []} if split else {"": []}
        for name in names:
            for top in members:
                if name.startswith(top):
                    members[top].append(name)
        for top, found in members.items():
            if not found:
                raise InputError(f"{shown(self.root / top)} holds no pictures (files that end in .jpg, .png, ...)")

        def class_of(top: str, name: str) -> str:
            return name.removeprefix(top).split("/")[0]

        labelled = all("/" in name.removeprefix(top) for top, found in members.items() for name in found)
        classes = sorted({class_of(top, name) for top, found in members.items() for name in found})
        if not labelled or len(classes) == 1:  # one class would put k-NN and every probe at 100 %
            return Plan({top.rstrip("/") or "train": Split(found, None, None) for top, found in members.items()}, [])
        label_of = {name: label for label, name in enumerate(classes)}
        splits = {}
        for top, found in members.items():
            labels = np.array([label_of[class_of(top, name)] for name in found])
            splits[top.rstrip("/") or "train"] = Split(found, labels, None)
        unseen = set(splits["val"].labels) - set(splits["train"].labels) if "val" in splits else set()  # type: ignore
        if unseen:
            root, name = shown(self.root), shown(classes[min(unseen)])
            raise InputError(f"{root}/val has the class {name}, and {root}/train has not; add it or take it out")
        return Plan(splits, classes)
