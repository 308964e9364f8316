"""Learning-rate schedules, each a closed form of the step: a resumed run needs nothing but the step number."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from simclr.checks import is_whole


def cosine(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LambdaLR:
    """Anneal from the optimiser's learning rate to 0 over the run, one change per optimiser step.

    SGDR (Loshchilov & Hutter 2017, eq. 5) with one period, no restart and a minimum of 0.
    """
    del steps_per_epoch
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps)))


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
