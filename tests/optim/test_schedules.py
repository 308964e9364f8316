"""Learning rates against torch's own schedule and against the study's log."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from simclr.optim import schedules


def adam() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)


def rates(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_equals_torchs_over_the_whole_run():
    ours, theirs = adam(), adam()
    expected = rates(theirs, CosineAnnealingLR(theirs, T_max=200), 200)
    assert rates(ours, schedules.cosine(ours, total_steps=200, steps_per_epoch=20), 200) == pytest.approx(expected)
    assert ours.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_study_gives_the_logged_rate_in_epoch_50():
    optimizer = adam()
    scheduler = schedules.study(optimizer, 50 * 39, steps_per_epoch=39, flat_epochs=10, half_period_epochs=390)
    by_step = rates(optimizer, scheduler, 50 * 39)
    assert set(by_step[: 11 * 39]) == {3e-4}
    assert by_step[11 * 39] < 3e-4
    assert {f"{rate:.6f}" for rate in by_step[49 * 39 :]} == {"0.000293"}
