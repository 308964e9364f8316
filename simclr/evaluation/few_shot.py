"""Few-shot classification: what a handful of labels a class is worth on frozen features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.evaluation.protocol import NORMAL, Judgement, Protocol, Subject, check_classes, check_features, tried
from simclr.system.randomness import generator

LEAST_DRAWS = 10


def t_quantile(degrees: int) -> float:
    """The two-sided 95 % point of Student's t, to three digits from 9 degrees of freedom on.

    Abramowitz and Stegun (1964), 26.7.5.
    """
    x, n = NORMAL, degrees
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
    )
    return sum(term / n**power for power, term in enumerate(terms))


def draw_shots(labels: Tensor, classes: int, shots: int, draw: int) -> Tensor:
    """Which images are labelled in one draw: int64 [classes, shots], the same for every run on the same images.

    labels: int64 [N], on the CPU, at least `shots` of each class.
    """
    order = torch.randperm(len(labels), generator=generator("few-shot", draw))
    order = order[labels[order].argsort(stable=True)]
    first = torch.cat([torch.zeros(1, dtype=torch.long), labels.bincount(minlength=classes).cumsum(0)[:-1]])
    return order[first[:, None] + torch.arange(shots)]


def nearest_centroid(shots: Tensor, queries: Tensor) -> Tensor:
    """The class whose mean is nearest by cosine: shots [C, K, F] and queries [N, F] to int64 [N] (Wang et al. 2019).

    Both are length 1, so that a class is a direction.
    """
    return (queries @ F.normalize(shots.mean(dim=1), dim=1).T).argmax(dim=1)


class FewShot(Protocol):
    """Top-1 with so many labels a class, by nearest centroid, as a mean over draws of which images are labelled.

    SimpleShot's CL2N (Wang et al. 2019, section 3): features less the mean of all training features, at length 1. There
    is nothing to choose, so a label less is a label less.
    shots: labels a class, one number or more. draws: how often they are drawn, 10 or more.
    """

    name = "few_shot"

    def __init__(self, shots: Sequence[int], draws: int) -> None:
        listed = isinstance(shots, Sequence) and not isinstance(shots, str) and len(shots) > 0
        if not listed or not all(is_whole(count) and count >= 1 for count in shots):
            raise InputError(f"protocol.shots={shots} is not usable; it lists one or more whole numbers, 1 or more")
        if not is_whole(draws) or draws < LEAST_DRAWS:
            raise InputError(f"protocol.draws={draws} is not usable; it is a whole number, {LEAST_DRAWS} or more")
        self.shots, self.draws = list(dict.fromkeys(shots)), draws

    def judge(self, subject: Subject) -> Judgement:
        bank, queries = subject.features
        check_features(bank, queries)
        known, truth = subject.labels()
        check_classes(known, self.name)
        names, labels = subject.train.classes, known.cpu()
        counts = labels.bincount(minlength=len(names))
        fewest, most = int(counts.argmin()), max(self.shots)
        if counts[fewest] < most:
            raise InputError(
                f"protocol.shots={self.shots} asks for {most} labels a class, and {names[fewest]} has "
                f"{int(counts[fewest])} training images; ask for fewer"
            )
        mean = bank.mean(dim=0)
        bank, queries = F.normalize(bank - mean, dim=1), F.normalize(queries - mean, dim=1)
        numbers: dict[str, Any] = {}
        lines = []
        for shots in tried(self.shots, "Few-shot draws"):
            right = torch.tensor(
                [self._top1(bank, labels, queries, truth, len(names), shots, draw) for draw in range(self.draws)]
            )
            spread = t_quantile(self.draws - 1) * right.std().item() / math.sqrt(self.draws)
            key, top1 = f"top1_{shots}_shot", right.mean().item()
            numbers |= {key: top1, f"{key}_low": top1 - spread, f"{key}_high": top1 + spread}
            lines.append(
                f"{shots}-shot top-1 {top1:.2f} % (95 % interval {top1 - spread:.2f} to {top1 + spread:.2f}; single "
                f"draws {right.min():.2f} to {right.max():.2f})"
            )
        numbers |= {"draws": self.draws, "chance_top1": 100 / len(names)}
        words = (
            f"nearest class mean by cosine (SimpleShot's CL2N: features less the mean of all {len(bank)} training "
            f"features, at length 1); {', '.join(map(str, self.shots))} labels a class, drawn {self.draws} times, the "
            f"same for every run; nothing is chosen; validation labels read once; interval: 95 % (Student's t) of the "
            f"mean over draws, which says nothing of other validation images"
        )
        return Judgement(numbers, {self.name: words}, lines)

    @staticmethod
    def _top1(
        bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, classes: int, shots: int, draw: int
    ) -> float:
        chosen = draw_shots(labels, classes, shots, draw).to(bank.device)
        return 100 * (nearest_centroid(bank[chosen], queries) == truth).float().mean().item()
