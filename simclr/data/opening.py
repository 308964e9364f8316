"""From a source's files to its store: decoded once, under a lock, whole or not at all; opened at once after that."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from simclr.data.columns import Column
from simclr.data.files.archive import Archive, said_of_broken
from simclr.data.files.contents import shown
from simclr.data.files.decode import Decoder, resized
from simclr.data.files.pixels import BITS
from simclr.data.places import CLOSED, belongs_to_another, places
from simclr.data.store import ImageStore, Plan, Split, Splits, digest_of, digests_of
from simclr.errors import InputError
from simclr.system.files import to_disk
from simclr.system.locks import locked

log = logging.getLogger(__name__)

FORMAT = 4  # raise it when the files below change, or what they hold of an image; older stores are rebuilt


class _Stored(NamedTuple):
    splits: Splits
    meta: dict[str, Any]
    folder: Path


def check_on_broken(on_broken: str) -> None:
    """Raise ValueError for what is no policy for broken images."""
    if on_broken not in ("stop", "skip"):
        raise ValueError(f"on_broken={on_broken} is not usable: it is stop or skip")


def open_store(
    archive: Archive,
    size: int,
    plan: Callable[[], Plan],
    kind: str,
    parent: Path | None = None,
    *,
    bits: int = BITS,
    choices: str = "",
    on_broken: str = "stop",
) -> Splits:
    """The store of `archive`, decoded from it first if it is absent, half-built, damaged or older than its source.

    size: images are kept at size × size. plan: called only where the store has to be built. kind: who makes the plan;
    two kinds of source that read one folder do not share a store. choices: what else the plan depends on.
    parent: the folder that the store, itself a folder, is kept in; None for beside the source, or the user's cache
    where that cannot be written. bits: of a gray image of 16 bits, those in use.
    on_broken: "stop" refuses a store that some images of the source had to be left out of, "skip" says so.

    The store appears whole or not at all: it is built in a neighbouring folder under a lock, then renamed. A killed
    build leaves only that neighbour, which the next one clears away; of several processes that start together one
    builds and the others wait. Raises InputError for images that cannot be decoded, a place that cannot be written
    or a disk that is too small.
    """
    owner = f"{kind} {archive.path}"
    what = f"{kind}{choices}" if bits == BITS else f"{kind}{choices} of {bits} bits"
    fingerprint = f"format {FORMAT}, {what}, {size} px, {archive.fingerprint()}"
    folders = list(places(owner, archive.path, size, parent))
    stored = next((found for folder in folders if (found := _read(folder, fingerprint, size)) is not None), None)
    for folder in folders if stored is None else ():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            waiting = partial(log.info, "Another process is decoding images into %s; waiting for it.", shown(folder))
            with locked(folder.with_name(f"{folder.name}.lock"), timeout=None, waiting=waiting):
                stored = _read(folder, fingerprint, size)
                if stored is None and belongs_to_another(folder, owner):
                    continue
                if stored is None:
                    _build(folder, Decoder(archive, size, bits), plan(), {"fingerprint": fingerprint, "owner": owner})
                    stored = _read(folder, fingerprint, size)
        except OSError as error:
            if parent is None and error.errno in CLOSED and folder != folders[-1]:
                continue
            raise InputError(
                f"cannot write the image store {shown(folder)} ({error.strerror or error}); name a folder that can be "
                "written, on a disk with room, with data.store=FOLDER"
            ) from error
        if stored is None:
            raise InputError(
                f"the image store {shown(folder)} does not read as it was written; name a folder on another disk with "
                "data.store=FOLDER"
            )
        break
    assert stored is not None  # the last place bears the owner's hash
    if parent is None and stored.folder.parent != archive.path.parent:
        log.info(
            "The decoded images lie in %s, since %s cannot be written; data.store=FOLDER keeps them elsewhere.",
            shown(stored.folder),
            shown(archive.path.parent),
        )
    _say_what_is_missing(archive, stored, on_broken)
    return stored.splits


def _say_what_is_missing(archive: Archive, stored: _Stored, on_broken: str) -> None:
    """Log which files the store was made without. Raises InputError where these are broken and that is to stop."""
    passed, broken = stored.meta["passed_over"], stored.meta["broken"]
    if passed["files"]:
        level = logging.WARNING if passed["serious"] else logging.INFO
        log.log(level, "Passed over in %s: %s.", shown(archive.path), passed["files"])
    if broken:
        count = len(broken) + sum(split["count"] for split in stored.meta["splits"].values())
        said = said_of_broken(archive, broken, count)
        if on_broken == "stop":
            raise InputError(f"{said}; {archive.remedy}, or leave it out with data.on_broken=skip")
        log.warning("%s; left out, and listed in %s.", said, shown(stored.folder / "meta.json"))


def _read(folder: Path, fingerprint: str, size: int) -> _Stored | None:
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
        if digest != digest_of(meta, small):
            return None
        splits = Splits(stores.get("pretrain", stores["train"]), stores["train"], stores.get("val"))
        return _Stored(splits, meta, folder)
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


def _build(folder: Path, decoder: Decoder, plan: Plan, meta: dict[str, Any]) -> None:
    """Raises InputError, and OSError where writing fails; nothing half-written is left behind."""
    own = re.compile(rf"meta\.json|({'|'.join(Splits._fields)})-[a-z0-9_]+\.npy")
    if folder.exists() and not (folder.is_dir() and all(own.fullmatch(path.name) for path in folder.iterdir())):
        raise InputError(
            f"{shown(folder)} is in the way of the image store and was not made by it; move it, or use data.store="
        )
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # what a killed build left; the lock says that nobody is at it now
    needed = sum(split.images for split in plan.values()) * decoder.size**2 * 3
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"the image store {shown(folder)} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; free "
            "some space or name a folder on another disk with data.store=FOLDER"
        )
    building.mkdir()
    try:
        small: list[np.ndarray] = []
        splits: dict[str, Any] = {}
        for name, split in plan.items():
            digests = _write_pixels(building / f"{name}-pixels.npy", decoder, split, f"Decoding {name} images")
            kept = np.arange(split.images)
            if split.pixels is None:
                kept = np.array([i for i, member in enumerate(split.names) if member not in decoder.broken])
            columns = {kind: column.select(kept) for kind, column in split.columns.items()}
            for kind, values in (("digests", digests), *((k, c.values) for k, c in columns.items())):
                np.save(building / f"{name}-{kind}.npy", values)
                small.append(values)
            about = {kind: (c.values.dtype.str, c.values.shape[1:], c.names) for kind, c in columns.items()}
            splits[name] = {"count": len(kept), "columns": about}
        passed = decoder.archive.passed_over
        meta |= {"splits": splits, "broken": decoder.broken}
        meta |= {"passed_over": {"files": str(passed), "serious": passed.serious}}
        meta = json.loads(json.dumps(meta))  # as it will be read
        (building / "meta.json").write_text(json.dumps(meta | {"digest": digest_of(meta, small)}), encoding="utf-8")
        for path in building.iterdir():
            to_disk(path)  # a power loss after the renaming must not leave pages of zeros, which nothing would notice
        if folder.exists():
            log.info("Replacing %s, which is damaged, or of other images or an older format.", shown(folder))
            shutil.rmtree(folder)
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    log.info("Decoded %s images into %s.", f"{sum(about['count'] for about in splits.values()):,}", shown(folder))
    for remark in decoder.remarks():
        log.warning(remark)


def _write_pixels(path: Path, decoder: Decoder, split: Split, title: str) -> np.ndarray:
    """Decode a split's images into an .npy file; the digests of those that can be. Raises InputError for none."""
    digests: list[np.ndarray] = []
    if split.pixels is None:
        batches = decoder.batches(split.names, title)
    else:
        batches = resized(split.pixels, decoder.size, title)
    # Written, not mapped: on a full disk a write fails, where a store into a map kills the process.
    with path.open("wb") as file:
        header, shape = {"descr": "|u1", "fortran_order": False}, (decoder.size, decoder.size, 3)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (split.images, *shape)})
        start = file.tell()
        for batch in batches:
            file.write(batch.data)
            digests.append(digests_of(batch))
        count = sum(map(len, digests))
        if count == 0:
            raise InputError(
                f"{said_of_broken(decoder.archive, decoder.broken, split.images)}; {decoder.archive.remedy}"
            )
        if count < split.images:
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *shape)})
            assert file.tell() == start  # NumPy leaves room for the number of images
    return np.concatenate(digests)
