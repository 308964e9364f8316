"""TensorBoard's event files: named so that readers take them in order, and read whatever order their names have."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.summary.writer import event_file_writer

FILES = "events.out.tfevents.*"


@contextmanager
def sorted_last(folder: Path) -> Iterator[None]:
    """Within it, a new event file in `folder` gets a name that sorts behind those there, whatever the clock says.

    A name begins with the clock's seconds, and readers go through a folder in the order of names: a run that goes on
    after the clock was put back would be read before its own beginning, which then counts as the later word.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob(FILES)]
    next_second = max((int(text) for text in seconds if text.isdecimal()), default=0) + 1
    here, names_by = threading.get_ident(), event_file_writer.time

    def clock() -> float:
        # TensorBoard takes no name. Its writing thread, which is started here too, keeps the true time.
        return max(time.time(), next_second) if threading.get_ident() == here else time.time()

    event_file_writer.time = SimpleNamespace(time=clock)
    try:
        yield
    finally:
        event_file_writer.time = names_by


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars in the event files of `folder`: tag -> step -> value, by rising step.

    A step that several files have, because a run that went on took it again, has the value of the later file. Files
    follow each other in the order of their names. Where that begins with one that went on from a step, the clock had
    been put back, and they follow each other in the order of the steps that they went on from.
    """
    files = [_read(path) for path in sorted(folder.glob(FILES))]
    if files and files[0][0] > 0:
        files.sort(key=lambda file: file[0])
    found: dict[str, dict[int, float]] = {}
    for _, scalars in files:
        for tag, step, value in scalars:
            found.setdefault(tag, {})[step] = value
    return {tag: dict(sorted(points.items())) for tag, points in found.items()}


def _read(path: Path) -> tuple[int, list[tuple[str, int, float]]]:
    """The step that a file's writer went on from, and its scalars: tag, step, value."""
    start, scalars = 0, []
    for event in LegacyEventFileLoader(str(path)).Load():
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            start = event.step
        scalars += [(v.tag, event.step, v.simple_value) for v in event.summary.value if v.HasField("simple_value")]
    return start, scalars
