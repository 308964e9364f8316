"""k-NN and logistic regression against scikit-learn; features leave the encoder as it was."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier

from simclr.data.store import ImageStore
from simclr.evaluation import linear
from simclr.evaluation.features import extract, extract_with_cache, frozen
from simclr.evaluation.held_out import hold_out
from simclr.evaluation.knn import knn_predict
from simclr.evaluation.protocol import accuracy, accuracy_line, mean_interval, share_interval
from simclr.models.backbone import resnet18_encoder
from simclr.system.randomness import generator

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
    return ImageStore.of(pixels, key="random images")


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


def fit_by_scikit_learn(
    features: torch.Tensor, labels: torch.Tensor, l2: float
) -> tuple[LogisticRegression, np.ndarray]:
    """The same problem in its terms, and the standardised features."""
    standard = ((features - features.mean(0)) / features.std(0)).double().numpy()
    oracle = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=5000, tol=1e-8)
    return oracle.fit(standard, labels.numpy()), standard


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_probe_equals_scikit_learn(l2):
    features, labels = clusters(500, 6, 12, 2.0, seed=1)
    probe = linear.fit(features, labels, 6, l2)
    oracle, _ = fit_by_scikit_learn(features, labels, l2)
    torch.testing.assert_close(probe.weight, torch.tensor(oracle.coef_).float(), atol=3e-3, rtol=0)
    bias = oracle.intercept_ - oracle.intercept_.mean()
    torch.testing.assert_close(probe.bias - probe.bias.mean(), torch.tensor(bias).float(), atol=3e-3, rtol=0)


def test_of_fewer_images_than_features_it_equals_scikit_learn_too():
    """Any such classes can be told apart, so that the bias matters little and is known less exactly."""
    features, labels = clusters(200, 6, 300, 2.0, seed=1)
    probe = linear.fit(features, labels, 6, 1e-1)
    oracle, standard = fit_by_scikit_learn(features, labels, 1e-1)
    torch.testing.assert_close(probe.weight, torch.tensor(oracle.coef_).float(), atol=1e-3, rtol=0)
    scores = torch.tensor(oracle.decision_function(standard)).float()
    ours = probe.scores(features)
    torch.testing.assert_close(ours - ours.mean(1, keepdim=True), scores, atol=1e-2, rtol=0)


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
    numbers = accuracy(result.top1, val_labels, val_labels)
    assert best - 3 < numbers["top1"] < best + 1
    assert numbers["top1_low"] < numbers["top1"] < numbers["top1_high"]
    assert result.top5.sum() > result.top1.sum()
    assert result.top5[result.top1].all()


def test_shuffled_labels_score_at_chance():
    train, labels = clusters(2000, 10, 8, 0.5, seed=1)
    val, val_labels = clusters(2000, 10, 8, 0.5, seed=2)
    shuffled = labels[torch.randperm(2000, generator=torch.Generator().manual_seed(3))]
    assert linear.linear_evaluation(train, shuffled, val, val_labels, 10, GRID).top1.float().mean() < 0.2


def test_validation_images_do_not_choose_the_strength():
    train, labels = clusters(600, 5, 8, 1.0, seed=1)
    val, val_labels = clusters(200, 5, 8, 1.0, seed=2)
    honest = linear.linear_evaluation(train, labels, val, val_labels, 5, GRID)
    spoiled = linear.linear_evaluation(train, labels, val, (val_labels + 1) % 5, 5, GRID)
    assert honest.l2 == spoiled.l2
    assert honest.held_out == spoiled.held_out


def test_the_held_out_accuracy_is_that_of_a_probe_which_never_saw_those_images():
    train, labels = clusters(12_000, 10, 8, 2.0, seed=1)
    result = linear.linear_evaluation(train, labels, train, labels, 10, GRID)
    ((held_out, rest),) = result.held.parts
    standard = ((train - train[rest].mean(0)) / train[rest].std(0)).double().numpy()
    oracle = LogisticRegression(C=1 / (result.l2 * len(rest)), max_iter=5000, tol=1e-8)
    expected = oracle.fit(standard[rest], labels[rest]).score(standard[held_out], labels[held_out])
    assert result.held_out == pytest.approx(expected, abs=2 / len(held_out))  # a near-tie may fall the other way
    assert linear.linear_evaluation(train, labels, train, labels, 10, GRID[:1]).held_out is None


@pytest.mark.parametrize(("count", "share"), [(16, 0.99), (16, 0.02), (40, 0.5), (300, 0.95)])
def test_an_accuracys_interval_covers_the_truth_as_often_as_it_says(count, share):
    """Few images and shares near the ends included; 0.03 are four standard errors of 800 intervals."""
    seen = np.random.default_rng(1).binomial(count, share, 800)
    intervals = {right: share_interval(int(right), count) for right in np.unique(seen)}
    assert np.mean([intervals[right][0] <= share <= intervals[right][1] for right in seen]) > 0.95 - 0.03


@pytest.mark.parametrize(("right", "count"), [(16, 16), (0, 16), (1, 1), (3, 16), (668, 10_000), (99_999, 100_000)])
def test_an_accuracys_interval_is_scipys_exact_one(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="exact")
    assert share_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("count", "hit"), [(5, 1.0), (16, 0.1), (60, 0.1)])
def test_a_means_interval_covers_the_truth_as_often_as_it_says(count, hit, monkeypatch):
    """Overlaps as a regressor's are: some of them, or most, are 0."""
    monkeypatch.setattr("simclr.evaluation.protocol.DRAWS", 500)
    random, covered = np.random.default_rng(1), 0
    for _ in range(200):
        low, high = mean_interval(np.where(random.random(count) < hit, random.beta(2, 2.4, count), 0))
        covered += low <= hit * 2 / 4.4 <= high
    assert covered / 200 > 0.95 - 0.06


@pytest.mark.parametrize("right", [0, 3, 16])
def test_a_mean_of_rights_and_wrongs_has_an_accuracys_interval(right):
    assert mean_interval(np.arange(16) < right) == pytest.approx(share_interval(right, 16), abs=0.01)


def test_a_means_interval_is_no_wider_than_its_spread_where_there_are_many():
    values = np.random.default_rng(4).beta(2, 2.4, 2000)
    expected = stats.t.interval(0.95, 1999, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=2e-3)


def test_balanced_accuracy_is_scikit_learns():
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 4], 300, p=[0.7, 0.2, 0.05, 0.05])  # none of class 3
    found = np.where(random.random(300) < 0.6, truth, random.integers(0, 5, 300))
    numbers = accuracy(torch.from_numpy(found == truth), torch.from_numpy(truth), torch.from_numpy(truth))
    assert numbers["balanced_top1"] == pytest.approx(
        100 * recall_score(truth, found, labels=[0, 1, 2, 4], average="macro")
    )
    assert f"balanced {numbers['balanced_top1']:.2f} %" in accuracy_line(numbers)
    assert "balanced" not in accuracy_line(
        accuracy(torch.tensor([True, False]), torch.tensor([0, 0]), torch.tensor([0]))
    )


def unequal(count: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes, the second rare, whose difference is spread over axes of falling variance."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, generator=random) < share).long()
    centres = torch.randn(2, 64, generator=torch.Generator().manual_seed(7))
    return (0.25 * centres[labels] + torch.randn(count, 64, generator=random)) * torch.arange(1, 65).rsqrt(), labels


def every_strength(train, train_labels, val, val_labels, classes: int) -> dict[float, float]:
    """Validation top-1 at each strength, which the protocol does not know when it chooses."""
    probes = {l2: linear.fit(train, train_labels, classes, l2) for l2 in GRID}
    return {l2: (probe.scores(val).argmax(dim=1) == val_labels).float().mean().item() for l2, probe in probes.items()}


def test_a_plateau_of_the_majority_is_no_peak():
    (train, labels), (val, val_labels) = unequal(800, 0.05, seed=1), unequal(2000, 0.05, seed=2)
    grid = (10.0, 3.0, 1.0, 0.3, 0.1, 0.01, 0.001)  # all are of the majority at the first four or so
    top1 = every_strength(train, labels, val, val_labels, 2)
    majority = (val_labels == 0).float().mean().item()
    result = linear.linear_evaluation(train, labels, val, val_labels, 2, grid)
    assert result.top1.float().mean().item() == max(top1.values()) > majority + 0.01
    assert accuracy(result.top1, val_labels, val_labels)["balanced_top1"] > 65  # the majority's is 50


def test_few_images_of_many_classes_choose_nearly_as_well_as_validation_would():
    chosen, best = [], []
    for seed in range(5):
        (train, labels), (val, val_labels) = (clusters(n, 10, 32, 1.5, 2 * seed + i) for i, n in enumerate((60, 1000)))
        top1 = every_strength(train, labels, val, val_labels, 10)
        chosen.append(top1[linear.linear_evaluation(train, labels, val, val_labels, 10, GRID).l2])
        best.append(max(top1.values()))
    assert np.mean(chosen) > np.mean(best) - 0.02


@pytest.mark.parametrize("seed", range(20))
def test_held_out_parts_share_the_images_out_evenly(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 12))
    labels = torch.from_numpy(
        random.choice(classes, int(random.integers(4, 300)), p=random.dirichlet(np.ones(classes)))
    )
    parts, sizes = hold_out(len(labels), labels).parts, labels.bincount(minlength=classes)
    alone = sizes == 1
    if ((sizes > 1).sum() < 2) or sizes[alone].sum() > len(labels) / 2:
        assert not parts
        return
    for held_out, rest in parts:
        assert torch.equal(torch.cat([held_out, rest]).sort().values, torch.arange(len(labels)))
        assert set(labels[held_out].tolist()) <= set(labels[rest].tolist())
    held_out = torch.cat([held_out for held_out, _ in parts])
    assert torch.equal(held_out.sort().values, (~alone[labels]).nonzero().flatten())
    counts = torch.stack([labels[held_out].bincount(minlength=classes) for held_out, _ in parts])
    assert (counts.max(dim=0).values - counts.min(dim=0).values).max() <= 1
    again = hold_out(len(labels), labels).parts
    assert all(
        torch.equal(a, b) for one, other in zip(parts, again, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_of_many_images_a_tenth_is_held_out_once():
    order = torch.randperm(20_000, generator=generator("held-out tenth"))
    ((held_out, rest),) = hold_out(20_000, torch.arange(20_000) % 200).parts
    assert torch.equal(held_out, order[:2000])
    assert torch.equal(rest, order[2000:])


def test_where_nothing_can_be_held_out_the_strength_is_the_middle_one():
    train, labels = 5 * torch.eye(10), torch.arange(10)  # one each
    result = linear.linear_evaluation(train, labels, train, labels, 10, [1e-1, 1e-3, 10.0])
    assert result.l2 == 1e-1
    assert result.top1.all()
    assert "too few labels to choose on" in result.held.choice("accuracy", [1e-1, 1e-3, 10.0])
    assert "not chosen" in result.held.note([1e-1, 1e-3, 10.0])
    assert result.held.choice("accuracy", [0.5]) == "0.5"  # who gives one value has chosen it
    assert not result.held.note([0.5])


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


@pytest.mark.parametrize("before", [True, False])
def test_mode_and_precision_come_back_after_an_error(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    encoder = resnet18_encoder("standard").train()

    def fail() -> None:
        assert not torch.backends.cudnn.allow_tf32
        raise RuntimeError

    with pytest.raises(RuntimeError), frozen(encoder):
        fail()
    assert encoder.training
    assert torch.backends.cudnn.allow_tf32 == before


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


def test_calibration_is_that_of_the_definition():
    """Guo et al. 2017, eq. 3: over 15 bins of confidence, |accuracy - confidence| weighted by what lies in each."""
    train, train_labels = clusters(300, 5, 8, 3.0, seed=1)
    val, val_labels = clusters(400, 5, 8, 3.0, seed=2)
    result = linear.linear_evaluation(train, train_labels, val, val_labels, 5, [1e-4])
    probability = linear.fit(train, train_labels, 5, 1e-4).scores(val).softmax(dim=1)
    confidence, predicted = (x.numpy() for x in probability.max(dim=1))
    right, expected = predicted == val_labels.numpy(), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected > 0.02
    assert result.ece == pytest.approx(expected, abs=1e-3)
