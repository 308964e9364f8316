"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018, section 3.4)."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from simclr.errors import InputError
from simclr.evaluation.protocol import (
    Judgement,
    Protocol,
    Subject,
    accuracy,
    check_features,
    held_out_tenth,
    interval_words,
)
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
    Returns int64 [N]. Raises InputError for a k or a temperature out of range, and for features that are not finite.
    """
    check_settings(k, temperature)
    check_features(bank, queries)
    bank = F.normalize(bank, dim=1)
    predictions = []
    for chunk in F.normalize(queries, dim=1).split(CHUNK):
        similarity, neighbour = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes, device=bank.device)
        # Relative to the nearest: the votes' order is the same, and no temperature overflows.
        votes.scatter_add_(1, bank_labels[neighbour], ((similarity - similarity[:, :1]) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def choose(
    features: Tensor, labels: Tensor, classes: int, ks: Sequence[int], temperatures: Sequence[float]
) -> tuple[int, float]:
    """The pair of k and temperature that is right most often on a held-out tenth of train, the rest being the bank.

    features: float [N, F], labels: int64 [N]. Of equals the earlier in the lists wins.
    """
    held_out, rest = (rows.to(features.device) for rows in held_out_tenth(len(features)))
    best = (-1.0, ks[0], temperatures[0])
    for k in track(ks, "Choosing k and the temperature"):
        for temperature in temperatures:
            found = knn_predict(features[rest], labels[rest], features[held_out], classes, k, temperature)
            correct = (found == labels[held_out]).float().mean().item()
            if correct > best[0]:
                best = (correct, k, temperature)
    return best[1:]


class KNN(Protocol):
    """Nearest neighbours at the k and temperature that suit the features; k, temperature: lists to choose from."""

    name = "knn"

    def __init__(self, k: Sequence[int], temperature: Sequence[float]) -> None:
        for name, values in (("k", k), ("temperature", temperature)):
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise InputError(f"protocol.{name}={values} is not usable; it lists one or more numbers")
        for one_k, one_temperature in product(k, temperature):
            check_settings(one_k, one_temperature, "protocol")
        self.k, self.temperature = k, temperature

    def judge(self, subject: Subject) -> Judgement:
        bank, queries = subject.features
        bank_labels, query_labels = subject.labels()
        classes = len(subject.train.classes)
        k, temperature = choose(bank, bank_labels, classes, self.k, self.temperature)
        predicted = knn_predict(bank, bank_labels, queries, classes, k, temperature)
        numbers = accuracy(predicted == query_labels) | {"k": k, "temperature": temperature}
        words = (
            f"{protocol(len(bank), k, temperature)}; k chosen from {list(self.k)}, temperature from "
            f"{list(self.temperature)}, on a held-out tenth of them; validation labels read once; {interval_words()}"
        )
        line = (
            "k-NN top-1 {top1:.2f} % (95 % interval {top1_low:.2f} to {top1_high:.2f}), "
            "k {k}, temperature {temperature}"
        )
        return Judgement(numbers, {"knn": words}, [line.format(**numbers)])
