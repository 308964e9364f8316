"""The linear protocol: multinomial logistic regression on frozen features, to convergence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from simclr.errors import InputError
from simclr.evaluation.held_out import HeldOut, check_grid, held_out_score, hold_out, middle
from simclr.evaluation.knn import check_settings, knn_predict, protocol
from simclr.evaluation.principal_axes import PrincipalAxes
from simclr.evaluation.protocol import (
    ACCURACY_WORDS,
    Judgement,
    Protocol,
    Subject,
    accuracy,
    accuracy_line,
    check_classes,
    check_features,
    tried,
)

BINS = 15  # of confidence, as usual
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


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, grid: Sequence[float], held: HeldOut
) -> tuple[float, float | None]:
    """The strength in `grid` whose probe, fitted on the rest, is right most often on what is held out; of equals the
    likeliest. Where nothing is held out, the middle one. With it, the share that it had right; None if nothing chose.

    From strong to weak, until PATIENCE in a row raise neither accuracy nor likelihood: held-out accuracy rises to one
    peak and falls, and the weak end is the slow one. On unequal classes it begins with a plateau, where all images
    are given to the largest; there the likelihood rises on.
    """
    if len(grid) == 1 or not held.parts:
        return middle(grid), None
    strengths = sorted(grid, reverse=True)
    paths = [held_out_scores(features, labels, classes, strengths, *part) for part in held.parts]
    truth = labels[torch.cat([held_out for held_out, _ in held.parts])]
    found: dict[float, tuple[float, float]] = {}
    best, since_best = (-math.inf, -math.inf), 0
    for l2, *scores in zip(tried(strengths, "Choosing the L2 strength"), *paths, strict=False):
        found[l2] = accuracy, likelihood = held_out_score(torch.cat(scores), truth)
        since_best = 0 if accuracy > best[0] or likelihood > best[1] else since_best + 1
        best = max(accuracy, best[0]), max(likelihood, best[1])
        if since_best == PATIENCE:
            break
    l2 = max(found, key=found.__getitem__)
    return l2, found[l2][0]


def held_out_scores(
    features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float], held_out: Tensor, rest: Tensor
) -> Iterator[Tensor]:
    """Scores [T, C] of the held-out images at each strength; every fit, on the rest, starts at the last."""
    mean, scale = features[rest].mean(dim=0), features[rest].std(dim=0).clamp(min=1e-6)
    axes, judged = PrincipalAxes.of((features[rest] - mean) / scale), (features[held_out] - mean) / scale
    known = labels[rest]
    probe = None
    for l2 in strengths:
        probe = axes.fit(known, classes, l2, probe)
        yield F.linear(judged, *probe)


def fit_chosen(
    train: Tensor, labels: Tensor, classes: int, grid: Sequence[float]
) -> tuple[LinearProbe, float, HeldOut, float | None]:
    """The probe of all training images, the L2 strength of `grid` that it has, what that was chosen on, and the share
    of it that was right (see `choose_l2`)."""
    held = hold_out(len(train), labels)
    l2, share = choose_l2(train, labels, classes, grid, held)
    return fit(train, labels, classes, l2), l2, held, share


class LinearResult(NamedTuple):
    """Whether each validation image was right at once and among five: bool [N]; the L2 strength, chosen on `held`.

    held_out: the share of the held-out training images that was right with that strength; None where none chose it.
    ece: expected calibration error, how far confidence and accuracy are apart (Guo et al. 2017), from 0 to 1.
    """

    top1: Tensor
    top5: Tensor
    l2: float
    held: HeldOut
    held_out: float | None
    ece: float


def linear_evaluation(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, classes: int, grid: Sequence[float]
) -> LinearResult:
    """The whole protocol on features float [N, F] and labels int64 [N]; validation labels are read at the end alone.

    With fewer than five classes all are among five. Raises InputError for a grid that check_grid refuses, where train
    has a single class, and for features that are not finite.
    """
    check_grid(grid)
    check_classes(train_labels, "linear")
    check_features(train, val)
    probe, l2, held, share = fit_chosen(train, train_labels, classes, grid)
    scores = probe.scores(val)
    best = scores.topk(min(5, classes), dim=1).indices == val_labels[:, None]
    ece = multiclass_calibration_error(scores.softmax(dim=1), val_labels, classes, n_bins=BINS)
    return LinearResult(best[:, 0], best.any(dim=1), l2, held, share, ece.item())


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
        top5 = 100 * result.top5.float().mean().item()
        numbers = accuracy(result.top1, query_labels, bank_labels) | {
            "top5": top5 if classes > 5 else None,  # of five classes or fewer all are among five
            "knn_top1": 100 * nearest.float().mean().item(),
            "held_out_top1": None if result.held_out is None else 100 * result.held_out,
            "ece": result.ece,
            "l2": result.l2,
        }
        words = {"linear": self._words(len(bank), result.held), "knn": protocol(len(bank), **self.knn)}
        lines = [
            f"linear {accuracy_line(numbers)}",
            (f"linear top-5 {top5:.2f} %, " if classes > 5 else "")
            + f"calibration error {result.ece:.3f}, L2 strength {result.l2:g}{result.held.note(self.l2_grid)}",
            f"k-NN   top-1 {numbers['knn_top1']:.2f} %",
        ]
        return Judgement(numbers, words, lines)

    def _words(self, train_images: int, held: HeldOut) -> str:
        rule = f"accuracy, ties by log-loss, strong to weak until {PATIENCE} in a row improve neither"
        return (
            "multinomial logistic regression (L-BFGS to convergence) on standardised, frozen, pooled features of "
            f"{train_images} un-augmented training images; L2 {held.choice(rule, self.l2_grid)}; fitted on all; "
            f"validation labels read once; {ACCURACY_WORDS}; ece: expected calibration error of the probabilities, in "
            f"{BINS} bins of equal width; held_out_top1: of the training images that the L2 strength was chosen on, to "
            "choose encoders without validation"
        )


class Transfer(Linear):
    """The linear protocol on an image set that the encoder was not trained on."""

    name = "transfer"
