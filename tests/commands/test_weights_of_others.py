"""Weights of others from the command line: judged as they are, or where a run begins."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from sklearn.metrics.pairwise import cosine_similarity

from simclr.augment.plain import Plain
from simclr.data.shapes import Shapes
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import TINY_RUN, Run, only_run

IMAGES = ("data=shapes", "data.train_count=64", "data.val_count=40", "data.size=32")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """torchvision's ResNet-18 as torchvision hands it on."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_they_are_judged_by_the_features_of_their_own_network(run: Run, file, tmp_path):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    shown = (f"augmentation.mean={mean}", f"augmentation.std={std}", "augmentation.size=48")
    arguments = (f"ckpt={file}", "backbone=resnet18", *IMAGES, *(text.replace(" ", "") for text in shown))
    said = run("linear_eval.py", *arguments, "output=results", "protocol=knn", "protocol.k=[1]")
    assert "All 100 tensors of the backbone are from" in said.stdout
    assert "not used: fc.weight, fc.bias" in said.stdout
    (result,) = (json.loads(path.read_text("utf-8")) for path in (tmp_path / "results").glob("knn_eval*.json"))
    assert "scaled to 48" in result["protocol"]["knn"]
    assert "mean (0.485, 0.456, 0.406)" in result["protocol"]["knn"]

    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(file, weights_only=True))
    network.fc = torch.nn.Identity()
    splits = Shapes(train_count=64, val_count=40, size=32, seed=0).load()
    assert splits.train is not None
    assert splits.val is not None
    plain = Plain(48, mean=tuple(mean), std=tuple(std))
    with torch.no_grad():
        train, val = (network.eval()(plain(store.gather(slice(0, len(store))))) for store in (splits.train, splits.val))
    nearest = cosine_similarity(val, train).argmax(axis=1)
    labels = [torch.as_tensor(store.labels) for store in (splits.train, splits.val)]
    expected = 100 * (labels[0][nearest] == labels[1]).double().mean().item()
    assert result["top1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backbone=resnet34", *IMAGES), "does not fit this backbone: it has 100 of its 180 tensors"),
        (("backbone=resnet18", "backbone.stem=small", *IMAGES), "conv1.weight (there 64×3×7×7, here 64×3×3×3)"),
        (("backbone=resnet18",), "choose them with data="),
        ((), "or judge weights of others by linear_eval.py with backbone= and data="),
        (("backbone=resnet18", *IMAGES, "untrained=true"), "untrained=True needs a checkpoint of this project"),
        (("backbone=resnet18", *IMAGES, "layer=head"), "layer=head needs a checkpoint of this project"),
        (("backbone=resnet18", *IMAGES, "part=teacher"), "0 of its 100 tensors under teacher."),
        (("backbone=resnet18", *IMAGES, "augmentation.mean=[2,0,0]"), "augmentation.mean=(2, 0, 0) is not usable"),
        (("backbone=resnet18", *IMAGES, "augmentation.mean=0.5"), "augmentation.mean=0.5 is not usable"),
        (("backbone=resnet18", *IMAGES, "augmentation.size=big"), "augmentation.size=big is not usable"),
        (("backbone=timm", *IMAGES), "backbone.name has no default"),
        (("backbone=resnet18", *IMAGES, "backbone.pretrained_path=x"), "backbone.pretrained_path is where training"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(run: Run, file, arguments, message):
    done = run("linear_eval.py", f"ckpt={file}", *arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_says_itself_how_its_backbone_was_shown_images(run: Run, finished):
    run_dir = only_run(finished / "outputs")
    done = run("linear_eval.py", f"run={run_dir}", "augmentation.size=32", check=False)
    assert "augmentation.size is for weights of others" in done.stderr
    done = run("linear_eval.py", f"run={run_dir}", "backbone=resnet18", check=False)
    assert "backbone= is for weights of others" in done.stderr
    done = run("linear_eval.py", f"ckpt={last_checkpoint(run_dir)}", "backbone=resnet18", *IMAGES, check=False)
    assert "is a checkpoint of this project and says what its backbone is" in done.stderr


@pytest.mark.slow
def test_what_export_wrote_says_itself_how_it_was_shown_images(run: Run, finished, tmp_path):
    run("simclr.export", f"run={only_run(finished / 'outputs')}", f"output={tmp_path}/mine.safetensors")
    said = run("linear_eval.py", "ckpt=mine.safetensors", "backbone=resnet18", *IMAGES, "protocol=knn").stdout
    assert "images of 32 are scaled to that" in said


@pytest.mark.slow
def test_a_run_begins_with_them_goes_on_and_can_be_judged_untrained(run: Run, file, tmp_path):
    begin = ("train.py", *TINY_RUN, f"backbone.pretrained_path={file}", "optimizer.lr=0", "callbacks=none")
    said = run(*begin).stdout
    assert f"All 100 tensors of the backbone are from {file}" in said
    run_dir = only_run(tmp_path / "outputs")
    ours, theirs = load_file(run_dir / "backbone.safetensors"), torch.load(file, weights_only=True)
    learned = [name for name in ours if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(ours[name], theirs[name]) for name in learned)  # at a learning rate of 0

    assert "This run has finished already" in run(*begin).stdout
    others = tmp_path / "others.pth"
    torch.save(torchvision.models.resnet18().state_dict(), others)
    run("train.py", *begin[1:-3], f"backbone.pretrained_path={others}", *begin[-2:])
    assert len(list((tmp_path / "outputs").iterdir())) == 2  # other weights are another run

    run("linear_eval.py", f"run={run_dir}", "untrained=true", "protocol=knn")
    assert load_checkpoint(last_checkpoint(run_dir))["config"]["backbone"]["pretrained_path"] == str(file)
    config = load_checkpoint(last_checkpoint(run_dir))
    config["config"]["backbone"]["pretrained_path"] = str(tmp_path / "gone.pth")
    torch.save(config, tmp_path / "moved.ckpt")
    done = run("linear_eval.py", "ckpt=moved.ckpt", "untrained=true", "protocol=knn", check=False)
    assert done.stderr.startswith("error: there is no file ")
    run("linear_eval.py", "ckpt=moved.ckpt", "protocol=knn")  # what it has learned is in the checkpoint


def test_absent_weights_are_refused_before_anything_is_made(run: Run, tmp_path):
    done = run("train.py", *TINY_RUN, "backbone.pretrained_path=absent.pth", check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: there is no file {tmp_path}/absent.pth; give that of a state dict: torch.save's, or safetensors\n"
    )
    assert not list((tmp_path / "outputs").iterdir()) if (tmp_path / "outputs").exists() else True
