"""Fine-tuning: the whole network, trained on with a share of the labels (Chen et al. 2020, section 4.2 and B.5)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from simclr.augment import batched
from simclr.augment.recipe import Recipe
from simclr.checks import is_finite, is_whole
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.features import extract
from simclr.evaluation.held_out import HeldOut, held_out_score, hold_out, middle
from simclr.evaluation.protocol import (
    ACCURACY_WORDS,
    Judgement,
    Protocol,
    Subject,
    accuracy,
    accuracy_line,
    check_classes,
)
from simclr.system.precision import gpu_has_bf16_arithmetic
from simclr.system.randomness import generator
from simclr.system.transfer import sent

MOMENTUM = 0.9
ENOUGH = 100  # images to try the learning rates on; more parts than that takes would cost whole trainings
CROP_AND_FLIP: dict[str, Any] = {
    "crop_ratio": [3 / 4, 4 / 3],
    "flip_p": 0.5,
    "solarize_p": 0,
    "solarize_threshold": 128,
    "jitter_p": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
    "grayscale_p": 0,
    "blur_p": 0,
    "blur_kernel": 1,
    "blur_sigma": [1, 1],
    "color_first": False,
}


def balanced(labels: np.ndarray, share: float) -> np.ndarray:
    """Which images keep their labels: of every class the same share, at least one; int64 indices, ascending.

    labels: int64 [N]. It depends on the labels alone, so all runs get the same images; a smaller share's are among a
    larger one's.
    """
    random, chosen = np.random.default_rng(0), []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


class Finetune(Protocol):
    """Top-1 of the whole network after supervised training; its encoder's copy is trained, the subject's stays.

    labels: the share of training labels, of every class alike, greater than 0 and at most 1.
    lr: learning rates to choose from, on held-out ones of the labelled images; one alone needs no choice.
    epochs, batch_size: of each training. SGD with Nesterov momentum 0.9, cosine schedule, no weight decay. Images are
    cropped (crop_scale: range of the area's share) and flipped; a CUDA device computes in bfloat16 where it can.
    """

    name = "finetune"
    reads = ()

    def __init__(
        self, labels: float, lr: Sequence[float], epochs: int, batch_size: int, crop_scale: Sequence[float]
    ) -> None:
        if not is_finite(labels) or not 0 < labels <= 1:
            raise InputError(f"labels={labels} is not usable; it is a share, greater than 0 and at most 1")
        if not isinstance(lr, Sequence) or not lr or not all(is_finite(rate) and rate > 0 for rate in lr):
            raise InputError(f"protocol.lr={lr} is not usable; it lists one or more numbers greater than 0")
        for key, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
            if not is_whole(value) or value < least:
                raise InputError(f"protocol.{key}={value} is not usable; it is a whole number, {least} or more")
        scales = isinstance(crop_scale, Sequence) and len(crop_scale) == 2 and all(map(is_finite, crop_scale))
        if not scales or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise InputError(
                f"protocol.crop_scale={crop_scale} is not usable; write [low, high], both greater than 0 and at most 1"
            )
        self.labels, self.lr, self.epochs, self.batch_size = labels, lr, epochs, batch_size
        self.crop_scale = list(crop_scale)

    def suffix(self) -> str:
        return f"_labels-{self.labels:g}"

    def judge(self, subject: Subject) -> Judgement:
        if subject.head is not None:
            raise InputError("protocol=finetune trains the encoder; use it with layer=features")
        assert subject.train.labels is not None, "Protocol.check"
        labelled = subject.train.select(balanced(subject.train.labels, self.labels))
        labels = torch.from_numpy(labelled.labels)
        check_classes(labels, "finetune")
        held = hold_out(len(labelled), labels, enough=ENOUGH)
        lr = self._choose(subject, labelled, held)
        network = self.train(subject, labelled, lr, "Fine-tuning")
        scores, truth = self._scores(network, subject.val, subject), torch.as_tensor(subject.val.labels)
        numbers = accuracy(scores.argmax(dim=1) == truth, truth, labels) | {
            "labels": self.labels,
            "labelled_images": len(labelled),
            "lr": lr,
        }
        words = (
            f"whole network and a linear classifier trained on {len(labelled)} labelled images (a share of "
            f"{self.labels:g} of every class, the same for every run) for {self.epochs} epochs, batch "
            f"{self.batch_size}, SGD with momentum {MOMENTUM}, cosine schedule, crops and flips; learning rate "
            f"{held.choice('accuracy, ties by log-loss', self.lr)}; fitted on all; validation labels read once; "
            f"{ACCURACY_WORDS}"
        )
        line = f"fine-tuned {accuracy_line(numbers)}, {len(labelled)} labels, lr {lr:g}{held.note(self.lr)}"
        return Judgement(numbers, {"finetune": words}, [line])

    def _choose(self, subject: Subject, labelled: ImageStore, held: HeldOut) -> float:
        if len(self.lr) == 1 or not held.parts:
            return middle(self.lr)

        def tried(lr: float) -> tuple[float, float]:
            scores, truth = [], []
            for held_out, rest in held.parts:
                network = self.train(subject, labelled.select(rest.numpy()), lr, f"Trying lr {lr:g}")
                judged = labelled.select(held_out.numpy())
                scores.append(self._scores(network, judged, subject))
                truth.append(torch.as_tensor(judged.labels))
            return held_out_score(torch.cat(scores), torch.cat(truth))

        return max(self.lr, key=tried)

    def train(self, subject: Subject, store: ImageStore, lr: float, title: str) -> nn.Module:
        """A copy of the subject's encoder with a classifier behind it, trained on `store`: images to class scores."""
        assert store.labels is not None, "Protocol.check"
        plain = subject.plain
        recipe = Recipe(
            plain.size or store.size,
            crop_scale=self.crop_scale,
            interpolation=plain.interpolation,
            mean=plain.mean,
            std=plain.std,
            **CROP_AND_FLIP,
        )
        encoder = copy.deepcopy(subject.encoder)
        width = extract(encoder, store.select(np.arange(1)), subject.device, prepare=plain).shape[1]
        classifier = nn.Linear(width, len(store.classes), device=subject.device)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        network = nn.Sequential(encoder, classifier).train()
        if subject.device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        labels = torch.from_numpy(store.labels)
        batch = min(self.batch_size, len(store))
        steps = self.epochs * (len(store) // batch)
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        low = torch.autocast(subject.device.type, torch.bfloat16, enabled=gpu_has_bf16_arithmetic(subject.device))
        for step in track(range(steps), title):
            epoch, place = divmod(step, len(store) // batch)
            if place == 0:
                order = torch.randperm(len(store), generator=generator("finetune order", epoch))
                targets = sent(labels[order], subject.device)
            own = slice(place * batch, (place + 1) * batch)
            images = sent(store.gather(order[own].numpy()), subject.device)
            draws = recipe.draw(batch, store.size, store.size, generator("finetune views", step))
            views = batched.augment(images, draws, recipe).contiguous(memory_format=torch.channels_last)
            with low:
                loss = F.cross_entropy(network(views), targets[own])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        return network

    @staticmethod
    def _scores(network: nn.Module, store: ImageStore, subject: Subject) -> Tensor:
        scores = extract(network, store, subject.device, prepare=subject.plain).cpu()
        if not scores.isfinite().all():
            raise InputError("fine-tuning has diverged; use smaller learning rates, as in protocol.lr=[0.003,0.01]")
        return scores
