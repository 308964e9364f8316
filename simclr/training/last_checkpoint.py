"""Keep `last.ckpt` so fresh that a kill costs minutes, and a signal that asks to stop nothing."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from simclr.checks import is_finite, is_whole
from simclr.errors import InputError
from simclr.runs.checkpoint import (
    HISTORY,
    TRAIN_IMAGES,
    VAL_IMAGES,
    epoch_weights,
    last_checkpoint,
    previous_checkpoint,
)
from simclr.system import distributed
from simclr.system.files import replacing, to_disk
from simclr.system.signals import Stop
from simclr.training.datamodule import PretrainingData

log = logging.getLogger(__name__)


SHARE = 0.01  # of the time, at most, goes into the checkpoints of epochs' ends


class StopRequest(Callback):
    """From the start of training on, a signal that asks to stop waits for LastCheckpoint's answer between two steps.

    It takes the signals from Lightning, whose handler would talk to the other processes from within the signal; so it
    comes before all callbacks that take their time.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.action = lambda: None
        self.stop.listen()


class WriteHere(TorchCheckpointIO):
    """Writes a checkpoint where it is to be; Lightning writes it to the system's temporary folder and then moves it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch's own writer hides why it failed
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())


class LastCheckpoint(Checkpoint):
    """Write the run's last checkpoint every `minutes`, at the ends of epochs, and where `stop` asks the run to go.

    An epoch that ends so soon after the last one was written that another would cost more than a hundredth of the time
    is passed over: a fast GPU would spend more of short epochs on writing. The run's own end never is.
    config: plain dicts and lists, stored in the file, from which evaluation rebuilds the model.
    machine: how the run computes, stored in the file for it to go on alike: "accelerator", "precision", "threads".
    history: the checkpoints of other runs, or of other settings, that the run has gone on from; stored as well.
    keep_every_n_epochs: how often to keep the weights of an epoch's end for good, in a file of their own; None: never.
    The new file gets its name only when it is whole and on disk, and the one before is kept beside it, so a kill, a
    power loss or a full disk leaves a whole one. Weights that are not finite are not written: that raises
    FloatingPointError.
    """

    def __init__(
        self,
        run_dir: Path,
        minutes: float,
        keep_every_n_epochs: int | None,
        config: dict[str, Any],
        stop: Stop,
        machine: dict[str, Any] | None = None,
        history: Sequence[dict[str, Any]] = (),
    ) -> None:
        if not is_finite(minutes) or not minutes > 0:
            raise InputError(f"checkpoint_minutes={minutes} is not usable; it must be greater than 0")
        if keep_every_n_epochs is not None and (not is_whole(keep_every_n_epochs) or keep_every_n_epochs < 1):
            raise InputError(
                f"keep_every_n_epochs={keep_every_n_epochs} is not usable; it is a whole number, 1 or more, or null"
            )
        self.run_dir, self.keep_every_n_epochs = run_dir, keep_every_n_epochs
        self.path, self.previous = last_checkpoint(run_dir), previous_checkpoint(run_dir)
        self.minutes, self.config, self.stop = minutes, config, stop
        self.machine, self.history = machine or {}, list(history)
        self.saved_at = time.monotonic()
        self.saving_took = 0.0  # seconds; so the first epoch's end is saved
        self.saved_step, self.saved_in = 0, self.path
        self.last_is_whole = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A damaged file, which the run did not go on from, must not push out the good one before it.
        self.last_is_whole = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == self.path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_at = time.monotonic()
        if trainer.ckpt_path is not None:  # what the run goes on from is on disk
            self.saved_step, self.saved_in = trainer.global_step, Path(trainer.ckpt_path)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Between two steps, when the values of the one before are logged: at the end of a step they are not yet.
        stop, save = distributed.any_of(self.stop.received is not None, self._late())
        if (stop or save) and trainer.global_step != self.saved_step:
            if batch_idx == 0:
                return  # an epoch's end that was passed over: Lightning goes on from there or from within the next one
            self._save(trainer)
        if stop:
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Before the checkpoint: a run that goes on from that one does not come by this epoch's end again.
        self._refuse_broken_weights(trainer)
        epoch = trainer.current_epoch + 1
        if self.keep_every_n_epochs is not None and epoch % self.keep_every_n_epochs == 0 and trainer.is_global_zero:
            content = {"state_dict": pl_module.state_dict(), "global_step": trainer.global_step, "epoch": epoch}
            with replacing(epoch_weights(self.run_dir, epoch)) as unfinished:
                WriteHere().save_checkpoint(content | self._origin(trainer), unfinished)
        last = trainer.should_stop or epoch == trainer.max_epochs
        cheap = SHARE * (time.monotonic() - self.saved_at) >= self.saving_took
        if any(distributed.any_of(last or self.stop.received is not None, cheap or self._late())):
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint.update(self._origin(trainer))
        # Lightning expects to be saved at the end of a step, before it has counted it for the loggers, and on loading
        # counts it then. Between two steps it has been counted already.
        loops = checkpoint["loops"]["fit_loop"]
        progress = loops["epoch_loop.batch_progress"]["total"]
        if progress["ready"] > progress["started"]:
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def _origin(self, trainer: pl.Trainer) -> dict[str, Any]:
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        images = {TRAIN_IMAGES: data.pretrain.key, VAL_IMAGES: None if data.val is None else data.val.key}
        return {"config": self.config, "machine": self.machine, HISTORY: self.history, **images}

    def _leave(self, trainer: pl.Trainer) -> None:
        log.info(
            "%s: stopped at step %d; the same command goes on from there (exit status %d).",
            self.stop.received.name if self.stop.received else "A signal to another process",
            trainer.global_step,
            self.stop.exit_code,
        )
        self.stop.leave()

    @staticmethod
    def _refuse_broken_weights(trainer: pl.Trainer) -> None:
        weights = [tensor for tensor in trainer.lightning_module.state_dict().values() if tensor.is_floating_point()]
        if not all(torch.isfinite(tensor).all() for tensor in weights):
            raise FloatingPointError(f"the weights are not finite at step {trainer.global_step}")

    def _late(self) -> bool:
        return time.monotonic() - self.saved_at >= self.minutes * 60

    def _save(self, trainer: pl.Trainer) -> None:
        started = time.monotonic()
        self._refuse_broken_weights(trainer)
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            for events in self.run_dir.glob("events.out.tfevents.*"):
                to_disk(events)  # a curve must not lack what the checkpoint takes for done
        # All processes take part in saving, and the first one writes.
        with replacing(self.path) if trainer.is_global_zero else nullcontext(self.path) as target:
            trainer.save_checkpoint(target, weights_only=False)  # False: with optimiser and position
            if trainer.is_global_zero and self.last_is_whole:
                to_disk(target)
                self.path.replace(self.previous)
        self.last_is_whole = True
        self.saved_at = time.monotonic()
        self.saving_took = self.saved_at - started
        self.saved_step, self.saved_in = trainer.global_step, self.path

    def advice(self) -> str:
        """What to do where numbers have gone wrong."""
        kept = f"{self.saved_in} holds step {self.saved_step}" if self.saved_step else "no checkpoint was written yet"
        return (
            f"the last good checkpoint: {kept}. A lower optimizer.lr, a higher temperature or precision=32 may help, "
            "in a new run or from there with resume=PATH"
        )
