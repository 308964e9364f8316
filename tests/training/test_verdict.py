"""A run that learned nothing says so; one that learned says nothing."""

import pytest

from simclr.methods.simclr import SimCLR
from simclr.training.verdict import doubts
from tests.conftest import TINY_RUN

GOOD = {"train/top1": 40.0, "train/top5": 80.0, "val/knn_top1": 30.0, "val/knn_top1_untrained": 10.0}


def test_a_run_that_has_learned_raises_no_doubt():
    assert doubts(SimCLR, GOOD, []) == []


@pytest.mark.parametrize(
    ("change", "alarms", "said"),
    [
        ({"train/top1": 0.0}, [], "contrastive top-1 is 0 %"),
        ({"val/knn_top1": 10.0}, [], "k-NN top-1 is 10.00 %, and the untrained encoder's is 10.00 %"),
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
