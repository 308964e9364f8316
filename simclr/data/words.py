"""What labels mean: Tiny ImageNet's are WordNet's numbers, such as n01443537, and words.txt says goldfish."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from simclr.data.files.archive import composed
from simclr.errors import InputError

MAX_BYTES = 2**24  # the official words.txt has a sixth of it
LIKE = "give a file like Tiny ImageNet's words.txt"
FILE = "words.txt"


def display_names(classes: Sequence[str], path: Path | None = None, place: Path | None = None) -> list[str]:
    """A name to show for every class: its first word in the file at `path`, or the label itself where that has none.

    The file has a line `label TAB word, word, ...` for a class; other labels in it are passed over. Two classes with
    one word keep their labels beside it. Without `path` it is the words.txt that `place`, a folder or a zip, may hold.
    Raises InputError for a file at `path` that cannot be read, or that names none of `classes`.
    """
    if not classes:
        return []
    words: dict[str, str] = {}
    if path is not None:
        words = _words(_read(path))
        if not words.keys() & set(classes):
            raise InputError(
                f"words={path} has no line for any of the {len(classes)} classes, such as {classes[0]}; a line is "
                "to be 'label TAB words'"
            )
    elif place is not None:
        with suppress(InputError):  # nobody has said that it is one
            words = _words(_find(place) or "")
    count = Counter(words[label] for label in classes if label in words)
    return [
        label if label not in words else words[label] if count[words[label]] == 1 else f"{words[label]} ({label})"
        for label in classes
    ]


def spoken(classes: Sequence[str], place: Path | None) -> list[str]:
    """What a sentence calls every class: its first word in words.txt, or else its own name, with blanks for "_".

    place: a file as above, or a folder or a zip that holds a words.txt, as Tiny ImageNet does; where it holds none, or
    is None, classes have their own names. Raises InputError for a file that cannot be read.
    """
    text = None if place is None else _find(place)
    words = {} if text is None else _words(text)
    return [words.get(label, label).replace("_", " ") for label in classes]


def _find(place: Path) -> str | None:
    if place.is_dir():
        found = next((path for path in (place / FILE, *sorted(place.glob(f"*/{FILE}"))) if path.is_file()), None)
        return None if found is None else _read(found)
    if not zipfile.is_zipfile(place):
        return _read(place) if place.suffix == ".txt" else None
    try:
        with zipfile.ZipFile(place) as archive:
            members = [info for info in archive.infolist() if f"/{info.filename}".endswith(f"/{FILE}")]
            if not members or members[0].file_size > MAX_BYTES:
                return None
            return archive.read(members[0]).decode()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{FILE} in {place} cannot be read ({error}); {LIKE} with words=") from error


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"words={path} is longer than {MAX_BYTES:,} bytes; {LIKE}")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"words={path} cannot be read ({error}); {LIKE}") from error


def _words(text: str) -> dict[str, str]:
    """The first word of every label."""
    rows = (line.partition("\t") for line in text.splitlines())
    return {composed(label): meaning.split(",")[0].strip() for label, _, meaning in rows if meaning.strip()}
