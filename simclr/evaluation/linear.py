"""The linear protocol: multinomial logistic regression on frozen features, to convergence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from simclr.errors import InputError
from simclr.numbers import is_finite
from simclr.randomness import generator

log = logging.getLogger(__name__)

PATIENCE = 3  # strengths in a row that do no better than the best so far, and the search stops


def protocol(train_images: int, grid: Sequence[float]) -> str:
    """The words that stand beside a linear figure."""
    return (
        "multinomial logistic regression (L-BFGS to convergence) on standardised, frozen, pooled features of "
        f"{train_images} un-augmented training pictures; L2 chosen from {list(grid)}, strong to weak until {PATIENCE} "
        "in a row do no better, on a held-out tenth of them, "
        "refit on all; validation labels read once; interval: 95 % percentile bootstrap over validation pictures"
    )


class LinearProbe(NamedTuple):
    """A classifier of raw features: scores = (features - mean) / scale @ weight.T + bias."""

    weight: Tensor  # [C, F]
    bias: Tensor  # [C]
    mean: Tensor  # [F], of the features it was fitted on
    scale: Tensor  # [F]

    def scores(self, features: Tensor) -> Tensor:
        """float [N, F] to class scores [N, C]."""
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)


class LinearResult(NamedTuple):
    """Validation accuracy in per cent, its 95 % interval, and the L2 strength chosen on held-out train."""

    top1: float
    top5: float
    top1_low: float
    top1_high: float
    l2: float


def fit(
    features: Tensor, labels: Tensor, classes: int, l2: float, start: LinearProbe | None = None, max_steps: int = 1000
) -> LinearProbe:
    """Minimise mean cross-entropy + l2/2 · ‖weight‖² over standardised features; the bias is not penalised.

    features: float [N, F], labels: int64 [N]. start: a probe on the same features to begin from.
    scikit-learn's C is 1 / (l2 · N). The problem is convex, so where it starts changes the time and not the result.
    """
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    standard = (features - mean) / scale
    weight = torch.zeros(classes, features.shape[1], device=features.device, dtype=features.dtype)
    bias = torch.zeros(classes, device=features.device, dtype=features.dtype)
    if start is not None:
        weight, bias = start.weight.clone(), start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    spent = solver.state[weight]
    if spent["n_iter"] >= max_steps or spent["func_evals"] >= 2 * max_steps:
        log.warning("The logistic regression at L2 %g was stopped after %d steps, before it converged.", l2, max_steps)
    return LinearProbe(weight.detach(), bias.detach(), mean, scale)


def check_grid(grid: Sequence[float]) -> None:
    """Raise InputError unless `grid` holds one or more L2 strengths, all finite and greater than 0."""
    usable = isinstance(grid, Sequence) and not isinstance(grid, str) and len(grid) > 0
    if not usable or not all(is_finite(l2) and l2 > 0 for l2 in grid):
        raise InputError(f"l2_grid={grid} is not usable; it lists one or more numbers greater than 0")


def choose_l2(features: Tensor, labels: Tensor, classes: int, grid: Sequence[float]) -> float:
    """The strength in `grid` whose probe, fitted on nine tenths of train, is right most often on the other tenth.

    From strong to weak, each fit starting at the last, until PATIENCE in a row did no better: held-out accuracy rises
    to one peak and falls, and the weak end is the slow one. The tenth is a fixed shuffle's first.
    """
    order = torch.randperm(len(features), generator=generator("held-out tenth")).to(features.device)
    held_out, rest = order[: len(order) // 10], order[len(order) // 10 :]
    probe, best, since_best = None, (-1.0, 0.0), 0
    for l2 in track(sorted(grid, reverse=True), "Choosing the L2 strength"):
        probe = fit(features[rest], labels[rest], classes, l2, probe)
        correct = (probe.scores(features[held_out]).argmax(dim=1) == labels[held_out]).float().mean().item()
        since_best = 0 if correct > best[0] else since_best + 1
        best = max(best, (correct, l2))
        if since_best == PATIENCE:
            break
    return best[1]


def linear_evaluation(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    classes: int,
    grid: Sequence[float],
) -> LinearResult:
    """The whole protocol on features float [N, F] and labels int64 [N]; validation labels are read at the end alone.

    With fewer than five classes top-5 is 100 %. Raises InputError for a grid that check_grid refuses, where train is
    too small to hold a tenth out or has a single class, and for features that are not finite.
    """
    check_grid(grid)
    if len(train) < 20:
        raise InputError(f"linear evaluation needs at least 20 labelled training pictures, got {len(train)}")
    if len(train_labels.unique()) < 2:
        raise InputError(
            "linear evaluation needs training pictures of two classes or more, got one; choose others with data="
        )
    if not (train.isfinite().all() and val.isfinite().all()):
        raise InputError(
            "linear evaluation needs finite features, and the encoder's are not: its training has diverged; train it "
            "anew with a smaller optimizer.lr"
        )
    l2 = choose_l2(train, train_labels, classes, grid)
    probe = fit(train, train_labels, classes, l2)
    best = probe.scores(val).topk(min(5, classes), dim=1).indices == val_labels[:, None]
    correct = best[:, 0].cpu().numpy()
    low, high = bootstrap_interval(correct)
    return LinearResult(
        top1=100 * float(correct.mean()),
        top5=100 * best.any(dim=1).float().mean().item(),
        top1_low=100 * low,
        top1_high=100 * high,
        l2=l2,
    )


def bootstrap_interval(correct: np.ndarray, level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `correct`, bool [N].

    Drawing N of N with replacement makes the number that is right Binomial(N, mean), so that is drawn instead.
    """
    means = np.random.default_rng(0).binomial(len(correct), correct.mean(), resamples) / len(correct)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
