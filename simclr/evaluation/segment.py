"""Which class each pixel shows: a linear probe of the cells of frozen feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_whole
from simclr.data.columns import UNKNOWN
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.features import BATCH, frozen
from simclr.evaluation.held_out import HeldOut, check_grid, hold_out
from simclr.evaluation.linear import LinearProbe, choose_l2, fit
from simclr.evaluation.protocol import DRAWS, Judgement, Protocol, Subject, check_classes, check_features, tried
from simclr.models.maps import feature_maps
from simclr.system.randomness import generator


def hypercolumns(maps: Sequence[Tensor]) -> Tensor:
    """All maps above each other (Hariharan et al. 2015): of [B, C, h, w] each to [B, sum of C, H, W] of the finest."""
    size = maps[0].shape[2:]
    return torch.cat([maps[0], *(F.interpolate(one, size, mode="bilinear") for one in maps[1:])], dim=1)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of each image by class and predicted class: int64 [B, C, C] of [B, H, W] twice; UNKNOWN is left out."""
    known = truth != UNKNOWN
    image = torch.arange(len(truth), device=truth.device)[:, None, None].expand_as(truth)
    pair = (image * classes + truth.long()) * classes + predicted
    return pair[known].bincount(minlength=len(truth) * classes**2).view(-1, classes, classes)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean over classes of intersection over union: of [..., C, C], rows the truth, to [...]; from 0 to 1.

    A class that no pixel shows, and that none is taken for, does not count.
    """
    inner = np.diagonal(counts, axis1=-2, axis2=-1)
    outer = counts.sum(axis=-1) + counts.sum(axis=-2) - inner
    shares = np.divide(inner, outer, out=np.full(inner.shape, np.nan), where=outer > 0)
    return np.nanmean(shares, axis=-1)


def bootstrap(counts: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean IoU over images, whose confusions are [N, C, C]: a Bayesian bootstrap."""
    random, found = np.random.default_rng(0), []
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    at_once = max(1, 2**22 // len(counts))
    for start in range(0, DRAWS, at_once):
        weights = random.standard_exponential((min(at_once, DRAWS - start), len(counts)))
        found.append(mean_iou((weights @ flat).reshape(-1, *counts.shape[1:])))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Cells(NamedTuple):
    """Places of maps."""

    features: Tensor  # float [M, F]
    labels: Tensor  # int64 [M], the class that most of a cell's pixels show
    image: Tensor  # int64 [M], whose cell it is, from 0


class Segment(Protocol):
    """Mean IoU over classes of the pixels' predicted classes; beside it, that of the largest class everywhere.

    The probe is fitted on cells of training images, each labelled as most of its pixels are. Of validation images its
    scores are enlarged to the masks, bilinearly. images: training images at most, the same for every run; cells: drawn
    from each. l2_grid: strengths to choose from, on held-out images.
    """

    name = "segment"
    needs = frozenset({"masks"})
    reads = ()

    def __init__(self, images: int, cells: int, l2_grid: Sequence[float]) -> None:
        check_grid(l2_grid)
        for name, value in (("images", images), ("cells", cells)):
            if not is_whole(value) or value < 1:
                raise InputError(f"protocol.{name}={value} is not usable; it is a whole number, 1 or more")
        self.images, self.cells, self.l2_grid = images, cells, l2_grid

    def check(self, train: ImageStore, val: ImageStore | None) -> None:
        super().check(train, val)
        if val is not None and train.columns["masks"].names != val.columns["masks"].names:
            raise InputError("the masks of training and validation images have other classes; see data=")

    def judge(self, subject: Subject) -> Judgement:
        if subject.head is not None:
            raise InputError("segment evaluation reads feature maps, which no head has; leave layer=head out")
        names = subject.train.columns["masks"].names
        rows = torch.randperm(len(subject.train), generator=generator("segmented images"))[: self.images]
        bank = self._drawn(subject, rows)
        check_classes(bank.labels, self.name)
        check_features(bank.features)
        held = _of_cells(hold_out(len(rows), enough=1), bank.image.cpu())  # a fifth of the images
        l2, _ = choose_l2(bank.features, bank.labels, len(names), self.l2_grid, held)
        probe = fit(bank.features, bank.labels, len(names), l2)

        counts = self._judged(subject, probe, len(names))
        low, high = bootstrap(counts)
        total = counts.sum(axis=0)
        largest = np.zeros_like(total)
        largest[:, bank.labels.bincount().argmax().item()] = total.sum(axis=1)
        numbers = {
            "mean_iou": float(mean_iou(total)),
            "mean_iou_low": low,
            "mean_iou_high": high,
            "pixel_accuracy": 100 * float(np.trace(total) / total.sum()),
            "mean_iou_of_largest": float(mean_iou(largest)),
            "l2": l2,
        }
        words = (
            f"multinomial logistic regression on frozen feature maps, all of them at the size of the finest "
            f"(hypercolumns), of {self.cells} cells of each of {len(rows)} un-augmented training images, labelled as "
            f"most of their pixels are; L2 {held.choice('accuracy of cells', self.l2_grid)}; fitted on all; scores are "
            f"enlarged to the masks of {len(subject.val)} validation images, read once; mean over {len(names)} classes "
            "of intersection over union of all pixels; pixel_accuracy in per cent; mean_iou_of_largest: the largest "
            f"class for every pixel; interval: 95 % by a Bayesian bootstrap over images, {DRAWS:,} draws"
        )
        lines = [
            "mean IoU {mean_iou:.4f} (95 % interval {mean_iou_low:.4f} to {mean_iou_high:.4f}), pixels right: "
            "{pixel_accuracy:.2f} %".format(**numbers)
            + held.note(self.l2_grid),
            "mean IoU of the largest class everywhere {mean_iou_of_largest:.4f}".format(**numbers),
        ]
        return Judgement(numbers, {self.name: words}, lines)

    def _drawn(self, subject: Subject, rows: Tensor) -> Cells:
        found = []
        with frozen(subject.encoder):
            for part, some in enumerate(tried(rows.split(BATCH), "Maps of training images")):
                columns = _columns_of(subject, subject.train, some)
                masks = subject.train.columns["masks"].gather(some.numpy()).to(subject.device)
                labels = _of_most(masks, len(subject.train.columns["masks"].names), columns.shape[2:])
                random = generator("segmented cells", part)
                cells = torch.rand(len(some), labels[0].numel(), generator=random).argsort(dim=1)[:, : self.cells]
                cells = cells.to(subject.device)
                features = columns.flatten(2).mT.gather(1, cells[..., None].expand(-1, -1, columns.shape[1]))
                image = (part * BATCH + torch.arange(len(some), device=subject.device))[:, None].expand_as(cells)
                known = (own := labels.flatten(1).gather(1, cells)) != UNKNOWN
                found.append(Cells(features[known], own[known], image[known]))
        return Cells(*(torch.cat(field) for field in zip(*found, strict=True)))

    @staticmethod
    def _judged(subject: Subject, probe: LinearProbe, classes: int) -> np.ndarray:
        """The confusion of every validation image: int64 [N, C, C]."""
        found = []
        with frozen(subject.encoder):
            for some in tried(torch.arange(len(subject.val)).split(BATCH), "Validation images"):
                scores = probe.scores(_columns_of(subject, subject.val, some).movedim(1, -1)).movedim(-1, 1)
                masks = subject.val.columns["masks"].gather(some.numpy()).to(subject.device)
                enlarged = F.interpolate(scores, masks.shape[1:], mode="bilinear")
                found.append(confusion(enlarged.argmax(dim=1), masks, classes).cpu())
        return torch.cat(found).numpy()


def _columns_of(subject: Subject, store: ImageStore, rows: Tensor) -> Tensor:
    images = store.gather(rows.numpy()).to(subject.device)
    return hypercolumns(feature_maps(subject.encoder, subject.plain(images)))


def _of_most(masks: Tensor, classes: int, size: Sequence[int]) -> Tensor:
    """The class that most pixels of each cell show, masks uint8 [B, H, W] to int64 [B, *size]; UNKNOWN for none."""
    height, width = size
    shares = torch.cat(
        [F.adaptive_avg_pool2d((masks == c).float()[:, None], (height, width)) for c in range(classes)], dim=1
    )
    return shares.argmax(dim=1).masked_fill(shares.sum(dim=1) == 0, UNKNOWN)


def _of_cells(held: HeldOut, image: Tensor) -> HeldOut:
    """What is held out of images, as rows of cells; image: int64 [M], whose each cell is."""
    parts = [tuple(torch.isin(image, images).nonzero().squeeze(1) for images in part) for part in held.parts]
    return HeldOut([(held_out, rest) for held_out, rest in parts if len(held_out) and len(rest)], held.words)
