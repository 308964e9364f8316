"""What a command prints and writes: UTF-8 whatever the locale, and no error where nobody reads it."""

from __future__ import annotations

import codecs
import errno
import io
import locale
import os
import sys
from typing import Any


def prepare_output() -> None:
    """Call it first in a command; see the two below."""
    _insist_on_utf8()
    outlive_readers()


def _insist_on_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the locale has another encoding.

    There names of files, every text file and the output would be taken for ASCII or Latin-1, by Hydra and the other
    libraries, too, and one run would have two names. The mode can be chosen at the start alone; Python 3.15 makes it
    the default. Processes that this one starts inherit it.
    """
    if sys.flags.utf8_mode or codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8" or os.name != "posix":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _MayBeClosed(io.FileIO):
    """What is written when the reader of a pipe, or the terminal, has gone is lost, and no error: the work goes on."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return len(data)


def outlive_readers() -> None:
    """Let standard output and error outlive their readers, as in `| head`, and write what has no place in UTF-8.

    A second call in a process changes nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue  # there is none, or somebody who captures it has put his own in its place
        if isinstance(getattr(stream.buffer, "raw", None), _MayBeClosed):
            continue
        stream.flush()
        unbuffered = io.BufferedWriter(_MayBeClosed(stream.fileno(), "w", closefd=False))
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                unbuffered,
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            ),
        )
