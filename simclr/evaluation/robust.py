"""Robustness: the linear probe of clean images on images that are noisy, blurred, faded or compressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from simclr.evaluation.features import BATCH, frozen
from simclr.evaluation.held_out import check_grid
from simclr.evaluation.linear import LinearProbe, fit_chosen
from simclr.evaluation.protocol import (
    DRAWS,
    Judgement,
    Protocol,
    Subject,
    check_classes,
    check_features,
    mean_interval,
    tried,
)
from simclr.system.randomness import generator


class Robust(Protocol):
    """Mean top-1 over kinds and strengths of corruption, beside that of the same images as they are.

    The probe is fitted on clean training images, as by `protocol=linear`, and has never seen a corrupted one.
    images: so many validation images at most, the same for every run. corruptions: names of CORRUPTIONS; None for all.
    l2_grid: strengths to choose from.
    """

    name = "robust"

    def __init__(self, images: int, l2_grid: Sequence[float], corruptions: Sequence[str] | None = None) -> None:
        check_grid(l2_grid)
        if not is_whole(images) or images < 1:
            raise InputError(f"protocol.images={images} is not usable; it is a whole number, 1 or more")
        chosen = list(CORRUPTIONS) if corruptions is None else corruptions
        if not isinstance(chosen, Sequence) or not chosen or not all(name in CORRUPTIONS for name in map(str, chosen)):
            raise InputError(f"protocol.corruptions={chosen} is not usable; list some of {', '.join(CORRUPTIONS)}")
        self.images, self.l2_grid, self.corruptions = images, l2_grid, list(chosen)

    def judge(self, subject: Subject) -> Judgement:
        bank, queries = subject.features
        labels, truth = subject.labels()
        check_classes(labels, self.name)
        check_features(bank, queries)
        probe, l2, held, _ = fit_chosen(bank, labels, len(subject.train.classes), self.l2_grid)

        rows = torch.randperm(len(truth), generator=generator("corrupted images"))[: self.images].sort().values
        truth = truth[rows.to(truth.device)]
        clean = probe.scores(queries[rows.to(queries.device)]).argmax(dim=1) == truth
        right = np.empty((len(self.corruptions), STRENGTHS, len(rows)), bool)
        for kind, name in enumerate(tried(self.corruptions, "Corrupted images")):
            for strength in range(1, STRENGTHS + 1):
                found = self._predicted(subject, probe, rows, name, strength) == truth
                right[kind, strength - 1] = found.cpu().numpy()

        low, high = mean_interval(right.mean(axis=(0, 1)))
        mean, as_they_are = 100 * right.mean().item(), 100 * clean.float().mean().item()
        numbers = {"mean_top1": mean, "mean_top1_low": 100 * low, "mean_top1_high": 100 * high}
        numbers |= {"clean_top1": as_they_are}
        numbers |= {f"{name}_top1": 100 * right[kind].mean().item() for kind, name in enumerate(self.corruptions)}
        numbers |= {f"strength_{s + 1}_top1": 100 * right[:, s].mean().item() for s in range(STRENGTHS)}
        numbers |= {"images": len(rows), "l2": l2}
        words = (
            f"the linear probe of {len(bank)} clean training images (L2 {held.choice('accuracy', self.l2_grid)}) on "
            f"{len(rows)} validation images, the same for every run, after {', '.join(self.corruptions)}, each at "
            f"{STRENGTHS} strengths of Tiny-ImageNet-C's (Hendrycks and Dietterich 2019); mean_top1: over all of them; "
            "clean_top1: of the same images as they are; interval: 95 % by Gaffke's bounds over images (Bayesian "
            f"bootstrap of {DRAWS:,} draws, one more image at either bound)"
        )
        hardest = min(self.corruptions, key=lambda name: numbers[f"{name}_top1"])
        lines = [
            f"corrupted top-1 {mean:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}); the same images clean: "
            f"{as_they_are:.2f} %",
            f"hardest: {hardest}, {numbers[f'{hardest}_top1']:.2f} %; at the strongest of all: "
            f"{numbers[f'strength_{STRENGTHS}_top1']:.2f} %",
        ]
        return Judgement(numbers, {self.name: words}, lines)

    @staticmethod
    def _predicted(subject: Subject, probe: LinearProbe, rows: Tensor, name: str, strength: int) -> Tensor:
        """Classes of corrupted validation images: int64 [len(rows)]."""
        found = []
        with frozen(subject.encoder), frozen(subject.head or torch.nn.Identity()):
            for start, part in enumerate(rows.split(BATCH)):
                random = generator(f"corruption {name}", strength, start)
                images = corrupted(subject.val.gather(part.numpy()), name, strength, random)
                features = subject.encoder(subject.plain(images.to(subject.device)))
                features = features if subject.head is None else subject.head(features)
                found.append(probe.scores(features).argmax(dim=1))
        return torch.cat(found)
