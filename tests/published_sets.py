"""The published data sets, made small: in the very formats of their files, which torchvision's own readers take.

python -m tests.published_sets train.py data=stl10 data.root=... runs a command that takes the small sets for whole.
"""

import hashlib
import io
import json
import pickle
import runpy
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets

from tests.conftest import REPOSITORY, image_bytes

Files = dict[str, bytes]

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DISHES = {"apple_pie": 3, "baby_back_ribs": 2, "ceviche": 2}  # training images of each; one test image


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2's cPickle did, as CIFAR's authors used it: texts are bytes."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_text(self: Any, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def _cifar_part(random: np.random.Generator, count: int, labels: str, classes: int) -> bytes:
    data = random.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
    content = {
        "data": data,
        labels: [i % classes for i in range(count)],
        "filenames": [f"{i}.png" for i in range(count)],
    }
    return pickled(content)


def cifar10() -> Files:
    """5 × 20 training and 20 test images."""
    random, folder = np.random.default_rng(10), "cifar-10-batches-py"
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {f"{folder}/{name}": _cifar_part(random, 20, "labels", 10) for name in names}
    meta = {"label_names": CIFAR10_CLASSES, "num_vis": 3072, "num_cases_per_batch": 20}
    return files | {f"{folder}/batches.meta": pickled(meta), f"{folder}/readme.html": b"<html>"}


def cifar100() -> Files:
    """100 training and 100 test images."""
    random, folder = np.random.default_rng(100), "cifar-100-python"
    files = {f"{folder}/{name}": _cifar_part(random, 100, "fine_labels", 100) for name in ("train", "test")}
    meta = {"fine_label_names": ["aquarium_fish", *(f"class_{number}" for number in range(1, 100))]}
    return files | {f"{folder}/meta": pickled(meta), f"{folder}/file.txt~": b""}


def stl10() -> Files:
    """64 images without labels, 20 training and 20 test images; of a class all are bright in one place."""
    random, folder = np.random.default_rng(96), "stl10_binary"
    files = {f"{folder}/class_names.txt": b"airplane\nbird\ncar\n", f"{folder}/fold_indices.txt": b"0 1 2\n"}
    for split, count in (("unlabeled", 64), ("train", 20), ("test", 20)):
        labels = np.arange(count) % 3
        images = random.integers(0, 64, (count, 3, 96, 96), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 32 * label : 32 * label + 32] += 160
        files[f"{folder}/{split}_X.bin"] = images.tobytes()
        if split != "unlabeled":
            files[f"{folder}/{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    return files


def food101() -> Files:
    """Photographs of various sizes of three dishes."""
    random, folder = np.random.default_rng(101), "food-101"
    files: Files = {f"{folder}/README.txt": b"", f"{folder}/license_agreement.txt": b""}
    listings: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for dish, count in DISHES.items():
        names = [f"{dish}/{100 + number}" for number in range(count + 1)]
        listings["train"][dish], listings["test"][dish] = names[1:], names[:1]
        for name in names:
            height, width = random.integers(20, 60, 2)
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            files[f"{folder}/images/{name}.jpg"] = image_bytes(pixels, "JPEG")
    for split, dishes in listings.items():
        files[f"{folder}/meta/{split}.json"] = json.dumps(dishes).encode()
        files[f"{folder}/meta/{split}.txt"] = "\n".join(name for names in dishes.values() for name in names).encode()
    return files | {f"{folder}/meta/classes.txt": "\n".join(DISHES).encode()}


def oxford_pet() -> Files:
    """Photographs of various sizes of two breeds, an animal in the middle of each, and its edge."""
    random, folder = np.random.default_rng(37), "oxford-iiit-pet"
    files: Files = {f"{folder}/annotations/README": b"", f"{folder}/images/Abyssinian_100.mat": b""}
    breeds = {"Abyssinian": 1, "great_pyrenees": 2}
    for split, count in (("trainval", 3), ("test", 2)):
        lines = []
        for breed, number in breeds.items():
            for i in range(count):
                name = f"{breed}_{i if split == 'test' else 10 + i}"
                lines.append(f"{name} {number} {1 + (number > 1)} 1")
                height, width = random.integers(20, 60, 2)
                pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                trimap = np.full((height, width), 2, np.uint8)
                trimap[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 3
                trimap[height // 3 : -(height // 3), width // 3 : -(width // 3)] = 1
                files[f"{folder}/images/{name}.jpg"] = image_bytes(pixels, "JPEG")
                files[f"{folder}/annotations/trimaps/{name}.png"] = image_bytes(trimap, "PNG")
        files[f"{folder}/annotations/{split}.txt"] = ("\n".join(lines) + "\n").encode()
    return files


SETS = {"cifar10": cifar10, "cifar100": cifar100, "stl10": stl10, "food101": food101, "oxford_pet": oxford_pet}
ARCHIVES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "stl10": "stl10_binary.tar.gz",
    "food101": "food-101.tar.gz",
    "oxford_pet": "oxford-iiit-pet.tar.gz",  # packed by a person; it is published in two parts
}


def published_md5s(files: Files) -> list[tuple[type, str, object]]:
    """What has to stand in torchvision's classes for these files to be the published ones: class, attribute, value."""
    md5s = {name.rpartition("/")[2]: hashlib.md5(content).hexdigest() for name, content in files.items()}
    changes: list[tuple[type, str, object]] = []
    for of in (datasets.CIFAR10, datasets.CIFAR100, datasets.STL10):
        if not any(name.startswith(f"{of.base_folder}/") for name in files):
            continue
        for attribute in ("train_list", "test_list"):
            changes.append((of, attribute, [[name, md5s.get(name, old)] for name, old in getattr(of, attribute)]))
        if hasattr(of, "meta"):
            changes.append((of, "meta", of.meta | {"md5": md5s.get(of.meta["filename"])}))
    return changes


def write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


if __name__ == "__main__":
    for make in SETS.values():
        for of, attribute, value in published_md5s(make()):
            setattr(of, attribute, value)
    sys.argv = sys.argv[1:]
    runpy.run_path(str(REPOSITORY / sys.argv[0]), run_name="__main__")
