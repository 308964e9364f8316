"""STL-10 (Coates, Ng & Lee 2011): 96×96 images, 100,000 without labels to learn from, 5,000 and 8,000 with."""

from __future__ import annotations

import numpy as np
from torchvision import datasets

from simclr.data import columns
from simclr.data.files.archive import Archive
from simclr.data.files.checked import read_checked
from simclr.data.files.contents import shown
from simclr.data.published import PublishedSet
from simclr.data.store import Plan, Split
from simclr.errors import InputError

MAX_BYTES = 2**32  # of a file; that of the unlabelled images has 2.8 GB
MAX_TEXT = 2**16


class STL10(PublishedSet):
    """STL-10 from its binary archive, the folder that it unpacks to (as torchvision leaves it), or downloaded.

    root, size, store, download: as of any published set; 96 pixels keep the images as they are. A method learns from
    the 100,000 unlabelled images alone; probes are fitted on the 5,000 of train and judged on the 8,000 of test, all
    of them, not in the ten folds of the paper. Each file is held against torchvision's md5.
    """

    name, kind, folder, anchor = "STL-10", "stl10", datasets.STL10.base_folder, "train_X.bin"
    url, md5, megabytes = datasets.STL10.url, datasets.STL10.tgz_md5, 2640
    endings = frozenset({".bin", ".txt"})
    licence = "The images are ImageNet's, whose terms of access allow non-commercial research and education."

    def plan(self, archive: Archive) -> Plan:
        names = self.top(archive) + datasets.STL10.class_names_file
        if names not in archive.names():
            raise InputError(f"{shown(archive.path)} has no {shown(names)}; fetch {self.url} again")
        classes = archive.read(names, MAX_TEXT).decode("ascii", "replace").split()
        return {
            "pretrain": Split([], {}, self._pixels(archive, "unlabeled")),
            "train": self._labelled(archive, "train", classes),
            "val": self._labelled(archive, "test", classes),
        }

    def _labelled(self, archive: Archive, split: str, classes: list[str]) -> Split:
        labels = self._bytes(archive, f"{split}_y.bin").astype(np.int64) - 1  # they count from 1
        if labels.max() >= len(classes):
            raise InputError(
                f"{shown(archive.path)} names {len(classes)} classes in {datasets.STL10.class_names_file}, and has "
                f"images of {labels.max() + 1}; fetch {self.url} again"
            )
        return Split([], {"labels": columns.labels(labels, classes)}, self._pixels(archive, split))

    def _pixels(self, archive: Archive, split: str) -> np.ndarray:
        # Of every image first all red, column by column from the left.
        return self._bytes(archive, f"{split}_X.bin").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)

    def _bytes(self, archive: Archive, name: str) -> np.ndarray:
        md5 = dict(datasets.STL10.train_list + datasets.STL10.test_list)[name]
        return np.frombuffer(read_checked(archive, self.top(archive) + name, md5, MAX_BYTES, self.url), np.uint8)
