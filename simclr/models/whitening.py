"""Batch whitening: batch norm that also takes the correlation out of the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simclr.system import distributed

ITERATIONS = 6
SHRINKAGE = 1e-3  # of the covariance towards a multiple of the identity, for batches smaller than the features
MOMENTUM = 0.1  # of the running statistics, as batch norm's


def identity_like(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def inverse_root(covariance: Tensor) -> Tensor:
    """About Σ^(-1/2) of a covariance [D, D], by Newton's iterations ("Iterative normalization", Huang et al. 2019).

    Only products, which every device has, and whose gradient is stable where eigenvalues are equal. A direction with a
    hundredth of the whole variance or more is scaled to variance 1; a smaller one, which may be noise, is enlarged by
    no more than 1.5^ITERATIONS times what scales the whole variance to 1.
    """
    trace = covariance.diagonal().sum()
    normal = covariance / trace
    root = identity_like(covariance)
    for _ in range(ITERATIONS):
        root = 1.5 * root - 0.5 * (root @ root @ root) @ normal
    return root / trace.sqrt()


class BatchWhitening(nn.Module):
    """Features [N, D] to [N, D] with mean 0 and, over the batch, about the identity as covariance.

    So no direction can vanish, and none carry it all, which batch norm's own scaling of single features allows (Hua et
    al. 2021, "On feature decorrelation in self-supervised learning"; Ermolov et al. 2021, "Whitening"). The axes stay
    as near to the features' own as they can (ZCA). Statistics are of the batch of all processes, which should be twice
    as many images as features or more: the fewer, the less a whitened batch tells. In evaluation they are running ones.
    In float32 or wider.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_covariance", torch.eye(num_features))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            if not self.training:
                return (features - self.running_mean) @ inverse_root(self.running_covariance)
            everyone = distributed.gather(features).flatten(0, 1)
            mean = everyone.mean(dim=0)
            deviations = everyone - mean
            covariance = deviations.T @ deviations / len(everyone)
            covariance = covariance.lerp(covariance.diagonal().mean() * identity_like(covariance), SHRINKAGE)
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_covariance.lerp_(covariance, MOMENTUM)
            return (features - mean) @ inverse_root(covariance)
