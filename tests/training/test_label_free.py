"""Measures of a representation that need no labels, and the alarm."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from simclr.evaluation import label_free
from tests.conftest import TINY_RUN, only_run, scalars

FEATURES = torch.randn(60, 16, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 3, 16)
OTHER = FEATURES + 0.1 * torch.randn(60, 16, generator=torch.Generator().manual_seed(1))


def on_sphere(features: torch.Tensor) -> np.ndarray:
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_alignment_and_uniformity_are_the_papers_on_scipys_distances():
    a, b = on_sphere(FEATURES), on_sphere(OTHER)
    assert label_free.alignment(FEATURES, OTHER).item() == pytest.approx(np.mean(np.sum((a - b) ** 2, 1)), rel=1e-4)
    assert label_free.uniformity(FEATURES).item() == pytest.approx(
        np.log(np.mean(np.exp(-2 * pdist(a, "sqeuclidean")))), rel=1e-4
    )


def test_ranks_are_entropies_by_scipy():
    singular = np.linalg.svd(FEATURES.double().numpy(), compute_uv=False)
    assert label_free.rankme(FEATURES).item() == pytest.approx(np.exp(entropy(singular)), rel=1e-3)
    eigenvalues = np.linalg.eigvalsh(np.cov(FEATURES.double().numpy().T))
    assert label_free.effective_rank(FEATURES).item() == pytest.approx(np.exp(entropy(eigenvalues)), rel=1e-3)


def test_lidar_is_the_entropy_of_generalised_eigenvalues_by_scipy():
    """Σ_b v = λ Σ_w v, with covariances summed up image by image and view by view."""
    views = np.stack([FEATURES.double().numpy(), OTHER.double().numpy()])
    means = views.mean(axis=0)
    between = sum(np.outer(m, m) for m in means - means.mean(axis=0)) / len(means)
    within = sum(np.outer(d, d) for view in views for d in view - means) / (2 * len(means))
    values = eigh(between, within + 1e-4 * np.eye(16), eigvals_only=True)
    assert label_free.lidar(FEATURES, OTHER).item() == pytest.approx(np.exp(entropy(values)), rel=1e-3)


def test_lidar_does_not_count_directions_that_tell_views_apart_alone():
    random = torch.Generator().manual_seed(6)
    images = torch.cat([torch.randn(500, 5, generator=random), torch.zeros(500, 5)], dim=1)
    noise = [torch.cat([torch.zeros(500, 5), torch.randn(500, 5, generator=random)], dim=1) for _ in range(2)]
    assert label_free.rankme(images + noise[0]).item() > 9
    assert label_free.lidar(images + noise[0], images + noise[1]).item() == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_the_spectrum(exponent):
    basis = torch.linalg.qr(torch.randn(200, 60, generator=torch.Generator().manual_seed(7)))[0]
    basis = torch.linalg.qr(basis - basis.mean(dim=0))[0]
    features = basis * torch.arange(1.0, 61).pow(-exponent / 2) + 3
    assert label_free.alpha_req(features).item() == pytest.approx(exponent, rel=0.02)


@pytest.mark.parametrize("directions", [1, 3, 10])
def test_ranks_count_directions(directions):
    """Features with equal strength along that many directions: both ranks are that number."""
    basis = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(2)))[0][:directions]
    signs = torch.cat([torch.eye(directions), -torch.eye(directions)]).repeat(50, 1)
    features = signs @ basis
    assert label_free.rankme(features).item() == pytest.approx(directions, rel=1e-3)
    assert label_free.effective_rank(features).item() == pytest.approx(directions, rel=1e-3)


def test_the_limits():
    gaussian = torch.randn(2000, 512, generator=torch.Generator().manual_seed(3))
    assert label_free.uniformity(gaussian).item() == pytest.approx(-4, abs=0.05)
    assert label_free.spread(gaussian).mean().item() == pytest.approx(1, abs=0.01)
    assert label_free.alignment(FEATURES, FEATURES).item() == 0
    assert label_free.alignment(FEATURES, -FEATURES).item() == pytest.approx(4)


@pytest.mark.parametrize("size", [1e-15, 1e10, 1e15])
def test_features_of_any_size_are_measured(size):
    """As a rate that destroys the network makes them: huge, finite, and along few directions beside rounding."""
    few = FEATURES[:, :6] @ torch.randn(6, 16, generator=torch.Generator().manual_seed(8))
    measured = label_free.measure(size * few, size * few, size * (few + OTHER - FEATURES)).scalars
    assert all(map(math.isfinite, measured.values())), measured
    for name in ("rankme", "effective_rank"):
        assert measured[name] == pytest.approx(getattr(label_free, name)(few).item(), rel=1e-3)
    assert 1 <= measured["lidar"] <= 16


def test_what_counts_as_collapsed():
    def verdict(features):
        return label_free.collapse(label_free.measure(features, features, features).scalars, len(features))

    alive = torch.randn(100, 32, generator=torch.Generator().manual_seed(4))
    assert verdict(alive) is None
    assert "nearly the same" in verdict(1 + 1e-4 * alive)
    one_direction = torch.randn(100, 1, generator=torch.Generator().manual_seed(5)) * F.normalize(alive[:1])
    assert "along 1.0 directions" in verdict(one_direction)
    assert verdict(torch.zeros(100, 32)) is not None
    assert verdict(alive[:3]) is None  # three images cannot differ along many directions
    broken = alive.clone()
    broken[3, 3] = math.nan
    assert verdict(broken) is not None


def test_a_run_logs_them_and_says_nothing_of_a_collapse(finished):
    run_dir = only_run(finished / "outputs")
    curves = scalars(run_dir)
    for kind, dimensions in (("features", 512), ("embeddings", 128)):
        assert len(curves[f"{kind}/uniformity"]) == 3  # before training and after each of two epochs
        assert all(1 <= rank <= dimensions for _, rank in curves[f"{kind}/rankme"])
        assert all(0 < value < 4 for _, value in curves[f"{kind}/alignment"])
    assert "COLLAPSED" not in (finished / "train.py.txt").read_text()


@pytest.mark.slow
def test_a_collapse_is_said_in_the_log_and_in_the_progress_line(run, tmp_path):
    """Weight decay so strong that it takes every weight to zero: all images get the same features."""
    done = run("train.py", *TINY_RUN, "optimizer.weight_decay=1e4", "optimizer.lr=0.1", "epochs=3")
    assert "the embeddings have COLLAPSED: all images have nearly the same one" in done.stdout
    assert "Epoch 3/3: COLLAPSED" in done.stdout
