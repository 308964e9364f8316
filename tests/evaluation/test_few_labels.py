"""Few labels and none: few-shot accuracy and clusterings, against other libraries and planted truths."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from simclr.data import columns
from simclr.data.store import ImageStore
from simclr.errors import InputError
from simclr.evaluation.cluster import Cluster, k_means
from simclr.evaluation.few_shot import FewShot, draw_shots, nearest_centroid, t_quantile
from tests.evaluation.test_protocols import subject


def test_the_quantile_is_students():
    for degrees in (9, 12, 29, 49, 200):
        assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=1e-3)


def test_every_draw_has_so_many_different_images_of_each_class():
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 0])
    draws = [draw_shots(labels, 3, 2, draw) for draw in range(200)]
    for chosen in draws:
        assert torch.equal(labels[chosen], torch.arange(3)[:, None].expand(3, 2))
        assert (chosen[:, 0] != chosen[:, 1]).all()
    assert torch.equal(draws[7], draw_shots(labels, 3, 2, 7))
    times = torch.cat(draws).flatten().bincount(minlength=10)  # each of four: 100 of 200; each of three: 133
    expected = torch.where(labels == 0, 100, 400 / 3)
    assert ((times - expected).abs() < 30).all()


def test_the_nearest_centroid_is_that_of_the_definition():
    random = np.random.default_rng(0)
    shots, queries = random.normal(size=(5, 3, 8)), random.normal(size=(40, 8))
    found = nearest_centroid(torch.from_numpy(shots), torch.from_numpy(queries))
    for query, answer in zip(queries, found.tolist(), strict=True):
        cosines = [query @ c / np.linalg.norm(c) / np.linalg.norm(query) for c in shots.mean(axis=1)]
        assert answer == int(np.argmax(cosines))


def clouds(count: int, seed: int, shuffle: bool = False) -> ImageStore:
    """Images whose mean colours in four quarters, which is what MeanColour sees, are clouds around four centres."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    centres = np.random.default_rng(0).normal(size=(4, 12))
    colours = 128 + 20 * centres[labels] + 30 * random.normal(size=(count, 12))
    quarters = colours.clip(0, 255).astype(np.uint8).reshape(count, 2, 2, 3)
    pixels = quarters.repeat(4, axis=1).repeat(4, axis=2)
    labels = random.permutation(labels) if shuffle else labels
    return ImageStore.of(pixels, {"labels": columns.labels(labels, "abcd")}, key=f"clouds {count} {seed} {shuffle}")


def test_more_labels_are_worth_more_and_shuffled_ones_nothing(tmp_path):
    protocol = FewShot([1, 10], 20)
    numbers = protocol.judge(subject(tmp_path, clouds(400, 1), clouds(300, 2))).numbers
    assert numbers["top1_1_shot"] + 3 < numbers["top1_10_shot"]
    assert numbers["top1_10_shot"] > 60
    for key in ("top1_1_shot", "top1_10_shot"):
        assert numbers[f"{key}_low"] < numbers[key] < numbers[f"{key}_high"]
    shuffled = clouds(400, 1, shuffle=True), clouds(300, 2, shuffle=True)
    assert protocol.judge(subject(tmp_path, *shuffled)).numbers["top1_10_shot"] == pytest.approx(25, abs=6)


def test_the_interval_covers_the_mean_over_all_draws(tmp_path):
    """Of fifty disjoint sets of ten draws, about 95 % cover what all 500 have on the average."""
    judged = subject(tmp_path, clouds(200, 1), clouds(200, 2))
    bank, queries = judged.features
    known, truth = judged.labels()
    centred = [F.normalize(x - bank.mean(dim=0), dim=1) for x in (bank, queries)]
    top1 = torch.tensor(
        [
            (nearest_centroid(centred[0][draw_shots(known, 4, 1, draw)], centred[1]) == truth).float().mean().item()
            for draw in range(500)
        ]
    ).view(50, 10)
    half = t_quantile(9) * top1.std(dim=1) / 10**0.5
    assert ((top1.mean(dim=1) - top1.mean()).abs() < half).float().mean() > 0.85


def test_more_labels_than_there_are_are_refused_by_class(tmp_path):
    with pytest.raises(InputError, match=r"protocol.shots=\[1, 200\] asks for 200 labels a class, and [abcd] has \d+"):
        FewShot([1, 200], 10).judge(subject(tmp_path, clouds(200, 1), clouds(50, 2)))
    for shots, draws, said in (([], 10, "shots="), ([0], 10, "shots="), ([1], 3, "draws=3"), ("1", 10, "shots=1")):
        with pytest.raises(InputError, match=said):
            FewShot(shots, draws)


def blobs(count: int = 600, clusters: int = 12, noise: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    labels = random.integers(0, clusters, count)
    points = random.normal(size=(clusters, 8))[labels] + noise * random.normal(size=(count, 8))
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


def test_k_means_is_as_tight_as_scikit_learns():
    for noise in (0.25, 1.0):
        points, _ = blobs(noise=noise)
        ours = min(k_means(points, 12, seed).inertia for seed in range(10))
        theirs = KMeans(12, n_init=10, random_state=0).fit(points.numpy()).inertia_
        assert ours == pytest.approx(theirs, rel=0.01)
    centres = torch.stack([points[k_means(points, 12, 0).assignment == c].mean(dim=0) for c in range(12)])
    nearest = (points[:, None] - centres).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(nearest, k_means(points, 12, 0).assignment)  # it has converged


def test_fewer_kinds_of_points_than_clusters_do_no_harm():
    points = torch.tensor([[0.0, 1], [1, 0]]).repeat(10, 1)
    found = k_means(points, 5, 0)
    assert found.inertia == pytest.approx(0, abs=1e-6)
    assert len(found.assignment) == 20


def test_nmi_and_ari_are_scikit_learns(tmp_path):
    judged = subject(tmp_path, clouds(60, 1), clouds(300, 2))
    numbers = Cluster(5).judge(judged).numbers
    points = F.normalize(judged.features_of["val"], dim=1)
    best = min((k_means(points, 4, seed) for seed in range(5)), key=lambda found: found.inertia)
    truth = judged.val.labels
    assert numbers["nmi"] == pytest.approx(normalized_mutual_info_score(truth, best.assignment), abs=1e-5)
    assert numbers["ari"] == pytest.approx(adjusted_rand_score(truth, best.assignment), abs=1e-5)
    assert numbers["nmi_low"] > 5 * numbers["nmi_chance"]
    assert numbers["ari_low"] > 0
    with pytest.raises(InputError, match="restarts=0"):
        Cluster(0)
