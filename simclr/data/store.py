"""The picture store: every picture of a data set as uint8 in one memory-mapped array, built once, read at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from simclr.data.decode import Archive, decoded_batches
from simclr.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when the files below change, and older stores are rebuilt


@dataclass(frozen=True)
class ImageStore:
    """Pictures of one size with what is known about them.

    pixels: uint8 [M, H, W, 3], usually memory-mapped; rows: int64 [N], which of them belong to this store, in order.
    labels: int64 [N] or None. boxes: int16 [N, 4] (x0, y0, x1, y1 in pixels, -1 where unknown) or None.
    classes: the names that labels index. key: equal for equal contents, for caches.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray | None
    boxes: np.ndarray | None
    classes: list[str]
    key: str

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        *,
        classes: list[str],
        key: str,
    ) -> ImageStore:
        """A store that holds all of `pixels`."""
        return cls(pixels, np.arange(len(pixels)), labels, boxes, classes, key)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray | slice) -> Tensor:
        """The pictures at `indices` of this store, copied: uint8 [B, H, W, 3]."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def select(self, indices: np.ndarray) -> ImageStore:
        """A store of the pictures at `indices`, in that order; the pixels are shared, not copied."""
        return replace(
            self,
            rows=self.rows[indices],
            labels=None if self.labels is None else self.labels[indices],
            boxes=None if self.boxes is None else self.boxes[indices],
            key=f"{self.key}[{hashlib.sha256(indices.tobytes()).hexdigest()[:16]}]",
        )

    def first_of_shuffle(self, limit: int) -> ImageStore:
        """The first `limit` pictures of a shuffle that depends on the number of pictures alone, not on the run."""
        if limit < 1:
            raise InputError(f"limit_images={limit} leaves no pictures; use null for all of them")
        return self.select(np.random.default_rng(len(self)).permutation(len(self))[:limit])


class Pictures(NamedTuple):
    """What a data source yields: val is None where there is nothing to judge a representation with."""

    train: ImageStore
    val: ImageStore | None


class Split(NamedTuple):
    """The pictures that one split of a store is to hold: member names of the archive and what is known of each."""

    names: list[str]
    labels: np.ndarray | None
    boxes: np.ndarray | None


class Plan(NamedTuple):
    """What to decode: the splits ("train", and "val" where there is one) and the class names."""

    splits: dict[str, Split]
    classes: list[str]


def open_store(
    archive: Archive, size: int, plan: Callable[[], Plan], kind: str, parent: Path | None = None
) -> Pictures:
    """The store of `archive`, decoded from it first if it is absent, half-built or older than its source.

    size: pictures are kept at size × size. plan: called only where the store has to be built. kind: who makes the plan;
    two kinds of source that read one folder do not share a store.
    parent: the folder that the store, itself a folder, is kept in; None for beside the source.

    The store appears whole or not at all: it is built in a neighbouring folder under a lock, then renamed. A killed
    build leaves only that neighbour, which the next one clears away; of several processes that start together one
    builds and the others wait. Raises InputError for a picture that cannot be decoded or a disk that is too small.
    """
    path = archive.path
    folder = (parent or path.parent) / f"{path.name.removesuffix('.zip')}.store-{size}"
    fingerprint = f"format {FORMAT}, {kind}, {size} px, {archive.fingerprint()}"
    if not _is_current(folder, fingerprint):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{folder}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("Another process is decoding the pictures into %s; waiting for it.", folder)
                lock.acquire()
        except OSError as error:
            raise InputError(
                f"cannot write the picture store {folder} ({error.strerror or error}); name a folder that can be "
                "written with data.store=FOLDER"
            ) from error
        try:
            if not _is_current(folder, fingerprint):
                _build(folder, archive, size, plan(), fingerprint)
        finally:
            lock.release()
    meta = json.loads((folder / "meta.json").read_text())

    def split(name: str) -> ImageStore | None:
        if name not in meta["splits"]:
            return None

        def array(kind: str, mmap_mode: str | None = None) -> np.ndarray | None:
            path = folder / f"{name}-{kind}.npy"
            return np.load(path, mmap_mode=mmap_mode) if path.exists() else None  # type: ignore[arg-type]

        pixels = array("pixels", "r")
        assert pixels is not None
        key = f"{name} of {meta['fingerprint']}"
        return ImageStore.of(pixels, array("labels"), array("boxes"), classes=meta["classes"], key=key)

    train = split("train")
    assert train is not None
    return Pictures(train, split("val"))


def _is_current(folder: Path, fingerprint: str) -> bool:
    try:
        return json.loads((folder / "meta.json").read_text())["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError):
        return False


def _build(folder: Path, archive: Archive, size: int, plan: Plan, fingerprint: str) -> None:
    if folder.exists() and not (folder / "meta.json").exists():
        raise InputError(
            f"{folder} is in the way of the picture store and was not made by it; move it, or use data.store="
        )
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # what a killed build left; the lock says that nobody is at it now
    count = sum(len(split.names) for split in plan.splits.values())
    needed, free = count * size * size * 3, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"the picture store {folder} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; free some space "
            "or name a folder on another disk with data.store=FOLDER"
        )
    building.mkdir()
    try:
        for name, split in plan.splits.items():
            shape = (len(split.names), size, size, 3)
            pixels = np.lib.format.open_memmap(building / f"{name}-pixels.npy", "w+", np.uint8, shape)
            done = 0
            for batch in decoded_batches(archive, split.names, size, f"Decoding {name} pictures"):
                pixels[done : done + len(batch)] = batch
                done += len(batch)
            pixels.flush()
            for kind, values in (("labels", split.labels), ("boxes", split.boxes)):
                if values is not None:
                    np.save(building / f"{name}-{kind}.npy", values)
        meta = {"fingerprint": fingerprint, "classes": plan.classes, "splits": list(plan.splits)}
        (building / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    log.info("Decoded %s pictures into %s.", f"{count:,}", folder)
