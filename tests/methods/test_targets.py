"""Targets and predictors in whole steps: SimSiam and MoCo v3 by their pseudo-code, momentum in a run, no predictor."""

import copy
import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from simclr.data.batch import Views
from simclr.errors import InputError
from simclr.methods.momentum import cosine_momentum
from simclr.runs.assemble import Assembly, assemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.compose import compose_config
from simclr.training.datamodule import PretrainingData
from simclr.training.not_finite import NotFinite
from tests.commands.test_resume import wait_for_a_checkpoint
from tests.conftest import TINY_RUN, only_run, scalars

NARROW = ("head.hidden_features=32", "head.out_features=8", "method.predictor.hidden_features=16")
SMALL = ("data=shapes", "data.size=32", "head.hidden_features=32", "head.out_features=8")


def small(method: str, *overrides: str) -> Assembly:
    return assemble(compose_config(f"method={method}", *SMALL, *overrides))


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def simsiam_step(method: Any, x1: Tensor, x2: Tensor) -> Tensor:
    """Algorithm 1 of Chen & He 2021."""
    f, h = nn.Sequential(method.backbone, method.head), method.predictor
    z1, z2 = f(x1), f(x2)
    p1, p2 = h(z1), h(z2)

    def d(p: Tensor, z: Tensor) -> Tensor:
        return -(unit(p) * unit(z.detach())).sum(dim=1).mean()

    return d(p1, z2) / 2 + d(p2, z1) / 2


def moco_v3_step(method: Any, x1: Tensor, x2: Tensor) -> Tensor:
    """Algorithm 1 of Chen, Xie & He 2021, temperature 0.07."""
    f_q = nn.Sequential(method.backbone, method.head, method.predictor)
    f_k = nn.Sequential(method.target_backbone, method.target_head)
    q1, q2 = f_q(x1), f_q(x2)
    k1, k2 = f_k(x1).detach(), f_k(x2).detach()

    def ctr(q: Tensor, k: Tensor) -> Tensor:
        logits = unit(q) @ unit(k).T
        return 2 * 0.07 * nn.CrossEntropyLoss()(logits / 0.07, torch.arange(len(q)))

    return ctr(q1, k2) + ctr(q2, k1)


@pytest.mark.parametrize(("name", "paper"), [("simsiam", simsiam_step), ("moco_v3", moco_v3_step)])
def test_a_step_is_that_of_the_pseudo_code(name, paper):
    """Loss, every gradient and every running statistic, in float64; the target differs from the online network."""
    ours: Any = small(name, "method.predictor.hidden_features=16").method.double()
    torch.manual_seed(1)
    views = [torch.rand(6, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    if name == "moco_v3":
        for parameter in [*ours.target_backbone.parameters(), *ours.target_head.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    theirs = copy.deepcopy(ours)
    loss, expected = ours.compute(Views(views, {}))["loss"], paper(theirs, *views)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for (key, found), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (found.grad is None) == key.startswith("target_"), key
        torch.testing.assert_close(found.grad, reference.grad, rtol=0, atol=1e-10, msg=key)
    for (key, found), reference in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-12, msg=key)


class Weights(pl.Callback):
    """What online network and target hold before the first step, and after each."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[Tensor], list[Tensor]]] = []

    def remember(self, method: Any) -> None:
        parts = ((method.backbone, method.head), (method.target_backbone, method.target_head))
        online, target = ([p.detach().clone() for part in both for p in part.parameters()] for both in parts)
        self.seen.append((online, target))

    def on_train_start(self, trainer, pl_module) -> None:
        self.remember(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.remember(pl_module)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "momentum"), [("byol", 0.9), ("moco_v3", 0.5), ("byol", 0.0)])
def test_a_run_moves_its_target_after_every_step_by_the_cosine_rule(name, momentum):
    """As the authors' code counts: the first of K steps has τ_base (k = 0). Where it is 0 it stays 0 (table 5a)."""
    made = small(name, f"method.momentum={momentum}", "data.train_count=32", "data.val_count=10")
    weights = Weights()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[NotFinite("stop"), weights],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(made.method, PretrainingData(made.source, made.augmentation, batch_size=16, seed=0))
    assert len(weights.seen) == 1 + 4
    for k, ((_, before), (online, target)) in enumerate(zip(weights.seen, weights.seen[1:], strict=False)):
        tau = 1 - (1 - momentum) * (math.cos(math.pi * k / 4) + 1) / 2 if momentum else 0
        for slow, fast, now in zip(before, online, target, strict=True):
            torch.testing.assert_close(now, tau * slow + (1 - tau) * fast, rtol=1e-5, atol=1e-7)


def test_a_momentum_of_zero_is_no_moving_average_from_beginning_to_end():
    assert [cosine_momentum(0, progress) for progress in (0, 0.5, 1)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco_v3"])
def test_without_a_predictor_projections_are_compared_themselves(name):
    method: Any = small(name, "method.predictor=null").method.double()
    views = [torch.rand(4, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    whole = method.compute(Views(views, {}))["loss"]
    assert not list(method.predictor.parameters())
    if name == "byol":  # at the start the target is the online network
        one, other = (unit(method.project(view)) for view in views)
        assert whole.item() == pytest.approx((2 - 2 * (one * other).sum(dim=1)).mean().item())
    with pytest.raises(InputError, match=r"predictor=no is not usable; write null for none"):
        small(name, "method.predictor=no")


@pytest.mark.slow
def test_byol_is_killed_in_the_middle_of_an_epoch_and_ends_with_the_same_bits(tmp_path, start_training):
    """Online network, target, statistics of both, optimiser and curves."""
    choices = (*TINY_RUN, "data.train_count=192", "method=byol", "method.momentum=0.9", *NARROW, "callbacks=none")
    overrides = (*choices, "checkpoint_minutes=0.002")
    whole = start_training(tmp_path / "whole", *overrides)
    assert whole.wait() == 0, whole.said

    killed = start_training(tmp_path / "killed", *overrides)
    wait_for_a_checkpoint(tmp_path / "killed", killed, range(3, 10))
    killed.kill()
    assert not list(tmp_path.glob("killed/outputs/*/metrics.json"))
    again = start_training(tmp_path / "killed", *overrides)
    assert again.wait() == 0, again.said
    assert "Going on from" in again.said

    ours, theirs = (only_run(tmp_path / name / "outputs") for name in ("killed", "whole"))
    found, expected = (load_checkpoint(last_checkpoint(path)) for path in (ours, theirs))
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert any(name.startswith("target_backbone.") for name in found["state_dict"])
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor), name
    moments, reference = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (found, expected))
    assert all(torch.equal(moments[i]["exp_avg_sq"], reference[i]["exp_avg_sq"]) for i in reference)
    for tag in ("train/loss", "train/spread", "train/lr"):
        assert scalars(ours)[tag] == scalars(theirs)[tag]
