"""Retrieval: which captions an image finds among all, and which image a caption finds (Karpathy & Fei-Fei 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_whole
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.protocol import Judgement, Protocol, Subject, check_features, mean_interval

CHUNK = 1024  # sentences compared with all images at once; bounds the memory


class Pairs(NamedTuple):
    """Which sentence belongs to which image. sentences: the S different ones; sentence, image: int64 [P], the pairs."""

    sentences: list[str]
    sentence: Tensor
    image: Tensor

    @classmethod
    def of(cls, store: ImageStore) -> Pairs:
        """All captions of a store's images; what two images have in common is one sentence of both."""
        column = store.columns["captions"]
        texts = column.texts()
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        sentence = torch.tensor([number[text] for text in texts])
        image = torch.from_numpy(np.repeat(np.arange(len(store)), np.diff(column.values)[:, 0]))
        return cls(list(number), sentence, image)

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many different sentences each image has, int64 [N], and how many images each sentence, int64 [S]."""
        sentence, image = torch.stack([self.sentence, self.image]).unique(dim=1)
        return image.bincount(), sentence.bincount()


class Ranks(NamedTuple):
    """of_images: of the best of each image's own sentences among all, int64 [N]; of_sentences: of the best of each
    sentence's images among all, int64 [S]. 0 is the first; what ties counts as better.
    """

    of_images: Tensor
    of_sentences: Tensor


def ranks(images: Tensor, sentences: Tensor, pairs: Pairs) -> Ranks:
    """Of images [N, D] and sentences [S, D], any scale, by cosine.

    Other sentences of an image, and other images of a sentence, are no mistakes: the best of them counts.
    """
    images, sentences = F.normalize(images, dim=1), F.normalize(sentences, dim=1)
    sentence, image = pairs.sentence.to(images.device), pairs.image.to(images.device)

    def chunks() -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some sentences, their similarity to all images, and which of these are theirs."""
        for start in range(0, len(sentences), CHUNK):
            part = slice(start, start + CHUNK)
            scores = sentences[part] @ images.T
            here = (sentence >= part.start) & (sentence < part.stop)
            own = torch.zeros_like(scores, dtype=torch.bool)
            own[sentence[here] - start, image[here]] = True
            yield part, scores, own

    best = images.new_full((len(images),), -torch.inf)
    of_images, of_sentences = torch.zeros_like(best).long(), torch.zeros(len(sentences), device=best.device).long()
    for part, scores, own in chunks():
        mine = scores.masked_fill(~own, -torch.inf)
        best = torch.maximum(best, mine.amax(dim=0))
        of_sentences[part] = ((scores >= mine.amax(dim=1, keepdim=True)) & ~own).sum(dim=1)
    for _, scores, own in chunks():
        of_images += ((scores >= best) & ~own).sum(dim=0)
    return Ranks(of_images, of_sentences)


class Retrieval(Protocol):
    """Recall among validation images and their captions, in both directions; ks: among how many first ones."""

    name = "retrieval"
    needs = frozenset({"captions"})
    parts = frozenset({"head", "text"})
    reads = ("val",)

    def __init__(self, ks: Sequence[int]) -> None:
        if not isinstance(ks, Sequence) or not ks or not all(is_whole(k) and k >= 1 for k in ks):
            raise InputError(f"protocol.ks={ks} is not usable; it lists whole numbers, 1 or more")
        self.ks = ks

    def judge(self, subject: Subject) -> Judgement:
        images, pairs = subject.features_of["val"], Pairs.of(subject.val)
        sentences = subject.sentences(pairs.sentences)
        check_features(images, sentences)
        found = ranks(images, sentences, pairs)
        by_image, by_sentence = pairs.counts()
        numbers: dict[str, float] = {}
        lines = []
        for direction, rank, own, among in (
            ("image_to_text", found.of_images.cpu(), by_image, len(sentences)),
            ("text_to_image", found.of_sentences.cpu()[pairs.sentence], by_sentence[pairs.sentence], len(images)),
        ):
            for k in self.ks:
                share = (rank < k).double()
                if direction == "text_to_image":  # the captions of an image are not independent: first its own mean
                    share = torch.zeros(len(images)).double().index_add(0, pairs.image, share)
                    share /= pairs.image.bincount(minlength=len(images))
                low, high = mean_interval(share.numpy())
                key = f"{direction}_r{k}"
                numbers |= {key: 100 * share.mean().item(), f"{key}_low": 100 * low, f"{key}_high": 100 * high}
                numbers[f"{key}_chance"] = 100 * by_chance(own, among, k)
            numbers[f"{direction}_median_rank"] = 1 + rank.double().quantile(0.5).item()
            lines.append(self._line(direction, numbers))
        counts = f"of {len(images):,} validation images and their {len(pairs.image):,} captions"
        words = (
            f"recall at k {counts}, by cosine of the heads' embeddings; of an image's own captions, and of the images "
            "of equal captions, the best counts; ties with others count against it; text to image: mean over images of "
            "the share of their captions; interval: 95 %, Gaffke's, over images; chance: in a random order"
        )
        return Judgement(numbers, {self.name: words}, lines)

    def _line(self, direction: str, numbers: dict[str, float]) -> str:
        recalls = []
        for k in self.ks:
            key = f"{direction}_r{k}"
            low, high, chance = (numbers[f"{key}_{end}"] for end in ("low", "high", "chance"))
            recalls.append(f"R@{k} {numbers[key]:.1f} % ({low:.1f} to {high:.1f}; chance {chance:.3g})")
        rank = numbers[f"{direction}_median_rank"]
        return f"{direction.replace('_', ' ')}: {', '.join(recalls)}, median rank {rank:.0f}"


def by_chance(own: Tensor, among: int, k: int) -> float:
    """How often one of its own, int64 [N] in number, is among the first k of a random order of `among`: the mean."""
    place = torch.arange(min(k, among), dtype=torch.double)
    missed = ((among - own[:, None] - place).clamp(min=0) / (among - place)).prod(dim=1)
    return 1 - missed.mean().item()
