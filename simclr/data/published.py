"""A data set that somebody has published: found in its usual layouts, or downloaded, checked, and decoded once."""

from __future__ import annotations

import itertools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path
from typing import ClassVar

from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import Archive, FolderArchive, path_of
from simclr.data.files.contents import junk_folder, shown
from simclr.data.files.download import download
from simclr.data.files.packed import ENDINGS, TarArchive, ZipArchive, is_tar
from simclr.data.opening import open_store
from simclr.data.store import Plan, Splits, check_size
from simclr.errors import InputError

log = logging.getLogger(__name__)

DEFAULT = "data"  # the root in the configurations of these sets, which is ours to fill
LOOKED_AT = 10_000  # files of a folder, to see what it holds


class PublishedSet(ABC):
    """What the sets share. Each says how its files become splits, in `plan`.

    root: the published archive, packed in whichever way; the folder that it unpacks to, or one that holds either, up to
    two folders further in; or a folder to download into. size: pixels that images are kept at.
    store: the folder for decoded images, None for beside the source. download: whether to fetch what root does not
    hold; None for into the default root or an empty folder alone. Raises ValueError for what is none of these.
    """

    name: ClassVar[str]  # as a person calls it
    kind: ClassVar[str]  # as data= does
    folder: ClassVar[str]  # that the archive unpacks to
    anchor: ClassVar[str]  # a file in that folder that nothing else has
    url: ClassVar[str]
    md5: ClassVar[str]  # of the archive
    megabytes: ClassVar[int]  # of it
    licence: ClassVar[str]  # a sentence about the terms that its images come under
    endings: ClassVar[Set[str]]  # of the files that are read or known to lie there

    on_broken = "stop"  # a set of image files lets its user choose

    def __init__(self, root: str, size: int, store: str | None = None, download: bool | None = None) -> None:
        check_size(size)
        if download not in (None, True, False):
            raise ValueError(f"download={shown(download)} is not usable; it is true, false or null")
        self.root, self.size, self.download = path_of("root", root), size, download
        self.store = None if store is None else path_of("store", store)

    @abstractmethod
    def plan(self, archive: Archive) -> Plan:
        """The splits that the set's files make. Raises InputError where they are not whole."""

    def load(self) -> Splits:
        """Open the store, after downloading and decoding what is missing. Raises InputError for unusable data."""
        archive = self._find()
        images = open_store(
            archive, self.size, lambda: self.plan(archive), self.kind, self.store, on_broken=self.on_broken
        )
        assert images.val is not None
        warn_of_little_contrast(images)
        unlabelled = "" if images.pretrain is images.train else f"{len(images.pretrain):,} images without labels, "
        log.info(
            "%s: %s%s training images of %d classes, %s validation images.",
            self.name,
            unlabelled,
            f"{len(images.train):,}",
            len(images.train.classes),
            f"{len(images.val):,}",
        )
        return images

    @property
    def file(self) -> str:
        """What the published archive is called."""
        return self.url.rpartition("/")[2]

    @property
    def fetched(self) -> tuple[str, ...]:
        """What is downloaded into root."""
        return (self.file,)

    def top(self, archive: Archive) -> str:
        """The folder in an archive, "" or with a slash at its end, that the set lies in. Raises InputError for none."""
        anchors = [name for name in archive.names() if f"/{name}".endswith(f"/{self.anchor}")]
        if not anchors:
            raise InputError(
                f"{shown(archive.path)} has no {self.anchor}; is it {self.file}, or the folder that it unpacks to?"
            )
        return min(anchors, key=len).removesuffix(self.anchor)

    def _find(self) -> Archive:
        root, said = self.root, f"data.root={shown(self.root)}"
        if root.is_dir():
            above = [folder for folder in (root.parent, root.parent.parent) if (folder / self.anchor).is_file()]
            if above and not (root / self.anchor).is_file():
                raise InputError(f"{said} is a part of {self.name}; give the whole: data.root={shown(above[0])}")
            root = self._inside()
        if root.is_dir():
            return FolderArchive(root, self.endings)
        if root.is_file():
            return TarArchive(root, self.endings) if is_tar(root) else ZipArchive(root, self.endings)
        if root.exists():
            raise InputError(f"{said} is no file and no folder; give the path of {self.file}")
        if root == self.root and root.name.endswith(ENDINGS):
            raise InputError(
                f"{said} does not exist; give the path of {self.file}, of the folder it unpacks to, or of a folder to "
                "download it into"
            )
        self._check_download()
        return self._fetch()

    def _fetch(self) -> Archive:
        """Download the set into root, which does not hold it."""
        target = self.root / self.file
        download(self.url, target, self.md5, hint="or run experiment=quickstart, which needs no download")
        return TarArchive(target, self.endings) if is_tar(target) else ZipArchive(target, self.endings)

    def _inside(self) -> Path:
        """The set in the folder that is root, or up to two folders further in; where it is to be, if nowhere."""
        root, depth_of_anchor = self.root, self.anchor.count("/")
        for depth in ("", "*/", "*/*/"):
            anchors = (path for path in root.glob(f"{depth}{self.anchor}") if path.is_file())
            folders = sorted(path.parents[depth_of_anchor] for path in anchors)
            found = [folder for folder in folders if not junk_folder(folder.name)]
            usual = [folder for folder in found if folder.name == self.folder]
            if len(usual or found) > 1:
                one, other = (usual or found)[:2]
                raise InputError(f"data.root={shown(root)} holds several: {shown(one)} and {shown(other)}; give one")
            if found:
                return (usual or found)[0]
        packed = [self.file, *(f"{self.folder}{end}" for end in ENDINGS)]
        return next((root / name for name in packed if (root / name).is_file()), root / self.file)

    def _check_download(self) -> None:
        """Raise InputError where the set is not to be downloaded into root, which does not hold it."""
        root, said = self.root, f"data.root={shown(self.root)}"
        if self.download:
            return
        if self.download is False:
            raise InputError(f"{said} holds no {self.name}, and data.download=false; give {self.file}, or its folder")
        if root == Path(DEFAULT).resolve():
            return
        if not root.exists():
            raise InputError(f"{said} does not exist; is it mistyped? Or {self._remedy()} into it")
        if any(not file.startswith(self.fetched) for file in files_below(root)):
            raise InputError(f"{said} holds other files and no {self.name}; {self._remedy()} into it")

    def _remedy(self) -> str:
        return (
            f"give {self.file}, or the folder it unpacks to, or add data.download=true to fetch it "
            f"({self.megabytes:,} MB)"
        )


def files_below(root: Path) -> Iterator[str]:
    """The names of the first files below a folder, hidden ones aside."""

    def every() -> Iterator[str]:
        for _, folders, files in os.walk(root):
            folders[:] = [folder for folder in folders if not junk_folder(folder)]
            yield from (file for file in files if not file.startswith("."))

    return itertools.islice(every(), LOOKED_AT)
