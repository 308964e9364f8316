"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018, section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # queries compared with the whole bank at once; bounds the memory


def protocol(bank: int, k: int, temperature: float) -> str:
    """The words that stand beside a k-NN figure; bank: its number of pictures."""
    return f"cosine k-NN, k={k}, weights exp(s/{temperature}), bank: {bank} un-augmented training pictures"


def knn_predict(bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """The class with the largest sum of exp(cosine similarity / temperature) among the k nearest of the bank.

    bank: float [M, F], bank_labels: int64 [M], queries: float [N, F]; all on one device. k is cut to M.
    Returns int64 [N].
    """
    bank = F.normalize(bank, dim=1)
    predictions = []
    for chunk in F.normalize(queries, dim=1).split(CHUNK):
        similarity, neighbour = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes, device=bank.device)
        # Relative to the nearest: the votes' order is the same, and no temperature overflows.
        votes.scatter_add_(1, bank_labels[neighbour], ((similarity - similarity[:, :1]) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)
