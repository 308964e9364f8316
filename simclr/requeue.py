"""SIGTERM: how a scheduler, or a cloud that wants its machine back, says that a job has to go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Requeue(SystemExit):
    """The command ends in good order, is not finished, and wants to be run again; its code is the exit status."""


@contextmanager
def on_sigterm(action: Callable[[], Any]) -> Iterator[None]:
    """Call `action` in the main thread when SIGTERM comes, in place of what was done before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, lambda signum, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def requeue_on_sigterm(exit_code: int) -> Iterator[None]:
    """Where SIGTERM comes, leave at once through Requeue: for times in which there is nothing to save."""

    def leave() -> None:
        raise Requeue(exit_code)

    with on_sigterm(leave):
        yield
