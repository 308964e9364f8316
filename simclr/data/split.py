"""Which of the labelled images of one tree are held out for validation."""

from __future__ import annotations

import numpy as np


def disputed(labels: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Which images have a copy of another label: bool [N]. labels: int64 [N]; digests: S16 [N], equal for copies."""
    _, group = np.unique(digests, return_inverse=True)
    lowest, highest = np.full(len(labels), labels.max()), np.zeros(len(labels), labels.dtype)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    return (lowest < highest)[group]


def stratified_split(labels: np.ndarray, digests: np.ndarray, fraction: float) -> np.ndarray:
    """Which images to hold out: bool [N], a function of the arguments alone.

    labels: int64 [N]. digests: S16 [N], equal for copies, which stay on one side; copies of several labels are never
    held out. Of each class `fraction` is held out, but at least one image where it has two, and one is left to train
    on.
    """
    random = np.random.default_rng(len(labels))
    counts = np.bincount(labels)
    wanted = _wanted(counts, fraction, random)
    _, group = np.unique(digests, return_inverse=True)
    copies = np.bincount(group)
    held_out = np.zeros(len(copies), bool)
    order = random.permutation(len(labels))
    order = order[~disputed(labels, digests)[order]]
    ends = np.cumsum(np.bincount(labels[order], minlength=len(counts)))[:-1]
    for label, members in enumerate(np.split(order[np.argsort(labels[order], kind="stable")], ends)):
        chosen = _chosen(dict.fromkeys(group[members].tolist()), copies, wanted[label], counts[label])
        held_out[chosen] = True
    return held_out[group]


def _wanted(counts: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    """How many images to hold out of classes of so many: each class its share, by largest remainder."""
    share = fraction * counts
    wanted = np.maximum(np.floor(share), counts >= 2).astype(int)
    # Shuffled: of classes with equal remainders none is preferred for its name.
    more = random.permutation(np.flatnonzero((share > wanted) & (wanted + 1 < counts)))
    more = more[np.argsort(wanted[more] - share[more], kind="stable")]
    wanted[more[: max(0, round(fraction * counts.sum()) - wanted.sum())]] += 1
    return wanted


def _chosen(groups: dict[int, None], copies: np.ndarray, wanted: int, count: int) -> list[int]:
    """The first of a class's `groups` of copies that make up `wanted` of its `count` images, or one where none do."""
    chosen = []
    for group in groups:
        if copies[group] <= wanted:
            chosen.append(group)
            wanted -= copies[group]
    if chosen or not groups:
        return chosen
    least = min(groups, key=copies.__getitem__)
    return [least] if copies[least] < count else []
