"""Watch how images and captions find each other while training: recall at 1 on a fixed sample of validation images."""

from __future__ import annotations

import logging
import math
from typing import cast

import pytorch_lightning as pl

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.evaluation.features import are_finite, extract, frozen
from simclr.evaluation.retrieval import Pairs, ranks
from simclr.methods.base import Method
from simclr.models.text import TextTransformer
from simclr.training.datamodule import PretrainingData
from simclr.training.periodic import PeriodicMeasure

log = logging.getLogger(__name__)

KEY = "callbacks.retrieval"


class OnlineRetrieval(PeriodicMeasure):
    """Log `val/image_to_text_r1` and `val/text_to_image_r1` (per cent) every few epochs and after the last.

    Of the first `images` validation images of a fixed shuffle, with all their captions, as evaluation/retrieval.py.
    """

    def __init__(self, every_n_epochs: int, images: int) -> None:
        super().__init__(every_n_epochs, KEY)
        if not is_whole(images) or images < 2:
            raise InputError(f"{KEY}.images={images} is not usable; it is a whole number, 2 or more")
        self.images = images
        self.among = ""

    @property
    def protocols(self) -> dict[str, str]:
        """What stands beside this callback's numbers in metrics.json."""
        words = f"recall at 1, {self.among}, by cosine of the heads' embeddings; best own caption, ties count against"
        return {"val/image_to_text_r1": words, "val/text_to_image_r1": words}

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        method, data = cast(Method, pl_module), cast(PretrainingData, trainer.datamodule)  # type: ignore[attr-defined]
        if data.val is None or "captions" not in data.val.columns or "text" not in method.parts():
            return {}
        parts = method.parts()
        text = cast(TextTransformer, parts["text"])
        store = data.val.first_of_shuffle(self.images)
        pairs = Pairs.of(store)
        self.among = f"{len(store):,} validation images and their {len(pairs.image):,} captions"
        features = extract(parts["backbone"], store, method.device, prepare=data.plain)
        with frozen(parts["head"]), frozen(text):
            images = parts["head"](features)
            captions = text.embed(pairs.sentences)
        if not are_finite(images, captions):
            log.warning("Epoch %d: the embeddings are not finite, so there is no recall.", epoch)
            return {"val/image_to_text_r1": math.nan, "val/text_to_image_r1": math.nan}
        of_images, of_sentences = ranks(images, captions, pairs)
        best = (of_images == 0, (of_sentences == 0)[pairs.sentence.to(method.device)])
        found = [100 * right.cpu().double().mean().item() for right in best]
        log.info("Epoch %d: recall at 1: image to text %.1f %%, text to image %.1f %%", epoch, *found)
        return {"val/image_to_text_r1": found[0], "val/text_to_image_r1": found[1]}
