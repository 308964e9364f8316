"""Retrieval and zero-shot against counts by hand, pair by pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simclr.data import columns
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation import retrieval
from simclr.evaluation.protocol import Subject
from simclr.evaluation.retrieval import Pairs, Retrieval, by_chance, ranks
from simclr.evaluation.zero_shot import ZeroShot

CAPTIONS = [["a", "b"], ["c"], ["d", "b", "e"], ["f"], ["g", "g"]]


def store(captions: list[list[str]], classes: int = 3) -> ImageStore:
    labels = columns.labels(np.arange(len(captions)) % classes, [f"class_{i}" for i in range(classes)])
    pixels = np.random.default_rng(0).integers(0, 255, (len(captions), 8, 8, 3), dtype=np.uint8)
    return ImageStore.of(pixels, {"labels": labels, "captions": columns.captions(captions)})


@pytest.mark.parametrize("chunk", [2, 1024])
def test_ranks_are_those_counted_pair_by_pair(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    pairs = Pairs.of(store(CAPTIONS))
    assert pairs.sentences == ["a", "b", "c", "d", "e", "f", "g"]
    images, sentences = torch.randn(5, 4), torch.randn(7, 4)
    found = ranks(images, sentences, pairs)
    similarity = F.cosine_similarity(images[:, None], sentences[None], dim=2)
    for i, own in enumerate(CAPTIONS):
        mine = [pairs.sentences.index(text) for text in own]
        best = max(similarity[i, j].item() for j in mine)
        assert found.of_images[i] == sum(similarity[i, j].item() > best for j in range(7) if j not in mine)
    for j, text in enumerate(pairs.sentences):
        mine = [i for i, own in enumerate(CAPTIONS) if text in own]
        best = max(similarity[i, j].item() for i in mine)
        assert found.of_sentences[j] == sum(similarity[i, j].item() > best for i in range(5) if i not in mine)


def test_what_ties_counts_as_better():
    """A collapsed encoder finds nothing."""
    found = ranks(torch.ones(5, 4), torch.ones(7, 4), Pairs.of(store(CAPTIONS)))
    assert found.of_images.tolist() == [5, 6, 4, 6, 6]
    assert found.of_sentences.tolist() == [4, 3, 4, 4, 4, 4, 4]


def test_chance_is_that_of_a_random_order():
    random = np.random.default_rng(0)
    own, among, k = torch.tensor([1, 3, 5]), 12, 4
    seen = [np.mean([(random.permutation(among)[:k] < n).any() for _ in range(20_000)]) for n in own.tolist()]
    assert by_chance(own, among, k) == pytest.approx(np.mean(seen), abs=0.01)
    assert by_chance(own, among, 12) == pytest.approx(1)
    assert by_chance(own, among, 50) == pytest.approx(1)


def subject(
    monkeypatch, images: torch.Tensor, sentences: dict[str, torch.Tensor], val: ImageStore, tmp_path
) -> Subject:
    made = Subject(torch.nn.Identity(), None, val, val, torch.device("cpu"), tmp_path)
    made.features_of["val"] = images
    monkeypatch.setattr(
        Subject, "sentences", lambda _, texts: F.normalize(torch.stack([sentences[text] for text in texts]), dim=1)
    )
    return made


def test_recall_is_the_share_of_images_and_of_their_captions(monkeypatch, tmp_path):
    """Each image finds its caption, but the last two are exchanged; of the third image's captions one finds it."""
    val = store([["a"], ["b"], ["c", "d"], ["e"], ["f"]])
    e = torch.eye(5)
    sentences = {"a": e[0], "b": e[1], "c": e[2], "d": e[0] + 0.1 * e[2], "e": e[4], "f": e[3]}
    numbers, _, lines = Retrieval([1, 2]).judge(subject(monkeypatch, e, sentences, val, tmp_path))
    assert numbers["image_to_text_r1"] == pytest.approx(60)
    assert numbers["text_to_image_r1"] == pytest.approx(100 * (1 + 1 + 0.5) / 5)
    assert numbers["text_to_image_r2"] == pytest.approx(100 * (1 + 1 + 1) / 5)
    assert numbers["image_to_text_median_rank"] == 1
    for key in ("image_to_text_r1", "text_to_image_r1"):
        assert 0 < numbers[f"{key}_low"] < numbers[key] < numbers[f"{key}_high"] < 100
        assert numbers[f"{key}_chance"] == pytest.approx(20, abs=4)
    assert len(lines) == 2


def test_a_class_is_the_mean_of_its_sentences(monkeypatch, tmp_path):
    val = store([["x"]] * 6)
    e = torch.eye(3)
    sentences = {
        f"{text} class {i}": e[i] + 0.9 * noise * e[(i + 1) % 3]
        for i in range(3)
        for text, noise in (("a", 1), ("the", -1))
    }
    images = torch.cat([e, e[[1, 1, 2]]])  # the fourth is taken for another class
    protocol = ZeroShot(["a {}", "the {}"])
    numbers, words, _ = protocol.judge(subject(monkeypatch, images, sentences, val, tmp_path))
    assert numbers["top1"] == pytest.approx(100 * 5 / 6)
    assert numbers["top5"] == 100
    assert numbers["chance_top1"] == pytest.approx(100 / 3)
    assert "a {}; the {}" in words["zero_shot"]


@pytest.mark.parametrize("templates", [[], ["no place"], ["{} and {}"], "a {}", [3]])
def test_templates_without_one_place_are_refused(templates):
    with pytest.raises(ValueError, match=r"templates=.* is not usable"):
        ZeroShot(templates)


@pytest.mark.parametrize("ks", [[], [0], "10", [1.5]])
def test_recall_among_no_number_is_refused(ks):
    with pytest.raises(InputError, match=r"protocol.ks=.* is not usable"):
        Retrieval(ks)


def test_images_without_captions_are_refused():
    val = store(CAPTIONS)
    bare = replace(val, columns={"labels": val.columns["labels"]})
    with pytest.raises(InputError, match="retrieval evaluation needs training and validation images with captions"):
        Retrieval([1]).check(bare, bare)
