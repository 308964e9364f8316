"""Watch the representation, not only the loss: k-NN accuracy on validation pictures while training."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from simclr import distributed
from simclr.data.datamodule import TwoViews
from simclr.errors import InputError
from simclr.evaluation.features import extract
from simclr.evaluation.knn import check_settings, knn_predict, protocol
from simclr.methods.base import Method
from simclr.numbers import is_whole

log = logging.getLogger(__name__)


class OnlineKNN(Callback):
    """Log `val/knn_top1` (per cent) every few epochs and after the last, and once before training.

    The bank is the training pictures, un-augmented, under the current weights. The figure before training is that of
    the untrained encoder, `val/knn_top1_untrained`: what is reached without having learned anything.
    """

    def __init__(self, every_n_epochs: int, k: int, temperature: float) -> None:
        if not is_whole(every_n_epochs) or every_n_epochs < 1:
            raise InputError(
                f"callbacks.online_knn.every_n_epochs={every_n_epochs} is not usable; it is a whole number, 1 or more"
            )
        check_settings(k, temperature, "callbacks.online_knn")
        self.every_n_epochs, self.k, self.temperature = every_n_epochs, k, temperature
        self.untrained: float | None = None
        self.bank_size = 0

    @property
    def protocols(self) -> dict[str, str]:
        """What stands beside this callback's numbers in metrics.json."""
        words = protocol(self.bank_size, self.k, self.temperature)
        return {"val/knn_top1": words, "val/knn_top1_untrained": f"before training; {words}"}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = cast(TwoViews, trainer.datamodule)  # type: ignore[attr-defined]
        self.bank_size = len(data.train)
        if data.val is None or data.val.labels is None:
            log.info("No labelled validation pictures: val/knn_top1 is not measured.")
        elif len(data.val.classes) < 2:
            log.warning("All pictures are of one class: val/knn_top1 will be 100 % and say nothing.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        self.untrained = self._measure(trainer, pl_module)
        if self.untrained is not None:
            self._log(trainer, {"val/knn_top1": self.untrained, "val/knn_top1_untrained": self.untrained})
            log.info("k-NN top-1 of the untrained encoder: %.2f %%", self.untrained)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and epoch != trainer.max_epochs:
            return
        top1 = self._measure(trainer, pl_module)
        if top1 is not None:
            self._log(trainer, {"val/knn_top1": top1})
            beside = "" if self.untrained is None else f" (untrained encoder: {self.untrained:.2f} %)"
            log.info("Epoch %d: k-NN top-1 %.2f %%%s", epoch, top1, beside)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float | None:
        data = cast(TwoViews, trainer.datamodule)  # type: ignore[attr-defined]
        train, val = data.train, data.val
        if val is None or val.labels is None or train.labels is None:
            return None
        encoder, device = cast(Method, pl_module).backbone, pl_module.device
        bank, queries = extract(encoder, train, device), extract(encoder, val, device)
        bank_labels = torch.from_numpy(train.labels).to(device)
        own = distributed.shard(len(val))
        predictions = knn_predict(bank, bank_labels, queries[own], len(val.classes), self.k, self.temperature)
        predictions = distributed.gather_shards(predictions, len(val))
        return 100 * (predictions.cpu() == torch.from_numpy(val.labels)).float().mean().item()

    @staticmethod
    def _log(trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers:
            # Under the step just done, as the training scalars are: a resume drops what lies after its checkpoint.
            logger.log_metrics(metrics, step=max(trainer.global_step - 1, 0))

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.untrained = state_dict["untrained"]
