"""Tiny ImageNet (Le & Yang 2015): 200 classes, 64×64 images, 500 training and 50 validation images a class."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import PurePosixPath

from simclr.data import columns
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import Archive, FolderArchive, ZipArchive, path_of, shown
from simclr.data.files.download import download
from simclr.data.store import Plan, Split, Splits, check_size, open_store
from simclr.errors import InputError

log = logging.getLogger(__name__)

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FILE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
NO_BOX = ("-1",) * 4
MAX_TEXT = 2**24  # bytes of a listing; the official ones have half a million at most
MAX_PIXEL = 2**15  # a box's coordinates are kept in 16 bits


class TinyImageNet:
    """The data set from its official zip, from the folder that unpacking it gives, or downloaded.

    root: the zip; or the unpacked folder (or the one that holds it); or a folder to download into.
    size: pixels; 64 keeps the images as they are. store: the folder for decoded images, None for beside the source.
    A subset in the official layout is as good; its true counts are logged. The unlabelled test images are not read.
    """

    def __init__(self, root: str, size: int, store: str | None = None) -> None:
        check_size(size)
        self.root = path_of("data.root", root)
        self.size = size
        self.store = None if store is None else path_of("data.store", store)

    def load(self) -> Splits:
        """Open the store, after downloading and decoding what is missing. Raises InputError for unusable data."""
        archive = self._find()
        images = open_store(archive, self.size, lambda: _Layout(archive).plan(), "tiny_imagenet", self.store)
        assert images.val is not None
        warn_of_little_contrast(images)
        log.info(
            "Tiny ImageNet: %s training images of %d classes, %s validation images.",
            f"{len(images.train):,}",
            len(images.train.classes),
            f"{len(images.val):,}",
        )
        return images

    def _find(self) -> Archive:
        root = self.root
        if root.is_file():
            return ZipArchive(root)
        if root.exists() and not root.is_dir():
            raise InputError(f"data.root={shown(root)} is no file and no folder; give the path of {FILE}")
        if root.suffix == ".zip" and not root.exists():
            raise InputError(
                f"data.root={shown(root)} does not exist; give the path of {FILE}, of the folder it unpacks to, or "
                "of a folder to download it into"
            )
        for folder in (root, root / FOLDER):
            if (folder / "wnids.txt").is_file() or (folder / "train").is_dir():
                return FolderArchive(folder, {".jpeg", ".txt"})
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
        self.present = set(self.names)

    def _error(self, what: str, remedy: str) -> InputError:
        return InputError(f"{shown(self.archive.path)} {shown(what)}; {shown(remedy)}")

    def _text(self, name: str) -> str:
        """A whole listing. Raises InputError where it is missing, damaged, longer than MAX_TEXT or no UTF-8."""
        if name not in self.present:
            raise self._error(f"has no readable {name}", f"fetch {URL} again")
        try:
            return self.archive.read(self.top + name, MAX_TEXT).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"has no readable {name} ({error})", f"fetch {URL} again") from error

    def plan(self) -> Plan:
        """The training and validation images with labels and boxes."""
        classes = self._text("wnids.txt").split()
        if not classes:
            raise self._error("names no class in wnids.txt", f"fetch {URL} again")
        twice = {wnid for wnid, count in Counter(classes).items() if count > 1}
        if twice:
            raise self._error(f"names the class {min(twice)} twice in wnids.txt", "take one of the two lines out")
        splits = {"train": self._train(classes), "val": self._val(classes)}
        return {n: s._replace(names=[self.top + name for name in s.names]) for n, s in splits.items()}

    def _train(self, classes: list[str]) -> Split:
        by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
        for name in self.names:
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and parts[1] in by_class:
                by_class[parts[1]].append(name)
        missing = [wnid for wnid, images in by_class.items() if not images]
        if missing:
            raise self._error(
                f"has no training images of {len(missing)} of the {len(classes)} classes in wnids.txt, "
                f"{missing[0]} first",
                f"put them in train/{missing[0]}/images, or take the class out of wnids.txt",
            )
        images, labels, boxes = [], [], []
        for label, (wnid, members) in enumerate(by_class.items()):
            listing = f"train/{wnid}/{wnid}_boxes.txt"
            known = self._table(listing, width=5) if listing in self.present else {}
            for name in members:
                images.append(name)
                labels.append(label)
                boxes.append([int(x) for x in known.get(PurePosixPath(name).name, NO_BOX)])
        return Split(images, {"labels": columns.labels(labels, classes), "boxes": columns.boxes(boxes)})

    def _table(self, listing: str, width: int) -> dict[str, list[str]]:
        """The tab-separated rows of a listing by their first column; the last four columns are whole numbers, a box."""
        rows = {}
        for number, line in enumerate(self._text(listing).splitlines(), start=1):
            name, *rest = line.split("\t")
            is_box = all(value.isdecimal() and len(value) <= 5 and int(value) < MAX_PIXEL for value in rest[-4:])
            if len(rest) != width - 1 or not is_box:
                raise self._error(
                    f"has a line {number} in {listing} that cannot be read ({line[:80]!r})", f"fetch {URL} again"
                )
            if name in rows:
                raise self._error(f"lists {name} twice in {listing}", "take one of the two lines out")
            rows[name] = rest
        return rows

    def _val(self, classes: list[str]) -> Split:
        listing = "val/val_annotations.txt"
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        annotations = self._table(listing, width=6)
        if not annotations:
            raise self._error(f"lists no image in {listing}", f"fetch {URL} again")
        present = {PurePosixPath(name).name for name in self.names if name.startswith("val/images/")}
        for image, (wnid, *_) in annotations.items():
            if image not in present:
                raise self._error(
                    f"lists {image} in {listing}, but has no val/images/{image}",
                    "fetch the data set again, or take the line out",
                )
            if wnid not in label_of:
                raise self._error(f"gives {image} the class {wnid} in {listing}", "wnids.txt does not list that class")
        stray = sorted(present - annotations.keys())
        if stray:
            raise self._error(f"has val/images/{stray[0]}, which {listing} does not list", "add its line or remove it")
        labels = columns.labels([label_of[wnid] for wnid, *_ in annotations.values()], classes)
        boxes = columns.boxes([[int(x) for x in box] for _, *box in annotations.values()])
        return Split([f"val/images/{image}" for image in annotations], {"labels": labels, "boxes": boxes})
