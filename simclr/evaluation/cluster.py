"""Clustering: whether features fall into the classes by themselves, without a label."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.clustering import adjusted_rand_score, normalized_mutual_info_score

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.evaluation.protocol import NORMAL, Judgement, Protocol, Subject, check_classes, check_features, tried
from simclr.system.randomness import generator

MAX_STEPS = 300
BOOTSTRAP = 200  # samples; their spread alone is used, so few will do
SCORES = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score}


class Clustering(NamedTuple):
    """assignment: int64 [N]. inertia: the sum of squared distances to the centres, the smaller the better."""

    assignment: Tensor
    inertia: float


def k_means(points: Tensor, clusters: int, seed: int) -> Clustering:
    """Lloyd's algorithm from k-means++ centres (Arthur and Vassilvitskii 2007), until no point changes its cluster.

    points: float [N, F], `clusters` of them or more. A cluster that loses all of its points takes the one that is
    farthest from its centre.
    """
    centres = _first_centres(points, clusters, seed)
    assignment = points.new_full((len(points),), -1, dtype=torch.long)
    for _ in range(MAX_STEPS):
        distance, nearest = _distances(points, centres).min(dim=1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        counts = assignment.bincount(minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, assignment, points)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = points[distance.topk(len(empty)).indices]
    return Clustering(assignment, float(distance.cpu().double().sum()))


def _first_centres(points: Tensor, clusters: int, seed: int) -> Tensor:
    """Points, each drawn in proportion to its squared distance from those before it."""
    random = generator("k-means", seed)
    chosen = [int(torch.randint(len(points), (), generator=random))]
    distance = _distances(points, points[chosen]).flatten()
    for _ in range(clusters - 1):
        weights = distance.cpu().double()  # in this order: MPS has no float64
        if not weights.sum() > 0:  # all points are among the centres
            weights = torch.ones_like(weights)
        chosen.append(int(torch.multinomial(weights, 1, generator=random)))
        distance = torch.minimum(distance, _distances(points, points[chosen[-1:]]).flatten())
    return points[chosen].clone()


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances [N, C]."""
    squares = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return (squares - 2 * points @ centres.T).clamp(min=0)


def score(name: str, assignment: Tensor, labels: Tensor) -> float:
    """One of SCORES of clusters against classes, int64 [N] each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse invariant checks")  # of how torchmetrics counts
        return SCORES[name](assignment.cpu(), labels.cpu()).item()


class Cluster(Protocol):
    """k-means of the validation features into as many clusters as there are classes; NMI and ARI against these.

    Features are at length 1, so clusters are of directions. restarts: how often k-means begins anew; the tightest
    clustering counts.
    """

    name = "cluster"
    reads = ("val",)

    def __init__(self, restarts: int) -> None:
        if not is_whole(restarts) or restarts < 1:
            raise InputError(f"protocol.restarts={restarts} is not usable; it is a whole number, 1 or more")
        self.restarts = restarts

    def judge(self, subject: Subject) -> Judgement:
        features = subject.features_of["val"]
        check_features(features)
        _, labels = subject.labels()
        check_classes(labels, self.name)
        points, classes = F.normalize(features, dim=1), len(labels.unique())
        found = [k_means(points, classes, seed) for seed in tried(range(self.restarts), "Clustering")]
        best = min(found, key=lambda clustering: clustering.inertia)
        random = generator("clusters judged")
        shuffled = best.assignment[torch.randperm(len(labels), generator=random)]
        draws = torch.randint(len(labels), (BOOTSTRAP, len(labels)), generator=random)
        numbers: dict[str, Any] = {}
        for name in SCORES:
            value = score(name, best.assignment, labels)
            half = NORMAL * float(np.std([score(name, best.assignment[rows], labels[rows]) for rows in draws], ddof=1))
            numbers |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
        numbers |= {
            "nmi_chance": score("nmi", shuffled, labels),
            "clusters": classes,
            "inertia": best.inertia / len(points),
        }
        words = (
            f"k-means (k-means++, to convergence, the tightest of {self.restarts}) of {len(points)} validation "
            f"features at length 1 into {classes} clusters, as many as classes; no label was used; nmi: mutual "
            "information by the arithmetic mean of the entropies, nmi_chance: of the same clusters, shuffled; ari: "
            f"adjusted for chance, 0 is chance; intervals: 95 % by the spread of {BOOTSTRAP} bootstrap samples of the "
            "images, the clusters as they are; inertia: mean squared distance to the centre"
        )
        line = (
            "NMI {nmi:.4f} (95 % interval {nmi_low:.4f} to {nmi_high:.4f}; shuffled: {nmi_chance:.4f}), ARI {ari:.4f} "
            "({ari_low:.4f} to {ari_high:.4f})".format(**numbers)
        )
        return Judgement(numbers, {self.name: words}, [line])
