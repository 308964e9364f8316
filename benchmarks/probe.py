"""Time of the linear protocol on cached features, its choice of L2 included, beside scikit-learn's fit at one strength.

python -m benchmarks.probe [--images 100000] [--features 512] [--classes 200] [--json FILE]

The features are drawn: Gaussian classes whose variance falls along the axes as that of a trained encoder's does, and
turned at random, so that no axis is the network's own. The ratio counts one fit of scikit-learn's (L-BFGS to its
default tolerance) against the whole protocol: a fit for each strength tried, and one on all images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.measure import machine
from simclr.evaluation.linear import linear_evaluation
from simclr.runs.compose import compose_config
from simclr.runs.results import provenance, write_json
from simclr.system.memory import keep_freed_memory


def drawn(images: int, features: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, F] and labels [N]; a linear classifier is right about half of the time."""
    random = torch.Generator().manual_seed(0)
    scale = torch.arange(1, features + 1).rsqrt()
    centres = 0.15 * torch.randn(classes, features, generator=random)
    labels = torch.randint(classes, (images,), generator=random)
    turn = torch.linalg.qr(torch.randn(features, features, generator=random))[0]
    return (centres[labels] + torch.randn(images, features, generator=random)) * scale @ turn, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 100_000), ("features", 512), ("classes", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cpu")
    print(machine(device))
    held_back = max(200, chosen.images // 10)
    features, labels = drawn(chosen.images + held_back, chosen.features, chosen.classes)
    train, val, known, truth = features[held_back:], features[:held_back], labels[held_back:], labels[:held_back]

    grid = list(compose_config(command="linear_eval").protocol.l2_grid)
    start = time.perf_counter()
    result = linear_evaluation(train, known, val, truth, chosen.classes, grid)
    ours = time.perf_counter() - start
    standard = ((train - train.mean(0)) / train.std(0)).numpy()
    start = time.perf_counter()
    LogisticRegression(C=1 / (result.l2 * len(train)), max_iter=1000).fit(standard, known.numpy())
    theirs = time.perf_counter() - start

    top1 = 100 * result.top1.float().mean().item()
    print(f"{chosen.images:,} × {chosen.features}, {chosen.classes} classes: the whole protocol {ours:.1f} s")
    print(f"(L2 {result.l2:g}, top-1 {top1:.1f} %); scikit-learn's fit at that L2 alone {theirs:.1f} s, so it takes")
    print(f"{theirs / ours:.2f} times as long as the whole protocol.")
    if chosen.json is not None:
        figures = {"protocol_seconds": ours, "one_fit_of_scikit_learn_seconds": theirs, "l2": result.l2, "top1": top1}
        size = {name: getattr(chosen, name) for name in ("images", "features", "classes")}
        write_json(chosen.json, size | figures | provenance(device))


if __name__ == "__main__":
    main()
