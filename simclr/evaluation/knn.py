"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018, section 3.4)."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr.checks import is_finite, is_whole
from simclr.errors import InputError
from simclr.evaluation.held_out import HeldOut, hold_out, middle
from simclr.evaluation.protocol import (
    ACCURACY_WORDS,
    Judgement,
    Protocol,
    Subject,
    accuracy,
    accuracy_line,
    check_features,
    tried,
)

CHUNK = 1024  # queries compared with the whole bank at once; bounds the memory


def check_settings(k: int, temperature: float, group: str = "knn") -> None:
    """Raise InputError, naming the key of `group`, unless k is 1 or more and temperature from 1e-6 to 1e6."""
    if not is_whole(k) or k < 1:
        raise InputError(f"{group}.k={k} is not usable; it is a whole number, 1 or more (usual: 20)")
    if not is_finite(temperature) or not 1e-6 <= temperature <= 1e6:
        raise InputError(f"{group}.temperature={temperature} is not usable; it lies between 1e-6 and 1e6 (usual: 0.07)")


def protocol(bank: int, k: int, temperature: float) -> str:
    """The words that stand beside a k-NN figure; bank: its number of images."""
    return f"cosine k-NN, k={k}, weights exp(s/{temperature}), bank: {bank} un-augmented training images"


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
    features: Tensor, labels: Tensor, classes: int, ks: Sequence[int], temperatures: Sequence[float], held: HeldOut
) -> tuple[int, float]:
    """The pair of k and temperature that is right most often on what is held out, the rest being the bank.

    features: float [N, F], labels: int64 [N]. Of equals the earlier in the lists wins. Where nothing is held out, the
    middle ones.
    """
    if not held.parts:
        return middle(ks), middle(temperatures)
    best = (-1, ks[0], temperatures[0])
    for k in tried(ks, "Choosing k and the temperature"):
        for temperature in temperatures:
            right = 0
            for held_out, rest in held.parts:
                found = knn_predict(features[rest], labels[rest], features[held_out], classes, k, temperature)
                right += int((found == labels[held_out]).sum())
            if right > best[0]:
                best = (right, k, temperature)
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
        held = hold_out(len(bank), bank_labels)
        k, temperature = choose(bank, bank_labels, classes, self.k, self.temperature, held)
        predicted = knn_predict(bank, bank_labels, queries, classes, k, temperature)
        numbers = accuracy(predicted == query_labels, query_labels, bank_labels) | {"k": k, "temperature": temperature}
        words = (
            f"{protocol(len(bank), k, temperature)}; k and temperature "
            f"{held.choice('accuracy', self.k, self.temperature)}; validation labels read once; {ACCURACY_WORDS}"
        )
        line = f"k-NN {accuracy_line(numbers)}, k {k}, temperature {temperature}"
        return Judgement(numbers, {"knn": words}, [line + held.note(self.k, self.temperature)])
