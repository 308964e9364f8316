"""What features show of themselves, without labels: how close views lie, how the space is filled, whether it collapsed.

Features that have collapsed (to a point, or to a few directions) are useless whatever the loss says.
"""

from __future__ import annotations

from math import isnan, nan
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.evaluation.features import are_finite

# Below these a representation counts as collapsed: features hardly differ, or differ along next to no direction.
MIN_SPREAD = 0.02
MIN_RANK = 2.0
NAMES = ("alignment", "uniformity", "rankme", "effective_rank", "lidar", "alpha_req", "std")
FEW = 16  # images; the rank of fewer says nothing


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the two views of an image on the unit sphere (Wang & Isola 2020, section 4.1).

    first, second: [N, D], row by row the features of two views of one image, any scale. Scalar from 0 (views are
    told apart by nothing) to 4; smaller is better.
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(dim=1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Log of the mean Gaussian potential exp(-2 · distance²) over all pairs (Wang & Isola 2020, section 4.1).

    features: [N, D], N at least 2, any scale. Scalar, at most 0 (all features equal); smaller is better, -4 the limit
    for features spread evenly over a sphere of many dimensions.
    """
    features = F.normalize(features, dim=1)
    cosine = features @ features.T
    pairs = cosine[torch.triu(torch.ones_like(cosine, dtype=torch.bool), diagonal=1)]
    return torch.logsumexp(4 * (pairs - 1), dim=0) - torch.tensor(float(len(pairs))).log()  # distance² = 2 - 2 cosine


def rankme(features: Tensor) -> Tensor:
    """The entropy of the singular values, as a number of directions (RankMe; Garrido et al. 2023, equation 1).

    features: [N, D], as they are: not centred, not normalised. Scalar from 1 to min(N, D).
    """
    return _exp_entropy(_svdvals(features))


def effective_rank(features: Tensor) -> Tensor:
    """The entropy of the covariance's eigenvalues, as a number of directions (Roy & Vetterli 2007, definition 1).

    features: [N, D]. Scalar from 1 to min(N - 1, D). Where rankme takes in the mean, which in a network of rectified
    units is the largest direction of all, this takes in how features differ, and weighs strong directions more.
    """
    return _exp_entropy(_svdvals(features, centred=True).square())


def lidar(first: Tensor, second: Tensor) -> Tensor:
    """RankMe's entropy of what a linear discriminant finds of images in their views (LiDAR; Thilak et al. 2024, eq. 1).

    first, second: [N, D], of two views of each image. Images are the classes, views their members: the eigenvalues are
    those of Σ_w^(-1/2) Σ_b Σ_w^(-1/2), with the covariance Σ_b of the images' means and Σ_w of views about them, to
    which 1e-4 is added. Directions in which views of one image differ count little, other than in rankme. On the CPU,
    in float64. Scalar from 1 to D.
    """
    a, b = (x.detach().cpu().double() for x in (first, second))
    means, within = (a + b) / 2, (a - b) / 2
    means = (means - means.mean(dim=0)) / len(a) ** 0.5
    # By eigenvectors, not Cholesky's factor: where features are huge, rounding exceeds 1e-4 and some come out negative.
    variance, directions = torch.linalg.eigh(within.T @ within / len(a))
    whitened = means @ directions * (variance.clamp(min=0) + 1e-4).rsqrt()
    return _exp_entropy(_svdvals(whitened).square())


def alpha_req(features: Tensor) -> Tensor:
    """The exponent α of the covariance's eigenvalues, λ_i ∝ i^(-α) (α-ReQ; Agrawal et al. 2022, section 2).

    features: [N, D]. Fitted to logarithms by least squares from the third eigenvalue to the hundredth, or to the last
    that is not rounding. Scalar; near 1 in what generalises well, larger where few directions have it all.
    """
    values = _svdvals(features, centred=True).square()
    values = values[values > 1e-6 * values[0]][2:100]
    if len(values) < 2:
        return torch.tensor(nan)
    x, y = torch.arange(3.0, 3 + len(values), device=values.device).log(), values.log()
    return -((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()


def _svdvals(features: Tensor, centred: bool = False) -> Tensor:
    """Singular values of features that are finite, as multiples of the largest entry, whose square may be infinite.

    On the CPU: MPS has no such function, and a GPU is no faster at it.
    """
    features = (features if features.dtype == torch.float64 else features.float()).cpu()
    features = features / features.abs().max().clamp(min=torch.finfo(features.dtype).tiny)
    return torch.linalg.svdvals(features - features.mean(dim=0) if centred else features)


def _exp_entropy(values: Tensor) -> Tensor:
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + 1e-7
    return torch.exp(-(share * share.log()).sum())


def spread(features: Tensor) -> Tensor:
    """The standard deviation of every dimension on the unit sphere, times √D (Chen & He 2021, figure 2).

    features: [N, D], any scale. Returns [D]: around 1 where features are spread evenly, 0 where they are all equal.
    """
    return F.normalize(features, dim=1).std(dim=0) * features.shape[1] ** 0.5


class Measured(NamedTuple):
    """What `measure` found: scalars by name, and the spread of each dimension [D]."""

    scalars: dict[str, float]
    spread: Tensor


def measure(features: Tensor, first: Tensor, second: Tensor) -> Measured:
    """All of them. features: [N, D], of images; first, second: [N, D], of two augmented views of each.

    Features that are not finite give numbers that are NaN.
    """
    dimensions = spread(features)
    if not are_finite(features, first, second):
        return Measured(dict.fromkeys(NAMES, nan), torch.full_like(dimensions, nan))
    scalars = {
        "alignment": alignment(first, second),
        "uniformity": uniformity(features),
        "rankme": rankme(features),
        "effective_rank": effective_rank(features),
        "lidar": lidar(first, second),
        "alpha_req": alpha_req(features),
        "std": dimensions.mean(),
    }
    return Measured({name: value.item() for name, value in scalars.items()}, dimensions)


def collapse(scalars: dict[str, float], images: int) -> str | None:
    """What is wrong with features of that many images, of which `measure` gave these scalars, in words; or None."""
    if isnan(scalars["std"]):
        return "they are not finite"
    if scalars["std"] < MIN_SPREAD:
        return f"all images have nearly the same one (std {scalars['std']:.4f}; evenly spread: 1)"
    if images >= FEW and not scalars["effective_rank"] >= MIN_RANK:
        return f"they differ along {scalars['effective_rank']:.1f} directions only"
    return None
