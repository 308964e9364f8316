"""Any folder tree of pictures, of any size, with or without labels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from simclr.data.decode import FolderArchive
from simclr.data.store import Pictures, Plan, Split, open_store
from simclr.errors import InputError

log = logging.getLogger(__name__)


def picture_endings() -> set[str]:
    """The endings, such as ".jpg", of the files that Pillow can read."""
    return {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN} - {".pdf"}


class ImageFolder:
    """The pictures below a folder, each scaled and centre-cropped to size × size.

    root: `root/train/...` and `root/val/...` where both exist; otherwise all pictures below root, of which
    `val_fraction` (a fixed shuffle) become the validation pictures if there are labels. A picture's label is the first
    folder on its path; where some picture lies in no folder, there are no labels.
    store: the folder for decoded pictures, None for beside root.
    """

    def __init__(self, root: str, size: int, val_fraction: float, store: str | None = None) -> None:
        if not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction={val_fraction} is not usable; it lies between 0 and 1")
        self.root = Path(root).expanduser()
        self.size, self.val_fraction = size, val_fraction
        self.store = None if store is None else Path(store).expanduser()

    def load(self) -> Pictures:
        """Open the store, after decoding the pictures if need be. Raises InputError for unusable data."""
        if not self.root.is_dir():
            raise InputError(f"data.root={self.root} is not a folder; give one that holds pictures")
        archive = FolderArchive(self.root.resolve(), picture_endings())
        pictures = open_store(archive, self.size, lambda: self._plan(archive), "image_folder", self.store)
        if pictures.val is None and pictures.train.labels is not None:
            count = len(pictures.train)
            order = np.random.default_rng(count).permutation(count)
            held_out = max(1, round(self.val_fraction * count))
            if held_out >= count:
                raise InputError(f"data.root={self.root} holds {count} pictures; that is too few to hold some out")
            train, val = order[held_out:], order[:held_out]
            pictures = Pictures(pictures.train.select(np.sort(train)), pictures.train.select(np.sort(val)))
        log.info(
            "%s: %s training pictures, %s validation pictures, %s.",
            self.root,
            f"{len(pictures.train):,}",
            f"{0 if pictures.val is None else len(pictures.val):,}",
            "no labels" if pictures.train.labels is None else f"{len(pictures.train.classes)} classes",
        )
        return pictures

    def _plan(self, archive: FolderArchive) -> Plan:
        names = archive.names()
        if not names:
            raise InputError(f"data.root={self.root} holds no pictures (files that end in .jpg, .png, ...)")
        split = (self.root / "train").is_dir() and (self.root / "val").is_dir()
        members: dict[str, list[str]] = {"train/": [], "val/": []} if split else {"": []}
        for name in names:
            for top in members:
                if name.startswith(top):
                    members[top].append(name)
        for top, found in members.items():
            if not found:
                raise InputError(f"{self.root / top} holds no pictures (files that end in .jpg, .png, ...)")
        labelled = all("/" in name.removeprefix(top) for top, found in members.items() for name in found)
        if not labelled:
            return Plan({top.rstrip("/") or "train": Split(found, None, None) for top, found in members.items()}, [])

        def class_of(top: str, name: str) -> str:
            return name.removeprefix(top).split("/")[0]

        classes = sorted({class_of(top, name) for top, found in members.items() for name in found})
        label_of = {name: label for label, name in enumerate(classes)}
        splits = {}
        for top, found in members.items():
            labels = np.array([label_of[class_of(top, name)] for name in found])
            splits[top.rstrip("/") or "train"] = Split(found, labels, None)
        unseen = set(splits["val"].labels) - set(splits["train"].labels) if "val" in splits else set()  # type: ignore
        if unseen:
            raise InputError(f"{self.root}/val has the class {classes[min(unseen)]}, and {self.root}/train has not")
        return Plan(splits, classes)
