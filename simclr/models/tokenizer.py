"""From sentences to the whole numbers that a text tower reads: byte-level byte pairs (Sennrich et al. 2016)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from simclr.checks import is_whole
from simclr.errors import first_line

LEAST = 512  # words of a vocabulary: 256 bytes, three that are none, and some to be learned
MOST = 2**17
PADDING, START, END = 0, 1, 2  # of BytePairs


class Tokens(NamedTuple):
    """ids: int64 [N, context]: start, words, end, padding. cut: how many sentences were longer than the context."""

    ids: Tensor
    cut: int


class Tokenizer(Protocol):
    """vocabulary: numbers run from 0 to below it. end: the number that ends a sentence and is nowhere else in it."""

    vocabulary: int
    end: int

    def fit(self, sentences: Iterable[str]) -> None:
        """Learn the words of these sentences; nothing, for one that is fixed."""

    def encode(self, sentences: Sequence[str], context: int) -> Tokens:
        """Sentences as numbers. One that does not fit is cut at the end of a word."""

    def state(self) -> str:
        """What it has learned, as JSON; `restore` makes another one the same."""

    def restore(self, state: str) -> None:
        """Raises ValueError for what `state` has not written."""


class BytePairs:
    """Byte pairs that are learned from the run's own captions, in NFC and, where asked for, in lower case.

    Every text can be written in it: what was never seen comes out as bytes. vocabulary: how many numbers there are at
    most, for bytes, pairs and the three that begin, end and fill up a sentence. What it learns is a function of the
    sentences and of their order. Raises ValueError for a vocabulary out of range.
    """

    end = END

    def __init__(self, vocabulary: int, lower_case: bool) -> None:
        if not is_whole(vocabulary) or not LEAST <= vocabulary <= MOST:
            raise ValueError(f"vocabulary={vocabulary} is not usable; it is a whole number, {LEAST} to {MOST}")
        if not isinstance(lower_case, bool):
            raise ValueError(f"lower_case={lower_case} is not usable; choose true or false")
        self.vocabulary, self.lower_case = vocabulary, lower_case
        try:
            self.fit(())
        except ImportError as error:
            raise ValueError('captions need the package tokenizers; pip install -e ".[clip]"') from error

    def fit(self, sentences: Iterable[str]) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        # A new one each time: one that is trained anew remembers how it took words apart before.
        self.made = Tokenizer(models.BPE())
        case = [normalizers.Lowercase()] if self.lower_case else []
        self.made.normalizer = normalizers.Sequence([normalizers.NFC(), *case])
        self.made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        special, letters = ["<padding>", "<start>", "<end>"], pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary, special_tokens=special, initial_alphabet=letters, show_progress=False
        )
        self.made.train_from_iterator(map(_tidy, sentences), trainer)
        self.made.encode_special_tokens = True  # a caption that says <end> does not end there

    def encode(self, sentences: Sequence[str], context: int) -> Tokens:
        found = self.made.encode_batch([_tidy(sentence) for sentence in sentences])
        return framed([(one.ids, one.word_ids) for one in found], context, START, END)

    def state(self) -> str:
        return self.made.to_str()

    def restore(self, state: str) -> None:
        from tokenizers import Tokenizer

        try:
            made = Tokenizer.from_str(state)
        except Exception as error:  # the library has no one kind for what may be wrong
            raise ValueError(f"it cannot be read ({first_line(error)})") from error
        ids = made.get_vocab().values()
        if len(ids) > self.vocabulary or any(number >= self.vocabulary for number in ids):
            raise ValueError(f"it has {len(ids):,} words, and its vocabulary is {self.vocabulary:,}")
        self.made = made
        self.made.encode_special_tokens = True


class ClipBytePairs:
    """CLIP's own 49,408 byte pairs (Radford et al. 2021), as open_clip has them; nothing is learned.

    Sentences are cleaned and in lower case, as CLIP's are.
    """

    vocabulary = 49_408
    end = 49_407

    def __init__(self) -> None:
        try:
            from open_clip.tokenizer import SimpleTokenizer
        except ImportError as error:
            raise ValueError("tokenizer=clip needs open_clip; pip install open_clip_torch, or leave it out") from error
        self.made = SimpleTokenizer()

    def fit(self, sentences: Iterable[str]) -> None:
        pass

    def encode(self, sentences: Sequence[str], context: int) -> Tokens:
        found = []
        for sentence in sentences:
            ids = self.made.encode(sentence)
            ends = torch.tensor([self.made.decoder[number].endswith("</w>") for number in ids], dtype=torch.long)
            found.append((ids, (ends.cumsum(0) - ends).tolist()))
        return framed(found, context, self.end - 1, self.end)

    def state(self) -> str:
        return json.dumps({"clip": self.vocabulary, "open_clip": version("open_clip_torch")})

    def restore(self, state: str) -> None:
        try:
            same = json.loads(state)["clip"] == self.vocabulary
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"it cannot be read ({first_line(error)})") from error
        if not same:
            raise ValueError("it is not CLIP's")


def framed(found: Sequence[tuple[Sequence[int], Sequence[int | None]]], context: int, start: int, end: int) -> Tokens:
    """Sentences between `start` and `end`, padded with 0. found: of each its numbers, and which word each is part of.

    What does not fit is cut: the last word goes whole, unless it is the only one.
    """
    ids, cut, room = torch.full((len(found), context), PADDING), 0, context - 2
    for row, (numbers, words) in enumerate(found):
        kept = len(numbers)
        if kept > room:
            cut += 1
            kept = room
            while kept > 0 and words[kept - 1] == words[kept]:
                kept -= 1
            kept = kept or room
        ids[row, : kept + 2] = torch.tensor([start, *numbers[:kept], end])
    return Tokens(ids, cut)


def _tidy(sentence: str) -> str:
    """Blanks of every kind are one blank."""
    return " ".join(sentence.split())
