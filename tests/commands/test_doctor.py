"""python -m simclr.doctor: what it finds, what it says would fail, and that it leaves nothing behind."""

import json
from types import SimpleNamespace

import psutil
import pytest

from simclr.commands import examination
from simclr.commands.doctor import command
from tests.conftest import TINY_RUN, tiny_imagenet_files, write_zip

QUICK = ("--seconds", "0")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simclr.commands.doctor.logging.disable", lambda level: None)
    yield
    assert not list(tmp_path.glob("outputs"))


def asked(capsys, *arguments: str) -> tuple[int, dict[str, list[dict]]]:
    """The exit status and the findings, by name."""
    status = command(["--json", *arguments])
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] == (status == 0)
    found: dict[str, list[dict]] = {}
    for finding in content["findings"]:
        found.setdefault(finding["name"], []).append(finding)
    return status, found


def test_a_run_that_would_work_is_timed(capsys):
    status, found = asked(capsys, *TINY_RUN, "epochs=7", "augmentation.size_until=[[0.5,12]]", "--seconds", "4")
    assert status == 0
    (speed,) = found["speed"]
    numbers = speed["numbers"]
    assert numbers["seconds"] * numbers["images_per_second"] == pytest.approx(7 * 64)
    assert "for 7 epochs of 4 steps" in speed["text"]
    assert found["images"][0]["numbers"] == {"pretrain": 64, "val": 20}
    (batch,) = found["batch"]
    assert batch["state"] == "warning"
    assert "gives each view 30 others to be told from" in batch["text"]


@pytest.mark.parametrize(("batch_size", "enough"), [(16, False), (40, True)])
def test_a_batch_that_is_too_small_to_whiten_is_said(capsys, batch_size, enough):
    narrow = ("method=byol", "head.hidden_features=8", "head.out_features=16", "data.train_count=64")
    status, found = asked(capsys, *TINY_RUN, *narrow, f"batch_size={batch_size}", *QUICK)
    assert status == 0
    told = [finding["text"] for finding in found.get("batch", [])]
    expected = "batch_size=16 is few images to whiten 16 features by; use 32 or more"
    assert [text.split(", or a head")[0] for text in told] == ([] if enough else [expected])


def test_a_person_gets_a_line_for_each(capsys):
    assert command([*TINY_RUN, "batch_size=64", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["software", "device", "cores", "images", "disk"]
    assert all(line[0] in "✓!" for line in lines)


@pytest.mark.parametrize(
    ("overrides", "name", "message"),
    [
        (("data.root=/nowhere", "data=tiny_imagenet"), "run", "data.root=/nowhere does not exist"),
        (("method=clip",), "run", "the method learns from captions, which these images lack"),
        (("precision=8",), "run", "precision=8 is not known"),
        (("batch_size=65",), "run", "batch_size=65 is larger than the number of training images, 64"),
        (("scheduler.warmup_epochs=9", "--seconds", "2"), "speed", "scheduler.warmup_epochs=9 is not usable"),
    ],
)
def test_what_would_fail_is_named_with_its_remedy(capsys, overrides, name, message):
    own = [override for override in TINY_RUN if "data=tiny_imagenet" not in overrides or "data" not in override]
    status, found = asked(capsys, *own, *overrides, *(() if "--seconds" in overrides else QUICK))
    assert status == 1
    (finding,) = found[name]
    assert finding["state"] == "error"
    assert message in finding["text"]


def test_arguments_that_mean_nothing_are_refused_as_by_the_command(capsys):
    assert command(["epoch=3"]) == 1
    assert "error: epoch is not a key of the configuration. Did you mean epochs?" in capsys.readouterr().err
    assert command(["data=nothing"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_images_that_would_be_downloaded_are_not_an_error_and_not_fetched(capsys):
    status, found = asked(capsys, *QUICK)
    assert status == 0
    assert "a run would download them" in found["images"][0]["text"]


def test_validation_images_that_are_trained_on_are_said(capsys, tmp_path):
    files = tiny_imagenet_files()
    train = sorted(name for name in files if name.startswith("train/") and "images" in name)
    val = sorted(name for name in files if name.startswith("val/images/"))
    files[val[0]] = files[train[0]]
    root = write_zip(tmp_path / "tiny.zip", files)
    status, found = asked(capsys, f"data.root={root}", "batch_size=4", f"data.store={tmp_path / 'store'}", *QUICK)
    assert status == 0
    assert any("1 validation images are training images too" in finding["text"] for finding in found["images"])


@pytest.mark.parametrize(
    ("free", "kind", "state"), [(10, "ext4", "error"), (2**40, "nfs4", "warning"), (2**40, "ext4", "ok")]
)
def test_the_disk_is_held_against_what_a_run_keeps(capsys, monkeypatch, free, kind, state):
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [SimpleNamespace(mountpoint="/", fstype=kind)])
    monkeypatch.setattr(examination, "psutil", psutil)
    status, found = asked(capsys, *TINY_RUN, "epochs=10", "keep_every_n_epochs=1", *QUICK)
    (disk,) = found["disk"]
    assert disk["state"] == state
    assert status == (state == "error")
    backbone, head = 11_176_512, 164_224
    assert disk["numbers"]["needed_bytes"] == 4 * (6 * (backbone + head) + 11 * backbone)
