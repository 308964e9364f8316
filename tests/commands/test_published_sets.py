"""A set whose images to learn from are others than those that probes are fitted on, through every command."""

import json
import subprocess
from pathlib import Path

import pytest

from simclr.data.stl10 import STL10
from simclr.runs.images import known_images
from tests.conftest import command, environment, only_run, write_folder
from tests.published_sets import SETS, published_md5s

TRAIN = ("train.py", "data=stl10", "data.root=sets", "data.size=32", "limit_images=48", "batch_size=16", "precision=32")


def run(folder: Path, *arguments: str) -> str:
    """What a command says in `folder` that takes the small sets for the published ones."""
    done = subprocess.run(
        command("tests.published_sets", *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of one epoch on STL-10, judged, two levels below its working directory."""
    folder = tmp_path_factory.mktemp("stl10")
    for make in SETS.values():
        write_folder(folder / "sets", make())
    run(folder, *TRAIN, "epochs=1", "evaluate=[linear,knn]")
    return only_run(folder / "outputs")


@pytest.fixture
def stl10(trained: Path, monkeypatch: pytest.MonkeyPatch):
    for change in published_md5s(SETS["stl10"]()):
        monkeypatch.setattr(*change)
    return STL10(str(trained.parent.parent / "sets"), 32).load()


@pytest.mark.slow
def test_it_learns_from_one_split_and_is_judged_by_the_others(trained, stl10):
    assert trained.name.startswith("simclr-modified-slim-stl10-seed0-")
    learned_from, judged_on = stl10.pretrain.first_of_shuffle(48).key, stl10.val.key
    assert known_images(trained) == (learned_from, judged_on)
    metrics = json.loads((trained / "metrics.json").read_text())
    assert (metrics["train_images_key"], metrics["val_images_key"]) == (learned_from, judged_on)
    assert metrics["images_seen"] == 48
    assert "bank: 20 un-augmented training images" in metrics["protocol"]["val/knn_top1"]
    for name in ("linear_eval", "knn_eval"):
        result = json.loads((trained / f"{name}.json").read_text())
        assert (result["train_images"], result["val_images"]) == (20, 20)
        assert (result["train_images_key"], result["val_images_key"]) == (stl10.train.key, judged_on)
        assert result["data"]["choice"] == "stl10"


@pytest.mark.slow
def test_it_goes_on_and_is_judged_and_drawn_where_its_images_have_moved(trained, tmp_path):
    folder = trained.parent.parent
    (tmp_path / "elsewhere").symlink_to(folder / "sets")
    said = run(folder, *TRAIN, "epochs=2", f"resume={trained}", "data.root=" + str(tmp_path / "elsewhere"))
    assert "Going on from" in said
    moved = ("run=" + str(trained), "data.root=" + str(tmp_path / "elsewhere"))
    run(folder, "linear_eval.py", *moved, "protocol=finetune", "protocol.lr=[0.01]", "protocol.epochs=1")
    assert json.loads((trained / "finetune_eval_labels-1.json").read_text())["train_images"] == 20
    done = subprocess.run(
        command("simclr.visualize", *moved, "figures=[neighbours,augmented_pairs]"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (trained / "figures").iterdir()} == {"neighbours.png", "augmented_pairs.png"}


@pytest.mark.slow
def test_an_encoder_is_transferred_to_a_published_set(trained):
    said = run(
        trained.parent.parent, "linear_eval.py", f"run={trained}", "protocol=transfer", "data=cifar10", "data.root=sets"
    )
    assert "100 training and 20 validation images" in said
    (result,) = trained.glob("transfer_eval_cifar10-sets-*.json")
    assert json.loads(result.read_text())["data"]["choice"] == "cifar10"
