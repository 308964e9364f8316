"""InfoNCE against the paper's Algorithm 1 and against an independent library."""

import math
import os
import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss

from simclr.losses import info_nce, top_k


def algorithm_1(embeddings: torch.Tensor, temperature: float) -> float:
    """Chen et al. 2020, Algorithm 1, line by line: z_{2k-1} and z_{2k} are the two views of image k."""
    views, images, _ = embeddings.shape
    assert views == 2
    z = {}
    for k in range(1, images + 1):
        z[2 * k - 1], z[2 * k] = embeddings[0, k - 1].double(), embeddings[1, k - 1].double()
    n = 2 * images
    s = {(i, j): (z[i] @ z[j] / (z[i].norm() * z[j].norm())).item() for i in z for j in z}

    def ell(i: int, j: int) -> float:
        denominator = sum(math.exp(s[i, k] / temperature) for k in range(1, n + 1) if k != i)
        return -math.log(math.exp(s[i, j] / temperature) / denominator)

    return sum(ell(2 * k - 1, 2 * k) + ell(2 * k, 2 * k - 1) for k in range(1, images + 1)) / n


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_the_papers_algorithm(temperature):
    embeddings = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    loss = info_nce(embeddings, temperature).loss
    assert loss.item() == pytest.approx(algorithm_1(embeddings, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_value_and_gradient_agree_with_pytorch_metric_learning(temperature):
    mine = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(2)).requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    loss = info_nce(mine, temperature).loss
    labels = torch.arange(64).repeat(2)
    expected = NTXentLoss(temperature)(theirs.flatten(0, 1), labels)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


def test_identical_embeddings_give_log_of_the_candidates_and_no_accuracy():
    loss, rank = info_nce(torch.ones(2, 8, 4), 0.07)
    assert loss.item() == pytest.approx(math.log(15), rel=1e-6)
    assert top_k(rank, 5).item() == 0  # ties count against the positive: collapse is not success


def test_more_than_two_views_average_over_ordered_pairs():
    embeddings = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(3))
    unit = torch.nn.functional.normalize(embeddings.flatten(0, 1), dim=1).double()
    logits = unit @ unit.T / 0.2
    terms = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        for j in others:
            if j % 4 == i % 4:
                terms.append(torch.logsumexp(logits[i, others], 0) - logits[i, j])
    assert info_nce(embeddings, 0.2).loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_low_temperature_is_finite_under_half_precision():
    embeddings = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(4)).mul_(1e3).half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(embeddings, 0.01).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_rank_counts_the_candidates_that_beat_the_positive():
    # On a circle: the views of image 0 are 10° apart and view 1 of image 1 lies between them; its view 2 is far.
    angles = torch.tensor([[0.0, 4.0], [10.0, 90.0]]).deg2rad()
    rank = info_nce(torch.stack([angles.cos(), angles.sin()], dim=-1), 0.07).rank
    assert rank.tolist() == [1, 2, 1, 0 + 1]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"temperature=-1 is not usable"):
        info_nce(torch.ones(2, 2, 2), -1)
    with pytest.raises(ValueError, match=r"got \[1, 2, 2\]"):
        info_nce(torch.ones(1, 2, 2), 0.1)


@pytest.mark.parametrize("chunk_logits", [1, 100, 14 * 3])
def test_chunks_change_neither_value_nor_gradient_nor_rank(chunk_logits):
    """One anchor at a time, several, and a number that does not divide the 14 anchors."""
    whole = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    parts = whole.detach().clone().requires_grad_()
    expected, found = info_nce(whole, 0.07), info_nce(parts, 0.07, chunk_logits)
    assert found.loss.item() == pytest.approx(algorithm_1(parts, 0.07), rel=1e-12)
    assert torch.equal(found.rank, expected.rank)
    (3 * expected.loss).backward()
    (3 * found.loss).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_chunks_bound_the_memory():
    """4,096 images have 268 MB of logits, and autograd keeps several copies; in chunks of 8 MB it is a tenth."""
    grown = {}
    for chunk_logits in (2**21, 2**30):
        program = f"""
import torch
from benchmarks.measure import peak_memory
from simclr.losses import info_nce
embeddings = torch.randn(2, 4096, 32, requires_grad=True)
info_nce(embeddings[:, :64], 0.07, 2**12).loss.backward()
before = peak_memory()
info_nce(embeddings, 0.07, {chunk_logits}).loss.backward()
print(1000 * (peak_memory() - before))
"""
        # Every block is given back when it is freed; left alone, glibc keeps some, and the peak depends on luck.
        exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run([sys.executable, "-c", program], env=exact, capture_output=True, text=True, check=True)
        grown[chunk_logits] = float(done.stdout)
    assert grown[2**30] > 500
    assert grown[2**21] < 100
