"""The contract of every pre-training method: what it reads, what its loss is, what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from simclr.augment.augmentation import Augmentation
from simclr.checks import is_finite
from simclr.data.batch import Views
from simclr.data.columns import Column
from simclr.errors import InputError
from simclr.models.backbone import Encoder
from simclr.optim.groups import all_alike, norms_and_biases_undecayed
from simclr.optim.layout import lay_state_out_as_parameters
from simclr.system import distributed

MakeBackbone = Callable[[], Encoder]
MakeHead = Callable[..., nn.Module]  # given in_features, and a predictor its out_features
MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
MakeScheduler = Callable[..., LRScheduler]  # given the optimiser, total_steps and steps_per_epoch


def make_predictor(predictor: MakeHead | None, width: Any) -> nn.Module:
    """What predicts embeddings [B, width] from embeddings of that width; None for nothing, as ablations have it."""
    if predictor is not None and not callable(predictor):
        raise ValueError(f"predictor={predictor} is not usable; write null for none, or say which with its _target_")
    return nn.Identity() if predictor is None else predictor(in_features=width, out_features=width)


class Scalar(NamedTuple):
    """What a number is that a method computes of a batch, for the bar, the log, metrics.json and the report.

    words: as on the axis of a figure. unit: "%" or "". short: its name in the progress bar; None keeps it out of there.
    """

    words: str
    unit: str = ""
    higher_is_better: bool | None = None
    short: str | None = None


class Method(pl.LightningModule):
    """A method says how views become a loss, in `compute`; this base does the rest.

    backbone, head, optimizer, scheduler: factories, so that a method can make two of a kind. The backbone is what
    evaluation judges and users take home, images [B, 3, H, W] to features [B, F]; the head takes features to the
    embeddings [B, D] that the loss compares. The scheduler is stepped after every optimiser step.
    decay_norms_and_biases: whether the optimiser's weight decay is theirs, too.

    Whether views share batch norm's statistics belongs to the method, whose docstring says it. All that a method keeps
    in parts, buffers and parameters is saved and resumed exactly, without a line of its own.
    """

    reads: ClassVar[frozenset[str]] = frozenset()  # columns that `compute` needs, such as "labels"
    scalars: ClassVar[Mapping[str, Scalar]] = {}  # what `compute` returns, "loss" among them

    def __init__(
        self,
        backbone: MakeBackbone,
        head: MakeHead,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        decay_norms_and_biases: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(decay_norms_and_biases, bool):
            raise ValueError(f"decay_norms_and_biases={decay_norms_and_biases} is not usable; choose true or false")
        self.backbone = backbone()  # before the head, so that one seed gives every head the same backbone
        self.head = head(in_features=self.backbone.num_features)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.decay_norms_and_biases = decay_norms_and_biases
        self.means = torch.empty(0)

    def prepare(self, columns: Mapping[str, Column]) -> None:
        """Make what depends on the data, such as a classifier for their classes; called once, before training.

        columns: what is known of the images to learn from. The run's seed decides the random numbers.
        """

    def check(self, augmentation: Augmentation) -> None:
        """Raise ValueError where the method cannot learn from such views."""

    def project(self, images: Tensor, head: nn.Module | None = None) -> Tensor:
        """Embeddings [B, D] of one view [B, 3, H, W], which goes through backbone and head by itself.

        head: another than the method's, where it has several.
        """
        # Convolutions of this depth run up to twice as fast with the channels innermost, on a CPU as on a GPU.
        return (head or self.head)(self.backbone(images.contiguous(memory_format=torch.channels_last)))

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        """The scalars of one batch by name: "loss", which is minimised, and whatever else `scalars` describes.

        Of several processes each has its part of the batch; what is logged is the mean over all of them.
        """
        raise NotImplementedError

    def parts(self) -> Mapping[str, nn.Module]:
        """What the method is made of, by the names that evaluation and export ask for."""
        return {"backbone": self.backbone, "head": self.head}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is given."""
        return (all_alike if self.decay_norms_and_biases else norms_and_biases_undecayed)(self.parameters())

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step that was taken, for moving averages.

        progress: k/K of step k of K, from 0 in the run's first step on.
        """

    def training_step(self, batch: Views, batch_idx: int) -> Tensor:
        scalars = self.compute(batch)
        assert scalars.keys() == self.scalars.keys(), "a method describes what it computes"
        # Of several processes each has its part of the batch; what is logged, and judged, is the whole.
        # training/not_finite.py fetches them, and training/curves.py logs them.
        self.means = distributed.mean(torch.stack([scalars[name].detach().float() for name in self.scalars]))
        return scalars["loss"]

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.make_optimizer(self.parameter_groups())
        except TypeError as error:  # torch compares what it is given with numbers
            raise InputError(f"optimizer: {error}") from error
        for name, value in optimizer.defaults.items():
            if isinstance(value, float) and not is_finite(value):  # torch refuses NaN itself, and lets infinity pass
                raise InputError(f"optimizer.{name}={value} is not usable; it is a finite number")
        # trainer.estimated_stepping_batches is not for here: it would set the loader up before Lightning restores its
        # place, and a resumed run would see the epoch's first batches again.
        steps = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        total = (self.trainer.max_epochs or 1) * steps
        scheduler = self.make_scheduler(optimizer, total_steps=total, steps_per_epoch=steps)
        optimizer.register_load_state_dict_post_hook(lay_state_out_as_parameters)
        if type(self).after_step is not Method.after_step:
            optimizer.register_step_post_hook(lambda optimizer, *_: self._step_done(optimizer, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _step_done(self, optimizer: Optimizer, total_steps: int) -> None:
        overflow = getattr(optimizer, "found_inf", None)  # of FP16's gradient scaler: a fused optimiser left it out
        left_out = all(p.grad is None for group in optimizer.param_groups for p in group["params"])
        if not left_out and (overflow is None or not overflow.item()):
            self.after_step(min(1.0, self.trainer.global_step / total_steps))
