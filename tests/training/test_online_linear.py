"""A probe that learns beside the encoder: it finds what there is to find, and the encoder never knows of it."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from simclr.errors import InputError
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.training.online_linear import OnlineLinear
from tests.conftest import TINY_RUN, Run, image_bytes, only_run, weights, write_folder

WITH = ("callbacks=online_linear", "callbacks.online_linear.every_n_epochs=1", "callbacks.online_knn=null")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [(), ("method=byol", "head.hidden_features=32", "method.predictor.hidden_features=32")]
)
def test_the_encoder_is_the_same_to_the_bit_with_it_and_without(run: Run, tmp_path, overrides):
    with_it = run("train.py", *TINY_RUN, *overrides, *WITH, "output_root=with")
    run("train.py", *TINY_RUN, *overrides, "callbacks.online_knn=null", "output_root=without")
    ours, theirs = (only_run(tmp_path / name) for name in ("with", "without"))
    assert ours.name == theirs.name  # it is no other run, either
    for name, tensor in weights(theirs).items():
        assert torch.equal(weights(ours)[name], tensor)
    metrics = json.loads((ours / "metrics.json").read_text())
    assert "Epoch 1: linear top-1" in with_it.stdout
    assert metrics["val/linear_top5"] >= metrics["val/linear_top1"] >= 0
    assert "detached" in metrics["protocol"]["val/linear_top1"]
    assert metrics["train/loss"] == json.loads((theirs / "metrics.json").read_text())["train/loss"]


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_probe_that_it_had(run: Run, tmp_path):
    run("train.py", *TINY_RUN, *WITH, "epochs=1", "output_root=half", "scheduler=study")
    run("train.py", *TINY_RUN, *WITH, "epochs=2", "output_root=whole", "scheduler=study")
    half, whole = only_run(tmp_path / "half"), only_run(tmp_path / "whole")
    run("train.py", *TINY_RUN, *WITH, "output_root=gone_on", "scheduler=study", f"resume={half}")
    gone_on = only_run(tmp_path / "gone_on")
    states = [
        next(
            state
            for name, state in load_checkpoint(last_checkpoint(run_dir))["callbacks"].items()
            if name.startswith("OnlineLinear")
        )
        for run_dir in (whole, gone_on)
    ]
    assert states[0]["steps"] == states[1]["steps"] == 8
    for name in ("weight", "bias"):
        assert torch.equal(states[0]["probe"][name], states[1]["probe"][name])
        assert states[0]["probe"][name].abs().sum() > 0


def test_on_features_that_stand_still_it_becomes_the_logistic_regression():
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=random)
    labels = torch.randint(4, (4000,), generator=random)
    features = (centres[labels] + torch.randn(4000, 16, generator=random)) * torch.logspace(-2, 2, 16) + 5
    probe = OnlineLinear(1, 1e-2)
    probe.probe = torch.nn.Linear(16, 4)
    torch.nn.init.zeros_(probe.probe.weight)
    torch.nn.init.zeros_(probe.probe.bias)
    probe.mean, probe.variance = torch.zeros(16), torch.ones(16)
    probe.optimizer = torch.optim.Adam(probe.probe.parameters(), lr=probe.lr)
    for _ in range(600):
        rows = torch.randint(3000, (256,), generator=random)
        probe._learn(features[rows], labels[rows])
    with torch.no_grad():
        ours = (probe.probe(probe._standard(features[3000:])).argmax(dim=1) == labels[3000:]).float().mean().item()
    standard = (features - features[:3000].mean(0)) / features[:3000].std(0)
    oracle = LogisticRegression(C=1e3, max_iter=2000).fit(standard[:3000], labels[:3000])
    assert ours == pytest.approx(oracle.score(standard[3000:], labels[3000:]), abs=0.02)
    torch.testing.assert_close(probe.mean, features[:3000].mean(0), rtol=0.1, atol=0.05 * features.std(0).max().item())


def test_where_there_are_no_labels_it_is_off_with_a_word(run: Run, tmp_path):
    files = {f"{i}.png": image_bytes(np.full((20, 20, 3), 3 * i, np.uint8)) for i in range(40)}
    root = write_folder(tmp_path / "images", files)
    overrides = [override for override in TINY_RUN if not override.startswith("data")]
    done = run("train.py", *overrides, *WITH, "data=image_folder", f"data.root={root}", "data.size=16")
    assert "have no labels: val/linear_top1 is not measured" in done.stdout
    assert "val/linear_top1" not in json.loads((only_run(tmp_path / "outputs") / "metrics.json").read_text())


def test_a_step_that_is_not_finite_does_not_end_it():
    probe = OnlineLinear(1, 1e-2)
    probe.probe = torch.nn.Linear(3, 2)
    probe.mean, probe.variance = torch.zeros(3), torch.ones(3)
    probe.optimizer = torch.optim.Adam(probe.probe.parameters(), lr=probe.lr)
    probe._learn(torch.tensor([[torch.nan, torch.inf, 1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1]))
    assert probe.probe.weight.isfinite().all()


@pytest.mark.parametrize("lr", [0, -1, "fast", float("inf")])
def test_a_rate_that_is_none_is_refused(lr):
    with pytest.raises(InputError, match=r"callbacks\.online_linear\.lr="):
        OnlineLinear(1, lr)
