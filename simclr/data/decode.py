"""From compressed picture files, in a zip or a folder, to uint8 arrays: several processes, one progress bar."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from simclr.errors import InputError

BATCH = 64
MAX_WORKERS = 16


class Archive(Protocol):
    """A read-only tree of files. It travels to other processes, so it opens what it needs where it is used."""

    path: Path

    def names(self) -> list[str]:
        """Every file, as a path with forward slashes relative to the top, sorted."""

    def read(self, name: str) -> bytes:
        """The contents of one file; raises KeyError or OSError where that is impossible."""

    def fingerprint(self) -> str:
        """Changes when the tree's contents change."""


class FolderArchive:
    """The files below a folder whose name ends in one of `endings` (lower case, ".jpg"); links are followed."""

    def __init__(self, path: Path, endings: Set[str]) -> None:
        self.path, self.endings = path, endings

    def names(self) -> list[str]:
        return sorted(
            path.relative_to(self.path).as_posix()
            for folder, _, files in os.walk(self.path, followlinks=True)
            for path in (Path(folder, file) for file in files)
            if path.suffix.lower() in self.endings and path.is_file()
        )

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in self.names():
            status = (self.path / name).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return f"folder {digest.hexdigest()[:16]}"


class ZipArchive:
    """The members of a zip file. Nothing is ever unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._owner: int | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_zip": None, "_owner": None}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share its parent's file offset, so each process opens its own.
        if self._zip is None or self._owner != os.getpid():
            try:
                self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
            except zipfile.BadZipFile as error:
                raise InputError(
                    f"{self.path} is not a whole zip file ({error}); it was probably cut short: delete it and fetch it "
                    "again"
                ) from error
        return self._zip

    def names(self) -> list[str]:
        return sorted(info.filename for info in self._open().infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        return self._open().read(name)

    def fingerprint(self) -> str:
        status = self.path.stat()
        return f"zip {status.st_size} {status.st_mtime_ns}"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode(data: bytes, size: int) -> np.ndarray:
    """One compressed picture as uint8 [size, size, 3]; grayscale, palette and CMYK pictures become RGB.

    A picture of another size is scaled so that its shorter side fits, then its centre is kept. Raises OSError (or
    another of Pillow's exceptions) for data that is not a whole picture.
    """
    with Image.open(io.BytesIO(data)) as picture:
        rgb = ImageOps.exif_transpose(picture).convert("RGB")  # phones store upright pictures lying down
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


class _Members(Dataset):
    """Decodes by index. Failure is a value, a str: DataLoader would wrap an exception in its worker's traceback."""

    def __init__(self, archive: Archive, names: list[str], size: int) -> None:
        self.archive, self.names, self.size = archive, names, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray | str:
        name = self.names[index]
        try:
            return decode(self.archive.read(name), self.size)
        except Exception as error:
            return (
                f"{name} in {self.archive.path} cannot be decoded ({type(error).__name__}: {error}); replace or remove "
                "that file, or fetch the data set again"
            )


def _collate(pictures: list[np.ndarray | str]) -> torch.Tensor | str:
    for picture in pictures:
        if isinstance(picture, str):
            return picture
    return torch.from_numpy(np.stack(pictures))


def decoded_batches(archive: Archive, names: list[str], size: int, title: str) -> Iterator[np.ndarray]:
    """Decode the named members in order, on every core, under a progress bar: uint8 arrays [B, size, size, 3].

    Raises InputError naming the first member that is not a whole picture.
    """
    # DataLoader is used for its workers: they share memory with us, and they end when we are killed.
    workers = min(cores(), MAX_WORKERS) if len(names) > 4 * BATCH else 0
    loader = DataLoader(_Members(archive, names, size), batch_size=BATCH, collate_fn=_collate, num_workers=workers)
    batches = iter(loader)  # starts the workers, while the bar has no thread yet that they would be forked from
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=len(names))
        for batch in batches:
            if isinstance(batch, str):
                raise InputError(batch)
            bar.advance(task, len(batch))
            yield batch.numpy()
