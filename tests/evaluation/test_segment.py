"""The class of every pixel: against torchmetrics, scikit-learn, and images whose masks are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchmetrics.functional.classification import multiclass_jaccard_index

from simclr.data import columns
from simclr.data.columns import UNKNOWN
from simclr.data.shapes import SHAPES, Shapes
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.protocol import Subject
from simclr.evaluation.segment import Segment, bootstrap, confusion, hypercolumns, mean_iou


class Colours(nn.Module):
    """Maps that are the image's own colours, in halves and in quarters."""

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(images, by) for by in (2, 4)]


def painted(count: int, seed: int, blind: bool = False) -> ImageStore:
    """Left and right halves, or upper and lower ones, of two of three colours; blind: in all black."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, (count, 2))
    masks = np.empty((count, 16, 16), np.uint8)
    masks[:, :8], masks[:, 8:] = classes[:, :1, None], classes[:, 1:, None]
    masks[::2] = masks[::2].transpose(0, 2, 1)
    palette = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]])
    pixels = (palette[masks] * (not blind) + random.integers(0, 40, (*masks.shape, 3))).astype(np.uint8)
    return ImageStore.of(pixels, {"masks": columns.masks(masks, ["red", "green", "blue"])})


def subject(tmp_path, train: ImageStore, val: ImageStore) -> Subject:
    return Subject(Colours(), None, train, val, torch.device("cpu"), tmp_path)


def test_mean_iou_is_torchmetrics():
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (5, 12, 12), generator=random)
    predicted = torch.where(torch.rand(truth.shape, generator=random) < 0.6, truth, 3)
    unknown = torch.rand(truth.shape, generator=random) < 0.1
    counts = confusion(predicted, truth.masked_fill(unknown, UNKNOWN), 4).numpy()
    assert counts.sum() == (~unknown).sum()
    theirs = multiclass_jaccard_index(predicted[~unknown], truth[~unknown], 4).item()
    assert mean_iou(counts.sum(axis=0)) == pytest.approx(theirs, abs=1e-6)
    for image in range(5):
        known = ~unknown[image]
        theirs = multiclass_jaccard_index(predicted[image][known], truth[image][known], 4).item()
        assert mean_iou(counts)[image] == pytest.approx(theirs, abs=1e-6)


def test_colours_that_mean_something_are_found_and_black_ones_are_not(tmp_path):
    protocol = Segment(60, 6, [1.0, 0.1, 1e-3])
    found = protocol.judge(subject(tmp_path, painted(60, 1), painted(40, 2))).numbers
    assert found["mean_iou_low"] > 0.9
    assert found["pixel_accuracy"] > 95
    blind = protocol.judge(subject(tmp_path, painted(60, 1, blind=True), painted(40, 2, blind=True))).numbers
    assert blind["mean_iou"] < 0.3
    assert blind["mean_iou_of_largest"] == pytest.approx(found["mean_iou_of_largest"])
    assert blind["mean_iou_of_largest"] < 0.15  # a third of the pixels, of one class in three


def test_the_probe_is_scikit_learns(tmp_path):
    """Of every cell of the training images, with masks as fine as the finest map."""
    train, val = painted(30, 1), painted(20, 2)

    def coarse(store: ImageStore) -> ImageStore:
        masks = store.columns["masks"]
        return replace(store, columns={"masks": replace(masks, values=masks.values[:, ::2, ::2])})

    found = Segment(30, 64, [0.01]).judge(subject(tmp_path, coarse(train), coarse(val))).numbers

    def cells(store: ImageStore) -> tuple[np.ndarray, np.ndarray]:
        images = store.gather(slice(None)).permute(0, 3, 1, 2).float() / 255
        features = hypercolumns(Colours().maps(images)).movedim(1, -1).reshape(-1, 6).double().numpy()
        return features, coarse(store).columns["masks"].values.reshape(-1)

    features, labels = cells(train)
    mean, scale = features.mean(axis=0), features.std(axis=0, ddof=1)
    oracle = LogisticRegression(C=1 / (0.01 * len(labels)), max_iter=5000, tol=1e-8).fit(
        (features - mean) / scale, labels
    )
    queries, truth = cells(val)
    theirs = multiclass_jaccard_index(
        torch.from_numpy(oracle.predict((queries - mean) / scale)), torch.from_numpy(truth), 3
    )
    assert found["mean_iou"] == pytest.approx(theirs.item(), abs=2e-3)  # a near-tie may fall the other way


def test_the_interval_is_over_images_and_narrows_with_their_number():
    random = np.random.default_rng(0)
    right = random.binomial(100, 0.8, 400)
    counts = np.zeros((400, 2, 2), int)
    counts[:, 0, 0], counts[:, 0, 1], counts[:, 1, 1] = right, 100 - right, 50
    low, high = bootstrap(counts)
    assert low < mean_iou(counts.sum(axis=0)) < high
    few_low, few_high = bootstrap(counts[:25])
    assert 2.5 < (few_high - few_low) / (high - low) < 6  # four, but for the draw


def test_the_masks_of_shapes_say_where_the_shape_is():
    plain, captioned = Shapes(40, 10, 32, seed=0).load(), Shapes(40, 10, 32, seed=0, captions=True).load()
    for store in (plain.train, plain.val, captioned.train):
        masks = store.columns["masks"]
        assert masks.names == ("ground", *SHAPES)
        shown = masks.values > 0
        assert 0.1 < shown.mean() < 0.6
        assert all(
            set(np.unique(mask)) <= {0, label + 1} for mask, label in zip(masks.values, store.labels, strict=True)
        )
        light = store.gather(slice(None)).float().mean(dim=3).numpy()  # ink is dark, the ground is bright
        assert light[shown].mean() < 0.6 * light[~shown].mean()


def test_what_cannot_be_asked_is_refused(tmp_path):
    for settings, message in (((0, 1, [1.0]), "protocol.images=0"), ((1, 0.5, [1.0]), "protocol.cells=0.5")):
        with pytest.raises(InputError, match=message):
            Segment(*settings)
    train, val = painted(12, 1), painted(8, 2)
    with pytest.raises(InputError, match="leave layer=head out"):
        Segment(12, 2, [1.0]).judge(replace(subject(tmp_path, train, val), head=nn.Identity()))
    others = replace(val, columns={"masks": replace(val.columns["masks"], names=("a", "b", "c"))})
    with pytest.raises(InputError, match="masks of training and validation images have other classes"):
        Segment(12, 2, [1.0]).check(train, others)
    with pytest.raises(InputError, match="has no maps that say where"):
        Segment(12, 2, [1.0]).judge(replace(subject(tmp_path, train, val), encoder=nn.Flatten()))
