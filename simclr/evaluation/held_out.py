"""Which training images a protocol chooses its settings on, so that validation is read once, at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_finite
from simclr.errors import InputError
from simclr.system.randomness import generator

LARGE = 1000  # held-out images that tell settings apart in one go; below that they are held out in FOLDS turns
FOLDS = 5


class HeldOut(NamedTuple):
    """Training images to choose settings on, in `parts` of (held out, rest): int64 rows to judge on and to fit on.

    Without parts there is nothing to choose on, and a setting is the `middle` of its list.
    """

    parts: list[tuple[Tensor, Tensor]]
    words: str = ""

    def choice(self, rule: str, *lists: Sequence[float]) -> str:
        """How settings were come by, for a result's protocol."""
        if all(len(values) == 1 for values in lists):
            return " and ".join(f"{values[0]:g}" for values in lists)
        words = " and ".join(str(list(values)) for values in lists)
        if not self.parts:
            return f"the middle of {words}, as there are too few labels to choose on"
        return f"chosen from {words} by {rule}, {self.words}"

    def note(self, *lists: Sequence[float]) -> str:
        """What a person has to know of settings that could not be chosen."""
        chosen = self.parts or all(len(values) == 1 for values in lists)
        return "" if chosen else " (not chosen, for want of labels: the middle of the list)"


def hold_out(count: int, labels: Tensor | None = None, enough: int | None = None) -> HeldOut:
    """Which of `count` training images to choose settings on; the same for every run and protocol.

    Where a tenth is LARGE, it is a fixed shuffle's first tenth. Else FOLDS parts share all images out, every class
    evenly; what is the only image of its class is always fitted on. labels: int64 [count], None where there are no
    classes. enough: stop once so many images are held out, for protocols that fit slowly.

    No parts, where most images are the only one of their class, where all others are of one class, and of fewer than
    four images.
    """
    order = torch.randperm(count, generator=generator("held-out tenth"))
    tenth = count // 10
    if tenth >= LARGE:
        return HeldOut([(order[:tenth], order[tenth:])], "on a held-out tenth of them")
    if labels is not None:
        labels = labels.cpu()
        order = order[labels[order].argsort(stable=True)]
        order = order[labels.bincount()[labels[order]] > 1]
        if 2 * len(order) < count or len(labels[order].unique()) < 2:
            return HeldOut([])
    elif count < 4:
        return HeldOut([])
    folds = [order[first::FOLDS] for first in range(min(FOLDS, len(order)))]
    if enough is not None:
        folds = folds[: math.ceil(enough / len(folds[0]))]
    everyone = torch.arange(count)
    parts = [(fold, everyone[torch.isin(everyone, fold, invert=True)]) for fold in folds]
    kind = "random" if labels is None else "stratified"
    turns = f"a {kind} part" if len(folds) == 1 else f"{len(folds)} {kind} parts, one after the other"
    return HeldOut(parts, f"on {sum(map(len, folds))} of them, held out in {turns}")


def check_grid(grid: Sequence[float]) -> None:
    """Raise InputError unless `grid` holds one or more L2 strengths, all finite and greater than 0."""
    usable = isinstance(grid, Sequence) and not isinstance(grid, str) and len(grid) > 0
    if not usable or not all(is_finite(l2) and l2 > 0 for l2 in grid):
        raise InputError(f"protocol.l2_grid={grid} is not usable; it lists one or more numbers greater than 0")


def middle(values: Sequence[Any]) -> Any:
    """The value to use where nothing can be chosen; of two the smaller."""
    return sorted(values)[(len(values) - 1) // 2]


def held_out_score(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """What settings are chosen by, larger is better: accuracy, and of equals log-likelihood.

    scores: float [N, C], labels: int64 [N]. Where few labels or one large class make many settings equally accurate,
    the likelihood still tells which has learned something.
    """
    return (scores.argmax(dim=1) == labels).float().mean().item(), -F.cross_entropy(scores, labels).item()
