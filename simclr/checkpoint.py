"""Checkpoints: where a run goes on, what evaluation reads, and the encoder in the form that others load."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from simclr.errors import InputError


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run keeps its latest checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this project on the CPU; only tensors, numbers and plain containers are ever unpickled.

    Raises InputError for a file that is absent, damaged or not one of ours.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; give the path of one, or of a run that has one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}); use another one") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "global_step"} <= checkpoint.keys():
        raise InputError(f"{path} is not a checkpoint of this project; give one that train.py wrote")
    return checkpoint


def resume_point(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, None to start afresh.

    resume: "auto" (the run's own last checkpoint, if there is one), "never", or the path of a checkpoint.
    """
    if resume == "never":
        return None
    path = last_checkpoint(run_dir) if resume == "auto" else Path(resume).expanduser()
    if resume == "auto" and not path.exists():
        return None
    return path


def backbone_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The encoder's part of a checkpoint, under the encoder's own keys."""
    prefix = "backbone."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def export_backbone(backbone: nn.Module, path: Path) -> None:
    """Write the encoder's weights as safetensors, under torchvision's keys less those of the classifier (fc.*)."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    unfinished = path.with_name(path.name + ".part")
    save_file(weights, unfinished)
    unfinished.replace(path)
