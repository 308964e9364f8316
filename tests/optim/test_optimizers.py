"""Every optimiser in configs/optimizer goes down a slope, tells norms from matrices, and goes on from its state."""

import builtins
import sys

import pytest
import torch
from torch import nn

from simclr.errors import InputError
from simclr.optim.groups import norms_and_biases_undecayed
from simclr.runs.build import factory
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS

OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))


def made(name: str, network: nn.Module) -> torch.optim.Optimizer:
    return factory(compose_config(f"optimizer={name}", "optimizer.lr=0.01").optimizer)(
        norms_and_biases_undecayed(network.parameters())
    )


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    images, losses = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), []
    for _ in range(count):
        optimizer.zero_grad()
        loss = (network(images) - images.flip(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 6))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_down_and_goes_on_from_its_state(name):
    whole, parts = network(), network()
    optimizer = made(name, whole)
    losses = steps(whole, optimizer, 20)
    assert losses[-1] < losses[0]
    first = made(name, parts)
    steps(parts, first, 8)
    second = made(name, parts)
    second.load_state_dict(first.state_dict())
    steps(parts, second, 12)
    for ours, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_lars_adapts_matrices_alone():
    """‖Δw‖ of a matrix is rate · trust · ‖w‖ (You et al. 2017, eq. 6), whatever its gradient; a bias moves by SGD."""
    layer = nn.Linear(6, 6).double()
    optimizer = factory(compose_config("optimizer=lars", "optimizer.lr=0.5", "optimizer.weight_decay=1e-12").optimizer)(
        norms_and_biases_undecayed(layer.parameters())
    )
    before = [p.detach().clone() for p in layer.parameters()]
    (1e3 * layer(torch.ones(2, 6).double())).square().mean().backward()
    optimizer.step()
    weight, bias = (now.detach() - then for now, then in zip(layer.parameters(), before, strict=True))
    assert weight.norm().item() == pytest.approx(0.5 * 0.001 * before[0].norm().item(), rel=1e-6)
    torch.testing.assert_close(bias, -0.5 * layer.bias.grad)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_moves_a_matrix_by_the_polar_factor_of_its_momentum_and_a_bias_as_adamw(nesterov):
    """All singular values become one, as large as a step of Adam's (Liu et al. 2025, eq. 4): 0.2 in the mean square."""
    layer, random = nn.Linear(24, 16), torch.Generator().manual_seed(0)
    overrides = ("optimizer=muon", "optimizer.lr=0.01", f"optimizer.nesterov={nesterov}")
    optimizer = factory(compose_config(*overrides).optimizer)(norms_and_biases_undecayed(layer.parameters()))
    bias = nn.Parameter(layer.bias.detach().clone())
    of_bias = torch.optim.AdamW([bias], lr=0.01, betas=(0.9, 0.95), weight_decay=0, eps=1e-7)
    momentum = torch.zeros(16, 24)
    for _ in range(3):
        before, slope = layer.weight.detach().clone(), torch.randn(16, 24, generator=random)
        layer.weight.grad, layer.bias.grad = slope.clone(), torch.randn(16, generator=random)
        bias.grad = layer.bias.grad.clone()
        optimizer.step()
        of_bias.step()
        momentum = momentum.lerp(slope, 0.05)
        u, _, vt = torch.linalg.svd(slope.lerp(momentum, 0.95) if nesterov else momentum, full_matrices=False)
        step = (before - layer.weight.detach()) / 0.01
        assert torch.cosine_similarity(step.flatten(), (u @ vt).flatten(), dim=0) > 0.98
        assert step.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.1)
    if not nesterov:  # else it is timm's NAdamW, which torch has not
        torch.testing.assert_close(layer.bias, bias, atol=1e-5, rtol=0)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    real = builtins.__import__

    def without_timm(name, *arguments, **options):
        if name.split(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r'timm.optim.Lars needs a package .* pip install -e "\.\[timm\]"'):
        factory(compose_config("optimizer=lars").optimizer)
