"""Any tree of images, of any size, with or without labels: a folder, a zip or a tar."""

from __future__ import annotations

import logging
import posixpath

import numpy as np

from simclr.checks import is_finite, is_whole
from simclr.data.checks import listed
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import FolderArchive, path_of
from simclr.data.files.contents import shown
from simclr.data.files.packed import open_archive
from simclr.data.files.pixels import BITS, image_endings
from simclr.data.layout import alike, plan_of
from simclr.data.opening import check_on_broken, open_store
from simclr.data.split import disputed, stratified_split
from simclr.data.store import ImageStore, Splits, check_size

log = logging.getLogger(__name__)


class ImageFolder:
    """The images of a tree, each scaled and centre-cropped to size × size.

    root: a folder, a zip or a tar. Folders in it with the usual names of splits (train, Training, val, valid, ...) are
    the splits; what else lies there, test/ for instance, is passed over. Without them, or with train/ alone,
    `val_fraction` of the images become the validation images if there are labels (see `stratified_split`). An image's
    label is the first folder on its path; where most lie in no folder, or all in the same, there are no labels. One
    name written in several ways of Unicode, as Linux and macOS do, is one class.
    train, val: the splits' folders in root, "." for all of it, where their names do not say.
    store: the folder for decoded images, None for beside root. bits: 8 to 16, how many of a gray image of 16 bits
    are in use, the lowest; they are scaled to the range from black to white.
    on_broken: whether images that cannot be decoded end the command ("stop") or are left out ("skip").
    """

    def __init__(
        self,
        root: str,
        size: int,
        val_fraction: float,
        store: str | None = None,
        bits: int = BITS,
        train: str | None = None,
        val: str | None = None,
        on_broken: str = "stop",
    ) -> None:
        check_size(size)
        if not is_finite(val_fraction) or not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} is not usable; it lies between 0 and 1")
        if not is_whole(bits) or not 8 <= bits <= BITS:
            raise ValueError(f"bits={bits} is not usable; it is a whole number from 8 to {BITS}")
        check_on_broken(on_broken)
        self.root = path_of("root", root)
        self.size, self.val_fraction, self.bits, self.on_broken = size, val_fraction, bits, on_broken
        self.store = None if store is None else path_of("store", store)
        self.train, self.val = _inside("train", train), _inside("val", val)

    def load(self) -> Splits:
        """Open the store, after decoding the images if need be. Raises InputError for unusable data."""
        archive = open_archive(self.root, image_endings())
        images = open_store(
            archive,
            self.size,
            lambda: plan_of(archive, not isinstance(archive, FolderArchive), self.train, self.val),
            "image_folder",
            self.store,
            bits=self.bits,
            choices="".join(f" {key}={top}" for key, top in (("train", self.train), ("val", self.val)) if top),
            on_broken=self.on_broken,
        )
        warn_of_little_contrast(images)
        if images.val is None and images.train.labels is not None:
            images = self._split(images.train, images.train.labels)
        for names in alike(images.train.classes):
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


def _inside(key: str, folder: object) -> str | None:
    """The folder in the tree that a user gave as the value of `key`, tidied. Raises ValueError for what is none."""
    if folder is None:
        return None
    if not (isinstance(folder, str) or is_whole(folder)) or folder == "":
        raise ValueError(f"{key}={shown(folder)} is not usable; it is the name of a folder in data.root")
    tidy = posixpath.normpath(str(folder))
    if tidy.startswith(("/", "..")):
        raise ValueError(f"{key}={shown(folder)} is not usable; it is a folder in data.root, not elsewhere")
    return tidy
