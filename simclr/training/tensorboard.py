"""What TensorBoard shows of a run beside its curves: a first page of charts, views, similarities, a map of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from google.protobuf import text_format
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor
from torchvision.utils import make_grid

from simclr.checks import is_whole
from simclr.data.batch import Views
from simclr.data.files.archive import path_of
from simclr.data.store import ImageStore
from simclr.data.words import display_names
from simclr.errors import InputError
from simclr.evaluation.features import are_finite, extract, frozen
from simclr.methods.base import Method
from simclr.system import distributed
from simclr.system.files import replacing
from simclr.training.datamodule import PretrainingData

KEY = "callbacks.tensorboard"
COMPARED = 64  # images of a batch, at most, in the matrix of similarities
THUMBNAIL = 64  # pixels along a side of an image in the map of features, at most
ORANGE, BLUE = (0.85, 0.37, 0.01), (0.0, 0.45, 0.70)  # a cosine of 1 and of -1; 0 is white


class TensorBoardStory(Callback):
    """Write what curves do not tell, where the run's logger is TensorBoard's.

    Before the first step: a page of charts (Custom Scalars) with the loss first, and the views of the first `images`
    images of the first batch. In the first step and in the last: the cosine of every image's first view with every
    image's second view of that batch; what a method pulls together lies on the diagonal. After the last: `features`
    validation images as points (Projector), each with its thumbnail and its class, called by its word in `words`, a
    words.txt or a folder or zip that may hold one. 0 leaves images or features out.
    """

    def __init__(self, images: int, features: int, words: str | None = None) -> None:
        for name, value in (("images", images), ("features", features)):
            if not is_whole(value) or value < 0:
                raise InputError(f"{KEY}.{name}={value} is not usable; it is a whole number, 0 for none")
        self.images, self.features = images, features
        self.words = None if words is None else path_of("words", words)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            measured = [tag for one in trainer.callbacks for tag in getattr(one, "protocols", {})]  # type: ignore[attr-defined]
            judged = [tag for tag in measured if tag.startswith("val/") and not tag.endswith("_untrained")]
            for logger in _loggers(trainer):
                logger.experiment.add_custom_scalars({"run": _charts(cast(Method, pl_module), judged)})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0 and self.images:
            data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
            for logger in _loggers(trainer):
                logger.experiment.add_image("views", _sheet(batch.images, self.images, data), 0)
                self._similarities(logger, cast(Method, pl_module), batch, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = (trainer.max_epochs or 1) * trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        if trainer.global_step == last and self.images:
            for logger in _loggers(trainer):
                self._similarities(logger, cast(Method, pl_module), batch, last - 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        loggers, store = _loggers(trainer), data.val or data.train
        if not self.features or distributed.from_first(not loggers):
            return
        store = store.first_of_shuffle(self.features)
        features = extract(cast(Method, pl_module).parts()["backbone"], store, pl_module.device, prepare=data.plain)
        if are_finite(features):
            for logger in loggers:
                write_projector(Path(logger.log_dir), features, store, display_names(store.classes, place=self.words))

    @staticmethod
    def _similarities(logger: TensorBoardLogger, method: Method, batch: Views, step: int) -> None:
        if len(batch.images) < 2 or "text" in method.parts():
            return
        first, second = (images[:COMPARED] for images in batch.images[:2])
        with frozen(method):
            left, right = (F.normalize(method.project(images).float(), dim=1) for images in (first, second))
        cosines = (left @ right.T).cpu()
        if cosines.isfinite().all():
            logger.experiment.add_image("similarity of two views", _heat(cosines), step)


def tell_settings(logger: Any, name: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Let the logger's own tables compare runs by their settings.

    name: of the run. settings: the few that people compare by, one column each in TensorBoard's HParams, beside the
    run's last values. config: all of them, for any other logger.
    """
    if isinstance(logger, TensorBoardLogger):
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        if writer := getattr(logger.experiment, "file_writer", None):  # none in the processes after the first
            writer.add_summary(hparams_pb(plain, trial_id=name))
    else:
        logger.log_hyperparams(dict(config))


def write_projector(folder: Path, features: Tensor, store: ImageStore, names: Sequence[str]) -> None:
    """Features [N, F] of the images of a store, as TensorBoard's projector reads them from a run's folder.

    names: of the store's classes.
    """
    own = folder / "projector"
    own.mkdir(exist_ok=True)
    rows = features.cpu().numpy()
    with replacing(own / "tensors.tsv") as unfinished:
        np.savetxt(unfinished, rows, fmt="%.5g", delimiter="\t")
    side = min(store.size, THUMBNAIL)
    with replacing(own / "sprite.png") as unfinished:
        _sprite(store.gather(slice(None)), side).save(unfinished, format="PNG")
    config = ProjectorConfig()
    shown = config.embeddings.add(tensor_name="features", tensor_path="projector/tensors.tsv")
    shown.sprite.image_path = "projector/sprite.png"
    shown.sprite.single_image_dim.extend([side, side])
    if store.labels is not None:
        with replacing(own / "metadata.tsv") as unfinished:
            lines = [" ".join(names[label].split()) or "?" for label in store.labels]
            unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        shown.metadata_path = "projector/metadata.tsv"
    with replacing(folder / "projector_config.pbtxt") as unfinished:
        unfinished.write_text(text_format.MessageToString(config), encoding="utf-8")


def _loggers(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    """Those of TensorBoard, in the first process alone."""
    return [one for one in trainer.loggers if isinstance(one, TensorBoardLogger) and distributed.rank() == 0]


def _charts(method: Method, judged: list[str]) -> dict[str, list[Any]]:
    """A page's charts by their titles: what is minimised, what else the method says of a batch, then what is judged.

    judged: tags of what callbacks measure on validation images.
    """
    by_unit: dict[str, list[str]] = {}
    for name, scalar in method.scalars.items():
        by_unit.setdefault(scalar.unit or scalar.words, []).append(name)
    training = {
        ", ".join(method.scalars[name].words for name in names): [f"train/{name}" for name in names]
        for names in by_unit.values()
    }
    validation = {"on validation images, %": judged} if judged else {}
    course = {"learning rate": ["train/lr"], "images a second": ["train/images_per_second"]}
    return {title: ["Multiline", tags] for title, tags in (training | validation | course).items()}


def _sheet(views: Sequence[Tensor], count: int, data: PretrainingData) -> Tensor:
    """The views [B, 3, S, S] of the first images of a batch: an image a column, a view a row; float [3, H, W]."""
    recipe, size = data.augmentation.views[0], max(images.shape[-1] for images in views)
    rows = [F.interpolate(images[:count].float().cpu(), size=size) for images in views]
    sheet = torch.cat(rows)
    if recipe.mean is not None and recipe.std is not None:  # to a person, not to a network
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
        sheet = sheet * std + mean
    return make_grid(sheet.clamp(0, 1), nrow=len(rows[0]), padding=2, pad_value=1)


def _heat(cosines: Tensor) -> Tensor:
    """A matrix [N, N] of values from -1 to 1 in colours, each a square of some pixels: float [3, H, W]."""
    strength, (above, below) = cosines.abs()[None], (torch.tensor(c).view(3, 1, 1) for c in (ORANGE, BLUE))
    colours = 1 - strength * (1 - torch.where(cosines[None] > 0, above, below))
    return F.interpolate(colours[None], scale_factor=max(1, 512 // len(cosines)))[0].clamp(0, 1)


def _sprite(images: Tensor, side: int) -> Image.Image:
    """Images uint8 [N, H, W, 3] as one, square, row by row."""
    columns = math.ceil(math.sqrt(len(images)))
    small = F.interpolate(images.permute(0, 3, 1, 2).float(), size=side, mode="area").round().byte()
    sheet = make_grid(small, nrow=columns, padding=0)
    square = torch.zeros(3, columns * side, columns * side, dtype=torch.uint8)
    square[:, : sheet.shape[1], : sheet.shape[2]] = sheet[:3]
    return Image.fromarray(square.permute(1, 2, 0).numpy())
