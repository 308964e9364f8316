"""A method that is nothing like SimCLR, added by the five steps of CONTRIBUTING alone, does all that SimCLR does."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from simclr.runs.checkpoint import last_checkpoint, load_checkpoint, previous_checkpoint
from tests.conftest import REPOSITORY, TINY_RUN, CommandServer, command, only_run, scalars

pytestmark = pytest.mark.slow  # the methods that are there keep to the same contract in the fast tests

CONFIGS = {
    "method/labelled_teacher.yaml": """
        _target_: simclr.methods.labelled_teacher.LabelledTeacher
        classes: 10
        momentum: 0.9
        decay_norms_and_biases: false
    """,
    "augmentation/small_and_large.yaml": """
        defaults:
          - baseline
        blur_kernel: 3
        views: [{}, {}, {size: 8, crop_scale: [0.05, 0.3]}]
    """,
    "head/narrow.yaml": """
        _target_: simclr.models.heads.ProjectionHead
        hidden_features: 32
        out_features: 8
    """,
}
CHOICES = ("method=labelled_teacher", "augmentation=small_and_large", "head=narrow", "optimizer.weight_decay=0.01")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the project with the method added."""
    checkout = tmp_path_factory.mktemp("project")
    for folder in ("simclr", "configs"):
        shutil.copytree(REPOSITORY / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ("train.py", "linear_eval.py"):
        shutil.copyfile(REPOSITORY / script, checkout / script)
    shutil.copyfile(
        Path(__file__).with_name("second_method.py"), checkout / "simclr" / "methods" / "labelled_teacher.py"
    )
    for name, text in CONFIGS.items():
        lines = text.strip("\n").splitlines()
        (checkout / "configs" / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines), "utf-8")
    return checkout


@pytest.fixture(scope="module")
def run_there(checkout, tmp_path_factory) -> Iterator[Callable[..., str]]:
    """run_there(program, arguments...) is what a command of the copy prints, in its folder."""
    server = CommandServer(tmp_path_factory.mktemp("commands"), checkout)

    def run_there(program: str, *arguments: object) -> str:
        done = server(command(program, *arguments, checkout=checkout), checkout)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run_there
    server.stop()


@pytest.fixture(scope="module")
def project(checkout, run_there) -> Path:
    """The copy, with a finished run of the method."""
    (checkout / "train.txt").write_text(run_there("train.py", *TINY_RUN, *CHOICES), "utf-8")
    return checkout


def test_it_trains_and_its_scalars_are_known(project):
    run = only_run(project / "outputs")
    assert run.name.startswith("labelled_teacher-small_and_large-narrow-")
    assert "agree " in (project / "train.txt").read_text("utf-8")
    assert {"train/loss", "train/agreement", "train/accuracy"} <= scalars(run).keys()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["scalars"]["train/accuracy"]["unit"] == "%"
    assert "training accuracy" in metrics["protocol"]["train/loss, train/agreement, train/accuracy"]


def test_its_target_follows_the_network_slowly(project):
    run = only_run(project / "outputs")
    state = load_checkpoint(last_checkpoint(run))["state_dict"]
    start = load_checkpoint(previous_checkpoint(run))["state_dict"]
    name = "backbone.layer1.0.conv1.weight"
    fast, slow = ((state[key] - start[key]).norm() for key in (name, f"target_{name}"))
    assert 0 < slow < fast
    assert not torch.equal(state[name], state[f"target_{name}"])


def test_weight_decay_spares_norms_and_biases(project):
    (optimizer,) = load_checkpoint(last_checkpoint(only_run(project / "outputs")))["optimizer_states"]
    decayed, spared = optimizer["param_groups"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert len(decayed["params"]) == 20 + 2 + 1  # convolutions, the head's two matrices, the classifier's
    assert len(spared["params"]) == 20 * 2 + 2 + 1


def test_it_resumes_bit_for_bit(project, run_there):
    run = only_run(project / "outputs")
    run_there("train.py", *TINY_RUN, *CHOICES, f"resume={previous_checkpoint(run)}", "output_root=resumed")
    again = load_checkpoint(last_checkpoint(only_run(project / "resumed")))
    before = load_checkpoint(last_checkpoint(run))
    assert again["global_step"] == before["global_step"]
    for name, tensor in before["state_dict"].items():
        assert torch.equal(again["state_dict"][name], tensor), name


def test_it_is_judged_drawn_and_reported(project, run_there):
    run = only_run(project / "outputs")
    for arguments in (
        ("linear_eval.py", f"run={run}"),
        ("linear_eval.py", f"run={run}", "layer=head"),
        ("simclr.visualize", f"run={run}"),
        ("simclr.report", "outputs"),
    ):
        run_there(*arguments)
    for name in ("linear_eval.json", "linear_eval_head.json"):
        assert 0 <= json.loads((run / name).read_text("utf-8"))["top1"] <= 100
    assert {path.name for path in (run / "figures").iterdir()} == {
        "augmented_pairs.png", "latent_space.png", "neighbours.png",
    }  # fmt: skip
    assert (project / "outputs" / "report" / "report.html").exists()
