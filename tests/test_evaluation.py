"""k-NN and logistic regression against scikit-learn; features leave the encoder as it was."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation import linear
from simclr.evaluation.features import extract, extract_with_cache, frozen
from simclr.evaluation.knn import knn_predict
from simclr.evaluation.protocol import accuracy, bootstrap_interval
from simclr.models.backbone import resnet18_encoder

GRID = (1.0, 0.1, 0.01, 0.001)


def clusters(count: int, classes: int, dimension: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian clouds around fixed random centres, with very different scales per dimension."""
    centres = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    features = centres[labels] + noise * torch.randn(count, dimension, generator=random)
    return features * torch.logspace(-2, 2, dimension) + 3, labels


@pytest.fixture(scope="module")
def store() -> ImageStore:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    return ImageStore.of(pixels, classes=[], key="random pictures")


@pytest.mark.parametrize("k", [1, 20, 1000])
def test_knn_equals_scikit_learn(k):
    bank, labels = clusters(400, 7, 16, 1.5, seed=1)
    queries, _ = clusters(300, 7, 16, 1.5, seed=2)
    oracle = KNeighborsClassifier(min(k, 400), metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = oracle.fit(bank.double().numpy(), labels.numpy()).predict(queries.double().numpy())
    ours = knn_predict(bank, labels, queries, classes=7, k=k, temperature=0.07)
    assert (ours.numpy() == expected).mean() > 0.995  # float32 may settle a near-tie otherwise


def test_knn_at_a_low_temperature_follows_the_nearest():
    bank, labels = clusters(400, 7, 16, 1.5, seed=1)
    nearest = knn_predict(bank, labels, bank, classes=7, k=20, temperature=1e-3)
    assert torch.equal(nearest, labels)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_probe_equals_scikit_learn(l2):
    features, labels = clusters(500, 6, 12, 2.0, seed=1)
    probe = linear.fit(features, labels, 6, l2)
    standard = ((features - features.mean(0)) / features.std(0)).double().numpy()
    oracle = LogisticRegression(C=1 / (l2 * 500), max_iter=5000, tol=1e-8).fit(standard, labels.numpy())
    torch.testing.assert_close(probe.weight, torch.tensor(oracle.coef_).float(), atol=3e-3, rtol=0)
    bias = oracle.intercept_ - oracle.intercept_.mean()
    torch.testing.assert_close(probe.bias - probe.bias.mean(), torch.tensor(bias).float(), atol=3e-3, rtol=0)


def test_a_fit_that_does_not_converge_says_so(caplog):
    features, labels = clusters(500, 6, 12, 2.0, seed=1)
    linear.fit(features, labels, 6, 1e-2)
    assert not caplog.text
    linear.fit(features, labels, 6, 1e-2, max_steps=3)
    assert "stopped after 3 steps, before it converged" in caplog.text


def test_where_the_fit_starts_does_not_matter():
    features, labels = clusters(500, 6, 12, 2.0, seed=1)
    cold = linear.fit(features, labels, 6, 1e-2)
    warm = linear.fit(features, labels, 6, 1e-2, start=linear.fit(features, labels, 6, 1.0))
    torch.testing.assert_close(cold.scores(features), warm.scores(features), atol=2e-2, rtol=0)


def test_linear_protocol_on_a_known_problem():
    train, train_labels = clusters(2000, 10, 8, 1.0, seed=1)
    val, val_labels = clusters(2000, 10, 8, 1.0, seed=2)
    result = linear.linear_evaluation(train, train_labels, val, val_labels, 10, GRID)
    centres = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    bayes = torch.cdist((val - 3) / torch.logspace(-2, 2, 8), centres).argmin(dim=1)
    best = 100 * (bayes == val_labels).float().mean().item()  # no classifier can expect more
    numbers = accuracy(result.top1)
    assert best - 3 < numbers["top1"] < best + 1
    assert numbers["top1_low"] < numbers["top1"] < numbers["top1_high"]
    assert result.top5.sum() > result.top1.sum()
    assert result.top5[result.top1].all()


def test_shuffled_labels_score_at_chance():
    train, labels = clusters(2000, 10, 8, 0.5, seed=1)
    val, val_labels = clusters(2000, 10, 8, 0.5, seed=2)
    shuffled = labels[torch.randperm(2000, generator=torch.Generator().manual_seed(3))]
    assert linear.linear_evaluation(train, shuffled, val, val_labels, 10, GRID).top1.float().mean() < 0.2


def test_validation_pictures_do_not_choose_the_strength():
    train, labels = clusters(600, 5, 8, 1.0, seed=1)
    val, val_labels = clusters(200, 5, 8, 1.0, seed=2)
    honest = linear.linear_evaluation(train, labels, val, val_labels, 5, GRID)
    spoiled = linear.linear_evaluation(train, labels, val, (val_labels + 1) % 5, 5, GRID)
    assert honest.l2 == spoiled.l2


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(random.random(500) < 0.3, resamples=2000)
        covered += low <= 0.3 <= high
    assert 0.92 < covered / 400 < 0.98


def test_interval_equals_resampling_with_replacement():
    correct = np.random.default_rng(2).random(1000) < 0.2
    draws = np.random.default_rng(3).integers(0, 1000, (5000, 1000))
    expected = np.quantile(correct[draws].mean(axis=1), [0.025, 0.975])
    assert bootstrap_interval(correct) == pytest.approx(expected, abs=0.003)
    values = np.random.default_rng(4).exponential(size=1000)
    expected = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.01)


def test_too_few_pictures():
    with pytest.raises(InputError, match="at least 20"):
        linear.linear_evaluation(torch.ones(5, 2), torch.arange(5), torch.ones(5, 2), torch.arange(5), 5, GRID)


def test_extraction_changes_no_tensor_and_no_mode(store):
    encoder = resnet18_encoder("standard").train()
    encoder.layer1.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = extract(encoder, store, "cpu")
    assert features.shape == (300, 512)
    assert not features.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert encoder.layer2.training
    assert not encoder.layer1[0].bn1.training


def test_features_do_not_depend_on_the_batch_they_come_in(store):
    encoder = resnet18_encoder("standard")
    alone = extract(encoder, store.select(np.array([5])), "cpu")
    torch.testing.assert_close(extract(encoder, store, "cpu")[5:6], alone, atol=1e-5, rtol=1e-4)


def test_mode_comes_back_after_an_error():
    encoder = resnet18_encoder("standard").train()
    with pytest.raises(RuntimeError), frozen(encoder):
        raise RuntimeError
    assert encoder.training


def test_cached_features_are_reused_and_never_stale(store, tmp_path):
    encoder = resnet18_encoder("standard")
    device = torch.device("cpu")
    first = extract_with_cache(encoder, store, device, tmp_path, "")
    (written,) = tmp_path.iterdir()
    stamp = written.stat().st_mtime_ns
    assert torch.equal(extract_with_cache(encoder, store, device, tmp_path, ""), first)
    assert written.stat().st_mtime_ns == stamp
    with torch.no_grad():
        encoder.bn1.running_mean += 0.1  # a buffer counts as much as a weight
    assert not torch.equal(extract_with_cache(encoder, store, device, tmp_path, ""), first)
    extract_with_cache(encoder, store.select(np.arange(10)), device, tmp_path, "")
    assert len(list(tmp_path.iterdir())) == 3
    written.write_bytes(b"damaged")
    encoder.bn1.running_mean -= 0.1
    extract_with_cache(encoder, store, device, tmp_path, "")
