"""Zero-shot classification: of all classes the one whose name, in a sentence, lies nearest (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from simclr.data.files.archive import path_of
from simclr.data.templates import check_templates
from simclr.data.words import spoken
from simclr.evaluation.protocol import (
    ACCURACY_WORDS,
    Judgement,
    Protocol,
    Subject,
    accuracy,
    accuracy_line,
    check_features,
    share_interval,
)


class ZeroShot(Protocol):
    """Top-1 and top-5 without a single label: nothing is fitted (section 3.1.4 of the paper).

    templates: sentences with {} for a class's name; a class is the mean of all of them, each of length 1.
    words: what classes are called, as in data/words.py `spoken`; None: by their names.
    """

    name = "zero_shot"
    parts = frozenset({"head", "text"})
    reads = ("val",)

    def __init__(self, templates: Sequence[str], words: str | None = None) -> None:
        check_templates(templates)
        self.templates = templates
        self.words = None if words is None else path_of("words", words)

    def judge(self, subject: Subject) -> Judgement:
        images = subject.features_of["val"]
        names = spoken(subject.val.classes, self.words)
        classes = self.classes(subject, names)
        check_features(images, classes)
        train_labels, labels = subject.labels()
        scores = F.normalize(images, dim=1) @ classes.T
        order = scores.topk(min(5, len(names)), dim=1).indices
        numbers = accuracy(order[:, 0] == labels, labels, train_labels)
        among = (order == labels[:, None]).any(dim=1).cpu()
        low, high = share_interval(int(among.sum()), len(among))
        numbers |= {"top5": 100 * among.double().mean().item(), "top5_low": 100 * low, "top5_high": 100 * high}
        numbers |= {"chance_top1": 100 / len(names), "templates": len(self.templates)}
        words = (
            f"zero-shot: the nearest of {len(names)} classes by cosine, each the mean of {len(self.templates)} "
            f"sentences ({'; '.join(self.templates)}); no label was used; {ACCURACY_WORDS}"
        )
        line = f"zero-shot {accuracy_line(numbers)}; chance: {numbers['chance_top1']:.2f} %"
        return Judgement(numbers, {self.name: words}, [line])

    def classes(self, subject: Subject, names: Sequence[str]) -> Tensor:
        """The embedding of every class, of length 1: float32 [C, D]."""
        sentences = [template.replace("{}", name) for name in names for template in self.templates]
        embeddings = subject.sentences(sentences).unflatten(0, (len(names), len(self.templates)))
        return F.normalize(embeddings.mean(dim=1), dim=1)
