"""Which of the labelled images of one tree are held out for validation."""

from __future__ import annotations

import logging

import numpy as np

from simclr.checks import is_finite
from simclr.data.checks import listed
from simclr.data.contrast import warn_of_little_contrast
from simclr.data.layout import alike
from simclr.data.store import ImageStore, Splits

log = logging.getLogger(__name__)


def check_val_fraction(val_fraction: object) -> None:
    """Raise ValueError for what is no share of the images to hold out."""
    if not is_finite(val_fraction) or not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction} is not usable; it lies between 0 and 1")


def completed(images: Splits, fraction: float, place: str, unlabelled: str) -> Splits:
    """Somebody's own images as they are used, with what is to be said of them in the log.

    Where there is no validation split, `fraction` of the labelled images become one. place: where they lie, unlabelled:
    what to say where they have no labels.
    """
    warn_of_little_contrast(images)
    if images.val is None and images.train.labels is not None:
        images = _held_out(images.train, images.train.labels, fraction)
    for names in alike(images.train.classes):
        log.warning("The classes %s differ in case or blanks alone; are they one?", listed(names))
    log.info(
        "%s: %s training images, %s validation images, %s.",
        place,
        f"{len(images.train):,}",
        f"{0 if images.val is None else len(images.val):,}",
        f"{len(images.train.classes)} classes" if images.train.classes else unlabelled,
    )
    return images


def _held_out(every: ImageStore, labels: np.ndarray, fraction: float) -> Splits:
    repeats, unclear = len(every) - len(np.unique(every.digests)), disputed(labels, every.digests).sum()
    if repeats:
        log.info("%s images repeat others; copies stay together, on one side of the split.", f"{repeats:,}")
    if unclear:
        log.warning("%s images have a copy in another class; they are trained on, and not judged.", f"{unclear:,}")
    held_out = stratified_split(labels, every.digests, fraction)
    if not held_out.any():
        log.warning("No class has two different images, one to train on and one to hold out.")
        return Splits.of(every, None)
    return Splits.of(every.select(np.flatnonzero(~held_out)), every.select(np.flatnonzero(held_out)))


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
