"""CLIP: learning transferable visual models from natural language supervision (Radford et al. 2021); and SLIP."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.augment.augmentation import Augmentation
from simclr.checks import is_finite
from simclr.data.batch import Views
from simclr.data.columns import Column
from simclr.losses import CHUNK_LOGITS, check_temperature, in_parts, info_nce, top_k, wide
from simclr.methods.base import MakeHead, Method, Scalar
from simclr.methods.gradient_cache import check_micro_batch, embed_in_parts, embed_views
from simclr.models.text import TextTransformer
from simclr.system import distributed

log = logging.getLogger(__name__)

NEVER = -1e30  # a logit; infinity would make the gradient of a sum without terms not a number
MAX_SCALE = 100.0  # of logits (section 2.5)


class ImageText(NamedTuple):
    """loss: scalar, in nats. image_rank, text_rank: int64 [N], how many texts beat (or tie with) each image's own, and
    how many images each text's."""

    loss: Tensor
    image_rank: Tensor
    text_rank: Tensor


def image_text(
    images: Tensor,
    texts: Tensor,
    temperature: Tensor | float,
    sentences: Tensor | None = None,
    chunk_logits: int = CHUNK_LOGITS,
) -> ImageText:
    """Symmetric cross-entropy between images and their texts (CLIP; Radford et al. 2021, figure 3).

    images, texts: [N, D], pairs, any scale. temperature: > 0, divides cosine similarities; it may learn.
    sentences: int64 [N], equal where two texts say the same. Such texts are positives of each other's images: the loss
    is the mean over an anchor's positives, each against the negatives alone. (If positives competed, as in UniCL's soft
    targets, texts with equal embeddings would get CLIP's own loss.) None: every other pair is a negative.
    chunk_logits, precision and several processes: as in `info_nce`.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(
            f"image-text pairs need two tensors [pairs, dimension], got {list(images.shape)} and {list(texts.shape)}"
        )
    with torch.autocast(images.device.type, enabled=False):
        both = [F.normalize(wide(side), dim=1) for side in (images, texts)]
        own = distributed.rank() * len(images) + torch.arange(len(images), device=images.device)
        own = own if sentences is None else sentences
        everyone = distributed.gather(own).flatten()
        rows, losses, ranks = max(1, chunk_logits // len(everyone)), [], []
        for anchors, others in (both, both[::-1]):
            candidates = distributed.gather(others).flatten(0, 1)
            parts = zip(anchors.split(rows), own.split(rows), strict=True)
            loss, rank = in_parts(partial(_of_pairs, says=everyone), list(parts), candidates, temperature)
            losses.append(loss / len(anchors))
            ranks.append(rank)
    return ImageText((losses[0] + losses[1]) / 2, *ranks)


def _of_pairs(
    anchors: Tensor, own: Tensor, candidates: Tensor, temperature: Tensor | float, says: Tensor
) -> tuple[Tensor, Tensor]:
    """The same between images and texts, int64 [A] ranks. own: what the anchors say [A]; says: the candidates [M]."""
    logits = anchors @ candidates.T / temperature
    alike = own[:, None] == says
    against = logits.masked_fill(alike, NEVER).logsumexp(dim=1, keepdim=True)
    loss = (torch.where(alike, torch.logaddexp(logits, against) - logits, 0).sum(dim=1) / alike.sum(dim=1)).sum()
    with torch.no_grad():
        best = logits.masked_fill(~alike, float("-inf")).amax(dim=1, keepdim=True)
        rank = ((logits >= best) & ~alike).sum(dim=1)
    return loss, rank


class CLIP(Method):
    """An image finds its caption among those of the batch, and a caption its image (figure 3 of the paper).

    text: factory of the text tower, given the width of the embeddings, out_features. temperature: to begin with; it is
    learned, as the logarithm of the logits' scale, which stays at 100 or below.
    same_caption: "positive" where equal captions of a batch belong to each other's images too, "negative" where they
    are told apart like any others, as in the paper.
    micro_batch: as in SimCLR, of images and captions alike. The rest is the base's; its head is the image's projection.
    One view of every image; of several captions one is drawn a step.
    """

    reads = frozenset({"captions"})
    scalars: ClassVar = {
        "loss": Scalar("image-text loss", higher_is_better=False, short="loss"),
        "image_to_text": Scalar("caption found in the batch", "%", True, "i→t"),
        "text_to_image": Scalar("image found in the batch", "%", True, "t→i"),
        "logit_scale": Scalar("scale of the logits"),
    }

    def __init__(
        self,
        text: Callable[..., TextTransformer],
        temperature: float,
        same_caption: str = "negative",
        micro_batch: int | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_temperature(temperature)
        check_micro_batch(micro_batch)
        if temperature < 1 / MAX_SCALE:
            raise ValueError(f"temperature={temperature} is not usable; CLIP's is {1 / MAX_SCALE} or more")
        if same_caption not in ("positive", "negative"):
            raise ValueError(f"same_caption={same_caption} is not known; choose positive or negative")
        width: Any = self.head.out_features
        self.text = text(out_features=width)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.same_caption, self.micro_batch = same_caption, micro_batch
        self.sentences: tuple[str, ...] = ()

    def prepare(self, columns: Mapping[str, Column]) -> None:
        captions = columns["captions"]
        self.sentences = captions.names
        self.text.learn_words(captions.texts())
        self._read()

    def _read(self) -> None:
        """Keep every caption's tokens, int64 [C, T], and a number that equal ones share, int64 [C]."""
        self.tokens, cut = self.text.tokens(self.sentences)
        if cut:
            count = f"{cut:,} of {len(self.sentences):,}"
            log.info("%s captions are longer than method.text.context=%d, and cut at a word.", count, self.text.context)
        self.says = torch.from_numpy(np.unique(self.tokens.numpy(), axis=0, return_inverse=True)[1].reshape(-1))
        self.read_with = self.text.learned

    def on_fit_start(self) -> None:
        if self.text.learned != self.read_with:  # a checkpoint has brought its own
            self._read()
        self.tokens, self.says = self.tokens.to(self.device), self.says.to(self.device)

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) != 1:
            raise ValueError("captions are compared with one view of an image; use augmentation.views=1")

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "text": self.text}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        drawn = views.columns["captions"]
        images, texts = self._embed(self.project, views.images[0]), self._embed(self.text, self.tokens[drawn])
        loss, image_rank, text_rank = image_text(
            images, texts, (-self.logit_scale).exp(), self.says[drawn] if self.same_caption == "positive" else None
        )
        found = {"image_to_text": top_k(image_rank, 1), "text_to_image": top_k(text_rank, 1)}
        return {"loss": loss} | found | {"logit_scale": self.logit_scale.exp()}

    def _embed(self, tower: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Embeddings [N, D] by one of the towers, `micro_batch` at a time."""

        def embed(part: Tensor) -> Tensor:
            return tower(part[0])[None]

        return embed_in_parts(self, embed, given[None], self.micro_batch or len(given))[0]

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(MAX_SCALE))


class SLIP(CLIP):
    """CLIP, whose image tower has SimCLR's loss as well (SLIP; Mu et al. 2022, algorithm 1).

    The loss is CLIP's + image_weight · SimCLR's.

    image_head: factory of the head that the contrasted views have for themselves. image_weight: of their loss, 0 or
    more. image_temperature: of their InfoNCE. The rest is CLIP's.
    The first view goes to the captions, through backbone and head by itself; the others, two or more, are contrasted
    with each other, and share batch norm's statistics.
    """

    scalars: ClassVar = {
        **CLIP.scalars,
        "loss": Scalar("SLIP loss", higher_is_better=False, short="loss"),
        "image_text_loss": Scalar("image-text loss", higher_is_better=False),
        "image_loss": Scalar("InfoNCE loss of images", higher_is_better=False),
        "top1": Scalar("contrastive top-1", "%", True, "top-1"),
    }

    def __init__(self, image_head: MakeHead, image_weight: float, image_temperature: float, **clip: Any) -> None:
        super().__init__(**clip)
        if not is_finite(image_weight) or image_weight < 0:
            raise ValueError(f"image_weight={image_weight} is not usable; it is a number, 0 or more (SLIP's: 1)")
        check_temperature(image_temperature)
        self.image_head = image_head(in_features=self.backbone.num_features)
        self.image_weight, self.image_temperature = image_weight, image_temperature

    def check(self, augmentation: Augmentation) -> None:
        if len(augmentation.views) < 3:
            raise ValueError(
                "one view is compared with captions, and two or more with each other; use augmentation=slip, or list "
                "three in augmentation.views"
            )

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "image_head": self.image_head}

    def compute(self, views: Views) -> Mapping[str, Tensor]:
        captioned, *contrasted = views.images
        found = super().compute(Views([captioned], views.columns))
        contrast = partial(self.project, head=self.image_head)
        embeddings = embed_views(self, Views(contrasted, {}), self.micro_batch, contrast)
        image_loss, rank = info_nce(embeddings, self.image_temperature)
        both = {"image_text_loss": found["loss"], "image_loss": image_loss, "top1": top_k(rank, 1)}
        return {**found, **both, "loss": found["loss"] + self.image_weight * image_loss}
