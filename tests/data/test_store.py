"""The image store: whole or absent, built once, rebuilt when its source changes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from simclr.data.files.archive import FolderArchive
from simclr.data.store import ImageStore, Plan, Split, Splits, open_store, store_folder
from simclr.errors import InputError
from tests.conftest import environment, image_bytes


def make_images(folder: Path, count: int, value: int = 0) -> FolderArchive:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i:04}.png").write_bytes(image_bytes(np.full((16, 16, 3), (value + i) % 256, np.uint8)))
    return FolderArchive(folder, {".png"})


def plan_of(archive: FolderArchive) -> Plan:
    names = archive.names()
    return Plan({"train": Split(names, np.arange(len(names)), None)}, [str(i) for i in range(len(names))])


def build(archive: FolderArchive, plan: Callable[[], Plan]) -> Splits:
    """The store of `archive`, in a folder "store" beside it that another test may look at."""
    return open_store(archive, 16, plan, "test")


BUILD = """
import sys
from collections.abc import Callable
from pathlib import Path
from simclr.data.store import open_store
from tests.data.test_store import plan_of
from simclr.data.files.archive import FolderArchive
archive = FolderArchive(Path(sys.argv[1]), {".png"})
def plan():
    print("building", flush=True)
    return plan_of(archive)
images = open_store(archive, 16, plan, "test")
print("images", len(images.train), int(images.train.pixels[:, 0, 0, 0].sum()), flush=True)
"""


def start_build(source: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(source)],
        cwd=root,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def decoding(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that have begun to decode for a build."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if not any("resource_tracker" in word for word in child.cmdline())]


def test_images_labels_and_order(tmp_path):
    archive = make_images(tmp_path / "source", 5)
    train, val = build(archive, lambda: plan_of(archive))
    assert val is None
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.gather(np.array([3, 1]))[:, 0, 0, 0].tolist() == [3, 1]
    chosen = train.select(np.array([4, 2]))
    assert chosen.gather(slice(0, 2))[:, 0, 0, 0].tolist() == [4, 2]
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [4, 2]
    assert chosen.key != train.key != train.select(np.array([2, 4])).key


def test_second_opening_builds_nothing_and_a_changed_source_rebuilds(tmp_path):
    archive = make_images(tmp_path / "source", 3)
    build(archive, lambda: plan_of(archive))

    def refuse() -> Plan:
        pytest.fail("the store is current")

    build(archive, refuse)
    make_images(tmp_path / "source", 4, value=100)
    train = build(archive, lambda: plan_of(archive)).train
    assert train.pixels[:, 0, 0, 0].tolist() == [100, 101, 102, 103]


def test_two_processes_build_once(tmp_path):
    make_images(tmp_path / "source", 600)
    processes = [start_build(tmp_path / "source") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert sum("building" in output for output in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1]


def test_a_killed_build_leaves_no_store_and_the_next_one_is_whole(tmp_path):
    make_images(tmp_path / "source", 3000)
    process = start_build(tmp_path / "source")
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    while not (workers := decoding(process)):
        assert process.poll() is None, "the build was over before it could be killed"
        time.sleep(0.001)
    assert list(tmp_path.glob("source.store-16.building/*.npy"))
    process.kill()
    process.wait()
    assert not (tmp_path / "source.store-16").exists()
    output, _ = start_build(tmp_path / "source").communicate(timeout=120)
    assert output.splitlines()[-1] == f"images 3000 {sum(i % 256 for i in range(3000))}"
    assert not (tmp_path / "source.store-16.building").exists()
    deadline = time.monotonic() + 60
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the command that was killed"
        time.sleep(0.1)


def test_an_undecodable_image_is_named_and_nothing_is_left(tmp_path):
    archive = make_images(tmp_path / "source", 300)
    bad = tmp_path / "source" / "0250.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(InputError, match=r"0250\.png .* cannot be decoded .*replace or remove"):
        build(archive, lambda: plan_of(archive))
    assert not (tmp_path / "source.store-16").exists()
    assert not (tmp_path / "source.store-16.building").exists()


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path, monkeypatch):
    archive = make_images(tmp_path / "source", 3)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs 0 MB and 0 MB are free.*data\.store=FOLDER"):
        build(archive, lambda: plan_of(archive))
    assert not (tmp_path / "source.store-16").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    archive = make_images(tmp_path / "source", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the image store .*data\.store=FOLDER"):
        open_store(archive, 16, lambda: plan_of(archive), "test", parent=tmp_path / "file")


def test_a_damaged_store_is_rebuilt(tmp_path):
    archive = make_images(tmp_path / "source", 2)
    build(archive, lambda: plan_of(archive))
    meta = tmp_path / "source.store-16" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()))[:20])
    assert len(build(archive, lambda: plan_of(archive)).train) == 2


def test_the_shuffle_behind_limit_images_is_fixed_and_nested(tmp_path):
    archive = make_images(tmp_path / "source", 50)
    train = build(archive, lambda: plan_of(archive)).train
    ten, twenty = train.first_of_shuffle(10), train.first_of_shuffle(20)
    assert ten.rows.tolist() == twenty.rows[:10].tolist()
    assert sorted(ten.rows.tolist()) != list(range(10))


def test_what_lies_in_the_way_is_not_deleted(tmp_path):
    archive = make_images(tmp_path / "source", 1)
    thesis = store_folder(archive.path, 16, tmp_path / "elsewhere") / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(InputError, match="in the way of the image store"):
        open_store(archive, 16, lambda: plan_of(archive), "test", parent=tmp_path / "elsewhere")
    assert thesis.read_text() == "years of work"


def test_two_sources_of_one_name_keep_their_stores_in_one_folder(tmp_path):
    parent, stores = tmp_path / "stores", []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        archive = make_images(tmp_path / place / "source", 2 if place == "a" else 3)
        stores.append(open_store(archive, 16, partial(plan_of, archive), "test", parent=parent).train)
    assert [len(store) for store in stores] == [2, 3]
    written = {path: path.stat().st_mtime_ns for path in parent.rglob("*.npy")}
    archive = FolderArchive(tmp_path / "a" / "source", {".png"})
    assert open_store(archive, 16, partial(plan_of, archive), "test", parent=parent).train.key == stores[0].key
    assert {path: path.stat().st_mtime_ns for path in parent.rglob("*.npy")} == written


def test_the_key_tells_contents_and_nothing_else(tmp_path):
    """A copy under another path, with other times and names, has the key; a pixel, a label or a class more has not."""

    def key(root: str, size: int = 16, change: Callable[[Plan], Plan] = lambda plan: plan) -> str:
        archive = FolderArchive(tmp_path / root, {".png"})
        return open_store(archive, size, lambda: change(plan_of(archive)), "test").train.key

    make_images(tmp_path / "source", 5)
    (tmp_path / "far").mkdir()
    for path in (tmp_path / "source").glob("*.png"):
        shutil.copyfile(path, tmp_path / "far" / f"x{path.name}")
        os.utime(tmp_path / "far" / f"x{path.name}", (1, int(path.stem)))
    own = key("source")
    assert key("source") == key("far") == own
    pixels = np.repeat(np.arange(5, dtype=np.uint8), 16 * 16 * 3).reshape(5, 16, 16, 3)
    assert ImageStore.of(pixels, np.arange(5), classes=[str(i) for i in range(5)]).key == own
    others = [key("source", 32)]
    for change in (
        lambda plan: Plan({"train": plan.splits["train"]._replace(labels=np.array([0, 1, 2, 4, 3]))}, plan.classes),
        lambda plan: Plan({"train": plan.splits["train"]._replace(boxes=np.zeros((5, 4)))}, plan.classes),
        lambda plan: Plan(
            {"train": plan.splits["train"]._replace(names=plan.splits["train"].names[::-1])}, plan.classes
        ),
        lambda plan: Plan(plan.splits, [*plan.classes, "dog"]),
    ):
        shutil.rmtree(tmp_path / "far.store-16", ignore_errors=True)
        others.append(key("far", change=change))
    (tmp_path / "far" / "x0003.png").write_bytes(image_bytes(np.full((16, 16, 3), 77, np.uint8)))
    others.append(key("far"))
    assert len({own, *others}) == 7


def test_a_store_of_an_older_format_is_built_again(tmp_path, monkeypatch, caplog):
    archive = make_images(tmp_path / "source", 2)
    with monkeypatch.context() as older:
        older.setattr("simclr.data.store.FORMAT", 1)
        build(archive, lambda: plan_of(archive))
    with caplog.at_level("INFO"):
        build(archive, lambda: plan_of(archive))
    assert "source.store-16, which is damaged, or of other images or an older format." in caplog.text
