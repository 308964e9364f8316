"""Tiny ImageNet (Le & Yang 2015): 200 classes, 64×64 images, 500 training and 50 validation images a class."""

from __future__ import annotations

from simclr.data.files.archive import Archive
from simclr.data.files.contents import ending, shown
from simclr.data.files.pixels import image_endings
from simclr.data.opening import check_on_broken
from simclr.data.published import PublishedSet, files_below
from simclr.data.store import Plan
from simclr.data.tiny_layout import FOLDER, URL, TinyLayout
from simclr.errors import InputError


class TinyImageNet(PublishedSet):
    """The data set from its official zip, a tar of it, the folder that unpacking gives, or downloaded.

    root, size, store, download: as of any published set; 64 pixels keep the images as they are.
    on_broken: whether images that cannot be decoded end the command ("stop") or are left out ("skip").
    A subset in the official layout is as good; its true counts are logged. The unlabelled test images are not read.
    """

    name, kind, folder, anchor = "Tiny ImageNet", "tiny_imagenet", FOLDER, "wnids.txt"
    url, md5, megabytes = URL, "90528d7ca1a48142e341f4ef8d21d0de", 248
    endings = image_endings() | {".txt"}
    licence = "The images are ImageNet's, whose terms of access allow non-commercial research and education."

    def __init__(
        self, root: str, size: int, store: str | None = None, download: bool | None = None, on_broken: str = "stop"
    ) -> None:
        super().__init__(root, size, store, download)
        check_on_broken(on_broken)
        self.on_broken = on_broken

    def plan(self, archive: Archive) -> Plan:
        return TinyLayout(archive).plan()

    def _check_download(self) -> None:
        if self.download is None and any(ending(file) in self.endings - {".txt"} for file in files_below(self.root)):
            raise InputError(
                f"data.root={shown(self.root)} holds images, but has no wnids.txt and is no Tiny ImageNet; for images "
                f"of your own add data=image_folder, else {self._remedy()}"
            )
        super()._check_download()
