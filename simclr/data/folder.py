"""Any folder tree of images, of any size, with or without labels."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
from PIL import Image

from simclr.checks import is_finite, is_whole
from simclr.data import columns
from simclr.data.checks import listed
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import FolderArchive, composed, path_of, shown
from simclr.data.files.decode import BITS, formats
from simclr.data.split import disputed, stratified_split
from simclr.data.store import ImageStore, Plan, Split, Splits, check_size, open_store
from simclr.errors import InputError

log = logging.getLogger(__name__)


def image_endings() -> set[str]:
    """The endings, such as ".jpg", of the files that are decoded."""
    return {ending for ending, format in Image.registered_extensions().items() if format in formats()}


class ImageFolder:
    """The images below a folder, each scaled and centre-cropped to size × size.

    root: `root/train/...` and `root/val/...` where both exist; otherwise all images below root, of which
    `val_fraction` become the validation images if there are labels (see `stratified_split`). A image's label is the
    first folder on its path; where some image lies in no folder, or all lie in the same, there are no labels. One
    name written in several ways of Unicode, as Linux and macOS do, is one class.
    store: the folder for decoded images, None for beside root. bits: 8 to 16, how many of a gray image of 16 bits
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

    def load(self) -> Splits:
        """Open the store, after decoding the images if need be. Raises InputError for unusable data."""
        if not self.root.is_dir():
            raise InputError(f"data.root={shown(self.root)} is not a folder; give one that holds images")
        archive = FolderArchive(self.root, image_endings())
        images = open_store(archive, self.size, lambda: self._plan(archive), "image_folder", self.store, self.bits)
        warn_of_little_contrast(images)
        if images.val is None and images.train.labels is not None:
            images = self._split(images.train, images.train.labels)
        for names in _alike(images.train.classes):
            log.warning("The classes %s differ in case or blanks alone; are they one?", listed(names))
        log.info(
            "%s: %s training images, %s validation images, %s.",
            shown(self.root),
            f"{len(images.train):,}",
            f"{0 if images.val is None else len(images.val):,}",
            f"{len(images.train.classes)} classes"
            if images.train.classes
            else "no labels (which take folders of two classes)",
        )
        return images

    def _split(self, every: ImageStore, labels: np.ndarray) -> Splits:
        repeats, unclear = len(every) - len(np.unique(every.digests)), disputed(labels, every.digests).sum()
        if repeats:
            log.info("%s images repeat others; copies stay together, on one side of the split.", f"{repeats:,}")
        if unclear:
            log.warning("%s images have a copy in another class; they are trained on, and not judged.", f"{unclear:,}")
        held_out = stratified_split(labels, every.digests, self.val_fraction)
        if not held_out.any():
            log.warning("No class has two different images, one to train on and one to hold out.")
            return Splits.of(every, None)
        return Splits.of(every.select(np.flatnonzero(~held_out)), every.select(np.flatnonzero(held_out)))

    def _plan(self, archive: FolderArchive) -> Plan:
        names = sorted(archive.names(), key=lambda name: (composed(name), name))  # the same order on every system
        if not names:
            raise InputError(f"data.root={shown(self.root)} holds no images (files that end in .jpg, .png, ...)")
        split = (self.root / "train").is_dir() and (self.root / "val").is_dir()
        members: dict[str, list[str]] = {"train/": [], "val/": []} if split else {"": []}
        for name in names:
            for top in members:
                if name.startswith(top):
                    members[top].append(name)
        for top, found in members.items():
            if not found:
                raise InputError(f"{shown(self.root / top)} holds no images (files that end in .jpg, .png, ...)")

        def class_of(top: str, name: str) -> str:
            return composed(folder_of(top, name))

        def folder_of(top: str, name: str) -> str:
            return name.removeprefix(top).split("/")[0]

        labelled = all("/" in name.removeprefix(top) for top, found in members.items() for name in found)
        classes = sorted({class_of(top, name) for top, found in members.items() for name in found})
        if not labelled or len(classes) == 1:  # one class would put k-NN and every probe at 100 %
            return {top.rstrip("/") or "train": Split(found) for top, found in members.items()}
        label_of = {name: label for label, name in enumerate(classes)}
        splits = {}
        for top, found in members.items():
            spellings = {folder_of(top, name) for name in found}
            twice = [name for name, count in Counter(map(composed, spellings)).items() if count > 1]
            if twice:
                log.warning(
                    "Several folders are called %s, each spelled another way in Unicode: one class.", listed(twice)
                )
            labels = columns.labels([label_of[class_of(top, name)] for name in found], classes)
            splits[top.rstrip("/") or "train"] = Split(found, {"labels": labels})
        seen = {split: set(plan.columns["labels"].values) for split, plan in splits.items()}
        unseen = seen.get("val", set()) - seen["train"]
        if unseen:
            root, name = shown(self.root), classes[min(unseen)]
            near = [other for names in _alike(classes) if name in names for other in names if other != name]
            raise InputError(
                f"{root}/val has the class {shown(name)}, and {root}/train has not; add it or take it out"
                + (f", or give it the name of {listed(near)}" if near else "")
            )
        return splits


def _alike(classes: list[str]) -> list[list[str]]:
    """The classes that a person would take for one: their names differ in case or blanks alone."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [names for names in groups.values() if len(names) > 1]
