"""Tiny ImageNet (Le & Yang 2015): 200 classes, 64×64 images, 500 training and 50 validation images a class."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from simclr.data.contrast import warn_of_little_contrast
from simclr.data.files.archive import Archive, FolderArchive, path_of
from simclr.data.files.contents import ending, junk_folder, shown
from simclr.data.files.download import download
from simclr.data.files.packed import ENDINGS, TarArchive, ZipArchive, is_tar
from simclr.data.files.pixels import image_endings
from simclr.data.opening import check_on_broken, open_store
from simclr.data.store import Splits, check_size
from simclr.data.tiny_layout import FOLDER, URL, TinyLayout
from simclr.errors import InputError

log = logging.getLogger(__name__)

MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FILE = f"{FOLDER}.zip"
DEFAULT = "data"  # the root in configs/data/tiny_imagenet.yaml, which is ours to fill
LOOKED_AT = 10_000  # files among which there would be an image


class TinyImageNet:
    """The data set from its official zip, a tar of it, the folder that unpacking gives, or downloaded.

    root: the zip or tar; or the unpacked folder, or one that holds it; or a folder to download into.
    size: pixels; 64 keeps the images as they are. store: the folder for decoded images, None for beside the source.
    download: whether to fetch what root does not hold; None for into the default root or an empty folder alone.
    on_broken: whether images that cannot be decoded end the command ("stop") or are left out ("skip").
    A subset in the official layout is as good; its true counts are logged. The unlabelled test images are not read.
    """

    def __init__(
        self, root: str, size: int, store: str | None = None, download: bool | None = None, on_broken: str = "stop"
    ) -> None:
        check_size(size)
        check_on_broken(on_broken)
        if download not in (None, True, False):
            raise ValueError(f"download={shown(download)} is not usable; it is true, false or null")
        self.root = path_of("root", root)
        self.size, self.download, self.on_broken = size, download, on_broken
        self.store = None if store is None else path_of("store", store)

    def load(self) -> Splits:
        """Open the store, after downloading and decoding what is missing. Raises InputError for unusable data."""
        archive = self._find()
        images = open_store(
            archive,
            self.size,
            lambda: TinyLayout(archive).plan(),
            "tiny_imagenet",
            self.store,
            on_broken=self.on_broken,
        )
        assert images.val is not None
        warn_of_little_contrast(images)
        log.info(
            "Tiny ImageNet: %s training images of %d classes, %s validation images.",
            f"{len(images.train):,}",
            len(images.train.classes),
            f"{len(images.val):,}",
        )
        return images

    def _find(self) -> Archive:
        root, endings = self.root, image_endings() | {".txt"}
        said = f"data.root={shown(root)}"
        if root.is_dir():
            if (root.parent / "wnids.txt").is_file():
                raise InputError(f"{said} is a part of Tiny ImageNet; give the whole: data.root={shown(root.parent)}")
            root = self._inside()
        if root.is_dir():
            return FolderArchive(root, endings)
        if root.is_file():
            return TarArchive(root, endings) if is_tar(root) else ZipArchive(root, endings)
        if root.exists():
            raise InputError(f"{said} is no file and no folder; give the path of {FILE}")
        if root == self.root and root.name.endswith(ENDINGS):
            raise InputError(
                f"{said} does not exist; give the path of {FILE}, of the folder it unpacks to, or of a folder to "
                "download it into"
            )
        self._check_download()
        download(URL, self.root / FILE, MD5, hint="or run experiment=quickstart, which needs no download")
        return ZipArchive(self.root / FILE, endings)

    def _inside(self) -> Path:
        """The data set in the folder that is root, or up to two folders further in; where it is to be, if nowhere."""
        root = self.root
        for depth in ("", "*/", "*/*/"):
            found = sorted(path.parent for path in root.glob(f"{depth}wnids.txt") if not junk_folder(path.parent.name))
            usual = [folder for folder in found if folder.name == FOLDER]
            if len(usual or found) > 1:
                one, other = (usual or found)[:2]
                raise InputError(f"data.root={shown(root)} holds several: {shown(one)} and {shown(other)}; give one")
            if found:
                return (usual or found)[0]
        packed = [root / f"{FOLDER}{end}" for end in ENDINGS if (root / f"{FOLDER}{end}").is_file()]
        return packed[0] if packed else root / FILE

    def _check_download(self) -> None:
        """Raise InputError where the data set is not to be downloaded into root, which does not hold it."""
        root, said = self.root, f"data.root={shown(self.root)}"
        if self.download:
            return
        remedy = "give the zip, or the folder it unpacks to, or add data.download=true to fetch it (248 MB)"
        if self.download is False:
            raise InputError(f"{said} holds no Tiny ImageNet, and data.download=false; give the zip, or its folder")
        if not root.exists():
            if root != Path(DEFAULT).resolve():
                raise InputError(f"{said} does not exist; is it mistyped? Or {remedy} into it")
            return
        files = list(itertools.islice(_files(root), LOOKED_AT))
        if any(ending(file) in image_endings() for file in files):
            raise InputError(
                f"{said} holds images, but has no wnids.txt and is no Tiny ImageNet; for images of your own add "
                f"data=image_folder, else {remedy}"
            )
        if root != Path(DEFAULT).resolve() and any(not file.startswith(FILE) for file in files):
            raise InputError(f"{said} holds other files and no Tiny ImageNet; {remedy} into it")


def _files(root: Path) -> Iterator[str]:
    """The names of the files below a folder, hidden ones aside."""
    for _, folders, files in os.walk(root):
        folders[:] = [folder for folder in folders if not junk_folder(folder)]
        yield from (file for file in files if not file.startswith("."))
