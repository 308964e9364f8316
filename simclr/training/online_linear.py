"""A linear probe that learns beside the encoder, from what that computes anyway: accuracy while training."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.checks import is_finite
from simclr.data.batch import Views
from simclr.errors import InputError
from simclr.evaluation.features import are_finite, extract
from simclr.methods.base import Method
from simclr.system import distributed
from simclr.training.datamodule import PretrainingData
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)

KEY = "callbacks.online_linear"
MEMORY = 0.99  # of the running mean and variance that features are standardised by


class OnlineLinear(PeriodicMeasure):
    """Log `val/linear_top1` and `val/linear_top5` (per cent) every few epochs and after the last.

    A softmax classifier of the features of the training views, detached, with one step of Adam for each of the
    encoder's. It begins at 0 and draws no random number, so that the encoder learns what it would have learned without
    it, to the bit. It follows features that move, and sees augmented images: protocol=linear says what they are worth.
    lr: of Adam, on standardised features.
    """

    wants = frozenset({"labels"})  # columns that are read with the images where these have them

    def __init__(self, every_n_epochs: int, lr: float) -> None:
        super().__init__(every_n_epochs, KEY)
        if not is_finite(lr) or lr <= 0:
            raise InputError(f"{KEY}.lr={lr} is not usable; it is a number greater than 0")
        self.lr = lr
        self.probe: nn.Linear | None = None
        self.optimizer: torch.optim.Adam | None = None
        self.mean, self.variance, self.steps = torch.zeros(()), torch.ones(()), 0
        self.features: list[Tensor] = []  # of the step's forward pass, a tensor for each call of the backbone
        self.waiting: list[Tensor] = []
        self.kept: dict[str, Any] | None = None

    @property
    def protocols(self) -> dict[str, str]:
        """What stands beside this callback's numbers in metrics.json."""
        words = (
            f"a softmax classifier trained beside the encoder (Adam, rate {self.lr:g}, one step for each of its own) "
            "on detached, standardised features of the training views; un-augmented validation images"
        )
        return {"val/linear_top1": words, "val/linear_top5": words}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        if data.pretrain.labels is None:
            log.info("The images that are learned from have no labels: val/linear_top1 is not measured.")
            return
        backbone, classes = cast(Method, pl_module).parts()["backbone"], len(data.pretrain.classes)
        width = cast(int, backbone.num_features)
        self.probe = nn.utils.skip_init(nn.Linear, width, classes, device=pl_module.device)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)
        self.mean, self.variance = torch.zeros(width).to(pl_module.device), torch.ones(width).to(pl_module.device)
        self.optimizer = torch.optim.Adam(self.probe.parameters(), lr=self.lr)
        backbone.register_forward_hook(self._keep)
        if self.kept is not None:
            self._put_back(self.kept)

    def _keep(self, backbone: nn.Module, _: Any, features: Tensor) -> None:
        if backbone.training and torch.is_grad_enabled():
            self.features.append(features.detach())

    def on_train_batch_start(self, *_: Any) -> None:
        self.features.clear()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.waiting, self.features = self.features, []  # without what backward may compute anew

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Views, batch_idx: int
    ) -> None:
        if self.probe is None:
            return
        labels = batch.columns["labels"].to(pl_module.device)
        whole = [features for features in self.waiting if len(features) % len(labels) == 0]  # of all views together
        if whole:
            self._learn(torch.cat(whole).float(), torch.cat([labels.repeat(len(x) // len(labels)) for x in whole]))

    def _learn(self, features: Tensor, labels: Tensor) -> None:
        """One step on features [B, F] and labels int64 [B]; of several processes each has its part of the batch."""
        assert self.probe is not None
        assert self.optimizer is not None
        with torch.autocast(features.device.type, enabled=False):
            features = features.nan_to_num(0.0, 0.0, 0.0)  # a step that is not finite is the encoder's affair
            mean = distributed.mean(features.mean(dim=0))
            variance = distributed.mean((features - mean).square().mean(dim=0))
            memory = min(MEMORY, self.steps / (self.steps + 1))  # at first the mean of all so far
            self.mean, self.variance = self.mean.lerp(mean, 1 - memory), self.variance.lerp(variance, 1 - memory)
            self.steps += 1
            with torch.enable_grad():
                loss = F.cross_entropy(self.probe(self._standard(features)), labels)
            parameters = [self.probe.weight, self.probe.bias]
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = distributed.mean(slope)
            self.optimizer.step()

    def _standard(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.variance.sqrt().clamp(min=1e-6)

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        val = data.val
        if self.probe is None or self.steps == 0 or val is None or val.labels is None:
            return {}
        if val.classes != data.pretrain.classes:
            return {}
        features = extract(cast(Method, pl_module).parts()["backbone"], val, pl_module.device, prepare=data.plain)
        if not are_finite(features):
            return {}
        with torch.no_grad():
            best = self.probe(self._standard(features)).topk(min(5, len(val.classes)), dim=1).indices.cpu()
        right = best == torch.from_numpy(val.labels)[:, None]
        top1 = 100 * right[:, 0].float().mean().item()
        log.info("Epoch %d: linear top-1 %.2f %%, of a probe that learns beside the encoder", epoch, top1)
        five = {"val/linear_top5": 100 * right.any(dim=1).float().mean().item()} if len(val.classes) > 5 else {}
        return {"val/linear_top1": top1} | five

    def state_dict(self) -> dict[str, Any]:
        if self.probe is None or self.optimizer is None:
            return {}
        return {
            "probe": self.probe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "variance": self.variance,
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict or None
        if self.kept is not None and self.probe is not None:
            self._put_back(self.kept)

    def _put_back(self, kept: dict[str, Any]) -> None:
        assert self.probe is not None
        assert self.optimizer is not None
        self.probe.load_state_dict(kept["probe"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.mean, self.variance = (kept[name].to(self.probe.weight.device) for name in ("mean", "variance"))
        self.steps = kept["steps"]
