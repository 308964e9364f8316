"""What makes two commands the same run: every key sorted once, for names, resume, evaluation and report alike."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

COMPUTES, GOES_ON, RUNS = "computes", "goes on", "runs"

# A key stands for all below it, and the longest that fits decides.
#   COMPUTES  another value is another run: hashed, and refused where a run goes on from a checkpoint
#   GOES_ON   another value is another run, too, but resume=PATH may ask for it: it holds from then on and is recorded
#   RUNS      where and how a run is carried out, watched and kept: never hashed, never compared
# Images are known by the content key of their store, not by where they lie; rounding is no difference.
KINDS: dict[str, str] = {
    **dict.fromkeys(
        (
            "seed",
            "batch_size",
            "limit_images",
            "images_per_epoch",
            "data",
            "augmentation",
            "backbone",
            "head",
            "method",
            "captions",
            "tokenizer",
        ),
        COMPUTES,
    ),
    # The state of one optimiser is none of another's; AMSGrad keeps a third moment.
    **dict.fromkeys(("optimizer._target_", "optimizer.amsgrad"), COMPUTES),
    # What the advice about a loss that is not finite names has to be free to change: temperature and precision, too.
    **dict.fromkeys(("epochs", "optimizer", "scheduler", "temperature", "method.temperature", "precision"), GOES_ON),
    "on_nan": GOES_ON,
    # What users add may change what is learned: gradient clipping, early stopping.
    **dict.fromkeys(("trainer", "callbacks"), GOES_ON),
    # What these measure, and when, may decide when a callback of one's own ends a run: that is not told apart.
    **dict.fromkeys(("callbacks.label_free", "callbacks.online_knn", "callbacks.retrieval"), RUNS),
    **dict.fromkeys(("callbacks.online_linear", "callbacks.tensorboard"), RUNS),
    **dict.fromkeys(("callbacks.progress", "logger", "evaluate", "optimized_metric"), RUNS),
    **dict.fromkeys(("name", "output_root", "sweep", "resume", "requeue_exit_code", "hydra"), RUNS),
    **dict.fromkeys(("checkpoint_minutes", "keep_every_n_epochs", "threads"), RUNS),
    # Of images the content key says what came of these.
    **dict.fromkeys(("data.root", "data.store", "data.download", "data.on_broken"), RUNS),
    "captions.words": RUNS,
    "backbone.pretrained_path": RUNS,  # of weights to begin with, backbone.pretrained_digest
    **dict.fromkeys(("backbone.small_maps", "optimizer.fused", "compile"), RUNS),
    # Several processes train as one. trainer.max_epochs stands for epochs.
    **dict.fromkeys(("trainer._target_", "trainer.accelerator", "trainer.strategy", "trainer.devices"), RUNS),
    **dict.fromkeys(("trainer.max_epochs", "trainer.log_every_n_steps", "trainer.enable_model_summary"), RUNS),
    "trainer.benchmark": RUNS,
}

# Kept absolute, so that they name the same place from every working directory.
PATHS = ("data.root", "data.store", "captions.words", "backbone.pretrained_path", "callbacks.tensorboard.words")

# How a configuration of an earlier version becomes today's, in order. A part that has moved, by the beginning of its
# `_target_`:
MOVED: tuple[tuple[str, str], ...] = (
    ("simclr.callbacks.", "simclr.training."),
    ("simclr.augment.recipe.Recipe", "simclr.augment.augmentation.Augmentation"),
)


def _without_a_copy_of_on_nan(config: dict[str, Any]) -> None:
    method = config.get("method")
    if isinstance(method, dict) and "decay_norms_and_biases" not in method:
        method.pop("on_nan", None)


# A group whose shape has changed: a function that is given a whole configuration and changes it in place.
RESHAPED: tuple[Callable[[dict[str, Any]], None], ...] = (_without_a_copy_of_on_nan,)
# A key that has come later: itself, the value that a run had which did not know it, and a key (KEY or KEY=VALUE)
# beside which alone it stands. Keys that are RUNS need no line. At that value a key is as good as absent, so that a new
# one renames no run.
LATER: tuple[tuple[str, Any, str | None], ...] = (
    ("on_nan", "stop", None),
    ("images_per_epoch", None, None),
    ("trainer.deterministic", False, "trainer._target_"),
    ("data.bits", 16, "data._target_=simclr.data.folder.ImageFolder"),
    ("scheduler.warmup_epochs", 0, "scheduler._target_=simclr.optim.schedules.cosine"),
    ("data.captions", False, "data._target_=simclr.data.shapes.Shapes"),
    ("augmentation.views", 2, "augmentation.crop_scale"),
    ("augmentation.size_until", None, "augmentation.crop_scale"),
    ("augmentation.blur_p", 1.0, "augmentation.crop_scale"),
    ("augmentation.interpolation", "bilinear", "augmentation.crop_scale"),
    ("augmentation.color_first", False, "augmentation.crop_scale"),
    ("augmentation.mean", None, "augmentation.crop_scale"),
    ("augmentation.std", None, "augmentation.crop_scale"),
    ("method.decoupled", False, "method._target_=simclr.methods.simclr.SimCLR"),
    ("method.decay_norms_and_biases", True, "method.temperature"),
)


def kind(key: str) -> str | None:
    """COMPUTES, GOES_ON or RUNS, for a dotted key; None for one that is not sorted."""
    parts = key.split(".")
    return next((KINDS[k] for n in range(len(parts), 0, -1) if (k := ".".join(parts[:n])) in KINDS), None)


def as_dict(config: DictConfig) -> dict[str, Any]:
    """The configuration, resolved, as plain dicts and lists: what checkpoints and JSON files can hold."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping under dotted keys, in their order; lists stay values."""
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def absolute(path: object) -> str:
    """A path as it is kept: from the root on, `~` expanded, links left as they are; hf://OWNER/NAME as it is."""
    return str(path) if "://" in str(path) else os.path.abspath(Path(str(path)).expanduser())


def with_absolute_paths(config: DictConfig) -> None:
    """Make the paths of a command's configuration absolute, in place, while its working directory is known."""
    for key in PATHS:
        value = OmegaConf.select(config, key)  # None where it is absent, and where it has no value yet
        if value not in (None, ""):
            OmegaConf.update(config, key, escaped(absolute(value)))


def escaped(value: Any) -> Any:
    """Plain data as OmegaConf takes them for what they are: `${` in a text would refer to another key."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that any version has stored, plain, in today's shape; today's own stays as it is."""
    result = _moved(deepcopy(dict(config)))
    for reshape in RESHAPED:
        reshape(result)
    for key, then, beside in LATER:
        *parents, leaf = key.split(".")
        node: Any = result
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and (beside is None or _stands(beside, flat(result))):
            node.setdefault(leaf, then)
    return result


def _stands(beside: str, settings: Mapping[str, Any]) -> bool:
    key, _, value = beside.partition("=")
    return key in settings and (not value or settings[key] == value)


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if isinstance(value, str):
        for before, now in MOVED:
            if value.startswith(before):
                return now + value.removeprefix(before)
    return value


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what a run computes, by dotted key, of a plain configuration that any version has stored.

    Two runs are the same where this is equal and, if their images come from a place (data.root), these are.
    """
    usual, settings = {key: then for key, then, _ in LATER}, flat(upgraded(config))
    if "method.temperature" not in settings:
        settings.pop("temperature", None)  # nothing reads it
    return {
        key: value
        for key, value in settings.items()
        if kind(key) != RUNS and value not in (None, {}) and not (key in usual and value == usual[key])
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys that set two plain configurations apart, each with its value in both (None: absent)."""
    before, after = identity(then), identity(now)
    return {key: (before.get(key), after.get(key)) for key in {**after, **before} if before.get(key) != after.get(key)}


def digest(content: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a mapping in a directory's name, or a file's."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
