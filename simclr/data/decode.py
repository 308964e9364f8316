"""From compressed picture files, in a zip or a folder, to uint8 arrays: several processes, one progress bar."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from simclr.data.archive import Archive, shown
from simclr.errors import InputError

BATCH = 64
MAX_WORKERS = 16
# How workers begin, on every Python. Forked, they are there in a tenth of a second; by forkserver, Linux's default from
# Python 3.14 on, each would import torch first. A fork's danger is a lock that another thread held, and what they run,
# Pillow and numpy, takes none. macOS itself is not safe to fork.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
MAX_PIXELS = 2**26  # of one picture, which takes a quarter of a GB when it is decoded
MAX_BYTES = 2**28  # of one picture's file; uncompressed, the most pixels take less
# Pillow reads more, but goes by contents and not by name: PostScript, called x.jpg, would run Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can read."""
    Image.init()
    return tuple(format for format in FORMATS if format in Image.OPEN)


def decode(data: bytes, size: int) -> np.ndarray:
    """One compressed picture as uint8 [size, size, 3].

    A picture of another size is scaled so that its shorter side fits, then its centre is kept. Grayscale, palette and
    CMYK pictures become RGB; transparency is ignored, as torchvision's ImageFolder does, so the colours that it hid
    show; 16 bits a channel keep their upper 8; floats are taken from [0, 1]; of an animation the first picture is used.
    Raises InputError for more than MAX_PIXELS, before they are decoded, and for numbers that have no white; OSError or
    another of Pillow's many exceptions for data that is not a whole picture in one of FORMATS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture is used or refused; Pillow's remarks on its metadata help nobody
        try:
            picture = Image.open(io.BytesIO(data), formats=formats())
        except Image.DecompressionBombError as error:
            raise InputError(f"more than {MAX_PIXELS:,} pixels") from error
        with picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{picture.width} × {picture.height} pixels, more than {MAX_PIXELS:,}")
            upright = ImageOps.exif_transpose(picture)  # phones store upright pictures lying down
            rgb = _as_bytes(upright, picture.format).convert("RGB")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _as_bytes(picture: Image.Image, format: str | None) -> Image.Image:
    """A picture of 16-bit or float gray as one of 8 bits, which Pillow's own conversion would clip; others as is."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode == "F":
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= 1:  # false of NaN, too
            return Image.fromarray((255 * values).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError("its numbers do not say which is white; save it with 8 bits a channel")
    return picture


class _Members(Dataset):
    """Decodes by index. Failure is a value, a str: DataLoader would wrap an exception in its worker's traceback."""

    def __init__(self, archive: Archive, names: list[str], size: int) -> None:
        self.archive, self.names, self.size = archive, names, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray | str:
        name = self.names[index]
        try:
            data = self.archive.read(name, MAX_BYTES)
        except InputError as error:
            return str(error)
        try:
            return decode(data, self.size)
        except Exception as error:  # Pillow has no one kind for what is wrong with a file
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            return (
                f"{shown(name)} in {shown(self.archive.path)} cannot be decoded ({shown(reason)}); replace or remove "
                "that file, or fetch the data set again"
            )


def _collate(pictures: list[np.ndarray | str]) -> torch.Tensor | str:
    for picture in pictures:
        if isinstance(picture, str):
            return picture
    return torch.from_numpy(np.stack(pictures))


def _end_with_the_reader(_: int) -> None:
    """Let this worker end with the process that started it; DataLoader's own way misses a kill in the first moments."""
    reader = multiprocessing.parent_process()
    assert reader is not None

    def watch() -> None:
        reader.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def decoded_batches(archive: Archive, names: list[str], size: int, title: str) -> Iterator[np.ndarray]:
    """Decode the named members in order, on every core, under a progress bar: uint8 arrays [B, size, size, 3].

    Raises InputError naming the first member that is not a whole picture.
    """
    # DataLoader is used for its workers, which share memory with us.
    workers = min(cores(), MAX_WORKERS) if len(names) > 4 * BATCH else 0
    loader = DataLoader(
        _Members(archive, names, size),
        batch_size=BATCH,
        collate_fn=_collate,
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        worker_init_fn=_end_with_the_reader,
    )
    batches = iter(loader)  # starts the workers, while the bar has no thread yet that they would be forked from
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=len(names))
        for batch in batches:
            if isinstance(batch, str):
                raise InputError(batch)
            bar.advance(task, len(batch))
            yield batch.numpy()
