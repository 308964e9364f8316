"""What every evaluation protocol has in common: whom it judges, what it answers, and how chance is kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simclr import distributed
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.features import extract_with_cache, frozen
from simclr.randomness import generator

RESAMPLES = 10_000  # of a bootstrap


@dataclass(frozen=True)
class Subject:
    """Whom a protocol judges, on which pictures.

    encoder: pictures float [B, 3, H, W] in [0, 1] to features [B, F]. head: what to put behind it before judging,
    features to embeddings; None judges the features themselves. cache: the folder that keeps features.
    """

    encoder: nn.Module
    head: nn.Module | None
    train: ImageStore
    val: ImageStore
    device: torch.device
    cache: Path

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of the training and of the validation pictures: float32 [N, F].

        Several processes share their extraction, so all have to ask; the first alone gets them. What is kept on disk
        are the encoder's features, whatever the protocol and whether there is a head.
        """
        pictures = {"training": self.train, "validation": self.val}
        both = [
            extract_with_cache(self.encoder, store, self.device, self.cache, f"Features of {name} pictures")
            for name, store in pictures.items()
        ]
        if self.head is not None and distributed.rank() == 0:
            with frozen(self.head):
                both = [self.head(features) for features in both]
        return both[0], both[1]

    def labels(self) -> tuple[Tensor, Tensor]:
        """Of the training and of the validation pictures: int64 [N]."""
        assert self.train.labels is not None, "Protocol.check"
        assert self.val.labels is not None, "Protocol.check"
        return torch.from_numpy(self.train.labels).to(self.device), torch.from_numpy(self.val.labels).to(self.device)


class Judgement(NamedTuple):
    """A protocol's answer. numbers: by name, the first is the one to compare by; protocol: the words beside them."""

    numbers: dict[str, Any]
    protocol: dict[str, str]
    lines: list[str]  # for a person to read


class Protocol:
    """A way to judge an encoder. Constructors check their own settings and raise InputError.

    name: names the result's file. reads_features: whether `judge` reads the subject's features, or just its encoder.
    """

    name: str
    reads_features = True

    def suffix(self) -> str:
        """What to add to the result's file name, for settings that ask another question."""
        return ""

    def check(self, train: ImageStore, val: ImageStore | None) -> None:
        """Raise InputError where these pictures do not suit this protocol; by default: labelled ones do."""
        if val is None or train.labels is None or val.labels is None:
            raise InputError(
                f"{self.name} evaluation needs labelled training and validation pictures; choose others with data="
            )
        if train.classes != val.classes:
            raise InputError(
                "training and validation pictures have other classes, so no classifier fits both; see data="
            )

    def judge(self, subject: Subject) -> Judgement:
        """The numbers. Whatever there is to choose is chosen on training pictures; validation is read once."""
        raise NotImplementedError


def check_features(*features: Tensor) -> None:
    """Raise InputError for features that are not finite."""
    if not all(x.isfinite().all() for x in features):
        raise InputError(
            "evaluation needs finite features, and the encoder's are not: its training has diverged; train it anew "
            "with a smaller optimizer.lr"
        )


def held_out_tenth(count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` training pictures to choose settings on, and which to fit on meanwhile: int64 [T], [count - T].

    A fixed shuffle's first tenth, the same for every run and protocol. Raises InputError for fewer than 20.
    """
    if count < 20:
        raise InputError(f"evaluation needs at least 20 labelled training pictures, got {count}")
    order = torch.randperm(count, generator=generator("held-out tenth"))
    return order[: count // 10], order[count // 10 :]


def bootstrap_interval(values: np.ndarray, level: float = 0.95, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, bool or float [N].

    Drawing N of N with replacement makes the number that is right Binomial(N, mean), so for bools that is drawn.
    """
    random, count = np.random.default_rng(0), len(values)
    if values.dtype == bool:
        means = random.binomial(count, values.mean(), resamples) / count
    else:
        means = np.array([values[random.integers(0, count, count)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy(correct: Tensor) -> dict[str, float]:
    """Top-1 in per cent with its 95 % interval over pictures, of whether each was right: bool [N]."""
    low, high = bootstrap_interval(correct.cpu().numpy())
    return {"top1": 100 * correct.float().mean().item(), "top1_low": 100 * low, "top1_high": 100 * high}


def interval_words() -> str:
    """How `bootstrap_interval` is described beside a number."""
    return f"interval: 95 % percentile bootstrap over validation pictures ({RESAMPLES:,} resamples)"
