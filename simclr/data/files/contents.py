"""Which files of a tree are images, and an account of those that are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field

SYSTEM = {".ds_store": ".DS_Store", "thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}
FOLDERS = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "#recycle", "System Volume Information", "lost+found"}
# Endings of images that Pillow alone cannot read, or that do not say what is white: somebody will miss them.
UNREAD = {
    *(".heic", ".heif", ".hif", ".jxl", ".avif", ".jp2", ".psd", ".xcf", ".svg", ".eps", ".tga", ".exr", ".hdr"),
    *(".dcm", ".nii", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}


def shown(name: object) -> str:
    """A file's name as one printable line: control characters and bytes that are no UTF-8 are escaped."""
    text = str(name)
    return text if text.isprintable() else repr(text)[1:-1]


def ending(name: str) -> str:
    """The lower-case ending of a file's name, ".jpg"; empty where it has none."""
    return os.path.splitext(name)[1].lower()


def junk_folder(name: str) -> bool:
    """Whether a folder is hidden, or a system's own: .git, .ipynb_checkpoints, __MACOSX."""
    return name.startswith(".") or name in FOLDERS


@dataclass
class PassedOver:
    """Files that are not used: of each kind how many there are, and the first one's name.

    serious: whether some of them are images, or may be, that their owner would miss.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    serious: bool = False

    def add(self, kind: str, name: str, serious: bool = False) -> None:
        """Count one file of a kind, which is an ending, a folder or a few words."""
        self.counts[kind] += 1
        self.first.setdefault(kind, name)
        self.serious |= serious

    def include(self, others: PassedOver, folder: str) -> None:
        """Count what was passed over in a part of the tree, which lies in `folder` ("part.tar/")."""
        self.counts += others.counts
        self.first = {kind: f"{folder}{name}" for kind, name in others.first.items()} | self.first
        self.serious |= others.serious

    def __str__(self) -> str:
        """All kinds, the most frequent first: "2 × .heic (a/1.HEIC), 1 × .DS_Store (.DS_Store)"; empty for none."""
        return ", ".join(f"{n:,} × {shown(kind)} ({shown(self.first[kind])})" for kind, n in self.counts.most_common())

    def keeps(self, name: str, endings: Set[str] | None) -> bool:
        """Whether the file of this path is to be read; counts it where it is not. endings: those to read, or all."""
        *folders, file = name.split("/")
        for folder in folders:
            if junk_folder(folder):
                self.add(f"{folder}/", name)
                return False
        if file.lower() in SYSTEM or file.startswith("._"):
            self.add(SYSTEM.get(file.lower(), "._*"), name)
        elif file.startswith("."):
            self.add("hidden files", name)
        elif endings is not None and ending(file) not in endings:
            self.add(ending(file) or "files without an ending", name, ending(file) in UNREAD)
        else:
            return True
        return False
