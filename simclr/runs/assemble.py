"""From a configuration to the objects that it describes: for training, evaluation, figures and export alike.

A checkpoint may come from anywhere, so what its configuration names is built only where it is a part of this project.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from simclr.augment.augmentation import Augmentation
from simclr.errors import InputError
from simclr.methods.base import Method
from simclr.runs.checkpoint import weights_of
from simclr.runs.compose import build, factory
from simclr.runs.identity import upgraded

# The parts of a configuration that can be built from a checkpoint, and the room that each of them lives in.
ROOMS = {
    "augmentation": "simclr.augment.",
    "backbone": "simclr.models.",
    "data": "simclr.data.",
    "head": "simclr.models.",
    "method": "simclr.methods.",
}


class Assembly(NamedTuple):
    """What a run is made of. source: yields the images, with load(). method: as the run's seed makes it."""

    source: Any
    augmentation: Augmentation
    method: Method


def assemble(config: DictConfig) -> Assembly:
    """Build source, augmentation and method; a seed gives the same initial weights wherever it is called.

    Raises InputError for what cannot be built, and for views that the method cannot learn from.
    """
    return _assemble(config, optimizer=factory(config.optimizer), scheduler=factory(config.scheduler))


def reassemble(checkpoint: Mapping[str, Any], trained: Collection[str] = ()) -> Assembly:
    """What a checkpoint's own configuration describes, as its run's seed made it.

    trained: the parts of the method that get the checkpoint's weights, such as "backbone". Raises InputError where the
    configuration names what is no part of this project, or where the weights are others'.
    """
    config = checkpoint["config"]
    parts = {part: own_part(config, part) for part in ROOMS}
    assembly = _assemble(OmegaConf.create({"seed": config["seed"], **parts}), optimizer=_never, scheduler=_never)
    for name in trained:
        try:
            assembly.method.parts()[name].load_state_dict(weights_of(checkpoint, name))
        except RuntimeError as error:
            raise InputError(f"the checkpoint's weights do not fit its own configuration ({error})") from error
    return assembly


def _assemble(config: DictConfig, **making: Any) -> Assembly:
    source, augmentation = build(config.data), build(config.augmentation)
    pl.seed_everything(config.seed, verbose=False)
    method: Method = build(config.method, backbone=factory(config.backbone), head=factory(config.head), **making)
    try:
        method.check(augmentation)
    except ValueError as error:
        raise InputError(f"this method cannot learn from this augmentation: {error}") from error
    return Assembly(source, augmentation, method)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("what is only evaluated is not optimised")


def own_part(config: Mapping[str, Any], key: str) -> DictConfig:
    """One part of a configuration that any version has stored, if it names a part of this project and nothing else.

    Raises InputError where it does not, or holds what could be built besides.
    """
    part, room = upgraded({key: config.get(key)})[key], ROOMS[key]
    target = part.get("_target_") if isinstance(part, dict) else part
    plain = isinstance(part, dict) and all(name == "_target_" or _is_plain(value) for name, value in part.items())
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
    """Whether `value` names nothing that could be built, however deep."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else True
