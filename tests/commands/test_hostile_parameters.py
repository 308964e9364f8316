"""Values out of range, of the wrong type and not finite: each is named, with what it may be."""

import math
from functools import partial

import pytest
import torch

from simclr.checks import is_finite, is_whole
from simclr.data import shapes
from simclr.data.folder import ImageFolder
from simclr.data.shapes import Shapes
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from simclr.evaluation.knn import knn_predict
from simclr.evaluation.linear import linear_evaluation
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import ProjectionHead
from simclr.optim import schedules
from simclr.training.online_knn import OnlineKNN

NO_NUMBERS = [math.nan, math.inf, -math.inf, True, False, None, "7", "", [7]]
HUGE = 10**400  # more than a float holds
NOT_WHOLE = [*NO_NUMBERS, 7.5, 7.0]


def adam(**options) -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], **options)


FEATURES = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2

SHAPES = partial(Shapes, train_count=9, val_count=9, size=16, seed=0)
FOLDER = partial(ImageFolder, "data", size=16, val_fraction=0.1)
HEAD = partial(ProjectionHead, in_features=512, hidden_features=256, out_features=128)
KNN = partial(knn_predict, FEATURES, LABELS, FEATURES, 2, k=3, temperature=0.1)
ONLINE = partial(OnlineKNN, every_n_epochs=5, k=20, temperature=0.07)
STUDY = partial(schedules.study, adam(), 100, 10, flat_epochs=1, half_period_epochs=9)

CHECKED = [
    # what is called, the key that the message names, and values that are out of range
    (SHAPES, "data.train_count", [0, -1, 10**12, HUGE, *NOT_WHOLE]),
    (SHAPES, "data.val_count", [0, -1, 10**12, HUGE, *NOT_WHOLE]),
    (SHAPES, "data.size", [0, 7, -8, 5000, HUGE, *NOT_WHOLE]),
    (SHAPES, "data.seed", [-1, 2**32, HUGE, *NOT_WHOLE]),
    (partial(TinyImageNet, "data", size=16), "data.size", [0, 7, -8, 5000, HUGE, *NOT_WHOLE]),
    (FOLDER, "data.size", [0, 7, -8, 5000, HUGE, *NOT_WHOLE]),
    (FOLDER, "data.bits", [0, 7, 17, HUGE, *NOT_WHOLE]),
    (FOLDER, "data.val_fraction", [0, 1, -0.1, 2, HUGE, *NO_NUMBERS]),
    (HEAD, "head.in_features", [0, -3, 10**9, HUGE, *NOT_WHOLE]),
    (HEAD, "head.hidden_features", [0, -3, 10**9, HUGE, *NOT_WHOLE]),
    (HEAD, "head.out_features", [0, -3, 10**9, HUGE, *NOT_WHOLE]),
    (partial(resnet18_encoder, "standard"), "backbone.small_maps", [None, "yes", 1, 0]),
    (ONLINE, "callbacks.online_knn.every_n_epochs", [0, -1, *NOT_WHOLE]),
    (ONLINE, "callbacks.online_knn.k", [0, -1, *NOT_WHOLE]),
    (ONLINE, "callbacks.online_knn.temperature", [0, -1, 1e-300, 1e300, HUGE, *NO_NUMBERS]),
    (KNN, "knn.k", [0, -1, *NOT_WHOLE]),
    (KNN, "knn.temperature", [0, -1, 1e-300, 1e300, HUGE, *NO_NUMBERS]),
    (STUDY, "scheduler.flat_epochs", [-1, HUGE, *NOT_WHOLE]),
    (STUDY, "scheduler.half_period_epochs", [0, -1, HUGE, *NOT_WHOLE]),
]


@pytest.mark.parametrize(("make", "key", "values"), CHECKED)
def test_a_value_that_cannot_be_is_named(make, key, values):
    make()  # it is the value, and nothing else, that is refused below
    for value in values:
        leaf = key.rsplit(".")[-1]
        with pytest.raises(ValueError, match=r"is not usable|take too much") as error:
            make(**{leaf: value})
        assert str(error.value).startswith((f"{key}={value}", f"{leaf}={value}"))


@pytest.mark.parametrize("grid", [[], (), None, 0.1, "0.1", [math.nan], [0.1, math.inf], [0.1, -1], [0], [True], ["a"]])
def test_l2_grid(grid):
    with pytest.raises(InputError, match=r"l2_grid=.*it lists one or more numbers greater than 0"):
        linear_evaluation(FEATURES, LABELS, FEATURES, LABELS, 2, grid)


def test_linear_evaluation_of_one_class_and_of_a_diverged_encoder():
    with pytest.raises(InputError, match="two classes or more, got one"):
        linear_evaluation(FEATURES, torch.zeros(40).long(), FEATURES, torch.zeros(40).long(), 1, [0.1])
    diverged = FEATURES.clone()
    diverged[7, 1] = math.nan
    for train, val in ((diverged, FEATURES), (FEATURES, diverged)):
        with pytest.raises(InputError, match="its training has diverged"):
            linear_evaluation(train, LABELS, val, LABELS, 2, [0.1])


def test_torchs_optimiser_refuses_nan_itself():
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        adam(lr=math.nan)


def test_what_counts_as_a_number():
    assert [is_whole(value) for value in (0, -3, 2**70, True, 1.0, "1", None)] == [True] * 3 + [False] * 4
    assert all(is_finite(value) for value in (0, -3, 1e308, -0.5, 10**300))
    assert not any(is_finite(value) for value in [HUGE, *NO_NUMBERS])


def test_shapes_drawn_in_small_parts_are_the_same(monkeypatch):
    """Large images are rendered few at a time, which bounds the memory."""
    whole = Shapes(60, 1, 16, 0).load().train
    monkeypatch.setattr(shapes, "CHUNK_PIXELS", 2 * 16 * 16)
    assert (Shapes(60, 1, 16, 0).load().train.pixels == whole.pixels).all()
