"""Where what is found out about a run is written: beside it, or elsewhere where that cannot be."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from simclr.errors import InputError

log = logging.getLogger(__name__)


def results_place(run_dir: Path, output: object) -> Path:
    """The folder for results of the run (or bare checkpoint) in `run_dir`: `output`, or by default that directory.

    Where it is read-only: a folder named after it in the working directory, else in the user's cache, which is said.
    Raises InputError for an `output` that cannot be written to, and where none of the others can.
    """
    if output is not None:
        chosen = Path(str(output)).expanduser()
        if not _is_writable(chosen, make=True):
            raise InputError(f"output={output} cannot be written to; choose another folder")
        return chosen
    if _is_writable(run_dir, make=False):
        return run_dir
    known = run_dir.resolve()
    name = f"{known.name}-{hashlib.sha256(os.fsencode(known)).hexdigest()[:8]}"  # runs may share their last name
    for folder in (Path("results", name), user_cache_path("simclr-lab") / "results" / name):
        if _is_writable(folder, make=True):
            log.warning("%s cannot be written to: results go to %s (output=FOLDER chooses another).", run_dir, folder)
            return folder
    raise InputError(f"{run_dir} cannot be written to; say where results are to go with output=FOLDER")


def file_to_write(output: object, usual: Callable[[], Path], ours: Callable[[Path], bool], example: str) -> Path:
    """The file that a command writes, in a folder that is there: `output`, or by default the usual one.

    ours: whether a file that exists was written by that command, and may be again. example: a name, for who gives a
    folder. Raises InputError for a folder, and for somebody else's file.
    """
    path = usual() if output is None else Path(str(output)).expanduser()
    if path.is_dir():
        raise InputError(f"output={path} is a folder; give the path of a file, such as {path / example}")
    if path.exists() and not ours(path):
        raise InputError(
            f"output={path} exists, and was not written by this command; choose another path, or remove it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _is_writable(folder: Path, make: bool) -> bool:
    """Asked by writing: permissions do not tell of read-only mounts, nor bind root."""
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
