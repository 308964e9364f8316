"""Download one large file: resumed where it broke off, checked, and never mistaken for whole while it is not."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from simclr.errors import InputError
from simclr.system.locks import locked

log = logging.getLogger(__name__)

CHUNK = 1 << 18

_refused = ContextVar("refused", default=False)


class NotHere(InputError):
    """A file that a run would download is not there, and was not to be downloaded now."""


@contextmanager
def no_downloads() -> Iterator[None]:
    """Within it `download` raises NotHere: images are looked for that were there before."""
    token = _refused.set(True)
    try:
        yield
    finally:
        _refused.reset(token)


def may_download() -> bool:
    """Whether something may be fetched: not within `no_downloads`."""
    return not _refused.get()


def download(url: str, target: Path, md5: str, hint: str, attempts: int = 4, pause_seconds: float = 1.0) -> None:
    """Fetch `url` to `target`, with a progress bar.

    Bytes collect in `target` + ".part", from which a later call resumes; only a file with the right md5 gets its name.
    A broken connection is tried again, `attempts` times in all, waiting twice as long each time from `pause_seconds`.
    Raises InputError with the URL, the md5, where to put the file by hand, and `hint`.
    """
    if not may_download() and not target.exists():
        raise NotHere(f"there is no {target} any more; say where it is with data.root=PATH")
    by_hand = f"fetch {url} (md5 {md5}) yourself and save it as {target}; {hint}"
    part = target.with_name(target.name + ".part")
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Runs that start together fetch it once.
            stack.enter_context(locked(target.with_name(f"{target.name}.lock"), timeout=None))
        except OSError as error:
            raise InputError(f"cannot write to {target.parent} ({error.strerror}); {by_hand}") from error
        if not target.exists():
            _download(url, target, part, md5, by_hand, attempts, pause_seconds)


def _download(url: str, target: Path, part: Path, md5: str, by_hand: str, attempts: int, pause_seconds: float) -> None:
    log.info("Downloading %s to %s.", url, target)
    for attempt in range(attempts):
        try:
            _fetch(url, part)
        except urllib.error.HTTPError as error:
            raise InputError(f"{url} answered {error.code} {error.reason}; {by_hand}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt + 1 == attempts:
                raise InputError(f"cannot download {url} ({_reason(error)}); {by_hand}") from error
            time.sleep(pause_seconds * 2**attempt)
            continue
        if _md5(part) == md5:
            part.rename(target)
            return
        part.unlink()  # wrong bytes do not become right by adding to them
        log.warning("The download of %s has a wrong md5; starting it anew.", url)
    raise InputError(f"{url} does not have the expected md5 after {attempts} attempts; {by_hand}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what it lacks. Raises OSError or HTTPException when the connection breaks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: the md5 will tell
            return
        if error.code >= 500:  # a server's bad moment; ConnectionError is tried again
            raise ConnectionError(f"{error.code} {error.reason}") from error
        raise
    with response:
        resumed = response.status == 206  # 200 means that the server starts from the first byte
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdecimal() else None
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("Downloading"), *columns) as bar, part.open("ab" if resumed else "wb") as file:
            task = bar.add_task("Downloading", total=total, completed=have)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
            received = file.tell()
    if total is not None and received < total:
        raise ConnectionError(f"the connection closed after {received:,} of {total:,} bytes")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
