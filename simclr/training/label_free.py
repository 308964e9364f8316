"""Watch the representation where there are no labels, and say so when it collapses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
from torch import Tensor

from simclr.augment.recipe import Draws
from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.evaluation.features import extract, frozen
from simclr.evaluation.label_free import NAMES, collapse, measure
from simclr.methods.base import Method
from simclr.system.randomness import generator
from simclr.training.datamodule import PretrainingData
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)

KEY = "callbacks.label_free"


class LabelFree(PeriodicMeasure):
    """Log what features show without labels: alignment, RankMe and the others of evaluation/label_free.py.

    `features/...` are the encoder's output, `embeddings/...` the head's, which the loss compares; both in eval mode,
    under current weights, of the first `images` of a fixed shuffle of the training images, un-augmented. Alignment
    compares the first two views of each, by the run's own recipes under draws that stay the same, so that of two
    augmentations the stronger one has views that lie further apart. TensorBoard also gets every dimension's standard
    deviation, as a histogram. The untrained network is measured and never called collapsed.

    `alarm` says in a word what has collapsed, None while nothing has; the progress bar shows it.
    """

    def __init__(self, every_n_epochs: int, images: int) -> None:
        super().__init__(every_n_epochs, KEY)
        if not is_whole(images) or images < 2:
            raise InputError(f"{KEY}.images={images} is not usable; it is a whole number, 2 or more")
        self.images = images
        self.alarm: str | None = None
        self.shown = ""  # what to say beside the protocol of how images are shown

    @property
    def protocols(self) -> dict[str, str]:
        """What stands beside this callback's numbers in metrics.json."""
        words = f"{{}} of at most {self.images} un-augmented training images"
        words += f"; alignment, lidar: two views by the run's recipe{self.shown}"
        kinds = {"features": "the encoder's features", "embeddings": "the head's embeddings"}
        return {f"{kind}/{name}": words.format(what) for kind, what in kinds.items() for name in NAMES}

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        method, data = cast(Method, pl_module), cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        store = data.pretrain.first_of_shuffle(self.images)
        _, height, width, _ = store.pixels.shape
        self.shown = data.plain.words(store.size)

        def view(number: int) -> Callable[[Tensor, slice], Tensor]:
            recipe = data.augmentation.views[min(number, len(data.augmentation.views) - 1)]
            draws = recipe.draw(len(store), height, width, generator("label-free", number))
            return lambda images, rows: data.augment(images, Draws(*(d[rows] for d in draws)), recipe)

        backbone, head = method.parts()["backbone"], method.parts()["head"]
        features = [extract(backbone, store, method.device, prepare=p) for p in (data.plain, view(0), view(1))]
        with frozen(head):
            embeddings = [head(x) for x in features]
        values: dict[str, float] = {}
        collapsed: dict[str, str] = {}
        for kind, outputs in (("features", features), ("embeddings", embeddings)):
            found = measure(*outputs)
            values |= {f"{kind}/{name}": value for name, value in found.scalars.items()}
            if epoch > 0 and (what := collapse(found.scalars, len(store))) is not None:
                collapsed[kind] = what
            self._histogram(trainer, f"{kind}/std_of_dimensions", found.spread)
        for kind, what in collapsed.items():
            log.warning("Epoch %d: the %s have COLLAPSED: %s.", epoch, kind, what)
        if self.alarm is not None and not collapsed:
            log.info("Epoch %d: no longer collapsed.", epoch)
        self.alarm = " and ".join(collapsed) or None
        return values

    @staticmethod
    def _histogram(trainer: pl.Trainer, tag: str, values: Tensor) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger) and values.isfinite().all():
                logger.experiment.add_histogram(tag, values.cpu(), max(trainer.global_step - 1, 0))

    def state_dict(self) -> dict[str, Any]:
        return {"alarm": self.alarm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.alarm = state_dict["alarm"]
