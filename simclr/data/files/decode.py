"""From compressed image files, in a zip or a folder, to uint8 arrays: several processes, one progress bar."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from subprocess import PIPE
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from simclr.data.files.archive import Archive, Damaged
from simclr.data.files.contents import shown
from simclr.data.files.pixels import BITS, decode, square
from simclr.errors import InputError

BATCH = 64
BATCH_BYTES = 2**24  # that a batch takes at most; a process that decodes holds two of them, and so does ours
MAX_WORKERS = 16
MAX_BYTES = 2**28  # of one image's file; uncompressed, the most pixels take less


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Batch(NamedTuple):
    pixels: np.ndarray  # uint8 [B, size, size, 3], of those that can be decoded
    largest: int
    illegible: list[str]
    broken: dict[str, str]


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
    broken: dict[str, str] = field(default_factory=dict)  # names of images that cannot be used, and what is wrong

    def batches(self, names: list[str], title: str) -> Iterator[np.ndarray]:
        """Decode the named members in order, on every core, under a progress bar: uint8 arrays [B, size, size, 3].

        What is not a whole image is left out and kept in `broken`. Raises InputError where the system lets no more be
        read: the others are not to be taken for broken.
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
                self.broken |= batch.broken
                bar.advance(task, len(batch.pixels) + len(batch.broken))
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


def resized(pixels: np.ndarray, size: int, title: str) -> Iterator[np.ndarray]:
    """Images uint8 [N, H, W, 3] that need no decoding, in batches [B, size, size, 3], under a progress bar."""
    columns = (TextColumn(title.replace("Decoding", "Copying")), BarColumn(), MofNCompleteColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=len(pixels))
        for start in range(0, len(pixels), BATCH):
            batch = np.ascontiguousarray(pixels[start : start + BATCH])
            bar.advance(task, len(batch))
            yield (
                batch
                if batch.shape[1:3] == (size, size)
                else np.stack([square(Image.fromarray(image), size) for image in batch])
            )


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
    """Those of the named images that can be decoded; or in one sentence why no more can be read."""
    decoded, broken = [], {}
    for name in names:
        try:
            data = archive.read(name, MAX_BYTES)
        except Damaged as error:
            broken[name] = error.what
            continue
        except InputError as error:
            return str(error)
        try:
            decoded.append((name, decode(data, size, bits)))
        except MemoryError:
            return (
                f"there is too little memory for {shown(name)} in {shown(archive.path)}; repeat the command with more"
            )
        except UnidentifiedImageError:
            broken[name] = "cannot be decoded (it is not in an image format that can be read)"
        except Exception as error:  # Pillow has no one kind for what is wrong with a file
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            broken[name] = f"cannot be decoded ({shown(reason)})"
    return _Batch(
        np.stack([one.pixels for _, one in decoded]) if decoded else np.empty((0, size, size, 3), np.uint8),
        max((one.largest for _, one in decoded), default=0),
        [name for name, one in decoded if not one.legible],
        broken,
    )
