"""Which labelled images are held out, and what is said of accuracies that mislead."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from simclr.data import columns
from simclr.data.checks import in_both, warn_of_doubts
from simclr.data.folder import ImageFolder
from simclr.data.split import stratified_split
from simclr.data.store import ImageStore
from tests.conftest import image_bytes, write_folder


def distinct(count: int) -> np.ndarray:
    return np.array([f"{i:016}".encode() for i in range(count)], "S16")


def noise(count: int, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [image_bytes(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def tree(path: Path, counts: dict[str, int]) -> Path:
    images = iter(noise(sum(counts.values())))
    return write_folder(path, {f"{name}/{i}.png": next(images) for name, n in counts.items() for i in range(n)})


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_shares_are_those_of_scikit_learn(fraction):
    """Whose own last images go to classes by lot, as these do; so each class has the same number or one beside it."""
    labels = np.random.default_rng(0).choice(12, 3001, p=np.arange(1, 13) / 78)
    held_out = stratified_split(labels, distinct(len(labels)), fraction)
    oracle = StratifiedShuffleSplit(1, test_size=round(fraction * len(labels)), random_state=0)
    ((_, theirs),) = oracle.split(labels[:, None], labels)
    assert held_out.sum() == len(theirs)
    assert np.abs(np.bincount(labels[held_out]) - np.bincount(labels[theirs])).max() <= 1


def test_what_is_held_out_does_not_follow_the_order_of_images():
    labels = np.repeat(np.arange(10), 100)
    rows = np.flatnonzero(stratified_split(labels, distinct(1000), 0.1)) % 100
    assert 35 < rows.mean() < 65  # 49.5, give or take five standard errors of a mean of 100
    among_equals = stratified_split(np.repeat(np.arange(400), 14), distinct(5600), 0.1).reshape(400, 14).sum(axis=1)
    assert set(among_equals) == {1, 2}  # 1.4 of each
    assert 20 < (among_equals[:200] == 2).sum() < 140  # of 160, half in the first half of the classes


@st.composite
def collections(draw) -> tuple[np.ndarray, np.ndarray]:
    """Labels of up to seven classes, from one image to many, and images of which some are copies of others."""
    counts = draw(st.lists(st.integers(1, 40), min_size=2, max_size=7))
    labels = np.repeat(np.arange(len(counts)), counts)
    copied = draw(
        st.lists(st.integers(0, draw(st.sampled_from([3, 60, 10**6]))), min_size=sum(counts), max_size=sum(counts))
    )
    return labels, np.array([f"{i:016}".encode() for i in copied], "S16")


@settings(max_examples=200, deadline=None)
@given(collections(), st.floats(0.01, 0.99))
def test_every_split_is_sound(collection, fraction):
    labels, digests = collection
    held_out = stratified_split(labels, digests, fraction)
    assert np.array_equal(held_out, stratified_split(labels, digests, fraction))
    train, val = set(digests[~held_out]), set(digests[held_out])
    assert not train & val
    for label in range(labels.max() + 1):
        own = labels == label
        assert (own & ~held_out).any()
        elsewhere = set(digests[~own])
        assert not elsewhere & set(digests[own & held_out])  # an image of two classes judges nobody
        copies = [np.sum(digests == one) for one in set(digests[own]) - elsewhere]
        can_be_held_out = any(n < own.sum() for n in copies)
        assert (own & held_out).any() == can_be_held_out
        most = max([np.ceil(fraction * own.sum()), 1, *([min(copies)] if copies else [])])
        assert (own & held_out).sum() <= most
        if len(set(digests[own])) == own.sum() and not elsewhere & set(digests):
            assert (own & held_out).sum() >= np.floor(fraction * own.sum())


def test_small_classes_are_judged_and_the_smallest_named(tmp_path, caplog):
    counts = {"a": 40, "b": 40, "c": 2, "d": 1, "e": 2, "f": 1, "g": 1}
    _, train, val = ImageFolder(str(tree(tmp_path / "p", counts)), 16, 0.1).load()
    assert np.bincount(val.labels, minlength=7).tolist() == [4, 4, 1, 0, 1, 0, 0]
    assert np.bincount(train.labels).tolist() == [36, 36, 1, 1, 1, 1, 1]
    warn_of_doubts(train, val)
    assert "3 of the 7 classes have no validation images, so no accuracy speaks of them: 'd', 'f', 'g'." in caplog.text
    assert "LEAK" not in caplog.text
    caplog.clear()
    warn_of_doubts(train.select(np.flatnonzero(train.labels < 2)), val)
    assert "5 of the 7 classes have no training images, so none of their images can be recognised:" in caplog.text


def test_many_classes_are_named_in_short(tmp_path, caplog):
    counts = {f"c{i:03}": 1 for i in range(100)} | {"z": 2}
    warn_of_doubts(*ImageFolder(str(tree(tmp_path / "p", counts)), 16, 0.1).load()[1:])
    assert "100 of the 101 classes have no validation images" in caplog.text
    assert "'c000', 'c001', 'c002', 'c003', 'c004' and 95 more." in caplog.text


def test_classes_without_validation_are_named_where_both_folders_are_given(tmp_path, caplog):
    root = tree(tmp_path / "p", {"train/a": 3, "train/b": 3, "train/c d": 1, "val/a": 2})
    warn_of_doubts(*ImageFolder(str(root), 16, 0.1).load()[1:])
    assert "2 of the 3 classes have no validation images, so no accuracy speaks of them: 'b', 'c d'." in caplog.text


def test_one_image_a_class_trains_and_is_not_judged(tmp_path, caplog):
    _, train, val = ImageFolder(str(tree(tmp_path / "p", {"a": 1, "b": 1, "c": 1})), 16, 0.5).load()
    assert (len(train), val) == (3, None)
    assert "No class has two different images, one to train on and one to hold out" in caplog.text


def test_copies_and_links_go_to_one_side(tmp_path, caplog):
    root = tree(tmp_path / "p", {"a": 30, "b": 30})
    for i in range(30):
        shutil.copy(root / "a" / f"{i}.png", root / "a" / f"copy of {i}.png")
        (root / "b" / f"link to {i}.png").symlink_to(f"{i}.png")
        os.link(root / "b" / f"{i}.png", root / "b" / f"also {i}.png")
    with caplog.at_level("INFO"):
        _, train, val = ImageFolder(str(root), 16, 0.1).load()
    assert np.bincount(val.labels).tolist() == [6, 9]
    seen = {train.gather(slice(i, i + 1)).numpy().tobytes() for i in range(len(train))}
    assert not any(val.gather(slice(i, i + 1)).numpy().tobytes() in seen for i in range(len(val)))
    assert "90 images repeat others; copies stay together, on one side of the split." in caplog.text
    assert "another class" not in caplog.text
    shutil.copy(root / "a" / "3.png", root / "b" / "moved.png")
    ImageFolder(str(root), 16, 0.1).load()
    assert "3 images have a copy in another class; they are trained on, and not judged." in caplog.text


def test_images_in_both_are_counted_and_said(caplog):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 2, (400, 2, 2, 3), dtype=np.uint8) * (random.random((400, 1, 1, 1)) < 0.5).astype(
        np.uint8
    )
    labels = np.arange(400) % 2
    whole = ImageStore.of(pixels, {"labels": columns.labels(labels, ["a", "b"])})
    train, val = whole.select(np.arange(0, 300)), whole.select(np.arange(399, 299, -1))
    brute = sum((pixels[:300] == pixels[row]).all(axis=(1, 2, 3)).any() for row in range(300, 400))
    assert 10 < brute < 100
    assert in_both(train, val) == brute
    assert in_both(train.select(np.arange(0)), val) == 0
    warn_of_doubts(train, val)
    said = f"LEAK: {brute} of the 100 validation images are training images too"
    assert f"{said}, which may flatter an accuracy by up to {brute:.2f} points." in caplog.text
