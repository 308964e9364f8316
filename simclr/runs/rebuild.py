"""From a run, or a bare checkpoint, back to its network and its images.

A checkpoint may come from anywhere, so what it names is built only where it is a part of this project.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from simclr.errors import InputError
from simclr.models.backbone import Encoder
from simclr.runs.checkpoint import weights_of
from simclr.runs.compose import build

# The parts of a configuration that can be rebuilt, and the room that each of them lives in.
ROOMS = {
    "augmentation": "simclr.augment.",
    "backbone": "simclr.models.",
    "data": "simclr.data.",
    "head": "simclr.models.",
}


def rebuild_encoder(checkpoint: dict[str, Any], trained: bool) -> Encoder:
    """The encoder that a checkpoint's own configuration describes: with its weights, or as its run's seed made it."""
    pl.seed_everything(checkpoint["config"]["seed"], verbose=False)
    encoder: Encoder = build(stored(checkpoint, "backbone"))
    return _loaded(encoder, checkpoint, "backbone") if trained else encoder


def rebuild_head(checkpoint: dict[str, Any], trained: bool) -> nn.Module:
    """The projection head, features to embeddings: with its weights, or as its run's seed made it."""
    encoder = rebuild_encoder(checkpoint, trained=False)  # first, as in training: both draw from one seed
    head: nn.Module = build(stored(checkpoint, "head"), in_features=encoder.num_features)
    return _loaded(head, checkpoint, "head") if trained else head


def _loaded(module: Any, checkpoint: dict[str, Any], name: str) -> Any:
    try:
        module.load_state_dict(weights_of(checkpoint, name))
    except RuntimeError as error:
        raise InputError(f"the checkpoint's weights do not fit its own configuration ({error})") from error
    return module


def stored(checkpoint: dict[str, Any], key: str) -> DictConfig:
    """One part of a checkpoint's configuration, which may name parts of this project and run nothing else."""
    part, room = checkpoint["config"].get(key), ROOMS[key]
    target = part.get("_target_") if isinstance(part, dict) else part
    plain = isinstance(part, dict) and all(_is_plain(value) for value in part.values())
    try:
        ours = plain and str(target).startswith(room) and get_object(str(target)).__module__.startswith(room)
    except (ImportError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(
            f"the checkpoint's {key} is {target}, which is not a part of this project, or holds another one"
        )
    return OmegaConf.create(part)


def _is_plain(value: Any) -> bool:
    """Whether `value` names nothing that could be built: no mapping, and no list but one of numbers."""
    if isinstance(value, list):
        return all(isinstance(item, int | float) for item in value)
    return not isinstance(value, dict)
