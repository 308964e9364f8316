"""The layout of Tiny ImageNet, the official one and those that people's scripts make of it: which image is what."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import PurePosixPath

from simclr.data import columns
from simclr.data.files.archive import Archive
from simclr.data.files.contents import shown
from simclr.data.store import Plan, Split
from simclr.errors import InputError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
ANNOTATIONS = "val/val_annotations.txt"
NO_BOX = ["-1"] * 4
MAX_TEXT = 2**24  # bytes of a listing; the official ones have half a million at most
MAX_PIXEL = 2**15  # a box's coordinates are kept in 16 bits


class TinyLayout:
    """Reads the layout, and checks that it is whole. Images and listings agree by name, whatever its ending.

    wnids.txt names the classes. Training images lie in train/CLASS/images or train/CLASS. Validation images lie in
    val/images or val, and are listed in val/val_annotations.txt; or they have been sorted into val/CLASS/images or
    val/CLASS, where the listing is not needed. Raises InputError for what does not say, surely, which image is what.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        names = archive.names()
        # A zip holds everything below tiny-imagenet-200/, an unpacked folder starts one level further down.
        anchors = [name for name in names if PurePosixPath(name).name == "wnids.txt"]
        if not anchors:
            raise self._error(
                "has no wnids.txt", f"is it {FOLDER}.zip, or the folder that it unpacks to? Else use data=image_folder"
            )
        self.top = min(anchors, key=len).removesuffix("wnids.txt")
        self.listings = {name.removeprefix(self.top) for name in names if name.endswith(".txt")}
        # Of every image the split, the class's folder ("" for none) and its path.
        self.images: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
        for name in names:
            if name.endswith(".txt"):
                continue
            split, *folders = name.removeprefix(self.top).split("/")[:-1] or [""]
            if folders[-1:] == ["images"]:
                folders.pop()
            if name.startswith(self.top) and split in self.images and len(folders) < 2:
                self.images[split].append(("".join(folders), name.removeprefix(self.top)))
            elif split != "test":
                kind = f"{split}/" if split else "images beside train/ and val/"
                archive.passed_over.add(kind, name, serious=True)

    def _error(self, what: str, remedy: str) -> InputError:
        return InputError(f"{shown(self.archive.path)} {shown(what)}; {shown(remedy)}")

    def _text(self, name: str) -> str:
        """A whole listing. Raises InputError where it is missing, damaged, longer than MAX_TEXT or no UTF-8."""
        if name not in self.listings:
            raise self._error(f"has no readable {name}", f"fetch {URL} again")
        try:
            return self.archive.read(self.top + name, MAX_TEXT).decode("utf-8-sig")  # some editors begin with a mark
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
        return {"train": self._train(classes), "val": self._val(classes)}

    def _split(self, classes: list[str], images: list[tuple[str, str, list[str]]]) -> Split:
        """images: of each its path, class and box."""
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        labels = columns.labels([label_of[wnid] for _, wnid, _ in images], classes)
        boxes = columns.boxes([[int(x) for x in box] for *_, box in images])
        return Split([self.top + name for name, *_ in images], {"labels": labels, "boxes": boxes})

    def _train(self, classes: list[str]) -> Split:
        by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
        for wnid, name in self.images["train"]:
            if wnid in by_class:
                by_class[wnid].append(name)
            else:
                self.archive.passed_over.add("train/, of no class in wnids.txt", name, serious=True)
        missing = [wnid for wnid, images in by_class.items() if not images]
        if missing:
            raise self._error(
                f"has no training images of {len(missing)} of the {len(classes)} classes in wnids.txt, "
                f"{missing[0]} first",
                f"put them in train/{missing[0]}/images, or take the class out of wnids.txt",
            )
        images = []
        for wnid, members in by_class.items():
            listing = f"train/{wnid}/{wnid}_boxes.txt"
            known = self._table(listing, width=5) if listing in self.listings else {}
            images += [(name, wnid, known.get(_stem(name), ["", *NO_BOX])[1:]) for name in members]
        return self._split(classes, images)

    def _table(self, listing: str, width: int) -> dict[str, list[str]]:
        """The tab-separated rows of a listing by their image's name without its ending.

        The last four columns are whole numbers, a box.
        """
        rows: dict[str, list[str]] = {}
        for number, line in enumerate(self._text(listing).splitlines(), start=1):
            row = line.split("\t")
            is_box = all(value.isdecimal() and len(value) <= 5 and int(value) < MAX_PIXEL for value in row[-4:])
            if len(row) != width or not is_box:
                raise self._error(
                    f"has a line {number} in {listing} that cannot be read ({line[:80]!r})", f"fetch {URL} again"
                )
            if _stem(row[0]) in rows:
                raise self._error(f"lists {row[0]} twice in {listing}", "take one of the two lines out")
            rows[_stem(row[0])] = row
        return rows

    def _val(self, classes: list[str]) -> Split:
        listed = self._table(ANNOTATIONS, width=6) if ANNOTATIONS in self.listings else {}
        found = defaultdict(list)  # by stem; the images of no class's folder first
        for wnid, name in sorted(self.images["val"]):
            if wnid and wnid not in classes:
                raise self._error(
                    f"has {name}, and {wnid} is no class in wnids.txt", "take that folder out, or add its class there"
                )
            found[_stem(name)].append((wnid, name))
        if not listed and (not found or any(not wnid for places in found.values() for wnid, _ in places)):
            what = (
                f"lists no image in {ANNOTATIONS}" if ANNOTATIONS in self.listings else f"has no readable {ANNOTATIONS}"
            )
            raise self._error(what, f"fetch {URL} again, or sort all of val/ into a folder for each class")
        images = []
        for stem, (image, wnid, *box) in listed.items():
            places = found.pop(stem, [])
            if not places:
                raise self._error(
                    f"lists {image} in {ANNOTATIONS}, but has no val/images/{image}",
                    "fetch the data set again, or take the line out",
                )
            if wnid not in classes:
                raise self._error(
                    f"gives {image} the class {wnid} in {ANNOTATIONS}", "wnids.txt does not list that class"
                )
            for folder, name in places:
                if folder not in ("", wnid):
                    raise self._error(
                        f"has {name}, and {ANNOTATIONS} gives {image} the class {wnid}",
                        f"move it to val/{wnid}, or correct its line",
                    )
            images.append((places[0][1], wnid, box))
            for _, name in places[1:]:
                self.archive.passed_over.add("copies of validation images", name)
        stray = [name for places in found.values() for wnid, name in places if not wnid]
        if stray:
            raise self._error(f"has {min(stray)}, which {ANNOTATIONS} does not list", "add its line or remove it")
        rest = [(name, wnid, NO_BOX) for places in found.values() for wnid, name in places]
        return self._split(
            classes, images + sorted(rest, key=lambda image: (len(_stem(image[0])), _stem(image[0]), image[0]))
        )


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
