"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018, section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.errors import InputError
from simclr.numbers import is_finite, is_whole

CHUNK = 1024  # queries compared with the whole bank at once; bounds the memory


def check_settings(k: int, temperature: float, group: str = "knn") -> None:
    """Raise InputError, naming the key of `group`, unless k is 1 or more and temperature from 1e-6 to 1e6."""
    if not is_whole(k) or k < 1:
        raise InputError(f"{group}.k={k} is not usable; it is a whole number, 1 or more (usual: 20)")
    if not is_finite(temperature) or not 1e-6 <= temperature <= 1e6:
        raise InputError(f"{group}.temperature={temperature} is not usable; it lies between 1e-6 and 1e6 (usual: 0.07)")


def protocol(bank: int, k: int, temperature: float) -> str:
    """The words that stand beside a k-NN figure; bank: its number of pictures."""
    return f"cosine k-NN, k={k}, weights exp(s/{temperature}), bank: {bank} un-augmented training pictures"


def knn_predict(bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """The class with the largest sum of exp(cosine similarity / temperature) among the k nearest of the bank.

    bank: float [M, F], bank_labels: int64 [M], queries: float [N, F]; all on one device. k is cut to M.
    Returns int64 [N]. Raises InputError for a k or a temperature out of range.
    """
    check_settings(k, temperature)
    bank = F.normalize(bank, dim=1)
    predictions = []
    for chunk in F.normalize(queries, dim=1).split(CHUNK):
        similarity, neighbour = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes, device=bank.device)
        # Relative to the nearest: the votes' order is the same, and no temperature overflows.
        votes.scatter_add_(1, bank_labels[neighbour], ((similarity - similarity[:, :1]) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)
