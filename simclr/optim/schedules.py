"""Learning-rate schedules, each a closed form of the step: a resumed run needs nothing but the step number."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from simclr.checks import is_finite, is_whole


def cosine(optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_epochs: float = 0) -> LambdaLR:
    """Anneal from the optimiser's learning rate to 0 over the run, one change per optimiser step.

    SGDR (Loshchilov & Hutter 2017, eq. 5) with one period, no restart and a minimum of 0.
    warmup_epochs: before that, rise to the learning rate in equal steps over so many epochs, which may be a fraction.
    Raises ValueError for a warm-up that is not shorter than the run.
    """
    warmup = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (min(step, total_steps) - warmup) / (total_steps - warmup)))

    return LambdaLR(optimizer, factor)


def constant_then_drops(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    epochs_before_end: Sequence[float],
    factor: float,
) -> LambdaLR:
    """Rise to the optimiser's learning rate in equal steps, stay there, and drop near the end, as W-MSE's runs do.

    warmup_epochs: as in `cosine`. epochs_before_end: when to drop, counted from the run's end. factor: what is left of
    the rate at each drop. Raises ValueError for a value out of range.
    """
    warmup = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch)
    listed, run = isinstance(epochs_before_end, list | tuple), total_steps / steps_per_epoch
    if not listed or not all(is_finite(epochs) and 0 <= epochs < run for epochs in epochs_before_end):
        raise ValueError(
            f"epochs_before_end={epochs_before_end} is not usable; list numbers of epochs less than the run's {run:g}, "
            "as [10, 5]"
        )
    if not is_finite(factor) or not 0 < factor <= 1:
        raise ValueError(f"factor={factor} is not usable; it is a number greater than 0, at most 1")

    def factor_at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return factor ** sum(step >= total_steps - epochs * steps_per_epoch for epochs in epochs_before_end)

    return LambdaLR(optimizer, factor_at)


def _warmup_steps(warmup_epochs: float, total_steps: int, steps_per_epoch: int) -> int:
    """How many optimiser steps the learning rate rises for."""
    if not is_finite(warmup_epochs) or not 0 <= warmup_epochs * steps_per_epoch < total_steps:
        epochs = total_steps / steps_per_epoch
        raise ValueError(
            f"warmup_epochs={warmup_epochs} is not usable; it is 0 or more, less than the run's {epochs:g}"
        )
    return round(warmup_epochs * steps_per_epoch)


def study(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, flat_epochs: int, half_period_epochs: int
) -> LambdaLR:
    """The schedule that the study really ran: flat, then a cosine that moves once an epoch and hardly falls.

    flat_epochs: epochs at the full learning rate before the cosine starts (10 in the study).
    half_period_epochs: epochs until the cosine would reach 0. The study handed over 390, the number of *steps* in an
    epoch, to a schedule that it stepped once an *epoch*; so in epoch 50 the rate is still
    3e-4 · (1 + cos(π·39/390)) / 2 = 2.93e-4, the value in its log.
    Raises ValueError for epochs out of range.
    """
    del total_steps
    for name, value, least in (("flat_epochs", flat_epochs, 0), ("half_period_epochs", half_period_epochs, 1)):
        if not is_whole(value) or not least <= value < 2**32:
            raise ValueError(f"{name}={value} is not usable; it is a whole number, {least} or more")

    def factor(step: int) -> float:
        turned = max(0, step // steps_per_epoch - flat_epochs)
        return 0.5 * (1 + math.cos(math.pi * turned / half_period_epochs))

    return LambdaLR(optimizer, factor)
