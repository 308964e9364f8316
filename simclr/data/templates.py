"""Sentences for images that have labels alone: templates about their classes, in place of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simclr.data.columns import Column
from simclr.data.files.archive import path_of
from simclr.data.store import ImageStore, Splits
from simclr.data.words import spoken
from simclr.errors import InputError


def check_templates(templates: object) -> None:
    """Raise ValueError for what is no list of sentences with one place, {}, for a class each."""
    usable = isinstance(templates, Sequence) and not isinstance(templates, str) and len(templates) > 0
    if not usable or not all(isinstance(text, str) and text.count("{}") == 1 for text in templates):  # type: ignore[attr-defined]
        raise ValueError(f"templates={templates} is not usable; it lists sentences, each with one {{}}")


class Templates:
    """A source whose training images have captions: each template, with what its class is called.

    source: yields the images, which must have labels. templates: sentences with {} for the class. words: as in
    `spoken`. Validation images get none: as all images of a class would have the same, there is nothing to retrieve.
    What images are there, and their keys, is as without.
    """

    def __init__(self, source: Any, templates: Sequence[str], words: str | None = None) -> None:
        check_templates(templates)
        self.source, self.templates = source, templates
        self.words = None if words is None else path_of("words", words)

    def load(self) -> Splits:
        """Raises InputError for images without labels, and what the source raises."""
        pretrain, train, val = self.source.load()
        captioned = self._captioned(pretrain)
        return Splits(captioned, captioned if train is pretrain else train, val)

    def _captioned(self, store: ImageStore) -> ImageStore:
        if store.labels is None:
            raise InputError("captions=templates says what classes are called, and these images have no labels")
        names = spoken(store.classes, self.words)
        sentences = tuple(template.replace("{}", name) for name in names for template in self.templates)
        first = store.labels * len(self.templates)
        known = Column(np.stack([first, first + len(self.templates)], axis=1), sentences)
        return replace(store, columns={**store.columns, "captions": known})
