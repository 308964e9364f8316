"""Tiny ImageNet (Le & Yang 2015): 200 classes, 64×64 pictures, 500 training and 50 validation pictures a class."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

import numpy as np

from simclr.data.decode import Archive, FolderArchive, ZipArchive
from simclr.data.download import download
from simclr.data.store import Pictures, Plan, Split, open_store
from simclr.errors import InputError

log = logging.getLogger(__name__)

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FILE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"


class TinyImageNet:
    """The data set from its official zip, from the folder that unpacking it gives, or downloaded.

    root: the zip; or the unpacked folder (or the one that holds it); or a folder to download into.
    size: pixels; 64 keeps the pictures as they are. store: where the decoded pictures go, None for beside the source.
    A subset in the official layout is as good; its true counts are logged. The unlabelled test pictures are not read.
    """

    def __init__(self, root: str, size: int, store: str | None = None) -> None:
        self.root = Path(root).expanduser()
        self.size = size
        self.store = None if store is None else Path(store).expanduser()

    def load(self) -> Pictures:
        """Open the store, after downloading and decoding what is missing. Raises InputError for unusable data."""
        archive = self._find()
        name = archive.path.name.removesuffix(".zip")
        folder = self.store or archive.path.with_name(f"{name}.store-{self.size}")
        pictures = open_store(folder, archive, self.size, lambda: _Layout(archive).plan())
        assert pictures.val is not None
        log.info(
            "Tiny ImageNet: %s training pictures of %d classes, %s validation pictures.",
            f"{len(pictures.train):,}",
            len(pictures.train.classes),
            f"{len(pictures.val):,}",
        )
        return pictures

    def _find(self) -> Archive:
        root = self.root
        if root.is_file():
            return ZipArchive(root)
        if root.suffix == ".zip":
            raise InputError(
                f"data.root={root} does not exist; give the path of {FILE}, of the folder it unpacks to, or of a "
                "folder to download it into"
            )
        for folder in (root, root / FOLDER):
            if (folder / "wnids.txt").is_file() or (folder / "train").is_dir():
                return FolderArchive(folder)
        if not (root / FILE).is_file():
            download(URL, root / FILE, MD5, hint="or run experiment=quickstart, which needs no download")
        return ZipArchive(root / FILE)


class _Layout:
    """Reads the official layout, and checks that it is whole."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        names = archive.names()
        # A zip holds everything below tiny-imagenet-200/, an unpacked folder starts one level further down.
        anchors = [name for name in names if PurePosixPath(name).name == "wnids.txt"]
        if not anchors:
            raise self._error("has no wnids.txt", f"is it {FILE}, or the folder that it unpacks to?")
        self.top = min(anchors, key=len).removesuffix("wnids.txt")
        self.names = [name.removeprefix(self.top) for name in names if name.startswith(self.top)]

    def _error(self, what: str, remedy: str) -> InputError:
        return InputError(f"{self.archive.path} {what}; {remedy}")

    def _text(self, name: str) -> str:
        try:
            return self.archive.read(self.top + name).decode()
        except (KeyError, OSError) as error:
            raise self._error(f"has no readable {name}", f"fetch {URL} again") from error

    def plan(self) -> Plan:
        """The training and validation pictures with labels and boxes."""
        classes = self._text("wnids.txt").split()
        splits = {"train": self._train(classes), "val": self._val(classes)}
        return Plan(
            {n: s._replace(names=[self.top + name for name in s.names]) for n, s in splits.items()},
            classes,
        )

    def _train(self, classes: list[str]) -> Split:
        by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
        for name in self.names:
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and parts[1] in by_class:
                by_class[parts[1]].append(name)
        missing = [wnid for wnid, pictures in by_class.items() if not pictures]
        if missing:
            raise self._error(
                f"has no training pictures of {len(missing)} of the {len(classes)} classes in wnids.txt, "
                f"{missing[0]} first",
                f"put them in train/{missing[0]}/images, or take the class out of wnids.txt",
            )
        present = set(self.names)
        pictures, labels, boxes = [], [], []
        for label, (wnid, members) in enumerate(by_class.items()):
            listing = f"train/{wnid}/{wnid}_boxes.txt"
            known = self._boxes(listing, box_column=1) if listing in present else {}
            for name in members:
                pictures.append(name)
                labels.append(label)
                boxes.append(known.get(PurePosixPath(name).name, (-1, -1, -1, -1)))
        return Split(pictures, np.array(labels), np.array(boxes, np.int16))

    def _boxes(self, listing: str, box_column: int) -> dict[str, tuple[int, ...]]:
        rows = (line.split("\t") for line in self._text(listing).splitlines() if line.strip())
        try:
            return {row[0]: tuple(int(x) for x in row[box_column : box_column + 4]) for row in rows}
        except ValueError as error:
            raise self._error(f"has a line in {listing} that is no box ({error})", f"fetch {URL} again") from error

    def _val(self, classes: list[str]) -> Split:
        listing = "val/val_annotations.txt"
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        boxes = self._boxes(listing, box_column=2)
        wnids = dict(line.split("\t")[:2] for line in self._text(listing).splitlines() if line.strip())
        present = {PurePosixPath(name).name for name in self.names if name.startswith("val/images/")}
        for picture, wnid in wnids.items():
            if picture not in present:
                raise self._error(
                    f"lists {picture} in {listing}, but has no val/images/{picture}",
                    "fetch the data set again, or take the line out",
                )
            if wnid not in label_of:
                raise self._error(
                    f"gives {picture} the class {wnid} in {listing}", "wnids.txt does not list that class"
                )
        stray = sorted(present - wnids.keys())
        if stray:
            raise self._error(f"has val/images/{stray[0]}, which {listing} does not list", "add its line or remove it")
        return Split(
            [f"val/images/{picture}" for picture in wnids],
            np.array([label_of[wnid] for wnid in wnids.values()]),
            np.array([boxes[picture] for picture in wnids], np.int16),
        )
