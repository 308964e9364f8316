"""Watch the representation, not only the loss: k-NN accuracy on validation images while training."""

from __future__ import annotations

import logging
import math
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch

from simclr.data.checks import in_both, leak_words
from simclr.evaluation.features import are_finite, extract
from simclr.evaluation.knn import check_settings, knn_predict, protocol
from simclr.methods.base import Method
from simclr.system import distributed
from simclr.training.datamodule import PretrainingData
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)


class OnlineKNN(PeriodicMeasure):
    """Log `val/knn_top1` (per cent) every few epochs and after the last, and once before training.

    The bank is the training images, un-augmented, under the current weights. The figure before training is that of
    the untrained encoder, `val/knn_top1_untrained`: what is reached without having learned anything.
    """

    def __init__(self, every_n_epochs: int, k: int, temperature: float) -> None:
        super().__init__(every_n_epochs, "callbacks.online_knn")
        check_settings(k, temperature, "callbacks.online_knn")
        self.k, self.temperature = k, temperature
        self.untrained: float | None = None
        self.bank_size = 0
        self.leak = ""  # what to say beside every figure
        self.scaled = ""  # and beside the protocol

    @property
    def protocols(self) -> dict[str, str]:
        """What stands beside this callback's numbers in metrics.json."""
        words = protocol(self.bank_size, self.k, self.temperature) + self.scaled + self.leak
        return {"val/knn_top1": words, "val/knn_top1_untrained": f"before training; {words}"}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        self.bank_size, self.scaled = len(data.train), data.plain.words(data.train.size)
        if data.val is None or data.val.labels is None:
            log.info("No labelled validation images: val/knn_top1 is not measured.")
        elif len(data.val.classes) < 2:
            log.warning("All images are of one class: val/knn_top1 will be 100 % and say nothing.")
        elif leaked := in_both(data.train, data.val):
            self.leak = f"; {leak_words(leaked, len(data.val))}"
        if data.val is not None and data.val.labels is not None and data.train.labels is not None:
            majority = 100 * float((data.val.labels == np.bincount(data.train.labels).argmax()).mean())
            if majority * len(data.val.classes) > 1.5 * 100:  # well above chance, unseen
                log.info("Always the largest class would be right of %.2f %% of the validation images.", majority)

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        top1 = self._top1(trainer, pl_module)
        if top1 is None:
            return {}
        if math.isnan(top1):
            log.warning("Epoch %d: the features are not finite, so there is no k-NN accuracy.", epoch)
        elif epoch == 0:
            self.untrained = top1
            log.info("k-NN top-1 of the untrained encoder: %.2f %%%s", top1, self.leak)
        else:
            beside = "" if self.untrained is None else f" (untrained encoder: {self.untrained:.2f} %)"
            log.info("Epoch %d: k-NN top-1 %.2f %%%s%s", epoch, top1, beside, self.leak)
        return {"val/knn_top1": top1} | ({"val/knn_top1_untrained": top1} if epoch == 0 else {})

    def _top1(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float | None:
        """Per cent; NaN where the features are, None where there are no labels."""
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        train, val = data.train, data.val
        if val is None or val.labels is None or train.labels is None:
            return None
        encoder, device = cast(Method, pl_module).parts()["backbone"], pl_module.device
        bank, queries = (extract(encoder, store, device, prepare=data.plain) for store in (train, val))
        if not are_finite(bank, queries):
            return math.nan
        bank_labels = torch.from_numpy(train.labels).to(device)
        own = distributed.shard(len(val))
        predictions = knn_predict(bank, bank_labels, queries[own], len(val.classes), self.k, self.temperature)
        predictions = distributed.gather_shards(predictions, len(val))
        return 100 * (predictions.cpu() == torch.from_numpy(val.labels)).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.untrained = state_dict["untrained"]
