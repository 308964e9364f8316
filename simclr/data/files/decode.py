"""From compressed image files, in a zip or a folder, to uint8 arrays: several processes, one progress bar."""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from subprocess import PIPE
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from simclr.data.files.archive import Archive, shown
from simclr.data.files.metadata import upright, without_metadata
from simclr.errors import InputError

log = logging.getLogger(__name__)

BATCH = 64
BATCH_BYTES = 2**24  # that a batch takes at most; a process that decodes holds two of them, and so does ours
MAX_WORKERS = 16
MAX_PIXELS = 2**26  # of one image, which takes a quarter of a GB when it is decoded
MAX_BYTES = 2**28  # of one image's file; uncompressed, the most pixels take less
BITS = 16  # of a image with 16 bits a channel, which are all in use unless data.bits says otherwise
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


class Decoded(NamedTuple):
    """A image, uint8 [size, size, 3], and what is to be said of its file."""

    pixels: np.ndarray
    largest: int  # the largest number of a image with 16 bits a channel; 0 of others
    legible: bool  # whether its metadata could be read


def decode(data: bytes, size: int, bits: int = BITS) -> Decoded:
    """One compressed image as uint8 [size, size, 3].

    A image of another size is scaled so that its shorter side fits, then its centre is kept. Grayscale, palette and
    CMYK images become RGB; transparency is ignored, as torchvision's ImageFolder does, so the colours that it hid
    show; of gray with 16 bits the lower `bits` are in use, of which the upper 8 are kept, and what is larger is white;
    colours of 16 bits keep their upper 8; floats are taken from [0, 1]; of an animation the first image is used.
    Metadata are a hint: a image whose orientation cannot be read is used as it lies.
    Raises InputError for more than MAX_PIXELS, before they are decoded, and for numbers that have no white; OSError or
    another of Pillow's many exceptions for data that is not a whole image in one of FORMATS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a image is used or refused; Pillow's remarks on its metadata help nobody
        image, as_it_is = _opened(data)
        turned, legible = upright(image)
        bytes_, largest = _as_bytes(turned, image.format, bits)
        rgb = bytes_.convert("RGB")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return Decoded(np.asarray(rgb), largest, as_it_is and legible)


def _opened(data: bytes) -> tuple[Image.Image, bool]:
    """The image, its pixels decoded, and whether Pillow took its metadata; where it does not, it is spared them."""
    try:
        return _loaded(data), True
    except InputError:
        raise
    except Exception:
        for orientation in (True, False):
            bare = without_metadata(data, orientation)
            if bare != data:
                with suppress(Exception):
                    return _loaded(bare), False
        raise


def _loaded(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
    except Image.DecompressionBombError as error:
        raise InputError(f"more than {MAX_PIXELS:,} pixels") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
    image.load()
    return image


def _as_bytes(image: Image.Image, format: str | None, bits: int) -> tuple[Image.Image, int]:
    """A image of 16-bit or float gray as one of 8 bits, which Pillow's own conversion would clip; others as is.

    With it the largest of the 16-bit numbers, 0 of other images.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        numbers = np.asarray(image)
        return Image.fromarray((numbers >> (bits - 8)).clip(0, 255).astype(np.uint8)), int(numbers.max())
    if image.mode == "F":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 1:  # false of NaN, too
            return Image.fromarray((255 * values).round().astype(np.uint8)), 0
    if image.mode in ("I", "F"):
        raise InputError("its numbers do not say which is white; save it with 8 bits a channel")
    return image, 0


class _Batch(NamedTuple):
    pixels: np.ndarray  # uint8 [B, size, size, 3]
    largest: int
    illegible: list[str]


# What a process that decodes runs: it is given its module search path, then what to do. multiprocessing would not do:
# spawn and forkserver run the user's own program again and start nothing in a process of joblib's, and fork takes along
# locks that other threads hold.
WORKER = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); pickle.load(sys.stdin.buffer)()"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # or numpy starts one for each core, in each of them
Worker = subprocess.Popen[bytes]


@dataclass
class Decoder:
    """Decodes the members of an archive, and keeps count of what is to be said of them.

    size, bits: as in decode().
    """

    archive: Archive
    size: int
    bits: int = BITS
    largest: int = 0  # number of all images with 16 bits so far
    illegible: list[str] = field(default_factory=list)  # names whose metadata could not be read

    def batches(self, names: list[str], title: str) -> Iterator[np.ndarray]:
        """Decode the named members in order, on every core, under a progress bar: uint8 arrays [B, size, size, 3].

        Raises InputError naming the first member that is not a whole image.
        """
        count = max(1, min(BATCH, BATCH_BYTES // (3 * self.size**2)))
        parts = [names[start : start + count] for start in range(0, len(names), count)]
        workers = min(cores(), MAX_WORKERS, len(parts)) if len(names) > 4 * BATCH else 0
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar, closing(self._decoded(parts, workers)) as batches:
            task = bar.add_task(title, total=len(names))
            for batch in batches:
                if isinstance(batch, str):
                    raise InputError(batch)
                self.largest = max(self.largest, batch.largest)
                self.illegible += batch.illegible
                bar.advance(task, len(batch.pixels))
                yield batch.pixels

    def remarks(self) -> list[str]:
        """What is to be said of the images decoded so far, a sentence each; mostly nothing."""
        found = []
        white, bits = 2**self.bits - 1, max(8, self.largest.bit_length())
        if self.largest and bits < self.bits:
            found.append(
                f"The 16-bit images use numbers up to {self.largest:,} alone, and come out at "
                f"{(self.largest + 1) / (white + 1):.1%} of white or darker; data.bits={bits} scales them"
            )
        if bits > self.bits:
            found.append(
                f"The 16-bit images use numbers up to {self.largest:,}; those above {white:,} are white, "
                f"with data.bits={self.bits}"
            )
        if self.illegible:
            found.append(
                f"The metadata of some images cannot be read ({len(self.illegible):,} of them, "
                f"{shown(self.illegible[0])} first); they are used as they lie where nothing says how to turn them"
            )
        return [f"{shown(self.archive.path)}: {remark}." for remark in found]

    def _decoded(self, parts: list[list[str]], count: int) -> Generator[_Batch | str, None, None]:
        """Each part decoded, or why it cannot be; by `count` processes, of which each takes every count-th part."""
        workers: list[Worker] = []
        try:
            with suppress(OSError), _signals_held_back():  # where no more processes are to be had, this one helps
                for _ in range(count):
                    command = [sys.executable, "-c", WORKER]
                    workers.append(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, env=os.environ | ONE_THREAD))
            for first, worker in enumerate(workers):
                _give(worker, partial(_work, self.archive, parts[first::count], self.size, self.bits))
            for number, part in enumerate(parts):
                turn = number % max(1, count)
                if turn < len(workers):
                    yield _received(workers[turn], self.archive, part)
                else:
                    yield _decode_part(self.archive, part, self.size, self.bits)
        finally:
            for worker in workers:
                with worker:  # closes the pipes and waits
                    worker.kill()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes that start meanwhile get no signal but SIGKILL: who is to stop, and how, is for this one to decide."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(worker: Worker, task: Callable[[], None]) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError), worker.stdin as pipe:  # that it has died is seen when it is to answer
        pipe.write(pickle.dumps(sys.path) + pickle.dumps(task))


def _work(archive: Archive, parts: list[list[str]], size: int, bits: int) -> None:
    """Send each part when the one before has been taken.

    It goes through a pipe, which needs no shared memory, of which a container may have little; and which tells each
    side that the other has ended.
    """
    try:
        for part in parts:
            pickle.dump(_decode_part(archive, part, size, bits), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.flush()
    except BrokenPipeError:  # the command has been killed
        os._exit(1)


def _received(worker: Worker, archive: Archive, part: list[str]) -> _Batch | str:
    """What a worker sends. Raises InputError where it has died."""
    assert worker.stdout is not None
    try:
        return pickle.load(worker.stdout)
    except (EOFError, pickle.UnpicklingError):
        worker.stdout.close()
        code = worker.wait()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    remedy = (
        "repeat the command with more memory, or on fewer cores" if code == -signal.SIGKILL else "take that one out"
    )
    raise InputError(
        f"a process that decoded images {how}, at one of {shown(part[0])} to {shown(part[-1])} in "
        f"{shown(archive.path)}; {remedy}"
    )


def _decode_part(archive: Archive, names: list[str], size: int, bits: int) -> _Batch | str:
    """The named images; or in one sentence why the first that cannot be decoded cannot."""
    decoded = []
    for name in names:
        try:
            data = archive.read(name, MAX_BYTES)
        except InputError as error:
            return str(error)
        try:
            decoded.append(decode(data, size, bits))
        except Exception as error:  # Pillow has no one kind for what is wrong with a file
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            return (
                f"{shown(name)} in {shown(archive.path)} cannot be decoded ({shown(reason)}); replace or remove that "
                "file, or fetch the data set again"
            )
    return _Batch(
        np.stack([one.pixels for one in decoded]),
        max(one.largest for one in decoded),
        [name for name, one in zip(names, decoded, strict=True) if not one.legible],
    )
