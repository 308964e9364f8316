"""Sweeps as train.py and linear_eval.py leave them, with outcomes that the tests choose."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import yaml

from simclr.report.study import Study, study_sweep
from simclr.runs.configs import CONFIGS


def write_run(folder: Path, config: dict, seed: int, top1: float, metrics: dict | None = None, **changes) -> Path:
    """A finished run's directory as train.py and linear_eval.py leave it. changes: dotted keys with __ for dots."""
    config = deepcopy(config) | {"seed": seed, "name": folder.name, "output_root": str(folder.parent)}
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    known = {"train/loss": 2.0, "train/top1": 60.0, "wall_seconds": 600.0, "git_commit": "a" * 40, "device": "cpu: X"}
    (folder / "metrics.json").write_text(json.dumps(known | {"precision": "32"} | (metrics or {})))
    linear = {"top1": top1, "top5": top1 + 20, "top1_low": top1 - 1, "top1_high": top1 + 1, "knn_top1": top1 - 5}
    (folder / "linear_eval.json").write_text(json.dumps(linear | {"protocol": {"linear": "frozen features"}}))
    return folder


def write_study(folder: Path, cells: dict, seeds: range, truth: dict, noise: float = 0.1, seed_effect: float = 5.0):
    """A 2×2 sweep. truth: augmentation, head, both -> points added; noise: standard deviation of each run."""
    random = np.random.default_rng(1)
    luck = {seed: random.normal(0, seed_effect) for seed in seeds}
    for (augmentation, head), config in cells.items():
        modified, slim = augmentation == "modified", head == "slim"
        for seed in seeds:
            top1 = 40 + luck[seed] + random.normal(0, noise)
            top1 += truth["augmentation"] * modified + truth["head"] * slim + truth["both"] * (modified and slim)
            write_run(folder / f"simclr-{augmentation}-{head}-seed{seed}", config, seed, top1)


def study(folder: Path) -> Study:
    return study_sweep(folder, CONFIGS, {})


def accuracies(folder: Path) -> dict[str, float]:
    return {path.parent.name: json.loads(path.read_text())["top1"] for path in folder.glob("*/linear_eval.json")}
