"""One process at a time, on every file system: the system's lock where there is one, else a file that says whose it is.

A lock of the system ends with its process, however that ended. A network's file system may know none (NFS without its
lock service, some of Lustre and FUSE). There a file beside the lock names its owner, who touches it every BEAT seconds;
an owner of this machine whose process has ended, and any that has been silent for SILENCE seconds, is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, whose file systems all have locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

BEAT, SILENCE = 15.0, 180.0  # a network's file system may show times that are a minute old


class Locked(Exception):
    """Somebody else holds the lock. The message says who, and how to clear it, or is empty."""


@contextmanager
def locked(path: Path, timeout: float | None = 0, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, which stays, for this process.

    timeout: seconds to wait for another process that holds it; None: for ever. waiting: called once before a wait.
    Raises Locked where the other still holds it then, OSError where the folder cannot be written.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            release = _take(path)
            break
        except Locked:
            if until is not None and time.monotonic() >= until:
                raise
        if waiting is not None:
            waiting()
            waiting = None
        time.sleep(0.2)
    try:
        yield
    finally:
        release()


def _take(path: Path) -> Callable[[], None]:
    """Take the lock now; returns what gives it back. Raises Locked."""
    owner = path.with_name(f"{path.name}.owner")
    if not _has_locks(path.parent):
        _refuse_the_living(owner)
        return _own(owner)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Locked from None
    try:
        _refuse_the_living(owner)  # on a machine where the same file system has no locks
    except BaseException:
        lock.release()
        raise
    return lock.release


def _has_locks(folder: Path) -> bool:
    """Whether the file system of `folder` knows locks; asked with a file of our own, which nobody else can hold."""
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder) as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP, EPERM: each file system has its own word for it
            return False
    return True


def _machine() -> str:
    """What the numbers of processes belong to: a host, since its start; of containers, each one."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        known.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(known)


def _refuse_the_living(owner: Path) -> None:
    """Raise Locked where the owner's file is that of a process that may live; remove that of one that is gone."""
    try:
        text, touched = owner.read_text(encoding="utf-8"), owner.stat().st_mtime
    except FileNotFoundError:
        return
    with tempfile.NamedTemporaryFile(dir=owner.parent, prefix=".lock.") as now:  # the clock of the file system's server
        silent = os.stat(now.name).st_mtime - touched
    try:
        about = json.loads(text)
        who, known = f"process {about['pid']} on {about['host']}", about
    except (ValueError, KeyError, TypeError):  # it is being written, or was not to its end
        who, known = "a process that left no name", {}
    gone = known.get("machine") == _machine() and not psutil.pid_exists(known["pid"])
    if not gone and silent < SILENCE:
        raise Locked(
            f"{who}, which gave a sign of life {max(0, silent):.0f} seconds ago; if it is gone, its lock ends "
            f"{SILENCE:.0f} seconds after that, or with: rm {owner}"
        )
    # Of several that find it dead, the one that gets the file takes it away.
    aside = owner.with_name(f"{owner.name}.{os.getpid()}")
    try:
        owner.rename(aside)
    except FileNotFoundError:
        raise Locked from None
    if aside.read_text(encoding="utf-8") != text:  # a living one's, who was faster
        with suppress(OSError):
            os.link(aside, owner)
        aside.unlink()
        raise Locked
    aside.unlink()
    how = "has ended" if gone else f"has been silent for {silent:.0f} seconds"
    log.warning("%s held %s and %s; its lock is taken over.", who.capitalize(), owner.parent, how)


def _own(owner: Path) -> Callable[[], None]:
    """Write the owner's file in this process's name and keep it fresh; returns what removes it. Raises Locked."""
    about: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine()}
    mine = json.dumps(about | {"since": time.strftime("%Y-%m-%d %H:%M:%S")})
    try:
        with owner.open("x", encoding="utf-8") as file:
            file.write(mine)
    except FileExistsError:
        raise Locked from None
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            try:
                if owner.read_text(encoding="utf-8") != mine:
                    raise FileNotFoundError
                os.utime(owner)
            except FileNotFoundError:
                log.error("The lock %s is another's now, or was removed: this process stops.", owner)
                os._exit(1)  # whatever it would do on its way out, it would do in another's folder
            except OSError:
                pass  # a file server's bad moment

    def release() -> None:
        ended.set()
        with suppress(OSError):
            if owner.read_text(encoding="utf-8") == mine:
                owner.unlink()

    threading.Thread(target=beat, daemon=True).start()
    return release
