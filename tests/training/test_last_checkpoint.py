"""When the last checkpoint is written, and when it is not."""

import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from simclr.data.shapes import Shapes
from simclr.errors import InputError
from simclr.methods.simclr import SimCLR
from simclr.models.backbone import Encoder
from simclr.optim.schedules import cosine
from simclr.runs.checkpoint import (
    TRAIN_IMAGES,
    epoch_weights,
    last_checkpoint,
    load_checkpoint,
    previous_checkpoint,
    resume_point,
)
from simclr.system.signals import Requeue, Stop
from simclr.training.datamodule import PretrainingData
from simclr.training.last_checkpoint import LastCheckpoint, StopRequest, WriteHere
from simclr.training.step_seed import StepSeed
from tests.augment.test_engines import RECIPE
from tests.conftest import two_views

CPU_LAYOUT, GPU_LAYOUT = torch.contiguous_format, torch.channels_last
NEVER = Stop(75)  # takes no signals, as nobody has entered it


def fit(
    run_dir,
    minutes: float,
    *watchers: Callback,
    epochs: int = 1,
    resume: Path | None = None,
    stop: Stop = NEVER,
    layout: torch.memory_format = CPU_LAYOUT,
) -> dict[str, Tensor]:
    """Eight steps an epoch of a network of three layers and a dropout; returns its weights."""
    torch.manual_seed(0)
    method = SimCLR(
        backbone=small_encoder,
        head=partial(nn.Linear, out_features=4),
        optimizer=partial(torch.optim.Adam, fused=True),
        scheduler=lambda optimizer, **_: cosine(optimizer, 16, 8),  # whatever the epochs
        temperature=0.1,
    ).to(memory_format=layout)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[
            StopRequest(stop),
            *watchers,
            StepSeed(0),
            LastCheckpoint(run_dir, minutes, 1, {"batch_size": 8}, stop),
        ],
        plugins=[WriteHere()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PretrainingData(Shapes(64, 10, 64, seed=0), two_views(RECIPE), batch_size=8, seed=0)
    trainer.fit(method, data, ckpt_path=resume, weights_only=True)
    return method.state_dict()


def small_encoder() -> Encoder:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(), nn.Linear(16, 8))
    cast(Any, network).num_features = 8
    return cast(Encoder, network)


class Clock(Callback):
    """Time for the callback under test, in which every step takes a minute; and the last step saved before each."""

    def __init__(self, run_dir) -> None:
        self.now = 0.0
        self.path = last_checkpoint(run_dir)
        self.saved: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += 60
        self.saved.append(load_checkpoint(self.path)["global_step"] if self.path.exists() else 0)


def test_a_kill_costs_at_most_the_minutes(tmp_path, monkeypatch):
    clock = Clock(tmp_path)
    monkeypatch.setattr("simclr.training.last_checkpoint.time", clock)
    fit(tmp_path, 3, clock)
    assert clock.saved == [0, 0, 0, 3, 3, 3, 6, 6]  # in the first to the eighth step
    assert load_checkpoint(last_checkpoint(tmp_path))["global_step"] == 8  # an epoch's end


def test_an_epochs_end_is_always_saved_and_the_one_before_kept(tmp_path):
    fit(tmp_path, 60, epochs=2)
    kept = [load_checkpoint(path(tmp_path))["global_step"] for path in (previous_checkpoint, last_checkpoint)]
    assert kept == [8, 16]


class SlowDisk(Clock):
    """A step takes a second, and writing a checkpoint a fifth of one: twenty seconds' hundredth."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += 1

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.saved.append(load_checkpoint(self.path)["global_step"] if self.path.exists() else 0)

    def on_save_checkpoint(self, *_: Any) -> None:
        self.now += 0.2


class AskBetweenEpochs(SlowDisk):
    """Asks the run to go after the last step of the second epoch or before the first step of the third."""

    def __init__(self, run_dir: Path, before: bool) -> None:
        super().__init__(run_dir)
        self.before = before

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_batch_end()
        if trainer.global_step == 16 and self.before:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2 and not self.before:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("before", "step"), [(True, 16), (False, 17)])
def test_epochs_ends_are_passed_over_where_saving_would_cost_more_than_a_hundredth_of_the_time(
    tmp_path, monkeypatch, before, step
):
    """Eight seconds an epoch: saved are the first, the one at least twenty seconds later, and the run's own end. A run
    that is asked to go once an end was passed over goes a step later; it loses nothing."""
    clock = SlowDisk(tmp_path / "whole")
    monkeypatch.setattr("simclr.training.last_checkpoint.time", clock)
    whole = fit(tmp_path / "whole", 60, clock, epochs=6)
    assert clock.saved == [0, 8, 8, 8, 32, 32]
    assert load_checkpoint(last_checkpoint(tmp_path / "whole"))["global_step"] == 48

    clock = AskBetweenEpochs(tmp_path / "stopped", before)
    monkeypatch.setattr("simclr.training.last_checkpoint.time", clock)
    with pytest.raises(Requeue), Stop(75) as stop:
        fit(tmp_path / "stopped", 60, clock, epochs=6, stop=stop)
    last = last_checkpoint(tmp_path / "stopped")
    assert load_checkpoint(last)["global_step"] == step
    resumed = fit(tmp_path / "stopped", 60, epochs=6, resume=last)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


class Ruin(Callback):
    """Weights that a step has made infinite, its loss having been finite."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == 4:
            next(pl_module.parameters()).data.fill_(torch.inf)


def test_weights_that_are_not_finite_never_become_the_last_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 4"):
        fit(tmp_path, 1e-9, Ruin())
    checkpoint = load_checkpoint(last_checkpoint(tmp_path))
    assert checkpoint["global_step"] == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


class Break(Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 6:
            raise ZeroDivisionError


def test_a_network_with_dropout_goes_on_as_if_never_stopped(tmp_path):
    whole = fit(tmp_path / "whole", 60)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "stopped", 1e-9, Break())
    last = last_checkpoint(tmp_path / "stopped")
    assert load_checkpoint(last)["global_step"] == 5
    torch.rand(7)  # a new process begins with other random numbers
    resumed = fit(tmp_path / "stopped", 60, resume=last)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("layouts", [(CPU_LAYOUT, GPU_LAYOUT), (GPU_LAYOUT, CPU_LAYOUT)])
def test_a_run_goes_on_where_kernels_lie_in_another_order(tmp_path, layouts):
    """As from a GPU to a CPU and back. Weights and moments alike; the orders round differently."""
    before, after = layouts
    begun = fit(tmp_path / "begun", 60, layout=before)
    whole = fit(tmp_path / "whole", 60, epochs=2, layout=before)
    resumed = fit(tmp_path / "begun", 60, epochs=2, layout=after, resume=last_checkpoint(tmp_path / "begun"))
    assert resumed["backbone.1.weight"].stride() != whole["backbone.1.weight"].stride()
    for name, expected in whole.items():
        assert (expected - begun[name]).abs().max() > 1e-4
        torch.testing.assert_close(resumed[name], expected, rtol=0, atol=1e-5)


class Ask(Callback):
    """A scheduler that wants the run to go in its sixth step, and says so again while it saves itself."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = list(numbers)

    def send(self) -> None:
        if self.numbers:
            os.kill(os.getpid(), self.numbers.pop(0))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 6:
            self.send()

    def on_save_checkpoint(self, *_: Any) -> None:
        self.send()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGINT]
)
def test_a_signal_that_asks_to_stop_loses_nothing(tmp_path, number, caplog):
    whole = fit(tmp_path / "whole", 60)
    again = signal.SIGHUP if number == signal.SIGINT else number  # a second Ctrl-C ends the process at once
    with caplog.at_level(logging.INFO), pytest.raises(Requeue) as left, Stop(85) as stop:
        fit(tmp_path / "stopped", 60, Ask(number, again, signal.SIGTERM), stop=stop)
    assert left.value.code == (130 if number == signal.SIGINT else 85)
    assert f"{number.name}: stopped at step 6; " in caplog.text
    last = last_checkpoint(tmp_path / "stopped")
    assert load_checkpoint(last)["global_step"] == 6
    resumed = fit(tmp_path / "stopped", 60, resume=last)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), True, "5"])
def test_minutes_are_a_number_above_zero(tmp_path, minutes):
    with pytest.raises(InputError, match="checkpoint_minutes="):
        LastCheckpoint(tmp_path, minutes, None, {}, Stop(75))


def test_the_weights_of_every_epoch_are_kept_for_evaluation(tmp_path):
    after_one = fit(tmp_path / "one", 60)
    after_two = fit(tmp_path / "two", 60, epochs=2)
    for epoch, expected in ((1, after_one), (2, after_two)):
        kept = load_checkpoint(epoch_weights(tmp_path / "two", epoch))
        assert (kept["epoch"], kept["global_step"]) == (epoch, 8 * epoch)
        assert kept["config"] == {"batch_size": 8}
        images = Shapes(64, 10, 64, seed=0).load().train.key
        assert kept[TRAIN_IMAGES] == load_checkpoint(last_checkpoint(tmp_path / "two"))[TRAIN_IMAGES] == images
        for name, tensor in expected.items():
            assert torch.equal(kept["state_dict"][name], tensor)
    with pytest.raises(InputError, match=r"epoch-001.ckpt holds weights alone"):
        resume_point(tmp_path / "three", str(epoch_weights(tmp_path / "two", 1)))
