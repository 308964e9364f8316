"""What stands beside an accuracy, so that a high one is not taken for a good one; and how a search ends."""

import io

import numpy as np
import torch
from rich.console import Console
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score

from simclr.data import columns
from simclr.data.store import ImageStore
from simclr.evaluation import protocol
from simclr.evaluation.linear import Linear
from simclr.evaluation.protocol import Subject, accuracy, tried


def test_the_largest_class_and_the_mean_over_classes_are_scikit_learns():
    random = np.random.default_rng(0)
    train, labels = (random.choice(4, size, p=[0.7, 0.1, 0.1, 0.1]) for size in (300, 200))
    predicted = np.where(random.random(200) < 0.8, labels, 0)
    numbers = accuracy(torch.tensor(predicted == labels), torch.tensor(labels), torch.tensor(train))
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((300, 1)), train)
    np.testing.assert_allclose(numbers["majority_top1"], 100 * dummy.score(np.zeros((200, 1)), labels), rtol=1e-6)
    np.testing.assert_allclose(numbers["balanced_top1"], 100 * balanced_accuracy_score(labels, predicted))


def test_top5_of_five_classes_or_fewer_is_left_out(tmp_path):
    random = np.random.default_rng(0)
    for classes, said in ((5, False), (6, True)):
        stores = [
            ImageStore.of(
                random.integers(0, 256, (10 * classes, 8, 8, 3), dtype=np.uint8),
                {"labels": columns.labels(np.arange(10 * classes) % classes, [str(c) for c in range(classes)])},
            )
            for _ in range(2)
        ]
        encoder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        numbers, _, lines = Linear([0.1], {"k": 5, "temperature": 0.07}).judge(
            Subject(encoder, None, *stores, torch.device("cpu"), tmp_path)
        )
        assert (numbers["top5"] is not None) == said
        assert any("top-5" in line for line in lines) == said
        assert "largest class" in lines[0]


def test_a_search_that_ends_early_ends_with_a_full_bar(monkeypatch):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    real = protocol.Progress
    monkeypatch.setattr(protocol, "Progress", lambda: real(console=console))
    for value in tried(range(11), "Choosing"):
        if value == 3:
            break
    assert output.getvalue().count("100%") >= 1
