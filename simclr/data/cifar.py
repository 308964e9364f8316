"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32, in pickled arrays."""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets

from simclr.data import columns
from simclr.data.files.archive import Archive
from simclr.data.files.checked import read_checked
from simclr.data.published import PublishedSet
from simclr.data.store import Plan, Split
from simclr.errors import InputError

MAX_BYTES = 2**28  # of a file; that of CIFAR-100's training images has 155 MB
# All that their pickles name. A pickle can name any function, and call it.
HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Unpickler(pickle.Unpickler):
    """Makes arrays, texts, lists and dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise InputError(f"a file of CIFAR's names {module}.{name}, which could run code; fetch the data set again")
        return HARMLESS[module, name]


class CIFAR10(PublishedSet):
    """CIFAR-10 from its archive, the folder that it unpacks to (as torchvision leaves it), or downloaded.

    root, size, store, download: as of any published set; 32 pixels keep the images as they are. Each file is held
    against torchvision's md5 before it is read, and one that names code is refused all the same. The test images are
    what is judged on.
    """

    name, kind, folder, anchor = "CIFAR-10", "cifar10", datasets.CIFAR10.base_folder, "batches.meta"
    url, md5, megabytes = datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5, 170
    endings = frozenset({"", ".meta", ".html", ".txt~"})
    licence = "The authors state no licence; the images were collected from the web, as 80 Million Tiny Images."

    published: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10
    labels: ClassVar[str] = "labels"

    def plan(self, archive: Archive) -> Plan:
        meta = self._content(archive, self.published.meta["filename"], self.published.meta["md5"])
        classes = [name.replace("_", " ") for name in meta[self.published.meta["key"]]]
        return {
            split: self._split([self._content(archive, *of_file) for of_file in files], classes)
            for split, files in (("train", self.published.train_list), ("val", self.published.test_list))
        }

    def _split(self, parts: list[dict[str, Any]], classes: list[str]) -> Split:
        pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)  # channels first in the files
        labels = [label for part in parts for label in part[self.labels]]
        return Split([], {"labels": columns.labels(labels, classes)}, pixels.transpose(0, 2, 3, 1))

    def _content(self, archive: Archive, name: str, md5: str) -> dict[str, Any]:
        data = read_checked(archive, self.top(archive) + name, md5, MAX_BYTES, self.url)
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()  # written by Python 2


class CIFAR100(CIFAR10):
    """CIFAR-100, in the same way, with its 100 fine labels."""

    name, kind, folder, anchor = "CIFAR-100", "cifar100", datasets.CIFAR100.base_folder, "meta"
    url, md5, megabytes = datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5, 169

    published = datasets.CIFAR100
    labels = "fine_labels"
