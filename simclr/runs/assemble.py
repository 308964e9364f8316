"""From a configuration to the objects that it describes: for training, evaluation, figures and export alike.

A checkpoint may come from anywhere, so what its configuration names is built only where it is a part of this project.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import isclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from simclr.augment.augmentation import Augmentation
from simclr.augment.plain import Plain
from simclr.checks import MAX_SEED, is_whole
from simclr.errors import InputError, first_line
from simclr.evaluation.features import frozen
from simclr.methods.base import Method
from simclr.runs.build import build, factory
from simclr.runs.checkpoint import weights_of
from simclr.runs.identity import escaped, upgraded
from simclr.runs.weights import backbone_factory

# The parts of a configuration that can be built from a checkpoint, and the room that each of them lives in.
ROOMS = {
    "augmentation": "simclr.augment.",
    "backbone": "simclr.models.",
    "data": "simclr.data.",
    "head": "simclr.models.",
    "text": "simclr.models.",
    "tokenizer": "simclr.models.",
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
    source, augmentation = build(config.data), build(config.augmentation)
    if config.get("captions"):
        source = build(config.captions, source=source)
    parts = {name: factory(config[name]) for name in ("head", "optimizer", "scheduler")}
    pl.seed_everything(config.seed, verbose=False)
    method: Method = build(config.method, backbone=backbone_factory(config.backbone), **parts)
    try:
        method.check(augmentation)
    except ValueError as error:
        raise InputError(f"this method cannot learn from this augmentation: {error}") from error
    check_sizes(method.backbone, augmentation.sizes)
    return Assembly(source, augmentation, method)


def reassemble(
    checkpoint: Mapping[str, Any],
    wanted: Collection[str] = ("backbone",),
    part: str = "backbone",
    trained: bool = True,
) -> dict[str, Any]:
    """The parts that a checkpoint's own configuration describes, with its weights.

    wanted: "backbone" always; "head"; "text", the text tower, with the words that it has learned. What is not wanted is
    not built, for it may be anybody's, as the method itself. part: whose, where a method has several of a kind: with
    "target_backbone" they are the target's. trained: False leaves them as the run's seed made them. Raises InputError
    where the configuration names what is no part of this project, where the weights are others', for another part, and
    where there is no text tower.
    """
    names = {key.partition(".")[0] for key in checkpoint["state_dict"]}
    backbones = sorted(name for name in names if name.endswith("backbone"))
    if part not in backbones:
        raise InputError(f"part={part} is not in this checkpoint; it has {', '.join(backbones)}")
    config = checkpoint["config"]
    if not is_whole(config.get("seed")) or not 0 <= config["seed"] <= MAX_SEED:
        raise InputError("the checkpoint's configuration has no seed; use one that train.py wrote")
    pl.seed_everything(config["seed"], verbose=False)
    described = own_part(config, "backbone")
    if trained:
        described.pop("pretrained_path", None)  # what it began with is of no interest, and may be gone
    backbone = backbone_factory(described)()  # first, as in a method: both draw from one seed
    stored = {"backbone": part, "head": part.removesuffix("backbone") + "head"}
    parts: dict[str, Any] = {"backbone": backbone}
    if {"head", "text"} & set(wanted):
        parts["head"] = build(own_part(config, "head"), in_features=backbone.num_features)
    if "text" in wanted:
        parts["text"] = _text_tower(config, parts["head"].out_features)
        parts["text"].set_extra_state(checkpoint["state_dict"].get("text._extra_state"))
    for name in wanted if trained else ():
        try:
            parts[name].load_state_dict(weights_of(checkpoint, stored.get(name, name)))
        except RuntimeError as error:
            raise InputError(f"the checkpoint's weights do not fit its own configuration ({error})") from error
    return {name: parts[name] for name in wanted}


def _text_tower(config: Mapping[str, Any], out_features: int) -> Any:
    """The text tower of a configuration. Raises InputError where that has none."""
    described = (config.get("method") or {}).get("text")
    if not isinstance(described, dict):
        raise InputError("this run has no text tower, so no sentence can be compared with its images; see method=clip")
    plain = {key: value for key, value in described.items() if key not in ("tokenizer", "_partial_")}
    tokenizer = build(own_part(config, "tokenizer"))
    return build(own_part({"text": plain}, "text"), tokenizer=tokenizer, out_features=out_features)


def check_sizes(backbone: nn.Module, sizes: Collection[int]) -> None:
    """Raise InputError where a backbone does not take images of one of these sizes, in pixels. Most take any."""
    for size in sorted(sizes):
        try:
            with frozen(backbone):
                backbone(torch.zeros(1, 3, size, size))
        except (AssertionError, ValueError, RuntimeError) as error:
            if "allocate" in str(error):
                raise
            reason = first_line(error)
            raise InputError(
                f"this backbone cannot take views of {size} pixels ({reason}); choose other sizes with augmentation=, "
                "or another backbone="
            ) from error


def shown_as(checkpoint: Mapping[str, Any]) -> Plain:
    """How a checkpoint's backbone was shown images outside training; it is judged and drawn in the same way.

    Raises InputError where the configuration's augmentation is no part of this project.
    """
    return Plain.of(build(own_part(checkpoint["config"], "augmentation")).views)


def stored_size(checkpoint: Mapping[str, Any]) -> int:
    """The pixels, along a side, that the store of a checkpoint's run kept images at."""
    shown, data = shown_as(checkpoint), upgraded(checkpoint["config"]).get("data") or {}
    size = data.get("size", shown.size)
    assert is_whole(size), "a store was made of it"
    return size


def own_part(config: Mapping[str, Any], key: str) -> DictConfig:
    """One part of a configuration that any version has stored, if it names a part of this project and nothing else.

    Raises InputError where it does not, or holds what could be built, called or looked up besides.
    """
    part, room = upgraded({key: config.get(key)})[key], ROOMS[key]
    target = part.get("_target_") if isinstance(part, dict) else part
    try:
        plain = isinstance(part, dict) and _is_plain({name: part[name] for name in part if name != "_target_"})
        found = get_object(str(target)) if plain and str(target).startswith(room) else None
    except (ImportError, ValueError, AttributeError):
        found = None
    needs_class = key in ("data", "augmentation")  # in whose rooms there are functions that do things
    if found is None or not found.__module__.startswith(room) or (needs_class and not isclass(found)):
        raise InputError(
            f"the checkpoint's {key} is {target}, which is not a part of this project, or holds another one"
        )
    return OmegaConf.create(escaped(part))


def _is_plain(value: Any) -> bool:
    """Whether `value` is numbers, texts, lists and mappings of them, and no key of it speaks to Hydra."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and not k.startswith("_") and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
