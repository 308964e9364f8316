"""CIFAR, STL-10 and Food-101, made small in their own formats: held against torchvision's readers, and broken."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from simclr.data.checks import warn_of_doubts
from simclr.data.cifar import CIFAR10, CIFAR100
from simclr.data.food101 import Food101
from simclr.data.oxford_pet import OxfordPet
from simclr.data.published import PublishedSet
from simclr.data.stl10 import STL10
from simclr.data.store import ImageStore, Splits
from simclr.errors import InputError
from simclr.runs.build import build
from simclr.runs.compose import compose_config
from simclr.training.datamodule import PretrainingData
from tests.conftest import write_folder
from tests.published_sets import ARCHIVES, CIFAR10_CLASSES, SETS, Files, pickled, published_md5s, write_tar

SOURCES: dict[str, type[PublishedSet]] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "stl10": STL10,
    "food101": Food101,
    "oxford_pet": OxfordPet,
}
SIZES = {"cifar10": 32, "cifar100": 32, "stl10": 96, "food101": 16, "oxford_pet": 16}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], Files]:
    """published(files): from now on these are the files whose md5 is known."""

    def publish(files: Files) -> Files:
        for change in published_md5s(files):
            monkeypatch.setattr(*change)
        return files

    return publish


def load(kind: str, root: Path | str, size: int | None = None, **settings: Any) -> Splits:
    return SOURCES[kind](str(root), SIZES[kind] if size is None else size, **settings).load()


def images(store: ImageStore) -> np.ndarray:
    return store.gather(slice(None)).numpy()


def torchvisions(kind: str, root: Path, split: str) -> datasets.VisionDataset:
    if kind == "stl10":
        return datasets.STL10(str(root), {"pretrain": "unlabeled", "train": "train", "val": "test"}[split])
    if kind == "food101":
        return datasets.Food101(str(root), {"train": "train", "val": "test"}[split])
    if kind == "oxford_pet":
        return datasets.OxfordIIITPet(str(root), {"train": "trainval", "val": "test"}[split])
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind](str(root), train=split == "train")


@pytest.mark.parametrize("kind", SETS)
def test_it_reads_what_torchvision_reads(tmp_path, published, kind):
    """Torchvision's own readers take these files: image by image, label by label, class by class."""
    write_folder(tmp_path, published(SETS[kind]()))
    found = load(kind, tmp_path)._asdict()
    if kind != "stl10":
        assert found.pop("pretrain") is found["train"]
    for split, store in found.items():
        theirs = torchvisions(kind, tmp_path, split)
        assert len(store) == len(theirs)
        assert np.array_equal(store.digests, ImageStore.of(images(store)).digests)
        for index, (image, label) in enumerate(theirs):
            assert store.labels is None if label == -1 else store.labels[index] == label
            if kind not in ("food101", "oxford_pet"):  # photographs, which are scaled
                assert np.array_equal(images(store)[index], np.asarray(image))
        if store.labels is not None:
            assert store.classes == [name.replace("_", " ") for name in theirs.classes]


def test_unlabelled_images_are_learned_from_alone(tmp_path, published):
    write_folder(tmp_path, published(SETS["stl10"]()))
    pretrain, train, val = load("stl10", tmp_path)
    assert (len(pretrain), len(train), len(val)) == (64, 20, 20)
    assert pretrain.labels is None
    assert pretrain.key not in (train.key, val.key)


def test_images_of_other_sizes_are_scaled_and_their_centre_is_kept(tmp_path, published):
    files = published(SETS["food101"]())
    store = load("food101", write_folder(tmp_path, files), 16).train
    theirs = datasets.Food101(str(tmp_path), "train")
    for mine, (image, _) in zip(images(store), theirs, strict=True):
        scale = 16 / min(image.size)
        left, top = (image.width - 16 / scale) / 2, (image.height - 16 / scale) / 2
        box = (left, top, left + 16 / scale, top + 16 / scale)
        centre = image.resize((16, 16), Image.Resampling.BILINEAR, box=box)
        assert np.abs(mine.astype(int) - np.asarray(centre)).max() <= 1
    small = load("cifar10", write_folder(tmp_path / "c", published(SETS["cifar10"]())), 16).train
    whole = datasets.CIFAR10(str(tmp_path / "c")).data[0]
    assert np.array_equal(
        images(small)[0], np.asarray(Image.fromarray(whole).resize((16, 16), Image.Resampling.BILINEAR))
    )


@pytest.mark.parametrize("kind", SETS)
def test_archive_and_folder_give_the_same(tmp_path, published, kind):
    files = published(SETS[kind]())
    folder = write_folder(tmp_path / "unpacked", files)
    (base,) = {name.partition("/")[0] for name in files}
    (tmp_path / "packed").mkdir()
    archive = write_tar(tmp_path / "packed" / ARCHIVES[kind], files)
    plain = write_tar(tmp_path / "another name.tar", files)
    roots = [folder, folder / base, folder.parent / "unpacked", archive, archive.parent, plain]
    expected, *others = [[store.key for store in load(kind, root)] for root in roots]
    assert all(other == expected for other in others)


def test_renamed_and_wrapped_folders_are_found(tmp_path, published):
    files = published(SETS["cifar10"]())
    write_folder(tmp_path / "a" / "b" / "renamed", {name.partition("/")[2]: data for name, data in files.items()})
    write_folder(tmp_path / "a" / "photographs", {"1.jpg": b""})
    assert load("cifar10", tmp_path / "a").train.classes == CIFAR10_CLASSES


def test_several_sets_live_in_one_folder(tmp_path, published):
    for make in SETS.values():
        write_folder(tmp_path, published(make()))
    for kind, counts in (("cifar10", (100, 20)), ("cifar100", (100, 100)), ("stl10", (20, 20)), ("food101", (7, 3))):
        _, train, val = load(kind, tmp_path)
        assert (len(train), len(val)) == counts


def test_true_counts_are_said(tmp_path, published, caplog):
    with caplog.at_level(logging.INFO):
        load("stl10", write_folder(tmp_path, published(SETS["stl10"]())))
    assert "STL-10: 64 images without labels, 20 training images of 3 classes, 20 validation images." in caplog.text


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("cifar100", "cifar-100-python/test"),
        ("stl10", "stl10_binary/unlabeled_X.bin"),
        ("stl10", "stl10_binary/train_y.bin"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_not_the_published_one_is_named(tmp_path, published, kind, name, packed):
    """The md5 is that of the file: one bit, or a cut, and nothing of it is used."""
    files = published(SETS[kind]())
    flipped = files[name][:-1] + bytes([files[name][-1] ^ 1])
    for number, damaged in enumerate((flipped, files[name][:-100], b"")):
        changed = files | {name: damaged}
        place = tmp_path / str(number)
        place.mkdir()
        root = write_tar(place / ARCHIVES[kind], changed) if packed else write_folder(place, changed)
        with pytest.raises(
            InputError, match=rf"{name.rpartition('/')[2]} in .* is not the published file .*; fetch http"
        ):
            load(kind, root)
        assert not list(place.rglob("*.store-*/*"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("stl10", "stl10_binary/test_X.bin"),
        ("stl10", "stl10_binary/class_names.txt"),
        ("food101", "food-101/meta/test.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path, published, kind, name):
    files = published(SETS[kind]())
    del files[name]
    with pytest.raises(InputError, match=rf"has no (readable )?\S*{name.rpartition('/')[2]}; fetch http"):
        load(kind, write_folder(tmp_path, files))


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_does_not_even_with_the_right_md5(tmp_path, published):
    files = SETS["cifar10"]()
    files["cifar-10-batches-py/data_batch_2"] = pickle.dumps({"data": _Payload(tmp_path / "ran"), "labels": []}, 2)
    published(files)
    with pytest.raises(InputError, match=r"which could run code; fetch the data set again"):
        load("cifar10", write_folder(tmp_path, files))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", SETS)
def test_an_archive_that_was_cut_short_is_named(tmp_path, published, kind):
    path = write_tar(tmp_path / ARCHIVES[kind], published(SETS[kind]()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"is not a whole tar file .*fetch it again"):
        load(kind, path)


@pytest.mark.parametrize("kind", SETS)
def test_a_place_that_holds_something_else_is_refused(tmp_path, kind):
    mine = write_folder(tmp_path / "mine", {"cats/1.jpg": b"", "dogs/2.jpg": b""})
    with pytest.raises(InputError, match=rf"holds other files and no {SOURCES[kind].name}; .*data\.download=true"):
        load(kind, mine)
    with pytest.raises(InputError, match=r"does not exist; is it mistyped\?"):
        load(kind, tmp_path / "mistyped")
    with pytest.raises(InputError, match=rf"does not exist; give the path of {ARCHIVES[kind]}"):
        load(kind, tmp_path / ARCHIVES[kind])
    other = write_tar(tmp_path / "other.tar.gz", {"photographs/readme.txt": b"hello"})
    with pytest.raises(InputError, match=rf"has no \S+; is it {ARCHIVES[kind]}, or the folder"):
        load(kind, other)


def test_a_part_of_a_set_is_refused(tmp_path):
    write_folder(tmp_path, SETS["food101"]())
    for part in ("images", "images/ceviche", "meta"):
        with pytest.raises(InputError, match=r"is a part of Food-101; give the whole: data\.root=.*/food-101$"):
            load("food101", tmp_path / "food-101" / part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images/ceviche/101.jpg": None, "images/ceviche/102.jpg": None}, r"lacks 2 of the images in .*train\.json"),
        ({"images/ceviche/101.jpg": b"no image"}, r"101\.jpg .* cannot be decoded .*data\.on_broken=skip"),
        ({"meta/train.json": b"{"}, r"has no readable \S*meta/train\.json \("),
        ({"meta/train.json": b"[" * 100_000}, r"has no readable \S*meta/train\.json \("),
        ({"meta/train.json": b"[1]"}, r"has no readable \S*meta/train\.json \("),
        ({"meta/train.json": b'{"pie": 3}'}, r"has no readable \S*meta/train\.json \("),
        ({"meta/train.json": b'{"pie": ["../../../etc/passwd"]}'}, r"lacks 1 of the images"),
        ({"meta/test.json": b"{}"}, r"other dishes in meta/test\.json than in meta/train\.json"),
    ],
)
def test_listings_and_images_of_food_that_do_not_agree(tmp_path, change, message):
    files = SETS["food101"]()
    for name, content in change.items():
        files |= {f"food-101/{name}": content} if content is not None else {}
        if content is None:
            del files[f"food-101/{name}"]
    with pytest.raises(InputError, match=message):
        load("food101", write_folder(tmp_path, files))


def test_broken_and_unlisted_photographs_are_counted(tmp_path, caplog):
    files = SETS["food101"]() | {"food-101/images/ceviche/101.jpg": b"no image", "food-101/images/ceviche/9.jpg": b""}
    train = load("food101", write_folder(tmp_path, files), on_broken="skip").train
    assert len(train) == 6
    assert "left out" in caplog.text
    assert "1 × images that are in no listing (images/ceviche/9.jpg)" in caplog.text


def test_what_torchvision_keeps_to_itself_is_the_same():
    assert (Food101.url, Food101.md5) == (datasets.Food101._URL, datasets.Food101._MD5)
    assert {kind: source("data", 16).file for kind, source in SOURCES.items()} == ARCHIVES
    assert ((OxfordPet.url, OxfordPet.md5), OxfordPet.annotations) == datasets.OxfordIIITPet._RESOURCES


@pytest.mark.parametrize("kind", [kind for kind in SETS if kind != "oxford_pet"])
def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, kind):
    """The address is one where nobody listens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SOURCES[kind], "url", f"http://127.0.0.1:9/{ARCHIVES[kind]}")
    monkeypatch.setattr("simclr.data.files.download.time.sleep", lambda seconds: None)
    by_hand = (
        rf"fetch http\S+ \(md5 {SOURCES[kind].md5}\) yourself and save it as {tmp_path}/data/{ARCHIVES[kind]}; or "
    )
    with pytest.raises(InputError, match=rf"^cannot download http\S+ \(.*\); {by_hand}"):
        load(kind, "data")
    with pytest.raises(InputError, match=r"holds no .* and data\.download=false"):
        load(kind, "data", download=False)


def test_choices_that_there_are_not():
    for source in SOURCES.values():
        for key, value in (("download", "maybe"), ("size", 0)):
            with pytest.raises(ValueError, match=f"^{key}={value} is not usable"):
                source(**{"root": "data", "size": 32} | {key: value})
    with pytest.raises(ValueError, match=r"^on_broken=ignore is not usable"):
        Food101("data", 32, on_broken="ignore")


def test_the_small_sets_are_pickled_as_python_2_did():
    assert pickled({"a": 1}).startswith(b"\x80\x02}")
    assert pickle.loads(pickled({"label_names": ["cat"]}), encoding="latin1") == {"label_names": ["cat"]}


def test_a_method_that_reads_labels_is_told_that_stl10_has_none(tmp_path, published):
    root = write_folder(tmp_path, published(SETS["stl10"]()))
    augmentation = build(compose_config("data=stl10", "data.size=16").augmentation)
    data = PretrainingData(STL10(str(root), 16), augmentation, 16, 0, reads={"labels"})
    with pytest.raises(InputError, match=r"learns from labels, which these images lack; choose others with data="):
        data.setup()


def test_validation_images_among_the_unlabelled_ones_are_said(tmp_path, published, caplog):
    files = SETS["stl10"]()
    name = "stl10_binary/unlabeled_X.bin"
    files[name] += files["stl10_binary/test_X.bin"][: 2 * 3 * 96 * 96]
    pretrain, train, val = load("stl10", write_folder(tmp_path, published(files)))
    warn_of_doubts(train, val, pretrain)
    assert "2 of the 20 validation images are learned from, too, without labels." in caplog.text
