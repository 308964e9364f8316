"""How a scheduler, a cloud that wants its machine back, or a closed terminal says that a job has to go: by a signal."""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

log = logging.getLogger(__name__)

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGINT")  # the last is Ctrl-C
INTERRUPTED = (
    128 + signal.SIGINT
)  # the exit status that shells expect after Ctrl-C: whoever pressed it wants no requeue


class Requeue(SystemExit):
    """The command ends in good order, is not finished, and wants to be run again; its code is the exit status."""


def stop_signals() -> dict[signal.Signals, Any]:
    """The signals that ask this process to stop, and what is done when each comes.

    Not those that whoever started it has told it to ignore (nohup), nor those that this system does not have.
    """
    known = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in known}
    # None is a handler that Python did not install, and could not put back.
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


def ignore_stop_signals() -> None:
    """For a process that is about to end in good order: a second signal must not end it in another way.

    But for a second Ctrl-C, which ends it at once.
    """
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)


def to_others(number: int) -> signal.Signals:
    """What to send to other processes of one's own for a signal that has come to this one.

    A terminal sends Ctrl-C to them as well, and two would end them unsaved.
    """
    return signal.SIGTERM if number == signal.SIGINT else signal.Signals(number)


def _forget_closed_terminal() -> None:
    """Where the terminal is gone, which is what SIGHUP says, let what is printed be lost instead of an error."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)


class Stop:
    """The first signal that asks this process to stop, while one job runs; those that follow it change nothing.

    But for a second Ctrl-C, which ends the process at once, without saving.
    requeue_exit_code: of the Requeue by which the job is left, INTERRUPTED after Ctrl-C.
    action: what the signal does, in the main thread; by default it leaves at once. Where it is replaced, somebody looks
    at `received` and leaves in time.
    Who handled the signal before this job, as submitit does to have its own jobs requeued, gets it when the job has
    been left.
    """

    def __init__(self, requeue_exit_code: int) -> None:
        self.requeue_exit_code = requeue_exit_code
        self.received: signal.Signals | None = None
        self.action: Callable[[], Any] = self.leave
        self.before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.received == signal.SIGINT else self.requeue_exit_code

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # only this one may say what a signal does
            self.before = stop_signals()
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals, again where somebody else has taken one."""
        for number in self.before:
            signal.signal(number, self._receive)

    def leave(self) -> NoReturn:
        raise Requeue(self.exit_code)

    def _receive(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            if number == signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
            _forget_closed_terminal()
            self.action()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if not isinstance(error, Requeue) or self.received is None:
            return
        if self.action == self.leave:
            log.info("%s: stopped; the same command goes on (exit status %d).", self.received.name, self.exit_code)
        # Python's own for Ctrl-C would raise a KeyboardInterrupt on top.
        if callable(self.before[self.received]) and self.before[self.received] is not signal.default_int_handler:
            self.before[self.received](self.received, None)
