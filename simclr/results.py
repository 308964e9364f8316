"""JSON results, and what has to stand beside their numbers for them to be trusted."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from simclr.events import read_scalars
from simclr.files import replacing

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "tensorboard")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that a reader sees the old file or the new one, never half of it."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


def provenance(device: torch.device) -> dict[str, Any]:
    """Hardware, commit of the code and package versions."""
    return {
        "device": device_name(device),
        "git_commit": git_commit(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" where files differ from it; None outside a checkout."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device_name(device: torch.device) -> str:
    """What a reader recognises: the GPU's name, or the processor's with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "processor"
    return f"{device.type}: {model}, {torch.get_num_threads()} threads"


def last_scalars(run_dir: Path) -> dict[str, float]:
    """The value at the highest step of every scalar tag of training in the TensorBoard events of `run_dir`.

    Lightning's epoch counter is left out, and what earlier releases' evaluation has added (linear_eval/top1, ...).
    """
    return {
        tag: list(points.values())[-1]
        for tag, points in read_scalars(run_dir).items()
        if tag != "epoch" and "_eval" not in tag
    }
