"""What labels mean: Tiny ImageNet's are WordNet's numbers, such as n01443537, and words.txt says goldfish."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from simclr.data.files.archive import composed
from simclr.errors import InputError

MAX_BYTES = 2**24  # the official words.txt has a sixth of it


def display_names(classes: list[str], path: Path | None) -> list[str]:
    """A name to show for every class: its first word in the file at `path`, or the label itself where that has none.

    The file has a line `label TAB word, word, ...` for a class; other labels in it are passed over. Two classes with
    one word keep their labels beside it. Raises InputError for a file that cannot be read or names none of `classes`.
    """
    if path is None or not classes:
        return list(classes)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"words={path} is longer than {MAX_BYTES:,} bytes; give a file like Tiny ImageNet's words.txt"
            )
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"words={path} cannot be read ({error}); give a file like Tiny ImageNet's words.txt"
        ) from error
    rows = (line.partition("\t") for line in lines)
    words = {composed(label): meaning.split(",")[0].strip() for label, _, meaning in rows if meaning.strip()}
    if not words.keys() & set(classes):
        raise InputError(
            f"words={path} has no line for any of the {len(classes)} classes, such as {classes[0]}; a line is "
            "to be 'label TAB words'"
        )
    count = Counter(words[label] for label in classes if label in words)
    return [
        label if label not in words else words[label] if count[words[label]] == 1 else f"{words[label]} ({label})"
        for label in classes
    ]
