"""The image store: whole or absent, built once, rebuilt when its source changes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest

from simclr.data import columns
from simclr.data.columns import Column
from simclr.data.files.archive import FolderArchive
from simclr.data.opening import open_store
from simclr.data.store import ImageStore, Plan, Split, Splits
from simclr.errors import InputError
from tests.conftest import environment, image_bytes


def make_images(folder: Path, count: int, value: int = 0) -> FolderArchive:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i:04}.png").write_bytes(image_bytes(np.full((16, 16, 3), (value + i) % 256, np.uint8)))
    return FolderArchive(folder, {".png"})


def plan_with(names: list[str], labels: Iterable[int], classes: Iterable[str], **further: Column) -> Plan:
    return {"train": Split(names, {"labels": columns.labels([*labels], [*classes])} | further)}


def plan_of(archive: FolderArchive) -> Plan:
    names = archive.names()
    return plan_with(names, range(len(names)), map(str, range(len(names))))


def build(archive: FolderArchive, plan: Callable[[], Plan]) -> Splits:
    """The store of `archive`, in a folder "store" beside it that another test may look at."""
    return open_store(archive, 16, plan, "test")


BUILD = """
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from simclr.data import columns
from simclr.data.columns import Column
from simclr.data.opening import open_store
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
    _, train, val = build(archive, lambda: plan_of(archive))
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


def damage(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:30])


def test_broken_images_are_all_named_together(tmp_path):
    archive = make_images(tmp_path / "source", 300)
    damage(tmp_path / "source" / "0250.png")
    for _ in range(2):  # built, then read back
        with pytest.raises(InputError, match=r"^0250\.png in .*source cannot be decoded \(.*data\.on_broken=skip$"):
            build(archive, lambda: plan_of(archive))
    damage(*(tmp_path / "source" / f"{i:04}.png" for i in range(0, 300, 25)))
    with pytest.raises(InputError, match=r"12 of the 300 images in .*source cannot be used: 0000\.png cannot") as error:
        build(archive, lambda: plan_of(archive))
    assert str(error.value).count("cannot be decoded") == 10
    assert "0225.png cannot be decoded" in str(error.value)
    assert " and 2 more; replace or remove what is broken, or leave it out with data.on_broken=skip" in str(error.value)


def test_broken_images_are_left_out_where_that_is_asked_for(tmp_path, caplog):
    """The rest is what the same images give without the broken ones, key included; every opening says it."""
    archive = make_images(tmp_path / "source", 300)
    damage(*(tmp_path / "source" / f"{i:04}.png" for i in (3, 250)))
    for _ in range(2):
        caplog.clear()
        train = open_store(archive, 16, lambda: plan_of(archive), "test", on_broken="skip").train
        assert "2 of the 300 images in" in caplog.text
        assert "0003.png cannot be decoded" in caplog.text
        assert "left out, and listed in" in caplog.text
    left = [i for i in range(300) if i not in (3, 250)]
    assert train.pixels[:, 0, 0, 0].tolist() == [i % 256 for i in left]
    assert train.labels is not None
    assert train.labels.tolist() == left
    meta = json.loads((tmp_path / "source.store-16" / "meta.json").read_text())
    assert meta["broken"] == dict.fromkeys(
        ["0003.png", "0250.png"], "cannot be decoded (it is not in an image format that can be read)"
    )
    pixels = np.repeat((np.array(left) % 256).astype(np.uint8), 16 * 16 * 3).reshape(298, 16, 16, 3)
    labels = columns.labels(left, [str(i) for i in range(300)])
    assert train.key == ImageStore.of(pixels, {"labels": labels}).key


def test_what_the_system_refuses_to_read_is_not_taken_for_broken(tmp_path):
    archive = make_images(tmp_path / "source", 3)
    (tmp_path / "source" / "9.png").symlink_to("/proc/self/mem")  # a regular file whose first byte is an error
    with pytest.raises(InputError, match=r"9\.png cannot be read \(Input/output error\); make it readable"):
        open_store(archive, 16, lambda: plan_of(archive), "test", on_broken="skip")
    assert not (tmp_path / "source.store-16").exists()


def test_where_all_images_are_broken_there_is_no_store(tmp_path):
    archive = make_images(tmp_path / "source", 3)
    damage(*(tmp_path / "source").iterdir())
    with pytest.raises(InputError, match=r"3 of the 3 images in"):
        open_store(archive, 16, lambda: plan_of(archive), "test", on_broken="skip")
    assert not (tmp_path / "source.store-16").exists()


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
    thesis = tmp_path / "elsewhere" / "source.store-16" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(InputError, match="in the way of the image store"):
        open_store(archive, 16, lambda: plan_of(archive), "test", parent=tmp_path / "elsewhere")
    assert thesis.read_text() == "years of work"


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
    assert ImageStore.of(pixels, {"labels": columns.labels(range(5), "01234")}).key == own
    others = [key("source", 32)]
    for change in (
        lambda plan: plan_with(plan["train"].names, [0, 1, 2, 4, 3], "01234"),
        lambda plan: plan_with(plan["train"].names, range(5), "01234", boxes=columns.boxes(np.zeros((5, 4)))),
        lambda plan: plan_with(plan["train"].names, range(5), "01234", depth=Column(np.zeros(5))),
        lambda plan: plan_with(plan["train"].names, range(5), "01234", depth=Column(np.ones(5))),
        lambda plan: plan_with(plan["train"].names, range(5), "01234", width=Column(np.ones(5))),
        lambda plan: plan_with(plan["train"].names[::-1], range(5), "01234"),
        lambda plan: plan_with(plan["train"].names, range(5), ["0", "1", "2", "3", "4", "dog"]),
    ):
        shutil.rmtree(tmp_path / "far.store-16", ignore_errors=True)
        others.append(key("far", change=change))
    (tmp_path / "far" / "x0003.png").write_bytes(image_bytes(np.full((16, 16, 3), 77, np.uint8)))
    others.append(key("far"))
    assert len({own, *others}) == 10


def test_a_store_of_an_older_format_is_built_again(tmp_path, monkeypatch, caplog):
    archive = make_images(tmp_path / "source", 2)
    with monkeypatch.context() as older:
        older.setattr("simclr.data.opening.FORMAT", 1)
        build(archive, lambda: plan_of(archive))
    with caplog.at_level("INFO"):
        build(archive, lambda: plan_of(archive))
    assert "source.store-16, which is damaged, or of other images or an older format." in caplog.text
