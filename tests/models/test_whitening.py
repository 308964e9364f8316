"""Batch whitening, against an eigendecomposition and NumPy's covariance."""

import numpy as np
import pytest
import torch

from simclr.models.heads import BatchNormHead
from simclr.models.whitening import SHRINKAGE, BatchWhitening

IMAGES = 4000


def correlated(features: int, seed: int = 0) -> torch.Tensor:
    """float64 [N, D] whose variances along the principal axes span a factor of five."""
    random = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(features, features, generator=random, dtype=torch.float64))
    normal = torch.randn(IMAGES, features, generator=random, dtype=torch.float64)
    return normal * torch.linspace(1, 5, features, dtype=torch.float64).sqrt() @ axes + 3


def zca(features: np.ndarray) -> np.ndarray:
    """Whitening by the symmetric root of the covariance's inverse."""
    deviations = features - features.mean(axis=0)
    covariance = np.cov(features.T, bias=True)
    covariance += SHRINKAGE * (np.eye(len(covariance)) * covariance.diagonal().mean() - covariance)
    values, vectors = np.linalg.eigh(covariance)
    return deviations @ (vectors / np.sqrt(values)) @ vectors.T


def test_it_is_whitening_by_the_symmetric_root():
    features = correlated(8)
    white = BatchWhitening(8).double()(features)
    np.testing.assert_allclose(white, zca(features.numpy()), atol=0.02)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(8), atol=0.01)


def test_what_batch_norm_cannot_tell_from_spread_it_takes_apart():
    """Features that are all one and the same but for a tenth: one direction to batch norm's eyes, eight afterwards."""
    random = torch.Generator().manual_seed(1)
    features = torch.randn(IMAGES, 1, generator=random) + 0.3 * torch.randn(IMAGES, 8, generator=random)

    def share_of_the_largest(values: torch.Tensor) -> float:
        variances = np.linalg.eigvalsh(np.cov(values.numpy().T))
        return variances[-1] / variances.sum()

    assert share_of_the_largest(torch.nn.BatchNorm1d(8, affine=False)(features)) > 0.9
    assert share_of_the_largest(BatchWhitening(8)(features)) < 0.2


def test_its_gradient_is_that_of_differences():
    features = correlated(4)[:10].requires_grad_()
    weight = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer = BatchWhitening(4).double()
    assert torch.autograd.gradcheck(lambda given: (layer(given) * weight).sum(), features)


def test_in_evaluation_it_whitens_as_the_batches_before_did():
    layer = BatchWhitening(8).double()
    for seed in range(100):
        layer(correlated(8)[seed::40])
    layer.eval()
    features = correlated(8)
    np.testing.assert_allclose(layer(features), zca(features.numpy()), atol=0.35)  # those were of 100 images each
    torch.testing.assert_close(layer(features[:3]), layer(features)[:3])  # of one image as of many


@pytest.mark.parametrize("images", [2, 5])
def test_fewer_images_than_features_stay_finite(images):
    features = torch.randn(images, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer = BatchWhitening(8)
    white = layer(features)
    (white * torch.arange(8)).square().sum().backward()
    assert white.isfinite().all()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_head_ends_in_it_and_says_no_to_others():
    head = BatchNormHead(6, 5, 4, norm_output="whitened")
    assert isinstance(head[-1], BatchWhitening)
    assert head[-2].bias is None
    with pytest.raises(ValueError, match="norm_output=white is not known; choose affine, plain, whitened or null"):
        BatchNormHead(6, 5, 4, norm_output="white")
