"""The image store: every image of a data set as uint8 in one memory-mapped array, built once, read at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from simclr.checks import MAX_SIZE, MIN_SIZE, is_whole
from simclr.data.files.archive import Archive, shown
from simclr.data.files.decode import BITS, Decoder
from simclr.errors import InputError
from simclr.system.files import to_disk
from simclr.system.locks import locked

log = logging.getLogger(__name__)

FORMAT = 3  # raise it when the files below change, or what they hold of a image; older stores are rebuilt
# What may be known of images: its type, and its shape for one of them.
KNOWN: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
    "labels": (np.int64, ()),
    "boxes": (np.int16, (4,)),
    "digests": ("S16", ()),
}


@dataclass(frozen=True)
class ImageStore:
    """Images of one size with what is known about them.

    pixels: uint8 [M, H, W, 3], usually memory-mapped; rows: int64 [N], which of them belong to this store, in order.
    labels: int64 [N] or None. boxes: int16 [N, 4] (x0, y0, x1, y1 in pixels, -1 where unknown) or None.
    digests: S16 [N], equal for images that are equal pixel by pixel. classes: the names that labels index.
    key: equal for equal contents (pixels in their order, labels, boxes, classes), wherever they came from.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray | None
    boxes: np.ndarray | None
    digests: np.ndarray
    classes: list[str]
    key: str

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        digests: np.ndarray | None = None,
        *,
        classes: list[str],
        key: str | None = None,
    ) -> ImageStore:
        """A store that holds all of `pixels`; what is not given of digests and key is computed."""
        digests = digests_of(pixels) if digests is None else digests
        if key is None:
            key = _digest([classes, pixels.shape], [digests, labels, boxes])[:16]
        return cls(pixels, np.arange(len(pixels)), labels, boxes, digests, classes, key)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray | slice) -> Tensor:
        """The images at `indices` of this store, copied: uint8 [B, H, W, 3]."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def select(self, indices: np.ndarray) -> ImageStore:
        """A store of the images at `indices`, in that order; the pixels are shared, not copied."""
        return replace(
            self,
            rows=self.rows[indices],
            labels=None if self.labels is None else self.labels[indices],
            boxes=None if self.boxes is None else self.boxes[indices],
            digests=self.digests[indices],
            key=_digest(self.key, [indices])[:16],
        )

    def first_of_shuffle(self, limit: int) -> ImageStore:
        """The first `limit` images of a shuffle that depends on the number of images alone, not on the run."""
        if not is_whole(limit) or limit < 1:
            raise InputError(f"limit_images={limit} leaves no images; use null for all of them")
        return self.select(np.random.default_rng(len(self)).permutation(len(self))[:limit])


class Splits(NamedTuple):
    """What a data source yields: val is None where there is nothing to judge a representation with."""

    train: ImageStore
    val: ImageStore | None


class Split(NamedTuple):
    """The images that one split of a store is to hold: member names of the archive and what is known of each."""

    names: list[str]
    labels: np.ndarray | None
    boxes: np.ndarray | None


class Plan(NamedTuple):
    """What to decode: the splits ("train", and "val" where there is one) and the class names."""

    splits: dict[str, Split]
    classes: list[str]


def digests_of(pixels: np.ndarray) -> np.ndarray:
    """A digest of every image's pixels: S16 [N] of uint8 [N, H, W, 3]."""
    return np.array([hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels], "S16")


def check_size(size: int) -> None:
    """Raise InputError for a side, in pixels, that no store is kept at."""
    if not is_whole(size) or not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"data.size={size} is not usable: it is a whole number from {MIN_SIZE} to {MAX_SIZE} (pixels)")


def store_folder(source: Path, size: int, parent: Path | None = None) -> Path:
    """Where the store of a source is kept: beside it, or in `parent`, where sources of one name do not share it."""
    name = source.name.removesuffix(".zip")
    if parent is None:
        return source.parent / f"{name}.store-{size}"
    return parent / f"{name}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}.store-{size}"


def open_store(
    archive: Archive, size: int, plan: Callable[[], Plan], kind: str, parent: Path | None = None, bits: int = BITS
) -> Splits:
    """The store of `archive`, decoded from it first if it is absent, half-built, damaged or older than its source.

    size: images are kept at size × size. plan: called only where the store has to be built. kind: who makes the plan;
    two kinds of source that read one folder do not share a store.
    parent: the folder that the store, itself a folder, is kept in; None for beside the source.
    bits: of a gray image of 16 bits, those in use.

    The store appears whole or not at all: it is built in a neighbouring folder under a lock, then renamed. A killed
    build leaves only that neighbour, which the next one clears away; of several processes that start together one
    builds and the others wait. Raises InputError for a image that cannot be decoded, a place that cannot be written
    or a disk that is too small.
    """
    path = archive.path
    folder = store_folder(path, size, parent)
    kind = kind if bits == BITS else f"{kind} of {bits} bits"
    fingerprint = f"format {FORMAT}, {kind}, {size} px, {archive.fingerprint()}"
    images = _read(folder, fingerprint, size)
    if images is not None:
        return images
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = partial(log.info, "Another process is decoding the images into %s; waiting for it.", shown(folder))
        with locked(folder.with_name(f"{folder.name}.lock"), timeout=None, waiting=waiting):
            images = _read(folder, fingerprint, size)
            if images is None:
                _build(folder, archive, size, plan(), fingerprint, bits)
                images = _read(folder, fingerprint, size)
    except OSError as error:
        raise InputError(
            f"cannot write the image store {shown(folder)} ({error.strerror or error}); name a folder that can be "
            "written, on a disk with room, with data.store=FOLDER"
        ) from error
    if images is None:
        raise InputError(
            f"the image store {shown(folder)} does not read as it was written; name a folder on another disk with "
            "data.store=FOLDER"
        )
    return images


def _read(folder: Path, fingerprint: str, size: int) -> Splits | None:
    """The store in `folder`; None where there is none, or one that is damaged or of another fingerprint.

    Everything is held against the digest in meta.json but the pixels: only their shape, type and length are checked.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint:
            return None
        digest, columns, small = meta.pop("digest"), {}, []
        for name, count in meta["splits"].items():
            pixels = _map(folder / f"{name}-pixels.npy", np.uint8, (count, size, size, 3))
            known = []
            for kind, (dtype, shape) in KNOWN.items():
                path = folder / f"{name}-{kind}.npy"
                known.append(np.array(_map(path, dtype, (count, *shape))) if path.exists() else None)
            columns[name] = (pixels, known)
            small += known
        if digest != _digest(meta, small):
            return None
        stores = {
            name: ImageStore.of(pixels, *known, classes=meta["classes"]) for name, (pixels, known) in columns.items()
        }
        return Splits(stores["train"], stores.get("val"))
    except Exception:  # damage shows in many ways, and all have the same remedy
        return None


def _map(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """The array in an .npy file, mapped and not read. Raises where the file is not of that type, shape and length."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        found = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or found != (shape, False, np.dtype(dtype)):
            raise ValueError(f"{path} holds {found}")
        return np.memmap(path, dtype, "r", file.tell(), shape)


def _digest(plain: object, arrays: list[np.ndarray | None]) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for array in arrays:
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


def _build(folder: Path, archive: Archive, size: int, plan: Plan, fingerprint: str, bits: int) -> None:
    """Raises InputError, and OSError where writing fails; nothing half-written is left behind."""
    own = {"meta.json", *(f"{split}-{kind}.npy" for split in ("train", "val") for kind in ("pixels", *KNOWN))}
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= own):
        raise InputError(
            f"{shown(folder)} is in the way of the image store and was not made by it; move it, or use data.store="
        )
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # what a killed build left; the lock says that nobody is at it now
    counts = {name: len(split.names) for name, split in plan.splits.items()}
    needed, free = sum(counts.values()) * size * size * 3, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"the image store {shown(folder)} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; free "
            "some space or name a folder on another disk with data.store=FOLDER"
        )
    building.mkdir()
    decoder = Decoder(archive, size, bits)
    try:
        small: list[np.ndarray | None] = []
        for name, split in plan.splits.items():
            digests = []
            # Written, not mapped: on a full disk a write fails, where a store into a map kills the process.
            with (building / f"{name}-pixels.npy").open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (counts[name], size, size, 3)}
                np.lib.format.write_array_header_1_0(file, header)
                for batch in decoder.batches(split.names, f"Decoding {name} images"):
                    file.write(batch.data)
                    digests.append(digests_of(batch))
            for kind, values in zip(KNOWN, (split.labels, split.boxes, np.concatenate(digests)), strict=True):
                if values is not None:
                    values = values.astype(KNOWN[kind][0])
                    np.save(building / f"{name}-{kind}.npy", values)
                small.append(values)
        meta = {"fingerprint": fingerprint, "classes": plan.classes, "splits": counts}
        (building / "meta.json").write_text(json.dumps(meta | {"digest": _digest(meta, small)}), encoding="utf-8")
        for path in building.iterdir():
            to_disk(path)  # a power loss after the renaming must not leave pages of zeros, which nothing would notice
        if folder.exists():
            log.info("Replacing %s, which is damaged, or of other images or an older format.", shown(folder))
            shutil.rmtree(folder)
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    log.info("Decoded %s images into %s.", f"{sum(counts.values()):,}", shown(folder))
    for remark in decoder.remarks():
        log.warning(remark)
