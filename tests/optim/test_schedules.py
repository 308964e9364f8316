"""Learning rates against torch's own schedule and against the study's log."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

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


@pytest.mark.parametrize(("warmup_epochs", "steps"), [(3, 60), (0.25, 5), (0, 0)])
def test_a_warm_up_rises_to_the_rate_and_hands_over_to_the_cosine(warmup_epochs, steps):
    """Held against torch's own LinearLR and CosineAnnealingLR, one after the other."""
    ours, theirs = adam(), adam()
    found = rates(ours, schedules.cosine(ours, 200, steps_per_epoch=20, warmup_epochs=warmup_epochs), 200)
    rise = LinearLR(theirs, 1 / steps, total_iters=steps - 1) if steps else LinearLR(theirs, 1, total_iters=0)
    before = rates(theirs, rise, steps)
    after = adam()
    assert found == pytest.approx([*before, *rates(after, CosineAnnealingLR(after, T_max=200 - steps), 200 - steps)])


def test_drops_are_counted_from_the_end():
    """W-MSE's: 500 steps of warm-up, then ×0.2 at 50 and at 25 epochs before the end."""
    optimizer = adam()
    scheduler = schedules.constant_then_drops(optimizer, 100 * 195, 195, 500 / 195, [50, 25], 0.2)
    found = rates(optimizer, scheduler, 100 * 195)
    assert found[:500] == pytest.approx([3e-4 * (step + 1) / 500 for step in range(500)])
    assert set(found[500 : 50 * 195]) == {3e-4}
    assert found[50 * 195 : 75 * 195] == pytest.approx([3e-4 * 0.2] * 25 * 195)
    assert found[75 * 195 :] == pytest.approx([3e-4 * 0.04] * 25 * 195)


@pytest.mark.parametrize("warmup_epochs", [-1, 10, float("nan"), "2"])
def test_a_warm_up_that_cannot_be_is_refused(warmup_epochs):
    with pytest.raises(ValueError, match=rf"^warmup_epochs={warmup_epochs} is not usable"):
        schedules.cosine(adam(), 200, steps_per_epoch=20, warmup_epochs=warmup_epochs)


@pytest.mark.parametrize("epochs", [[10, 5], 5, [float("nan")], [-1], ["5"], [True]])
def test_drops_outside_the_run_are_refused(epochs):
    with pytest.raises(
        ValueError, match=r"^epochs_before_end=.* is not usable; list numbers of epochs less than .* 10"
    ):
        schedules.constant_then_drops(adam(), 200, 20, 0, epochs, 0.2)


@pytest.mark.parametrize("factor", [0, 1.5, float("nan"), None])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(ValueError, match=r"^factor=.* is not usable"):
        schedules.constant_then_drops(adam(), 200, 20, 0, [5], factor)


def test_study_gives_the_logged_rate_in_epoch_50():
    optimizer = adam()
    scheduler = schedules.study(optimizer, 50 * 39, steps_per_epoch=39, flat_epochs=10, half_period_epochs=390)
    by_step = rates(optimizer, scheduler, 50 * 39)
    assert set(by_step[: 11 * 39]) == {3e-4}
    assert by_step[11 * 39] < 3e-4
    assert {f"{rate:.6f}" for rate in by_step[49 * 39 :]} == {"0.000293"}
