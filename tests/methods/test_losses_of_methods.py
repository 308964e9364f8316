"""Each method's loss against its paper's pseudo-code, written out anew in float64, or an independent library."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss, VICRegLoss
from torch import Tensor

from simclr.losses import info_nce, spread, sup_con
from simclr.methods.barlow_twins import barlow_twins
from simclr.methods.byol import byol_loss
from simclr.methods.lejepa import distance_to_centre, sigreg
from simclr.methods.moco_v3 import ctr
from simclr.methods.simsiam import negative_cosine
from simclr.methods.vicreg import vicreg

IMAGES, WIDTH = 12, 6


def two(seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(IMAGES, WIDTH, generator=random, dtype=torch.float64) for _ in range(2)]


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def barlow_twins_paper(a: Tensor, b: Tensor) -> Tensor:
    """Algorithm 1 of Zbontar et al. 2021, λ 5e-3; batch normalisation divides by N, as the authors' code does."""
    c = torch.zeros(WIDTH, WIDTH, dtype=a.dtype)
    norm = [(z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b)]
    for i in range(WIDTH):
        for j in range(WIDTH):
            c[i, j] = sum(norm[0][n, i] * norm[1][n, j] for n in range(IMAGES)) / IMAGES
    return sum((1 - c[i, j]) ** 2 if i == j else 5e-3 * c[i, j] ** 2 for i in range(WIDTH) for j in range(WIDTH))  # type: ignore[return-value]


def byol_paper(a: Tensor, b: Tensor) -> Tensor:
    """Equation 2 of Grill et al. 2020 for both directions, halved; the predictions are the targets here."""
    return sum(((unit(p) - unit(z.detach())) ** 2).sum(1).mean() for p, z in ((a, b), (b, a))) / 2  # type: ignore[return-value]


def moco_paper(a: Tensor, b: Tensor) -> Tensor:
    """Algorithm 1 of Chen, Xie & He 2021, τ 0.2."""
    logits = unit(a) @ unit(b.detach()).T / 0.2
    return -2 * 0.2 * torch.log_softmax(logits, dim=1).diagonal().mean()


def simsiam_paper(a: Tensor, b: Tensor) -> Tensor:
    """Algorithm 1 of Chen & He 2021: D(p, z)."""
    return -(unit(a) * unit(b.detach())).sum(dim=1).mean()


def dcl_paper(a: Tensor, b: Tensor) -> Tensor:
    """Equation 6 of Yeh et al. 2022, τ 0.1: only other images' views are in the denominator."""
    z = torch.cat([unit(a), unit(b)])
    terms = []
    for i in range(2 * IMAGES):
        positive = (i + IMAGES) % (2 * IMAGES)
        negatives = [math.e ** (z[i] @ z[j] / 0.1) for j in range(2 * IMAGES) if j % IMAGES != i % IMAGES]
        terms.append(-z[i] @ z[positive] / 0.1 + torch.log(sum(negatives)))  # type: ignore[arg-type]
    return torch.stack(terms).mean()


DIRECTIONS = torch.nn.functional.normalize(
    torch.randn(WIDTH, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64), dim=0
)


def lejepa(a: Tensor, b: Tensor) -> Tensor:
    gaussian = (sigreg(a, DIRECTIONS) + sigreg(b, DIRECTIONS)) / 2
    return 0.95 * distance_to_centre([a, b], [0, 1]) + 0.05 * gaussian


def lejepa_paper(a: Tensor, b: Tensor) -> Tensor:
    """Listings 1 and 2 of Balestriero & LeCun 2025, λ 0.05, with the integral over all t in closed form:

    ∫|φ_N - φ|² e^(-t²/2) dt = √(2π)/N²·ΣΣ e^(-(x_i - x_j)²/2) - 2√π/N·Σ e^(-x_i²/4) + √(2π/3).
    """

    def statistic(z: Tensor) -> Tensor:
        of_each = []
        for m in range(DIRECTIONS.shape[1]):
            x = z @ DIRECTIONS[:, m]
            pairs = math.sqrt(2 * math.pi) * (-((x[:, None] - x) ** 2) / 2).exp().mean()
            of_each.append(IMAGES * (pairs - 2 * math.sqrt(math.pi) * (-(x**2) / 4).exp().mean()))
        return torch.stack(of_each).mean() + IMAGES * math.sqrt(2 * math.pi / 3)

    centre = (a + b) / 2
    agree = torch.stack([((z - centre) ** 2).mean() for z in (a, b)]).mean()
    return 0.95 * agree + 0.05 * (statistic(a) + statistic(b)) / 2


LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 3, 3, 1, 0, 2, 4])

PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "barlow_twins": (lambda a, b: barlow_twins(a, b, 5e-3)[0], barlow_twins_paper),
    "byol": (lambda a, b: byol_loss([a, b], {0: a.detach(), 1: b.detach()}), byol_paper),
    "moco_v3": (lambda a, b: ctr(a, b, 0.2)[0], moco_paper),
    "simsiam": (negative_cosine, simsiam_paper),
    "dcl": (lambda a, b: info_nce(torch.stack([a, b]), 0.1, decoupled=True).loss, dcl_paper),
    "supcon": (
        lambda a, b: sup_con(torch.stack([a, b]), LABELS, 0.1).loss,
        lambda a, b: SupConLoss(0.1)(torch.cat([a, b]), LABELS.repeat(2)),
    ),
    "lejepa": (lejepa, lejepa_paper),
    "vicreg": (
        lambda a, b: 25 * vicreg([a, b])[0] + 25 * vicreg([a, b])[1] + vicreg([a, b])[2],
        lambda a, b: VICRegLoss(25, 25, 1, eps=1e-4)(a, ref_emb=b),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_are_those_of_the_paper(name):
    ours, theirs = PAIRS[name]
    (a, b), (c, d) = two(), two()
    for tensor in (a, b, c, d):
        tensor.requires_grad_()
    loss, expected = ours(a, b), theirs(c, d)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for mine, other in ((a, c), (b, d)):
        gradients = [torch.zeros_like(mine) if t.grad is None else t.grad for t in (mine, other)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_embeddings_that_have_collapsed_or_are_large_give_finite_numbers(name):
    """All one vector, all zero, and what half precision has at the end of its range; under autocast, too."""
    for values in (torch.ones(IMAGES, WIDTH), torch.zeros(IMAGES, WIDTH), torch.full((IMAGES, WIDTH), 6e4)):
        a, b = (values.bfloat16().clone().requires_grad_() for _ in range(2))
        with torch.autocast("cpu", torch.bfloat16):
            loss = PAIRS[name][0](a, b)
        loss.backward()
        assert loss.isfinite()
        assert a.grad is not None
        assert a.grad.isfinite().all()


def test_supcon_of_labels_that_all_differ_is_infonce():
    embeddings = torch.stack(two())
    loss, rank = sup_con(embeddings, torch.arange(IMAGES), 0.1)
    expected = info_nce(embeddings, 0.1)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    assert torch.equal(rank, expected.rank)


def test_supcon_ranks_the_most_similar_of_the_own_class():
    """On a circle: image 2 lies next to image 0, whose other view and class are farther away than image 1's."""
    angles = torch.tensor([[0.0, 40.0, 5.0], [20.0, 41.0, 170.0]]).deg2rad()
    rank = sup_con(torch.stack([angles.cos(), angles.sin()], dim=-1), torch.tensor([0, 0, 1]), 0.07).rank
    assert rank.tolist() == [1, 0, 4, 1, 0, 3]


@pytest.mark.parametrize("chunk_logits", [1, 100])
def test_chunks_change_nothing_in_the_siblings_of_infonce(chunk_logits):
    for loss in (
        lambda z, chunk: info_nce(z, 0.1, chunk, decoupled=True),
        lambda z, chunk: sup_con(z, LABELS, 0.1, chunk),
    ):
        whole, parts = (torch.stack(two()).requires_grad_() for _ in range(2))
        expected, found = loss(whole, 2**22), loss(parts, chunk_logits)
        expected.loss.backward()
        found.loss.backward()
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert torch.equal(found.rank, expected.rank)
        torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-12)


def test_more_views_are_pairs_of_views():
    """BYOL: every view predicts every other target. VICReg: the invariance is the mean over pairs."""
    views = [*two(), *two(1)][:3]
    pairs = [(i, j) for i in range(3) for j in range(2) if i != j]  # the third is a small view, and no target
    expected = np.mean([((unit(views[i]) - unit(views[j])) ** 2).sum(1).mean() for i, j in pairs])
    assert byol_loss(views, {0: views[0], 1: views[1]}).item() == pytest.approx(expected)
    s, v, c = vicreg(views)
    each = [vicreg([views[i], views[j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    for found, of_pairs in zip((s, v, c), zip(*each, strict=True), strict=True):
        assert found.item() == pytest.approx(torch.stack(of_pairs).mean().item())


def test_sigreg_tells_a_gaussian_from_what_has_collapsed_or_is_too_wide():
    random = torch.Generator().manual_seed(0)
    gaussian = torch.randn(4000, WIDTH, generator=random)
    usual = sigreg(gaussian, DIRECTIONS)  # of a true sample the statistic stays of order 1, however many images
    assert usual < 1
    flat = gaussian * torch.tensor([1.0, 1, 1, 1, 1, 0])
    for other in (torch.zeros_like(gaussian), 2 * gaussian, gaussian / 2, gaussian + 1, flat, gaussian.sign()):
        assert sigreg(other, DIRECTIONS) > 10 * usual


def test_the_spread_is_one_for_uniform_directions_and_zero_for_one():
    assert spread(torch.randn(4000, 64)).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(40, 64)).item() == pytest.approx(0, abs=1e-3)
