"""A sweep's account: a small file for each of its jobs, in which any process of the sweep tells what became of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from simclr.system.files import replacing
from simclr.system.locks import Locked, locked

_held = ExitStack()  # the lock of this command's account, until it is closed


class Account:
    """A folder of this command's own in the sweep's; the same sweep may be started more than once and share its runs.

    Launchers copy this object into the jobs' processes.
    """

    def __init__(self, sweep_dir: Path) -> None:
        """Open a new one; those of commands that were killed are removed."""
        for old in (path for path in sweep_dir.glob(".jobs-*") if path.is_dir()):
            with suppress(Locked, OSError), locked(_lock_of(old)):
                _remove(old)
        self.folder = sweep_dir / f".jobs-{uuid.uuid4().hex[:8]}"
        self.home = _here()
        _held.enter_context(locked(_lock_of(self.folder)))
        self.folder.mkdir()  # last: another command would take one that is not locked for a dead one's

    def close(self) -> None:
        _held.close()
        _remove(self.folder)

    def note(self, number: int, run_dir: str, **content: Any) -> None:
        """Replace what is known of the job of this number."""
        host, pid = _here()
        with replacing(self.folder / f"{number}.json") as unfinished:
            known = content | {"number": number, "run_dir": run_dir, "host": host, "pid": pid}
            unfinished.write_text(json.dumps(known), encoding="utf-8")

    def jobs(self) -> list[dict[str, Any]]:
        """What is known of each job: number, run_dir, host, pid, outcome, and error where there is one."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def kept_elsewhere(self) -> bool:
        """Whether this is not the process that opened the account, but one that a launcher has started."""
        return self.home != _here()

    def kept_by_parent(self) -> bool:
        return self.home == (socket.gethostname(), os.getppid())


def _here() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        _lock_of(folder).unlink()
