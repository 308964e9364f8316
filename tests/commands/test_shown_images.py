"""Images that are not shown as they are stored, through every command: of another size than the views, normalised."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.transforms.v2 import functional as tv

from simclr.data.folder import ImageFolder
from simclr.data.shapes import Shapes
from simclr.evaluation.knn import knn_predict
from simclr.runs.assemble import reassemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import command, environment, image_bytes, only_run, write_folder

STORED, LEARNED = 48, 16
TRAIN = ("data=image_folder", "data.root=photographs", f"data.size={STORED}", f"augmentation.size={LEARNED}")
SMALL = ("batch_size=12", "epochs=1", "precision=32", "augmentation.blur_kernel=3")


def photographs() -> dict[str, bytes]:
    """Of three classes, told apart by the grain of their stripes; wide and tall, and larger than they are kept."""
    random, files = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("val", 6)):
        for label, name in enumerate(("fine", "middle", "coarse")):
            for number in range(count):
                height, width = random.integers(50, 90, 2)
                stripes = 127 * (np.arange(width) // (2 ** (label + 1)) % 2)
                pixels = random.integers(0, 128, (height, width, 3)) + stripes[:, None]
                files[f"{split}/{name}/{number}.png"] = image_bytes(pixels.astype(np.uint8))
    return files


def run(folder: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        command(program, *arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run whose store is larger than its views."""
    folder = tmp_path_factory.mktemp("larger")
    write_folder(folder / "photographs", photographs())
    run(folder, "train.py", *TRAIN, *SMALL, "evaluate=[linear]")
    return only_run(folder / "outputs")


def by_hand(run_dir: Path) -> float:
    """k-NN accuracy on images that torchvision has scaled to what the encoder learned from."""
    _, train, val = ImageFolder(str(run_dir.parent.parent / "photographs"), STORED, 0.1).load()
    encoder = reassemble(load_checkpoint(last_checkpoint(run_dir)), ["backbone"])["backbone"].eval()
    features = []
    assert val is not None
    for store in (train, val):
        images = store.gather(slice(None)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            features.append(encoder(tv.resize(images, [LEARNED, LEARNED], antialias=True)))
    predicted = knn_predict(features[0], torch.from_numpy(train.labels), features[1], 3, 20, 0.07)
    return 100 * (predicted == torch.from_numpy(val.labels)).float().mean().item()


@pytest.mark.slow
def test_training_and_evaluation_show_the_encoder_images_of_the_size_that_it_learns(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    result = json.loads((trained / "linear_eval.json").read_text())
    expected = by_hand(trained)
    assert metrics["val/knn_top1"] == pytest.approx(expected)
    assert result["knn_top1"] == pytest.approx(expected)
    said = f"; images of {STORED} pixels are scaled to {LEARNED}, as learned"
    assert metrics["protocol"]["val/knn_top1"].endswith(said)
    assert all(words.endswith(said) for words in result["protocol"].values())
    assert result["data"]["size"] == STORED


@pytest.mark.slow
def test_fine_tuning_and_figures_follow(trained):
    folder = trained.parent.parent
    run(folder, "linear_eval.py", f"run={trained}", "protocol=finetune", "protocol.lr=[0.01]", "protocol.epochs=1")
    assert "scaled to 16" in json.loads((trained / "finetune_eval_labels-1.json").read_text())["protocol"]["finetune"]
    before = {path.name for path in (trained / "features").iterdir()}
    run(folder, "simclr.visualize", f"run={trained}", "figures=[neighbours,augmented_pairs]")
    assert {path.name for path in (trained / "figures").iterdir()} == {"neighbours.png", "augmented_pairs.png"}
    assert {path.name for path in (trained / "features").iterdir()} == before  # those that the linear protocol kept


@pytest.mark.slow
def test_an_encoder_that_learned_from_normalised_images_is_shown_such(tmp_path):
    """The online k-NN, and the evaluation's, are those of features that torchvision's normalisation leads to."""
    mean, std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
    images = ("data=shapes", "data.train_count=200", "data.val_count=60", f"data.size={LEARNED}")
    normalised = (f"augmentation.mean={mean}", f"augmentation.std={std}", "augmentation.color_first=true")
    arguments = (argument.replace(" ", "") for argument in (*images, *SMALL, *normalised))
    run(tmp_path, "train.py", *arguments, "evaluate=[linear]")
    run_dir = only_run(tmp_path / "outputs")
    encoder = reassemble(load_checkpoint(last_checkpoint(run_dir)), ["backbone"])["backbone"].eval()
    _, train, val = Shapes(200, 60, LEARNED, 0).load()
    assert val is not None
    with torch.no_grad():
        bank, queries = (
            encoder(tv.normalize(store.gather(slice(None)).permute(0, 3, 1, 2).float() / 255, mean, std))
            for store in (train, val)
        )
    predicted = knn_predict(bank, torch.from_numpy(train.labels), queries, 10, 20, 0.07)
    expected = 100 * (predicted == torch.from_numpy(val.labels)).float().mean().item()
    metrics, result = (json.loads((run_dir / f"{name}.json").read_text()) for name in ("metrics", "linear_eval"))
    assert metrics["val/knn_top1"] == pytest.approx(expected)
    assert result["knn_top1"] == pytest.approx(expected)
    said = "; normalised by mean (0.5, 0.4, 0.3) and standard deviation (0.1, 0.2, 0.3)"
    assert all(metrics["protocol"][name].endswith(said) for name in ("val/knn_top1", "features/rankme"))
    assert all(words.endswith(said) for words in result["protocol"].values())
    run(tmp_path, "linear_eval.py", f"run={run_dir}", "protocol=finetune", "protocol.lr=[0.01]", "protocol.epochs=1")
    assert said in json.loads((run_dir / "finetune_eval_labels-1.json").read_text())["protocol"]["finetune"]
    run(tmp_path, "simclr.visualize", f"run={run_dir}", "figures=[neighbours,augmented_pairs]")
    run(tmp_path, "simclr.export", f"run={run_dir}", "output=mine.safetensors")
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["simclr"])
    assert (about["mean"], about["std"]) == (mean, std)


@pytest.mark.slow
def test_images_of_any_size_are_judged_at_the_one_that_was_learned(trained):
    said = run(
        trained.parent.parent, "linear_eval.py", f"run={trained}", "protocol=transfer", "data=shapes", "data.size=32",
        "data.train_count=60", "data.val_count=20",
    )  # fmt: skip
    assert "learned from views of 16 pixels; images of 32 are scaled to that" in said
