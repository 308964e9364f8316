"""Which checkpoint is read, and which is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr.data.folder import ImageFolder
from simclr.errors import InputError
from simclr.runs.checkpoint import (
    TRAIN_IMAGES,
    Loaded,
    check_fits,
    last_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    previous_checkpoint,
    resume_point,
)
from tests.conftest import image_bytes, write_folder


def write(path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"state_dict": {"w": torch.arange(5000)}, "config": {}, "global_step": step, "optimizer_states": []}, path
    )


@pytest.fixture
def run_dir(tmp_path):
    write(last_checkpoint(tmp_path), 20)
    write(previous_checkpoint(tmp_path), 10)
    return tmp_path


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in the middle of the weights: torch.load does not notice
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]["w"].shape == (5000,)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def empty(path) -> None:
    path.write_bytes(b"")


def zeros(path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [flip, cut, empty, zeros])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(run_dir, damage, caplog):
    damage(last_checkpoint(run_dir))
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    assert newest.path == previous_checkpoint(run_dir)
    assert newest.content["global_step"] == 10
    assert f"{last_checkpoint(run_dir)} cannot be read as a checkpoint" in caplog.text
    assert "Falling back to the one before" in caplog.text


def test_a_kill_between_the_two_renames_loses_nothing(run_dir):
    last_checkpoint(run_dir).unlink()
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    assert newest.content["global_step"] == 10


def test_where_all_are_damaged_nothing_is_started_over_silently(run_dir):
    for path in (last_checkpoint(run_dir), previous_checkpoint(run_dir)):
        flip(path)
    with pytest.raises(InputError, match="resume=never starts the run over"):
        newest_checkpoint(run_dir)


def test_what_the_system_cannot_look_at_is_not_taken_for_absent(run_dir):
    """Path.is_file() answers no, from Python 3.14 on for every error: the run would start over."""
    path = last_checkpoint(run_dir)
    path.unlink()
    path.symlink_to(path.name)  # opening it fails with ELOOP, as a network drive's file may with EIO or ESTALE
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    assert newest.path == previous_checkpoint(run_dir)
    previous_checkpoint(run_dir).unlink()
    with pytest.raises(InputError, match=r"cannot look at .*last\.ckpt \(Too many levels.*resume=never starts"):
        newest_checkpoint(run_dir)
    with pytest.raises(InputError, match=r"cannot look at x+ .*too long"):
        load_checkpoint(Path("x" * 5000))


def test_where_to_go_on(run_dir, tmp_path):
    def step_of(resume: str) -> int:
        found = resume_point(run_dir, resume)
        assert found is not None
        return found.content["global_step"]

    write(tmp_path / "later.ckpt", 30)
    write(tmp_path / "earlier.ckpt", 15)
    assert step_of("auto") == 20
    assert step_of(str(tmp_path / "later.ckpt")) == 30
    assert step_of(str(tmp_path / "earlier.ckpt")) == 20  # the run itself is further on
    assert resume_point(run_dir, "never") is None
    assert resume_point(tmp_path / "new run", "auto") is None


def test_images_may_move_but_not_change(tmp_path, caplog):
    shades = [image_bytes(np.full((16, 16, 3), shade, np.uint8)) for shade in range(41)]
    root = write_folder(tmp_path / "here", {f"{'ab'[i % 2]}/{i}.png": shade for i, shade in enumerate(shades[:40])})

    def images(folder) -> str:
        return ImageFolder(str(folder), 16, 0.1).load().train.key

    def go_on(folder, **known) -> None:
        config = {"data": {"root": str(folder)}, "limit_images": None, "batch_size": 8, "backbone": {}, "head": {}}
        before = config | {"data": {"root": str(root)}}
        checkpoint = Loaded(tmp_path / "last.ckpt", {"config": before, "global_step": 3} | known)
        check_fits(checkpoint, config, images(folder), 10)

    moved = tmp_path / "there" / "images"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    known = {TRAIN_IMAGES: images(root)}
    go_on(moved, **known)
    assert "last.ckpt" not in caplog.text
    (moved / "b" / "41.png").write_bytes(shades[40])
    with pytest.raises(InputError, match=r"last\.ckpt was trained on other images.*resume=never"):
        go_on(moved, **known)
    go_on(moved)
    assert "last.ckpt does not tell which images it was trained on" in caplog.text


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["global_step", "state_dict", "config", "more"])
def test_a_payload_is_refused_and_does_not_run(tmp_path, place):
    path, proof = tmp_path / "theirs.ckpt", tmp_path / "it ran"
    checkpoint = {"state_dict": {}, "config": {}, "global_step": 1}
    torch.save(checkpoint | {place: Payload(proof)}, path)
    with pytest.raises(InputError, match=r"refused.*posix\.system.*nothing of it was run"):
        load_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"state_dict": {}, "config": {}}, {"state_dict": [], "config": {}, "global_step": 1}],
)
def test_other_files_of_torch_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "other.pt")
