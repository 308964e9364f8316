"""The linear protocol: multinomial logistic regression on frozen features, to convergence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from simclr.errors import InputError
from simclr.evaluation.knn import check_settings, knn_predict, protocol
from simclr.evaluation.protocol import (
    Judgement,
    Protocol,
    Subject,
    accuracy,
    check_features,
    held_out_tenth,
    interval_words,
)
from simclr.numbers import is_finite

log = logging.getLogger(__name__)

PATIENCE = 3  # strengths in a row that do no better than the best so far, and the search stops


class LinearProbe(NamedTuple):
    """A classifier of raw features: scores = (features - mean) / scale @ weight.T + bias."""

    weight: Tensor  # [C, F]
    bias: Tensor  # [C]
    mean: Tensor  # [F], of the features it was fitted on
    scale: Tensor  # [F]

    def scores(self, features: Tensor) -> Tensor:
        """float [N, F] to class scores [N, C]."""
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)


def fit(
    features: Tensor, labels: Tensor, classes: int, l2: float, start: LinearProbe | None = None, max_steps: int = 1000
) -> LinearProbe:
    """Minimise mean cross-entropy + l2/2 · ‖weight‖² over standardised features; the bias is not penalised.

    features: float [N, F], labels: int64 [N]. start: a probe on the same features to begin from.
    scikit-learn's C is 1 / (l2 · N). The problem is convex, so where it starts changes the time and not the result.
    """
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    axes = PrincipalAxes.of((features - mean) / scale)
    weight, bias = axes.fit(labels, classes, l2, None if start is None else (start.weight, start.bias), max_steps)
    return LinearProbe(weight, bias, mean, scale)


class PrincipalAxes(NamedTuple):
    """Standardised features along the axes in which they do not correlate.

    There the curvature of the loss is nearly diagonal, and known: L-BFGS on weights divided by its root takes a fifth
    of the steps. The rotation leaves ‖weight‖, and so the problem, as it was.
    """

    features: Tensor  # [N, F], rotated
    variance: Tensor  # [F], along each axis
    rotation: Tensor  # [F, F]

    @classmethod
    def of(cls, standard: Tensor) -> PrincipalAxes:
        """The axes of features [N, F] that are standardised already."""
        variance, rotation = torch.linalg.eigh(standard.T @ standard / len(standard))
        return cls(standard @ rotation, variance.clamp(min=0), rotation)

    def fit(
        self, labels: Tensor, classes: int, l2: float, start: tuple[Tensor, Tensor] | None, max_steps: int = 1000
    ) -> tuple[Tensor, Tensor]:
        """The optimal weight [C, F], of the features before rotation, and bias [C]."""
        if start is None:
            weight, bias = self.features.new_zeros(classes, len(self.variance)), self.features.new_zeros(classes)
        else:
            weight, bias = start[0] @ self.rotation, start[1]
        # The softmax's part in the curvature, p (1 - p), as it is on average where the fit starts.
        chances = F.linear(self.features, weight, bias).softmax(dim=1)
        curvature = (1 - chances.square().sum(dim=1).mean()).clamp(min=1e-3) / classes
        per_weight, per_bias = (self.variance * curvature + l2).rsqrt(), curvature.rsqrt()
        scaled_weight, scaled_bias = (weight / per_weight).requires_grad_(), (bias / per_bias).requires_grad_()
        solver = torch.optim.LBFGS(
            [scaled_weight, scaled_bias],
            max_iter=max_steps,
            max_eval=2 * max_steps,
            tolerance_grad=1e-6,
            tolerance_change=1e-7,  # of the loss; float32 resolves no less
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            solver.zero_grad()
            weight = scaled_weight * per_weight
            scores = F.linear(self.features, weight, scaled_bias * per_bias)
            loss = F.cross_entropy(scores, labels) + l2 / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(objective)
        spent = solver.state[scaled_weight]
        if spent["n_iter"] >= max_steps or spent["func_evals"] >= 2 * max_steps:
            log.warning(
                "The logistic regression at L2 %g was stopped after %d steps, before it converged.", l2, max_steps
            )
        return (scaled_weight.detach() * per_weight) @ self.rotation.T, scaled_bias.detach() * per_bias


def check_grid(grid: Sequence[float]) -> None:
    """Raise InputError unless `grid` holds one or more L2 strengths, all finite and greater than 0."""
    usable = isinstance(grid, Sequence) and not isinstance(grid, str) and len(grid) > 0
    if not usable or not all(is_finite(l2) and l2 > 0 for l2 in grid):
        raise InputError(f"protocol.l2_grid={grid} is not usable; it lists one or more numbers greater than 0")


def choose_l2(features: Tensor, labels: Tensor, classes: int, grid: Sequence[float]) -> float:
    """The strength in `grid` whose probe, fitted on nine tenths of train, is right most often on the other tenth.

    From strong to weak, each fit starting at the last, until PATIENCE in a row did no better: held-out accuracy rises
    to one peak and falls, and the weak end is the slow one.
    """
    held_out, rest = (rows.to(features.device) for rows in held_out_tenth(len(features)))
    mean, scale = features[rest].mean(dim=0), features[rest].std(dim=0).clamp(min=1e-6)
    axes, held_out_features = PrincipalAxes.of((features[rest] - mean) / scale), (features[held_out] - mean) / scale
    probe, best, since_best = None, (-1.0, 0.0), 0
    for l2 in track(sorted(grid, reverse=True), "Choosing the L2 strength"):
        probe = axes.fit(labels[rest], classes, l2, probe)
        correct = (F.linear(held_out_features, *probe).argmax(dim=1) == labels[held_out]).float().mean().item()
        since_best = 0 if correct > best[0] else since_best + 1
        best = max(best, (correct, l2))
        if since_best == PATIENCE:
            break
    return best[1]


class LinearResult(NamedTuple):
    """Whether each validation picture was right at once and among five: bool [N]; and the L2 strength chosen."""

    top1: Tensor
    top5: Tensor
    l2: float


def linear_evaluation(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, classes: int, grid: Sequence[float]
) -> LinearResult:
    """The whole protocol on features float [N, F] and labels int64 [N]; validation labels are read at the end alone.

    With fewer than five classes all are among five. Raises InputError for a grid that check_grid refuses, where train
    is too small to hold a tenth out or has a single class, and for features that are not finite.
    """
    check_grid(grid)
    if len(train_labels.unique()) < 2:
        raise InputError(
            "linear evaluation needs training pictures of two classes or more, got one; choose others with data="
        )
    check_features(train, val)
    l2 = choose_l2(train, train_labels, classes, grid)
    probe = fit(train, train_labels, classes, l2)
    best = probe.scores(val).topk(min(5, classes), dim=1).indices == val_labels[:, None]
    return LinearResult(best[:, 0], best.any(dim=1), l2)


class Linear(Protocol):
    """The linear protocol, and a k-NN figure beside it.

    l2_grid: strengths to choose from. knn: k and temperature, not chosen but fixed, to compare runs by.
    """

    name = "linear"

    def __init__(self, l2_grid: Sequence[float], knn: dict[str, Any]) -> None:
        check_grid(l2_grid)
        if not isinstance(knn, dict) or set(knn) != {"k", "temperature"}:
            raise InputError(f"protocol.knn={knn} is not usable; it has a k and a temperature")
        check_settings(**knn, group="protocol.knn")
        self.l2_grid, self.knn = l2_grid, knn

    def judge(self, subject: Subject) -> Judgement:
        bank, queries = subject.features
        bank_labels, query_labels = subject.labels()
        classes = len(subject.train.classes)
        result = linear_evaluation(bank, bank_labels, queries, query_labels, classes, self.l2_grid)
        nearest = knn_predict(bank, bank_labels, queries, classes, **self.knn) == query_labels
        numbers = accuracy(result.top1) | {
            "top5": 100 * result.top5.float().mean().item(),
            "knn_top1": 100 * nearest.float().mean().item(),
            "l2": result.l2,
        }
        words = {"linear": self._words(len(bank)), "knn": protocol(len(bank), **self.knn)}
        lines = [
            "linear top-1 {top1:.2f} % (95 % interval {top1_low:.2f} to {top1_high:.2f})".format(**numbers),
            "linear top-5 {top5:.2f} %, L2 strength {l2:g}".format(**numbers),
            "k-NN   top-1 {knn_top1:.2f} %".format(**numbers),
        ]
        return Judgement(numbers, words, lines)

    def _words(self, train_images: int) -> str:
        return (
            "multinomial logistic regression (L-BFGS to convergence) on standardised, frozen, pooled features of "
            f"{train_images} un-augmented training pictures; L2 chosen from {list(self.l2_grid)}, strong to weak until "
            f"{PATIENCE} in a row do no better, on a held-out tenth of them, "
            f"refit on all; validation labels read once; {interval_words()}"
        )


class Transfer(Linear):
    """The linear protocol on a picture set that the encoder was not trained on."""

    name = "transfer"
