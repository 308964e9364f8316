"""python -m simclr.visualize: what it writes for a run, what it leaves out, what it says is wrong."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from simclr.commands.visualize import visualize
from simclr.data.shapes import Shapes
from simclr.errors import InputError
from simclr.evaluation.features import extract
from simclr.runs.assemble import reassemble
from simclr.runs.checkpoint import epoch_weights, last_checkpoint
from simclr.runs.configs import CONFIGS
from simclr.runs.identity import as_dict
from simclr.runs.weights import backbone_factory
from tests.conftest import REPOSITORY, TINY_RUN, environment, image_bytes, only_run


def write_run(run_dir: Path, *overrides: str) -> None:
    """A run directory with the weights of two moments, both drawn at random."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["name=planted", "output_root=outputs", *overrides])
    torch.manual_seed(1)
    for path, step in ((epoch_weights(run_dir, 1), 4), (last_checkpoint(run_dir), 8)):
        weights = {
            f"backbone.{name}": value for name, value in backbone_factory(config.backbone)().state_dict().items()
        }
        content = {"state_dict": weights, "config": as_dict(config), "global_step": step, "epoch": step // 4}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)


def draw(*overrides: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        visualize(compose("visualize", list(overrides)))


def test_a_run_is_drawn_and_the_same_command_draws_the_same(tmp_path, caplog):
    write_run(tmp_path, *TINY_RUN)
    with caplog.at_level(logging.INFO):
        draw(f"run={tmp_path}", "neighbours.queries=3", "neighbours.count=4", "augmented_pairs.images=3")
    figures = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert set(figures) == {"latent_space.png", "neighbours.png", "augmented_pairs.png"}
    for name in figures:
        with Image.open(tmp_path / "figures" / name) as image:
            assert len(set(image.convert("RGB").resize((100, 100)).get_flattened_data())) > 20
    # The accuracy that stands beside is scikit-learn's.
    _, train, val = Shapes(64, 20, 16, 0).load()
    checkpoint = torch.load(last_checkpoint(tmp_path), weights_only=True)
    encoder = reassemble(checkpoint, ["backbone"])["backbone"]
    oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    oracle.fit(extract(encoder, train, "cpu").numpy(), train.labels)
    top1 = 100 * oracle.score(extract(encoder, val, "cpu").numpy(), val.labels)
    assert f"epoch 2: k-NN top-1 {top1:.2f} %" in caplog.text
    assert "epoch 1: k-NN top-1" in caplog.text
    assert "untrained: k-NN top-1" in caplog.text
    draw(f"run={tmp_path}", "figures=[latent_space]")
    assert (tmp_path / "figures" / "latent_space.png").read_bytes() == figures["latent_space.png"]


def test_images_without_labels_have_neighbours_and_pairs_but_no_map(tmp_path, caplog):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(16):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "images" / f"{i}.png").write_bytes(image_bytes(pixels))
    run_dir = tmp_path / "run"
    write_run(run_dir, "data=image_folder", f"data.root={tmp_path / 'images'}", "data.size=16", "batch_size=8")
    draw(f"run={run_dir}", "neighbours.queries=2", "neighbours.count=30", "augmented_pairs.images=1")
    assert {path.name for path in (run_dir / "figures").iterdir()} == {"neighbours.png", "augmented_pairs.png"}
    assert "latent_space.png is left out: it needs labelled training and validation images" in caplog.text
    with pytest.raises(InputError, match="nothing could be drawn"):
        draw(f"run={run_dir}", "figures=[latent_space]")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("figures=[latent]", "figures=.* is not usable; write a list of some of latent_space, neighbours"),
        ("figures=[]", "figures=.* is not usable"),
        ("latent_space.panels=1", "latent_space.panels=1 is not usable; it is a whole number, 2 to 12"),
        ("latent_space.perplexity=nan", "latent_space.perplexity=nan is not usable"),
        ("neighbours.count=0", "neighbours.count=0 is not usable"),
        ("knn.k=0", "knn.k=0 is not usable"),
        ("seed=-1", "seed=-1 is not usable"),
    ],
)
def test_settings_that_cannot_be(override, said):
    with pytest.raises(InputError, match=said):
        draw("run=nowhere", override)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])  # the standard library and the packages are out of sight
    monkeypatch.delitem(sys.modules, "openTSNE", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(InputError, match=r'drawing needs matplotlib and openTSNE.* pip install -e "\.\[report\]"'):
        draw("run=nowhere")


def module(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-X", "importtime", "-m", "simclr.visualize", *arguments]
    variables = environment() | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def test_showing_the_configuration_imports_no_torch(tmp_path):
    done = module("--help", folder=tmp_path)
    assert "python -m simclr.visualize run=RUN_DIR" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "matplotlib", "openTSNE"}


@pytest.mark.slow
def test_the_command_draws_a_finished_run_and_agrees_with_it(finished, tmp_path):
    run_dir = only_run(finished / "outputs")
    done = module(f"run={run_dir}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert f"untrained: k-NN top-1 {metrics['val/knn_top1_untrained']:.2f} %" in done.stdout
    assert f"epoch 2: k-NN top-1 {metrics['val/knn_top1']:.2f} %" in done.stdout
    assert len(list((run_dir / "figures").glob("*.png"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "error: give either run=RUN_DIR or ckpt=PATH"),
        (("run=nowhere",), "error: there is no checkpoint nowhere/checkpoints/last.ckpt"),
        (("run=x", "latent_space.panel=3"), "panel is not a key of latent_space. Did you mean panels?"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, arguments, said):
    done = module(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
