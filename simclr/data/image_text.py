"""Images with captions, in a table or in a file beside each image: a folder, a zip, a tar or many of them."""

from __future__ import annotations

import hashlib
import logging
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from simclr.data import columns
from simclr.data.caption_files import BESIDE, CaptionFiles
from simclr.data.caption_tables import ENDINGS, Finder, Row, Table
from simclr.data.checks import in_both, leak_words, listed
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import Archive, path_of
from simclr.data.files.contents import ending, shown
from simclr.data.files.pixels import image_endings
from simclr.data.files.shards import open_archive_or_shards
from simclr.data.layout import ROLES
from simclr.data.opening import check_on_broken, open_store
from simclr.data.split import check_val_fraction, stratified_split
from simclr.data.store import Plan, Split, Splits, check_size
from simclr.errors import InputError

log = logging.getLogger(__name__)

MAX_TABLE = 2**30  # bytes
ALSO_TRAIN = "restval"  # of Karpathy's COCO: the part of its validation images that is trained on


class ImageText:
    """Images, each scaled and centre-cropped to size × size, with one caption or more each.

    root: a folder, a zip, a tar, or a folder of tars (webdataset's shards). captions: the table, by its path in root or
    elsewhere; None for the only one there, or where there is none for a file beside each image that is called like it:
    .txt, a caption a line, or .json, an object. Such images are in the split that their folder's or shard's name says.
    val_captions: a second table, of the images that are judged on; None where the table has a column for the split
    (what is called test there is passed over), or for `val_fraction` of the images, copies together on one side.
    image_column, caption_column, split_column: what these are called, None for the usual names. encoding: of the
    tables, where no byte-order mark says it. An image's path is as it lies in root, or the end of that where it is the
    end of one alone.
    store: the folder for decoded images, None for beside root. on_broken: whether images that are missing or cannot be
    decoded end the command ("stop") or are left out ("skip"). Rows without a caption, and those that repeat another,
    are left out and counted.
    """

    def __init__(
        self,
        root: str,
        size: int,
        captions: str | None = None,
        val_captions: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        split_column: str | None = None,
        encoding: str = "utf-8",
        val_fraction: float = 0.1,
        store: str | None = None,
        on_broken: str = "stop",
    ) -> None:
        check_size(size)
        check_on_broken(on_broken)
        check_val_fraction(val_fraction)
        try:
            "".encode(encoding)
        except (LookupError, TypeError) as error:
            raise ValueError(f"encoding={encoding} is not known; give one such as utf-8, latin-1 or cp1252") from error
        self.root = path_of("root", root)
        self.size, self.val_fraction, self.encoding, self.on_broken = size, val_fraction, encoding, on_broken
        self.columns = {"image": image_column, "caption": caption_column, "split": split_column}
        self.store = None if store is None else path_of("store", store)
        self.tables = {key: table for key, table in (("captions", captions), ("val_captions", val_captions)) if table}

    def load(self) -> Splits:
        """Open the store, after decoding the images if need be. Raises InputError for unusable data."""
        archive = open_archive_or_shards(self.root, image_endings() | ENDINGS | {*BESIDE})
        elsewhere = {key: path for key, table in self.tables.items() if (path := self._elsewhere(key, table))}
        settings = [*self.columns.items(), ("encoding", self.encoding), *self.tables.items()]
        settings += [(key, hashlib.sha256(path.read_bytes()).hexdigest()) for key, path in elsewhere.items()]
        images = open_store(
            archive,
            self.size,
            lambda: self._plan(archive, elsewhere),
            "image_text",
            self.store,
            choices="".join(f" {key}={value}" for key, value in settings if value is not None),
            on_broken=self.on_broken,
        )
        warn_of_little_contrast(images)
        if images.val is None:
            every = images.train
            held_out = stratified_split(np.zeros(len(every), np.int64), every.digests, self.val_fraction)
            images = Splits.of(every.select(np.flatnonzero(~held_out)), every.select(np.flatnonzero(held_out)))
        assert images.val is not None
        if leaked := in_both(images.train, images.val):
            log.warning("%s.", leak_words(leaked, len(images.val)))
        counts = [len(images.train), _captions(images.train.columns), len(images.val), _captions(images.val.columns)]
        log.info(
            "%s: %s training images with %s captions, %s validation images with %s.",
            shown(self.root),
            *(f"{count:,}" for count in counts),
        )
        return images

    def _elsewhere(self, key: str, table: str) -> Path | None:
        """The path of a table that does not lie in root; None for one that does, or would."""
        path = path_of(key, table)
        inside = self.root.is_dir() and path.is_relative_to(self.root)
        return path if path.is_file() and not inside else None

    def _plan(self, archive: Archive, elsewhere: Mapping[str, Path]) -> Plan:
        names = archive.names()
        images = [name for name in names if ending(name) not in ENDINGS | {*BESIDE}]
        texts = [name for name in names if ending(name) in BESIDE]
        tables = [name for name in names if ending(name) in ENDINGS]
        files = CaptionFiles(archive, images, texts)
        if not self.tables and set(tables) <= set(texts) and 2 * len(files.captions) > len(images):
            for name in files.others:
                archive.passed_over.add("texts beside no image", name)
            rows = _by_split(list(files.rows(self.encoding, self.columns)), str(self.root))
        else:
            for name in sorted(set(texts) - set(tables)):
                archive.passed_over.add(ending(name), name)
            rows = self._tabulated(archive, tables, elsewhere)
        return self._splits(archive, rows, Finder(images))

    def _tabulated(self, archive: Archive, tables: list[str], elsewhere: Mapping[str, Path]) -> dict[str, list[Row]]:
        """The rows of each split, by one table or two."""
        rows: dict[str, list[Row]] = {}
        for key in ["captions", *(["val_captions"] if "val_captions" in self.tables else [])]:
            data, name = self._read(archive, key, tables, elsewhere)
            rows[key] = list(Table(data, name, self.encoding, self.columns).rows())
            if not rows[key]:
                raise InputError(f"{shown(name)} has no rows; give a table of images and captions with data.{key}=")
        if "val_captions" in rows:
            return {"train": rows["captions"], "val": rows["val_captions"]}
        return _by_split(rows["captions"], name)

    def _read(self, archive: Archive, key: str, tables: list[str], elsewhere: Mapping[str, Path]) -> tuple[bytes, str]:
        """The content of a table and its name."""
        if key in elsewhere:
            return elsewhere[key].read_bytes(), elsewhere[key].name
        given = self.tables.get(key)
        if given is None:
            if len(tables) != 1:
                kinds = f"{', '.join(sorted(ENDINGS))}, or {' or '.join(BESIDE)} beside each image"
                has = f"several tables ({listed(tables)})" if tables else f"no captions ({kinds})"
                raise InputError(f"{shown(self.root)} has {has}; say which has the captions with data.captions=")
            return archive.read(tables[0], MAX_TABLE), tables[0]
        wanted = [posixpath.normpath(str(given))]
        if self.root.is_dir() and path_of(key, given).is_relative_to(self.root):
            wanted.append(path_of(key, given).relative_to(self.root).as_posix())
        found = next((name for name in wanted if name in tables), None)
        if found is None:
            raise InputError(
                f"data.{key}={shown(given)} is no file, and none in {shown(self.root)}, whose tables are "
                f"{listed(tables) or 'none'}; give the path of one ({', '.join(sorted(ENDINGS))})"
            )
        return archive.read(found, MAX_TABLE), found

    def _splits(self, archive: Archive, rows: Mapping[str, list[Row]], find: Finder) -> Plan:
        captions: dict[str, dict[str, list[str]]] = {}
        lies_in: dict[str, str] = {}
        for row in rows.get("test", ()):
            find(row)
            archive.passed_over.add("rows of test", f"{row.where}: {row.image}")
        for split in (split for split in ("train", "val") if split in rows):
            captions[split], of_split = {}, rows[split]
            for row in of_split:
                name = find(row)
                if name is None:
                    if self.on_broken == "stop":
                        raise InputError(
                            f"{row.where} names the image {shown(row.image)}, which is not in {shown(self.root)}; add "
                            "it, or leave such rows out with data.on_broken=skip"
                        )
                    archive.passed_over.add("rows whose image is missing", f"{row.where}: {row.image}", serious=True)
                elif not row.caption:
                    archive.passed_over.add("rows without a caption", f"{row.where}: {row.image}", serious=True)
                elif row.caption in captions[split].get(name, ()):
                    archive.passed_over.add("rows that repeat another", f"{row.where}: {row.image}")
                elif lies_in.setdefault(name, split) != split:
                    raise InputError(
                        f"{row.where} puts the image {shown(row.image)} into {split}, and an earlier one into "
                        f"{lies_in[name]}; let it be in one alone"
                    )
                else:
                    captions[split].setdefault(name, []).append(row.caption)
            if not captions[split]:
                raise InputError(f"no row of the {split} split has both an image and a caption; see {shown(self.root)}")
        for name in find.unnamed():
            archive.passed_over.add("images without captions", name)
        return {
            split: Split(list(of_images), {"captions": columns.captions(list(of_images.values()))})
            for split, of_images in captions.items()
        }


def _by_split(rows: list[Row], table: str) -> dict[str, list[Row]]:
    """The rows of each split, in the table's order; all are "train" where it names none."""
    if all(row.split is None for row in rows):
        return {"train": rows}
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = (row.split or "").casefold()
        role = (
            "train"
            if name == ALSO_TRAIN
            else next((r for r, words in ROLES.items() if re.fullmatch(words, name)), None)
        )
        if role is None:
            raise InputError(
                f"{row.where} of {shown(table)} is in "
                + (f"the split {shown(row.split)!r}" if row.split else "no split, and others are")
                + "; splits are called train, val and test, or name another column with data.split_column="
            )
        found.setdefault(role, []).append(row)
    if "train" not in found:
        raise InputError(f"{shown(table)} has no rows of a split called train; see its split column")
    return found


def _captions(known: Mapping[str, columns.Column]) -> int:
    return int(np.diff(known["captions"].values).sum())
