"""Counting the steps that a gradient scaler leaves out."""

from itertools import pairwise

import pytest
import torch

from simclr.training.health import OverflowSteps


@pytest.mark.parametrize("fused", [True, False])
def test_overflows_are_the_steps_in_which_the_scale_falls(fused):
    """A fused optimiser is called and does nothing, another is not called; the scaler's own scale says when."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    overflows = OverflowSteps(optimizer, torch.device("cpu"))
    scales, counts = [scaler.get_scale()], []
    for factor in (1.0, torch.inf, 1.0, torch.nan, torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        overflows.attempted()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        counts.append(int(overflows.count))
    fallen = [after < before for before, after in pairwise(scales)]
    assert fallen == [False, True, False, True, True, False]
    assert counts == [sum(fallen[: i + 1]) for i in range(len(fallen))]
