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

    resume: "auto" (the run's own last checkpoint, if there is one), "never", or the path of a checkpoint. A run that
    began at such a path and was killed further on goes on from its own checkpoint.
    """
    own = last_checkpoint(run_dir)
    if resume == "never" or (resume == "auto" and not own.exists()):
        return None
    if resume == "auto":
        return own
    path = Path(resume).expanduser()
    if own.exists() and load_checkpoint(own)["global_step"] > load_checkpoint(path)["global_step"]:
        return own
    return path


def check_fits(checkpoint: dict[str, Any], path: Path, config: dict[str, Any], total_steps: int) -> None:
    """Raise InputError where a run of `config`, `total_steps` long, cannot go on from the checkpoint at `path`.

    Loss, augmentation, optimiser settings and schedule may change on the way, and the data may have moved; the network
    and the pictures may not be others.
    """
    before = checkpoint["config"]
    may_differ = {"data": ("root", "store"), "backbone": ("small_maps",)}
    for key in ("data", "limit_images", "batch_size", "backbone", "head"):
        then, now = before.get(key), config[key]
        if key in may_differ:
            then, now = ({k: v for k, v in part.items() if k not in may_differ[key]} for part in (then, now))
        if then != now:
            raise InputError(f"{path} has {key}={then}, and this run has {key}={now}")
    if checkpoint["global_step"] > total_steps:
        raise InputError(
            f"{path} is at step {checkpoint['global_step']}, beyond this run's {total_steps}; use more epochs"
        )


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
