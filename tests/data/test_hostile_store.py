"""The image store when its files are damaged or planted, and when the disk does not take it."""

import json
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from simclr.data.files.archive import FolderArchive
from simclr.data.store import Plan, Split, Splits, open_store, store_folder
from simclr.errors import InputError
from tests.conftest import image_bytes, write_folder

SIZE = 16


def source(tmp_path: Path, count: int = 6) -> FolderArchive:
    files = {f"{i}.png": image_bytes(np.full((SIZE, SIZE, 3), 40 * i % 256, np.uint8)) for i in range(count)}
    return FolderArchive(write_folder(tmp_path / "source", files), {".png"})


def build(archive: FolderArchive, parent: Path | None = None) -> Splits:
    def plan() -> Plan:
        names = archive.names()
        train = Split(names[:4], np.array([0, 1, 0, 1]), np.arange(16, dtype=np.int16).reshape(4, 4))
        return Plan({"train": train, "val": Split(names[4:], np.array([1, 0]), None)}, ["cat", "dog"])

    return open_store(archive, SIZE, plan, "test", parent)


class Payload:
    """Unpickling it makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def cut(name: str, length: int):
    return lambda store: os.truncate(store / name, length)


def overwrite(name: str, array: np.ndarray):
    return lambda store: np.save(store / name, array)


def object_array(name: str):
    def plant(store: Path) -> None:
        planted = np.empty(4, object)
        planted[:] = [Payload(store.parent / "planted")] * 4
        np.save(store / name, planted, allow_pickle=True)

    return plant


def edit(**changes):
    def change(store: Path) -> None:
        path = store / "meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


DAMAGE = {
    "pixels cut": cut("train-pixels.npy", 128 + 3 * SIZE * SIZE),
    "pixels cut in the header": cut("train-pixels.npy", 20),
    "pixels empty": cut("val-pixels.npy", 0),
    "pixels gone": lambda store: (store / "val-pixels.npy").unlink(),
    "pixels of another type": overwrite("train-pixels.npy", np.zeros((4, SIZE, SIZE, 3), np.float32)),
    "pixels of another shape": overwrite("train-pixels.npy", np.zeros((4, 3, SIZE, SIZE), np.uint8)),
    "pixels in Fortran's order": overwrite("train-pixels.npy", np.zeros((3, SIZE, SIZE, 4), np.uint8).T),
    "pixels a folder": lambda store: ((store / "val-pixels.npy").unlink(), (store / "val-pixels.npy").mkdir()),
    "pixels an object": object_array("train-pixels.npy"),
    "labels an object": object_array("train-labels.npy"),
    "labels a bare pickle": lambda store: (store / "train-labels.npy").write_bytes(
        pickle.dumps(Payload(store.parent / "planted"))
    ),
    "labels out of range": overwrite("train-labels.npy", np.array([0, 1, 0, 7])),
    "labels negative": overwrite("train-labels.npy", np.array([0, 1, 0, -1])),
    "labels wrong": overwrite("train-labels.npy", np.array([1, 1, 0, 1])),
    "labels of another type": overwrite("val-labels.npy", np.array([1.0, np.nan])),
    "labels too many": overwrite("val-labels.npy", np.arange(3)),
    "labels gone": lambda store: (store / "train-labels.npy").unlink(),
    "boxes that were never there": overwrite("val-boxes.npy", np.zeros((2, 4), np.int16)),
    "digests wrong": overwrite("train-digests.npy", np.array([b"x" * 16] * 4, "S16")),
    "digests gone": lambda store: (store / "val-digests.npy").unlink(),
    "boxes wrong": overwrite("train-boxes.npy", np.zeros((4, 4), np.int16)),
    "no meta": lambda store: (store / "meta.json").unlink(),
    "meta of another size": edit(splits={"train": 3, "val": 2}),
    "meta of absurd size": edit(splits={"train": 10**30, "val": 2}),
    "meta without a split": edit(splits={"train": 4}),
    "meta with a split that climbs": edit(splits={"train": 4, "../val": 2}),
    "meta with other classes": edit(classes=["dog", "cat"]),
    "meta a list": lambda store: (store / "meta.json").write_text("[1]"),
    "meta nested": lambda store: (store / "meta.json").write_text("[" * 100_000),
    "meta no text": lambda store: (store / "meta.json").write_bytes(b"\xff\xfe\0"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_store_is_built_again(tmp_path, damage, caplog):
    archive = source(tmp_path)
    build(archive)
    store = tmp_path / "source.store-16"
    damage(store)
    with caplog.at_level("INFO"):
        train, val = build(archive)
    assert "which is damaged, or of other images" in caplog.text
    assert train.pixels[:, 5, 5, 1].tolist() == [0, 40, 80, 120]
    assert val is not None
    assert val.pixels[:, 5, 5, 1].tolist() == [160, 200]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.boxes is not None
    assert train.boxes.ravel().tolist() == list(range(16))
    assert val.boxes is None
    assert train.classes == ["cat", "dog"]
    assert not (tmp_path / "planted").exists()
    caplog.clear()
    with caplog.at_level("INFO"):
        build(archive)
    assert not caplog.text


def test_the_payload_of_these_tests_would_work(tmp_path):
    """What the tests above plant does its harm wherever pickles are read."""
    np.save(tmp_path / "x.npy", np.array([Payload(tmp_path / "planted")], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "x.npy")
    assert not (tmp_path / "planted").exists()
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert (tmp_path / "planted").exists()


@pytest.fixture
def largest_file():
    """largest_file(n): from here on, no file grows beyond n bytes; writing more fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_no_half_store(tmp_path, largest_file):
    size = 256
    archive = source(tmp_path, count=20)  # 4 MB of pixels
    names = archive.names()
    plan = Plan({"train": Split(names, None, None)}, [])
    largest_file(2**20)
    with pytest.raises(InputError, match=r"cannot write the image store .*source\.store-256 \(File too large\)"):
        open_store(archive, size, lambda: plan, "test")
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["source", "source.store-256.lock"],
        ["source"],
    )
    largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert len(open_store(archive, size, lambda: plan, "test").train) == 20


def test_a_full_disk_keeps_the_store_that_is_there(tmp_path, largest_file):
    archive = source(tmp_path)
    build(archive)
    (tmp_path / "source" / "0.png").write_bytes(image_bytes(np.full((SIZE, SIZE, 3), 250, np.uint8)))
    before = (tmp_path / "source.store-16" / "meta.json").read_bytes()
    largest_file(1000)
    with pytest.raises(InputError, match="File too large"):
        build(archive)
    assert (tmp_path / "source.store-16" / "meta.json").read_bytes() == before


def test_places_that_cannot_be_written(tmp_path):
    archive = source(tmp_path)
    places = {name: tmp_path / name for name in ("lock", "building", "link")}
    for place in places.values():
        place.mkdir()
    name = store_folder(archive.path, 16, tmp_path).name
    (places["lock"] / f"{name}.lock").mkdir()
    (places["building"] / f"{name}.building").write_text("in the way")
    (places["link"] / name).symlink_to("nowhere")
    for place in (Path("/proc/nothing"), *places.values()):
        with pytest.raises(InputError, match=r"cannot write the image store .*data\.store=FOLDER"):
            build(archive, place)
    assert not list(places["building"].glob("*.npy"))


def test_what_is_not_the_stores_own_is_not_deleted(tmp_path):
    archive = source(tmp_path)
    build(archive)
    store = tmp_path / "source.store-16"
    (store / "thesis.txt").write_text("years of work")
    (store / "meta.json").write_text("damaged")
    with pytest.raises(InputError, match="in the way of the image store"):
        build(archive)
    assert (store / "thesis.txt").read_text() == "years of work"
