"""A run that learned nothing says so; one that learned says nothing."""

from types import SimpleNamespace

import numpy as np
import pytest

from simclr.augment.plain import Plain
from simclr.data import columns
from simclr.data.store import ImageStore
from simclr.methods.simclr import SimCLR
from simclr.training.online_knn import OnlineKNN
from simclr.training.verdict import doubts
from tests.conftest import TINY_RUN, image_bytes, write_folder

GOOD = {"train/top1": 40.0, "train/top5": 80.0, "val/knn_top1": 30.0, "val/knn_top1_untrained": 10.0}


@pytest.mark.parametrize("chance", [{}, {"train/top1": 0.0}, {"val/knn_top1": 10.0}])
def test_a_run_that_has_learned_raises_no_doubt(chance):
    """Nor does one bad number of a short run."""
    assert doubts(SimCLR, GOOD | chance, []) == []


def test_embeddings_that_collapse_are_no_doubt_where_the_features_have_learned():
    """As BYOL's do in a run of some hundred steps."""
    assert doubts(SimCLR, GOOD, ["embeddings"]) == []
    assert doubts(SimCLR, GOOD | {"val/knn_top1": 9.0}, ["embeddings"]) == ["the embeddings have collapsed"]


@pytest.mark.parametrize(
    ("change", "alarms", "said"),
    [
        (
            {"train/top1": 0.0, "val/knn_top1": 10.0},
            [],
            "contrastive top-1 is 0 %, and k-NN top-1 10.00 % (untrained encoder: 10.00 %)",
        ),
        ({"train/top1": 0.0, "val/knn_top1": None}, [], "contrastive top-1 is 0 %"),
        ({"train/top1": 0.0, "val/knn_top1_untrained": None}, [], "contrastive top-1 is 0 %"),
        ({}, ["features and embeddings"], "the features and embeddings have collapsed"),
    ],
)
def test_each_sign_is_said(change, alarms, said):
    assert said in doubts(SimCLR, GOOD | change, alarms)


@pytest.mark.slow
def test_a_rate_that_destroys_the_network_is_not_done_without_a_word(run):
    done = run("train.py", *TINY_RUN, "optimizer.lr=1e4")
    assert "This run seems to have learned nothing: " in done.stdout


@pytest.mark.slow
def test_what_an_epoch_leaves_out_is_said(run):
    done = run("train.py", *TINY_RUN, "batch_size=33", "epochs=1", "callbacks.label_free=null")
    assert "batch_size=33 leaves 31 of 64 images out of every epoch" in done.stdout


@pytest.mark.slow
def test_images_without_labels_are_not_sent_to_an_evaluation_that_refuses_them(run, tmp_path):
    images = {f"{i}.png": image_bytes(np.full((16, 16, 3), 5 * i, np.uint8)) for i in range(40)}
    write_folder(tmp_path / "images", images)
    done = run("train.py", "data=image_folder", "data.root=images", "data.size=16", *TINY_RUN[4:], "epochs=1")
    assert "Done. These images have no labels to judge it by: python linear_eval.py run=" in done.stdout
    assert "Judge it with" not in done.stdout


def test_a_class_that_outnumbers_the_others_is_said_beside_knn(caplog):
    labels = np.repeat([0, 1], [57, 3])
    store = ImageStore.of(np.zeros((60, 8, 8, 3), np.uint8), {"labels": columns.labels(labels, "ab")})
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train=store, val=store, plain=Plain()))
    with caplog.at_level("INFO"):
        OnlineKNN(1, 20, 0.07).on_fit_start(trainer, None)
    assert "Always the largest class would be right of 95.00 % of the validation images." in caplog.text
