"""What makes an accuracy on validation images say less than it seems to."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from simclr.data.files.contents import shown
from simclr.data.store import ImageStore

log = logging.getLogger(__name__)

NAMED = 5  # classes that a message names


def in_both(train: ImageStore, val: ImageStore) -> int:
    """How many validation images are, pixel by pixel, also training images."""
    return int(np.isin(val.digests, train.digests).sum())


def leak_words(leaked: int, total: int) -> str:
    """How so many of `total` validation images are spoken of, in the log and beside every figure taken on them."""
    return f"LEAK: {leaked:,} of the {total:,} validation images are training images too"


def listed(names: Iterable[str]) -> str:
    """The first of some classes' names in quotes, which show blanks at their ends, and how many more there are."""
    quoted = [f"'{shown(name)}'" for name in names]
    more = len(quoted) - NAMED
    return ", ".join(quoted[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def warn_of_doubts(train: ImageStore, val: ImageStore | None, pretrain: ImageStore | None = None) -> None:
    """Say what makes accuracies on `val` doubtful: images that are trained on too, classes that one side lacks.

    pretrain: the images that a method learns from, where these may be others than `train`.
    """
    if val is None or val.labels is None or train.labels is None:
        return
    if pretrain is not None and pretrain is not train and (seen := in_both(pretrain, val)):
        log.warning(
            "%s of the %s validation images are learned from, too, without labels.", f"{seen:,}", f"{len(val):,}"
        )
    leaked = in_both(train, val)
    if leaked:
        points = 100 * leaked / len(val)
        log.warning("%s, which may flatter an accuracy by up to %.2f points.", leak_words(leaked, len(val)), points)
    if train.classes == val.classes:
        for labels, kind, effect in (
            (train.labels, "training", "none of their images can be recognised"),
            (val.labels, "validation", "no accuracy speaks of them"),
        ):
            counts = np.bincount(labels, minlength=len(train.classes))
            absent = [train.classes[label] for label in np.flatnonzero(counts == 0)]
            if absent:
                log.warning(
                    "%d of the %d classes have no %s images, so %s: %s.",
                    len(absent),
                    len(train.classes),
                    kind,
                    effect,
                    listed(absent),
                )
