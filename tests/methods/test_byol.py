"""BYOL against a reference written out by hand, and what becomes of it without its parts."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F

from simclr.data.batch import Views
from simclr.methods.momentum import cosine_momentum
from simclr.runs.assemble import Assembly, assemble
from simclr.runs.compose import compose_config
from tests.conftest import Run, only_run, scalars

SMALL = ("data=shapes", "data.size=32", "head.hidden_features=32", "head.out_features=8")


def byol(*overrides: str) -> Assembly:
    narrow = "method.predictor.hidden_features=16"
    return assemble(compose_config("method=byol", *SMALL, narrow, *overrides))


def test_momentum_at_the_beginning_the_middle_and_the_end():
    """τ = 1 - (1 - τ_base)·(cos(πk/K) + 1)/2, section 3.3 of the paper."""
    assert cosine_momentum(0.996, 0) == pytest.approx(0.996)
    assert cosine_momentum(0.996, 0.5) == pytest.approx(0.998)
    assert cosine_momentum(0.996, 1) == 1
    assert cosine_momentum(0.99, 1 / 3) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 3) + 1) / 2)


def test_a_step_is_that_of_a_reference_written_by_hand():
    """The online network moves by the gradient, then the target by the online network; float64."""
    method = byol("method.momentum=0.9").method.double()
    views = [torch.rand(6, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    online = copy.deepcopy(torch.nn.Sequential(method.backbone, method.head))
    predictor, target = copy.deepcopy(method.predictor), copy.deepcopy(online)

    optimizer = torch.optim.Adam([p for group in method.parameter_groups() for p in group["params"]], lr=1e-3)
    loss = method.compute(Views(views, {}))["loss"]
    loss.backward()
    optimizer.step()
    method.after_step(0.25)

    with torch.no_grad():
        aims = [target(view) for view in views]
    predictions = [predictor(online(view)) for view in views]
    expected = torch.zeros((), dtype=torch.float64)
    for q, z in ((predictions[0], aims[1]), (predictions[1], aims[0])):
        expected = expected + (F.normalize(q) - F.normalize(z)).square().sum(dim=1).mean() / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    by_hand = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=1e-3)
    expected.backward()
    by_hand.step()
    tau = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.copy_(tau * slow + (1 - tau) * fast)

    ours = torch.nn.Sequential(method.backbone, method.head)
    targets = torch.nn.Sequential(method.target_backbone, method.target_head)
    for mine, theirs in ((ours, online), (method.predictor, predictor), (targets, target)):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=0, atol=1e-10)


def test_the_target_gets_no_gradient_and_starts_as_the_online_network():
    method = byol().method
    for name, tensor in method.target_backbone.state_dict().items():
        assert torch.equal(tensor, method.backbone.state_dict()[name])
    method.compute(Views([torch.rand(4, 3, 32, 32) for _ in range(2)], {}))["loss"].backward()
    target = [*method.target_backbone.parameters(), *method.target_head.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in target)
    learning = {parameter for group in method.parameter_groups() for parameter in group["params"]}
    assert not learning & set(target)


def test_small_views_predict_and_are_no_targets():
    """Two large views and a small one: four pairs, and the target sees the large ones alone."""
    method = byol().method
    sizes = []
    method.target_backbone.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-1]))
    method.compute(Views([torch.rand(4, 3, size, size) for size in (32, 32, 16)], {}))
    assert sizes == [32, 32]


# Batches of 64 are too few to whiten 64 features, as method=byol does by itself.
LEARNING = (
    *("experiment=quickstart", "data.size=24", "method=byol", "method.momentum=0.9"),
    *("head=moco_v3", "scheduler.warmup_epochs=0", "threads=1", "callbacks.progress=null"),
)


@pytest.mark.slow
def test_it_learns(run: Run, tmp_path):
    """k-NN of procedural shapes ends at least 15 points above the untrained encoder's, and no alarm is left.

    In the first epoch of a run as short as this the embeddings spread along few directions, and theirs may ring.
    """
    said = run("train.py", *LEARNING, "epochs=3", "callbacks.online_knn.every_n_epochs=3").stdout
    assert not re.findall(r"Epoch [23]: .*COLLAPSED", said)
    assert "seems to have learned nothing" not in said
    curve = [value for _, value in scalars(only_run(tmp_path / "outputs"))["val/knn_top1"]]
    assert curve[-1] > curve[0] + 15


@pytest.mark.slow
def test_without_predictor_and_momentum_it_collapses_and_the_alarm_says_so(run: Run):
    without = ("method.predictor=null", "method.momentum=0", "callbacks.online_knn=null")
    done = run("train.py", *LEARNING[:3], *LEARNING[4:], *without, "epochs=1")
    assert "COLLAPSED" in done.stdout
