"""Data sets on the Hugging Face Hub: the Parquet files of one, fetched once, kept in the Hub's own cache."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from simclr.data.files.contents import shown
from simclr.data.files.download import NotHere, may_download
from simclr.errors import InputError, first_line

HUB = "hf://"
PLACE = re.compile(rf"{HUB}(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetched(place: str) -> Path:
    """The folder with the Parquet files of hf://OWNER/NAME, or of a revision of it, hf://OWNER/NAME@REVISION.

    What has been fetched before is not fetched again, and is found without a network; what breaks off is resumed.
    Raises InputError where it cannot be fetched, with what to do by hand.
    """
    found = PLACE.fullmatch(place)
    if found is None:
        raise InputError(f"data.root={shown(place)} is not usable; write {HUB}OWNER/NAME")
    if not find_spec("huggingface_hub"):
        raise InputError('data.root=hf:// needs huggingface_hub, not installed here; pip install -e ".[parquet]"')
    from huggingface_hub import snapshot_download

    name, revision = found.groups()
    try:
        folder = snapshot_download(
            name,
            repo_type="dataset",
            revision=revision,
            allow_patterns=["*.parquet"],
            local_files_only=not may_download(),
        )
    except Exception as error:  # the Hub's, the network's, the disk's
        kind = InputError if may_download() else NotHere
        raise kind(
            f"cannot fetch data.root={place} ({first_line(error)}); without a network, put the .parquet files of its "
            "Files page into a folder and give that with data.root=FOLDER"
        ) from error
    if not any(Path(folder).rglob("*.parquet")):
        raise InputError(f"data.root={place} has no .parquet files; see its Files page for a revision that has")
    return Path(folder)
