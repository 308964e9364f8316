"""The image store: every image of a data set as uint8 in one memory-mapped array, built once, read at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from simclr.checks import MAX_SIZE, MIN_SIZE, is_whole
from simclr.data.columns import Column
from simclr.data.files.archive import Archive, shown
from simclr.data.files.decode import BITS, Decoder
from simclr.errors import InputError
from simclr.system.files import to_disk
from simclr.system.locks import locked

log = logging.getLogger(__name__)

FORMAT = 4  # raise it when the files below change, or what they hold of an image; older stores are rebuilt


@dataclass(frozen=True)
class ImageStore:
    """Images of one size with what is known about them.

    pixels: uint8 [M, H, W, 3], usually memory-mapped; rows: int64 [N], which of them belong to this store, in order.
    digests: S16 [N], equal for images that are equal pixel by pixel. columns: what is known of each, N rows each.
    key: equal for equal contents (pixels in their order, and all columns), wherever they came from.
    """

    pixels: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    columns: Mapping[str, Column]
    key: str

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        columns: Mapping[str, Column] | None = None,
        digests: np.ndarray | None = None,
        key: str | None = None,
    ) -> ImageStore:
        """A store that holds all of `pixels`; what is not given of digests and key is computed."""
        columns = columns or {}
        digests = digests_of(pixels) if digests is None else digests
        if key is None:
            further = sorted(columns.keys() - {"labels", "boxes"})
            names = list(columns["labels"].names) if "labels" in columns else []
            arrays = [columns[name].values if name in columns else None for name in ("labels", "boxes", *further)]
            about = [[name, *columns[name].names] for name in further]
            key = _digest([names, pixels.shape, *about], [digests, *arrays])[:16]
        return cls(pixels, np.arange(len(pixels)), digests, columns, key)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray | None:
        """The class of every image, int64 [N]; None where they have none."""
        return self.columns["labels"].values if "labels" in self.columns else None

    @property
    def classes(self) -> list[str]:
        """The names that labels index; none without labels."""
        return list(self.columns["labels"].names) if "labels" in self.columns else []

    @property
    def boxes(self) -> np.ndarray | None:
        """int16 [N, 4], as columns.boxes has them; None where they have none."""
        return self.columns["boxes"].values if "boxes" in self.columns else None

    def gather(self, indices: np.ndarray | slice) -> Tensor:
        """The images at `indices` of this store, copied: uint8 [B, H, W, 3]."""
        return torch.from_numpy(self.pixels[self.rows[indices]])

    def select(self, indices: np.ndarray) -> ImageStore:
        """A store of the images at `indices`, in that order; the pixels are shared, not copied."""
        return replace(
            self,
            rows=self.rows[indices],
            digests=self.digests[indices],
            columns={name: column.select(indices) for name, column in self.columns.items()},
            key=_digest(self.key, [indices])[:16],
        )

    def first_of_shuffle(self, limit: int) -> ImageStore:
        """The first `limit` images of a shuffle that depends on the number of images alone, not on the run."""
        if not is_whole(limit) or limit < 1:
            raise InputError(f"limit_images={limit} leaves no images; use null for all of them")
        return self.select(np.random.default_rng(len(self)).permutation(len(self))[:limit])


class Splits(NamedTuple):
    """What a source yields.

    pretrain: what a method learns from; labels are not needed. train: what probes are fitted on; the same store where a
    set has one. val: what is judged on, and never chosen on; None where there is nothing to judge with.
    """

    pretrain: ImageStore
    train: ImageStore
    val: ImageStore | None

    @classmethod
    def of(cls, train: ImageStore, val: ImageStore | None) -> Splits:
        """Of a set whose training images are what a method learns from, too."""
        return cls(train, train, val)


class Split(NamedTuple):
    """The images that one split of a store is to hold: member names of the archive, and what is known of each."""

    names: list[str]
    columns: Mapping[str, Column] = {}


Plan = Mapping[str, Split]  # what to decode: "train", and "pretrain" and "val" where there are such splits


def digests_of(pixels: np.ndarray) -> np.ndarray:
    """A digest of every image's pixels: S16 [N] of uint8 [N, H, W, 3]."""
    return np.array([hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels], "S16")


def check_size(size: int) -> None:
    """Raise InputError for a side, in pixels, that no store is kept at."""
    if not is_whole(size) or not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"data.size={size} is not usable: it is a whole number from {MIN_SIZE} to {MAX_SIZE} (pixels)")


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
    folder = (parent or path.parent) / f"{path.name.removesuffix('.zip')}.store-{size}"
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
        digest, stores, small = meta.pop("digest"), {}, []
        for split, about in meta["splits"].items():
            count = about["count"]
            pixels = _map(folder / f"{split}-pixels.npy", np.uint8, (count, size, size, 3))
            digests = np.array(_map(folder / f"{split}-digests.npy", "S16", (count,)))
            columns = {}
            for name, (dtype, shape, names) in about["columns"].items():
                values = np.array(_map(folder / f"{split}-{name}.npy", dtype, (count, *shape)))
                columns[name] = Column(values, tuple(names))
            small += [digests, *(column.values for column in columns.values())]
            stores[split] = ImageStore.of(pixels, columns, digests)
        if digest != _digest(meta, small):
            return None
        return Splits(stores.get("pretrain", stores["train"]), stores["train"], stores.get("val"))
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


def _digest(plain: object, arrays: Sequence[np.ndarray | None]) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for array in arrays:
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


def _build(folder: Path, archive: Archive, size: int, plan: Plan, fingerprint: str, bits: int) -> None:
    """Raises InputError, and OSError where writing fails; nothing half-written is left behind."""
    own = re.compile(rf"meta\.json|({'|'.join(Splits._fields)})-[a-z_]+\.npy")
    if folder.exists() and not (folder.is_dir() and all(own.fullmatch(path.name) for path in folder.iterdir())):
        raise InputError(
            f"{shown(folder)} is in the way of the image store and was not made by it; move it, or use data.store="
        )
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # what a killed build left; the lock says that nobody is at it now
    counts = {name: len(split.names) for name, split in plan.items()}
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
        splits: dict[str, Any] = {}
        for name, split in plan.items():
            digests = []
            # Written, not mapped: on a full disk a write fails, where a store into a map kills the process.
            with (building / f"{name}-pixels.npy").open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (counts[name], size, size, 3)}
                np.lib.format.write_array_header_1_0(file, header)
                for batch in decoder.batches(split.names, f"Decoding {name} images"):
                    file.write(batch.data)
                    digests.append(digests_of(batch))
            columns = split.columns
            for kind, values in (("digests", np.concatenate(digests)), *((k, c.values) for k, c in columns.items())):
                np.save(building / f"{name}-{kind}.npy", values)
                small.append(values)
            about = {kind: (c.values.dtype.str, c.values.shape[1:], c.names) for kind, c in columns.items()}
            splits[name] = {"count": counts[name], "columns": about}
        meta = json.loads(json.dumps({"fingerprint": fingerprint, "splits": splits}))  # as it will be read
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
