"""The protocols beside the linear one, against other libraries and planted truths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision.ops import box_iou

from simclr.data import columns
from simclr.data.shapes import Shapes
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation import localize
from simclr.evaluation.finetune import Finetune, balanced
from simclr.evaluation.held_out import hold_out
from simclr.evaluation.knn import KNN, choose
from simclr.evaluation.linear import Linear
from simclr.evaluation.protocol import Protocol, Subject
from simclr.models.backbone import resnet18_encoder
from tests.evaluation.test_probes import GRID, clusters

KNN_AS_IN_TRAINING = {"k": 20, "temperature": 0.07}


class MeanColour(nn.Module):
    """An encoder of 2 x 2 mean colours, with a buffer and a weight that evaluation must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.norm = nn.AdaptiveAvgPool2d(2), nn.BatchNorm1d(12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pool(images).flatten(1))


def coloured(count: int, seed: int, classes: int = 4, shuffle: bool = False) -> ImageStore:
    """Noise around a colour that tells the class, with a bright box where the listing says."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    pixels = random.integers(0, 60, (count, 16, 16, 3), dtype=np.uint8)
    pixels[..., 0] += (labels * 20).astype(np.uint8)[:, None, None]
    corner, side = random.integers(0, 9, (count, 2)), random.integers(4, 8, (count, 2))
    boxes = np.concatenate([corner, corner + side - 1], axis=1).astype(np.int16)
    for image, (x0, y0, x1, y1) in zip(pixels, boxes, strict=True):
        image[y0 : y1 + 1, x0 : x1 + 1, 2] = 255
    if shuffle:
        labels = random.permutation(labels)
    names = [str(label) for label in range(classes)]
    known = {"labels": columns.labels(labels, names), "boxes": columns.boxes(boxes)}
    return ImageStore.of(pixels, known, key=f"coloured {count} {seed} {shuffle}")


def subject(tmp_path: Path, train: ImageStore, val: ImageStore, encoder: nn.Module | None = None) -> Subject:
    return Subject(encoder or MeanColour(), None, train, val, torch.device("cpu"), tmp_path)


def protocols() -> list[Protocol]:
    finetune = Finetune(labels=1.0, lr=[0.01, 0.1], epochs=2, batch_size=32, crop_scale=[0.5, 1.0])
    return [
        Linear(GRID, KNN_AS_IN_TRAINING),
        KNN([1, 5, 20], [0.07, 0.5]),
        finetune,
        localize.Localize(2, [1.0, 0.1, 1e-3]),
    ]


@pytest.mark.parametrize("protocol", protocols(), ids=lambda protocol: protocol.name)
def test_no_tensor_of_the_encoder_changes_and_it_keeps_its_mode(protocol, tmp_path):
    judged = subject(tmp_path, coloured(200, 1), coloured(100, 2))
    judged.encoder.train()
    before = {name: tensor.clone() for name, tensor in judged.encoder.state_dict().items()}
    protocol.check(judged.train, judged.val)
    protocol.judge(judged)
    assert all(torch.equal(before[name], tensor) for name, tensor in judged.encoder.state_dict().items())
    assert judged.encoder.training


@pytest.mark.parametrize("protocol", protocols()[:3], ids=lambda protocol: protocol.name)
def test_labels_that_mean_something_are_found_and_shuffled_ones_score_at_chance(protocol, tmp_path):
    val = coloured(400, 2)
    found = protocol.judge(subject(tmp_path, coloured(400, 1), val)).numbers
    assert found["top1_low"] > 40
    chance = protocol.judge(subject(tmp_path, coloured(400, 1, shuffle=True), val)).numbers
    assert chance["top1"] < 25 + 4 * 2.2  # four standard errors of 400 guesses


@pytest.mark.parametrize("protocol", protocols(), ids=lambda protocol: protocol.name)
def test_validation_answers_choose_nothing(protocol, tmp_path):
    train, val = coloured(200, 1), coloured(100, 2)
    known = {"labels": columns.labels((val.labels + 1) % 4, val.classes), "boxes": columns.boxes(val.boxes[::-1])}
    other = ImageStore.of(val.pixels, known, key="other")
    honest, spoiled = (protocol.judge(subject(tmp_path, train, v)).numbers for v in (val, other))
    for choice in ("l2", "k", "temperature", "lr"):
        assert honest.get(choice) == spoiled.get(choice)
    assert next(iter(honest.values())) != next(iter(spoiled.values()))


def test_knn_settings_are_those_that_scikit_learn_finds_on_the_same_images():
    features, labels = clusters(600, 6, 12, 2.0, seed=1)
    held = hold_out(600, labels)
    best = {}
    for k in (1, 5, 20, 100):
        for temperature in (0.02, 0.2):
            oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda d, t=temperature: np.exp((1 - d) / t))
            best[k, temperature] = sum(
                oracle.fit(features[rest].double(), labels[rest]).score(features[held_out].double(), labels[held_out])
                for held_out, rest in held.parts
            )
    k, temperature = choose(features, labels, 6, [1, 5, 20, 100], [0.02, 0.2], held)
    assert best[k, temperature] == max(best.values())
    assert min(best.values()) < max(best.values())


def test_iou_is_torchvisions():
    random = torch.Generator().manual_seed(0)
    first, second = (torch.rand(50, 4, generator=random).cumsum(dim=1) for _ in range(2))
    torch.testing.assert_close(localize.iou(first, second), box_iou(first, second).diagonal())
    assert localize.iou(torch.tensor([[5.0, 5, 1, 1]]), torch.tensor([[1.0, 1, 5, 5]])).item() == 0


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_the_box_regressor_is_scikit_learns_ridge(l2):
    features, _ = clusters(300, 6, 12, 2.0, seed=1)
    boxes = torch.rand(300, 4, generator=torch.Generator().manual_seed(1))
    ours = localize.fit(features, boxes, l2).boxes(features)
    standard = ((features - features.mean(0)) / features.std(0)).double().numpy()
    oracle = Ridge(alpha=l2 * 300).fit(standard, boxes.double().numpy()).predict(standard)
    torch.testing.assert_close(ours.double(), torch.from_numpy(oracle), atol=1e-4, rtol=0)


def test_boxes_are_found_better_than_by_one_box_for_all(tmp_path):
    numbers = (
        localize.Localize(2, [1.0, 0.1, 1e-3]).judge(subject(tmp_path, coloured(400, 1), coloured(200, 2))).numbers
    )
    assert numbers["mean_iou_low"] > numbers["mean_iou_of_mean_box"] + 0.05
    assert numbers["mean_iou_low"] < numbers["mean_iou"] < numbers["mean_iou_high"]


def test_images_without_boxes_or_labels_are_refused():
    bare = Shapes(20, 10, 16, seed=0).load()
    with pytest.raises(InputError, match="localize evaluation needs training and validation images with boxes"):
        localize.Localize(2, [1.0]).check(bare.train, bare.val)
    unlabelled = ImageStore.of(bare.train.pixels, key="bare")
    with pytest.raises(InputError, match="knn evaluation needs training and validation images with labels"):
        KNN([1], [0.07]).check(unlabelled, bare.val)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 1.0])
def test_labels_are_drawn_evenly_from_the_classes_and_nested(share):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), 50))
    rows = balanced(labels, share)
    assert (np.bincount(labels[rows], minlength=7) == max(1, round(50 * share))).all()
    assert set(balanced(labels, share / 2)) <= set(rows)
    assert np.array_equal(rows, balanced(labels, share))


def evenly(each: int, classes: int, seed: int) -> ImageStore:
    """As many coloured images of every class."""
    many = coloured(4 * each * classes, seed, classes)
    return many.select(np.concatenate([np.flatnonzero(many.labels == label)[:each] for label in range(classes)]))


def test_a_learning_rate_is_chosen_where_every_class_has_two_labels(tmp_path):
    """At a rate of next to nothing no network learns; two labels a class are enough to see it."""
    judged = subject(tmp_path, evenly(10, 10, 1), coloured(100, 2, 10))
    finetune = Finetune(0.2, [1e-9, 0.3], 30, 8, [0.5, 1.0])
    found = finetune.judge(judged)
    assert (found.numbers["labelled_images"], found.numbers["lr"]) == (20, 0.3)
    assert "by accuracy, ties by log-loss, on 20 of them, held out in 5 stratified parts" in found.protocol["finetune"]


@pytest.mark.parametrize("protocol", protocols()[:2], ids=lambda protocol: protocol.name)
def test_one_label_a_class_chooses_nothing_and_says_so(protocol, tmp_path):
    judged = subject(tmp_path, evenly(1, 10, 1), coloured(100, 2, 10))
    found = protocol.judge(judged)
    middle = {"linear": {"l2": 0.01}, "knn": {"k": 5, "temperature": 0.07}}[protocol.name]
    assert found.numbers.items() >= middle.items()
    assert "too few labels to choose on" in found.protocol[protocol.name]
    assert any("not chosen, for want of labels" in line for line in found.lines)


def test_fine_tuning_with_one_label_a_class_has_a_fixed_rate(tmp_path):
    judged = subject(tmp_path, evenly(10, 30, 1), coloured(60, 2, 30))
    found = Finetune(0.1, [0.1, 0.01, 0.03], 1, 32, [0.5, 1.0]).judge(judged)
    assert (found.numbers["labelled_images"], found.numbers["lr"]) == (30, 0.03)
    assert "the middle of [0.1, 0.01, 0.03], as there are too few labels" in found.protocol["finetune"]
    assert "not chosen, for want of labels" in found.lines[0]
    with pytest.raises(InputError, match="finetune evaluation needs training images of two classes"):
        Finetune(0.1, [0.1], 1, 32, [0.5, 1.0]).judge(subject(tmp_path, evenly(10, 1, 1), judged.val))


def test_fine_tuning_holds_no_more_out_than_it_takes():
    labels = torch.arange(600) % 20
    assert [len(hold_out(count, labels[:count], enough=100).parts) for count in (40, 200, 300, 600)] == [5, 3, 2, 1]
    ((held_out, _),) = hold_out(600, labels, enough=100).parts
    assert (labels[held_out].bincount() == 6).all()


@pytest.mark.parametrize(("count", "l2"), [(2, 0.1), (3, 0.1), (12, None)])
def test_few_boxes_are_a_question_one_may_ask(tmp_path, count, l2):
    found = localize.Localize(2, [1.0, 0.1, 1e-3]).judge(subject(tmp_path, coloured(count, 1), coloured(50, 2)))
    assert np.isfinite(found.numbers["mean_iou"])
    assert l2 in (None, found.numbers["l2"])
    assert ("not chosen" in found.lines[0]) == (l2 is not None)
    with pytest.raises(InputError, match="two training images with boxes or more, got 1"):
        localize.Localize(2, [1.0]).judge(subject(tmp_path, coloured(1, 1), coloured(50, 2)))


def test_fine_tuning_at_a_learning_rate_of_next_to_nothing_leaves_the_network(tmp_path):
    judged = subject(tmp_path, coloured(64, 1), coloured(32, 2), resnet18_encoder("small"))
    network = Finetune(1.0, [1e-12], 1, 32, [0.5, 1.0]).train(judged, judged.train, 1e-12, "")
    for name, tensor in judged.encoder.named_parameters():
        torch.testing.assert_close(network[0].get_parameter(name), tensor, atol=1e-8, rtol=0)
    assert not torch.equal(network[0].bn1.running_mean, judged.encoder.bn1.running_mean)  # a copy, and in train mode


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Finetune(0, [0.1], 1, 32, [0.5, 1.0]), "labels=0 is not usable"),
        (lambda: Finetune(1.5, [0.1], 1, 32, [0.5, 1.0]), "labels=1.5 is not usable"),
        (lambda: Finetune(1, [], 1, 32, [0.5, 1.0]), r"protocol.lr=\[\] is not usable"),
        (lambda: Finetune(1, [0.1], 1, 32, 0.5), "protocol.crop_scale=0.5 is not usable"),  # type: ignore[arg-type]
        (lambda: Finetune(1, [0.1], 1, 32, [2, 3]), r"protocol.crop_scale=\[2, 3\] is not usable"),
        (lambda: Linear(GRID, None), "protocol.knn=None is not usable"),  # type: ignore[arg-type]
        (lambda: Finetune(1, [0.1], 0, 32, [0.5, 1.0]), "protocol.epochs=0 is not usable"),
        (lambda: KNN([], [0.07]), r"protocol.k=\[\] is not usable"),
        (lambda: KNN([5], [0.0]), "protocol.temperature=0.0 is not usable"),
        (lambda: Linear([], KNN_AS_IN_TRAINING), r"protocol.l2_grid=\[\] is not usable"),
    ],
)
def test_settings_out_of_range(build, said):
    with pytest.raises(InputError, match=said):
        build()
