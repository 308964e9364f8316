"""What every evaluation protocol has in common: whom it judges, what it answers, and how chance is kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from simclr.augment.plain import Plain
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.features import AS_STORED, are_finite, extract_with_cache, frozen
from simclr.models.text import TextTransformer
from simclr.system import distributed

T = TypeVar("T")

DRAWS = 10_000  # of a bootstrap
NORMAL = 1.959964  # the two-sided 95 % point of the normal distribution
ACCURACY_WORDS = (
    "balanced_top1: mean over classes of each one's top-1; majority_top1: the largest training class for every image; "
    "interval: 95 % Clopper-Pearson (exact binomial) over validation images"
)


@dataclass(frozen=True)
class Subject:
    """Whom a protocol judges, on which images.

    encoder: images float [B, 3, H, W] in [0, 1] to features [B, F]. head: what to put behind it before judging,
    features to embeddings; None judges the features themselves. cache: the folder that keeps features.
    plain: how the encoder is shown images. text: sentences to embeddings in the head's space, where there is one.
    """

    encoder: nn.Module
    head: nn.Module | None
    train: ImageStore
    val: ImageStore
    device: torch.device
    cache: Path
    plain: Plain = AS_STORED
    text: TextTransformer | None = None

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of the training and of the validation images, as `features_of` has them."""
        return self.features_of["train"], self.features_of["val"]

    @cached_property
    def features_of(self) -> Features:
        """Features of "train" and "val", float32 [N, F], extracted when they are first asked for.

        Several processes share their extraction, so all have to ask; the first alone gets them. What is kept on disk
        are the encoder's features, whatever the protocol and whether there is a head.
        """
        return Features(self)

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of sentences by the text tower, of length 1: float32 [N, D]."""
        assert self.text is not None, "Protocol.parts"
        with frozen(self.text):
            return F.normalize(self.text.embed(texts), dim=1)

    def labels(self) -> tuple[Tensor, Tensor]:
        """Of the training and of the validation images: int64 [N]."""
        assert self.train.labels is not None, "Protocol.check"
        assert self.val.labels is not None, "Protocol.check"
        return torch.from_numpy(self.train.labels).to(self.device), torch.from_numpy(self.val.labels).to(self.device)


class Features(dict[str, Tensor]):
    """The features of a subject by split, each extracted when it is first asked for."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def __missing__(self, split: str) -> Tensor:
        who, store = self.subject, {"train": self.subject.train, "val": self.subject.val}[split]
        title = f"Features of {'training' if split == 'train' else 'validation'} images"
        features = extract_with_cache(who.encoder, store, who.device, who.cache, title, who.plain)
        if who.head is not None and distributed.rank() == 0:
            with frozen(who.head):
                features = who.head(features)
        self[split] = features
        return features


class Judgement(NamedTuple):
    """A protocol's answer. numbers: by name, the first is the one to compare by; protocol: the words beside them."""

    numbers: dict[str, Any]
    protocol: dict[str, str]
    lines: list[str]  # for a person to read


class Protocol:
    """A way to judge an encoder. Constructors check their own settings and raise InputError.

    name: names the result's file. needs: columns that training and validation images must have.
    parts: of the method that it judges, beside the backbone; with "head" the features are the head's embeddings.
    reads: the splits, "train" and "val", whose features `judge` asks for; none where it uses the encoder itself.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    parts: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[tuple[str, ...]] = ("train", "val")

    def read_from(self, backbone: nn.Module) -> nn.Module:
        """What gives the features that are asked for, images [B, 3, H, W] to [B, F]: the backbone itself, mostly."""
        return backbone

    def suffix(self) -> str:
        """What to add to the result's file name, for settings that ask another question."""
        return ""

    def check(self, train: ImageStore, val: ImageStore | None) -> None:
        """Raise InputError where these images do not suit this protocol."""
        for column in sorted(self.needs):
            if val is None or column not in train.columns or column not in val.columns:
                raise InputError(
                    f"{self.name} evaluation needs training and validation images with {column}; choose others with "
                    "data="
                )
        if val is not None and "labels" in self.needs and train.classes != val.classes:
            raise InputError("training and validation images have other classes, so no classifier fits both; see data=")

    def judge(self, subject: Subject) -> Judgement:
        """The numbers. Whatever there is to choose is chosen on training images; validation is read once."""
        raise NotImplementedError


def check_features(*features: Tensor) -> None:
    """Raise InputError for features that are not finite."""
    if not are_finite(*features):
        raise InputError(
            "evaluation needs finite features, and the encoder's are not: its training has diverged; train it anew "
            "with a smaller optimizer.lr"
        )


def check_classes(labels: Tensor, name: str) -> None:
    """Raise InputError unless `labels`, int64 [N], are of two classes or more."""
    if len(labels.unique()) < 2:
        raise InputError(
            f"{name} evaluation needs training images of two classes or more, got one; choose others with data="
        )


def share_interval(right: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share of which `right` of `count` were seen.

    It covers the truth in `level` of all cases or more, whatever the truth and the count.
    """

    def lower(right: int) -> float:
        if right == 0:
            return 0.0
        seen = torch.arange(right, count + 1, dtype=torch.float64)
        ways = math.lgamma(count + 1) - (seen + 1).lgamma() - (count - seen + 1).lgamma()
        low, high = 0.0, 1.0
        for _ in range(60):
            share = (low + high) / 2
            so_many = (ways + seen * math.log(share) + (count - seen) * math.log1p(-share)).logsumexp(dim=0).exp()
            low, high = (share, high) if so_many < (1 - level) / 2 else (low, share)
        return low

    return lower(right), 1 - lower(count - right)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Gaffke's interval of the mean of `values` from 0 to 1, float [N].

    A Bayesian bootstrap with one more image, at 0 for the low end and at 1 for the high one. Of values that are 0 or
    1 it is Clopper and Pearson's; like theirs it does not shrink to nothing where values are few or equal.
    """
    random, means, extra = np.random.default_rng(0), np.empty(DRAWS), np.empty(DRAWS)
    values = values.astype(np.float64)
    for draw in range(DRAWS):
        weights = random.standard_exponential(len(values) + 1)
        means[draw] = weights[:-1] @ values / weights.sum()
        extra[draw] = weights[-1] / weights.sum()
    low, high = np.quantile(means, (1 - level) / 2), np.quantile(means + extra, (1 + level) / 2)
    return float(low), float(high)


def accuracy(correct: Tensor, labels: Tensor, train_labels: Tensor) -> dict[str, float]:
    """Top-1 in per cent with its 95 % interval over images, and what it is to be held against.

    correct: whether each image was right, bool [N]; labels: int64 [N], train_labels: int64 [M]. balanced_top1 is the
    mean over classes of each one's own; classes without images do not count. majority_top1 is what the class with the
    most training images would get, if all were given to it.
    """
    correct, labels = correct.cpu(), labels.cpu()
    low, high = share_interval(int(correct.sum()), len(correct))
    of_class = labels.bincount(correct.double()) / labels.bincount()
    return {
        "top1": 100 * correct.float().mean().item(),
        "top1_low": 100 * low,
        "top1_high": 100 * high,
        "balanced_top1": 100 * of_class.nanmean().item(),
        "majority_top1": 100 * (labels == train_labels.bincount().argmax().cpu()).float().mean().item(),
    }


def accuracy_line(numbers: dict[str, Any]) -> str:
    """What `accuracy` has found, for a person; balanced where that is another number."""
    line = "top-1 {top1:.2f} % (95 % interval {top1_low:.2f} to {top1_high:.2f})".format(**numbers)
    balanced = f"{numbers['balanced_top1']:.2f} %"
    line = line if balanced == f"{numbers['top1']:.2f} %" else f"{line}, balanced {balanced}"
    return f"{line}; always the largest class: {numbers['majority_top1']:.2f} %"


def tried(values: Sequence[T], title: str) -> Iterator[T]:
    """The values, one after the other, under a progress bar that ends full, wherever the search ends."""
    with Progress() as bar:
        task = bar.add_task(title, total=len(values))
        try:
            for value in values:
                yield value
                bar.advance(task)
        finally:
            bar.update(task, total=1, completed=1)
