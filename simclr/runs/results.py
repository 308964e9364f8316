"""JSON results, and what has to stand beside their numbers for them to be trusted."""

from __future__ import annotations

import json
import math
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from simclr.runs.events import read_scalars
from simclr.system.files import replacing
from simclr.system.shell import arithmetic

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "tensorboard")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that a reader sees the old file or the new one, never half of it.

    JSON has no NaN and no infinity: such a number becomes null, and `not_finite` says by dotted key what it was.
    """
    not_finite: dict[str, str] = {}
    strict = _strict(content, "", not_finite)
    text = json.dumps(strict | ({"not_finite": not_finite} if not_finite else {}), indent=2, allow_nan=False)
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def _strict(value: Any, key: str, not_finite: dict[str, str]) -> Any:
    """`value` with None for every float that is not finite; what that was goes into `not_finite`, under its `key`."""
    if isinstance(value, dict):
        return {name: _strict(item, f"{key}.{name}" if key else name, not_finite) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, f"{key}.{i}", not_finite) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[key] = str(value)
        return None
    return value


def provenance(device: torch.device) -> dict[str, Any]:
    """Hardware, commit of the code, package versions, and what of the environment decides how numbers are computed."""
    return {
        "device": device_name(device),
        "git_commit": git_commit(),
        "versions": {package: version(package) for package in PACKAGES},
        "environment": arithmetic(),
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
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
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
