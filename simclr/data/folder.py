"""Any tree of images, of any size, with or without labels: a folder, a zip or a tar."""

from __future__ import annotations

import posixpath

from simclr.checks import is_whole
from simclr.data.files.archive import FolderArchive, path_of
from simclr.data.files.contents import shown
from simclr.data.files.packed import open_archive
from simclr.data.files.pixels import BITS, image_endings
from simclr.data.layout import plan_of
from simclr.data.opening import check_on_broken, open_store
from simclr.data.split import check_val_fraction, completed
from simclr.data.store import Splits, check_size


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
        check_val_fraction(val_fraction)
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
        none = "no labels (which take folders of two classes)"
        return completed(images, self.val_fraction, shown(self.root), none)


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
