"""From a configuration to the objects that it describes: for training, evaluation, figures and export alike.

A checkpoint may come from anywhere, so what its configuration names is built only where it is a part of this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from simclr.augment.augmentation import Augmentation
from simclr.errors import InputError
from simclr.methods.base import Method
from simclr.runs.checkpoint import Loaded, last_checkpoint, load_checkpoint, newest_checkpoint
from simclr.runs.compose import build, factory

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


def assemble(config: DictConfig, *, trusted: bool) -> Assembly:
    """Build source, augmentation and method; a seed gives the same initial weights wherever it is called.

    trusted: whether the configuration is the user's own. From any other only parts of this project are built, and no
    optimiser. Raises InputError for what cannot be built, and for views that the method cannot learn from.
    """
    if not trusted:
        for part, room in ROOMS.items():
            _refuse_foreign(config.get(part), part, room)
    source, augmentation = build(config.data), build(config.augmentation)
    pl.seed_everything(config.seed, verbose=False)
    method: Method = build(
        config.method,
        backbone=factory(config.backbone),
        head=factory(config.head),
        optimizer=factory(config.optimizer) if trusted else _never,
        scheduler=factory(config.scheduler) if trusted else _never,
    )
    try:
        method.check(augmentation)
    except ValueError as error:
        raise InputError(f"this method cannot learn from this augmentation: {error}") from error
    return Assembly(source, augmentation, method)


def reassemble(checkpoint: dict[str, Any], *, trained: bool) -> Assembly:
    """What a checkpoint's own configuration describes, with its weights, or as its run's seed made them."""
    assembly = assemble(OmegaConf.create(checkpoint["config"]), trusted=False)
    if trained:
        try:
            assembly.method.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise InputError(f"the checkpoint's weights do not fit its own configuration ({error})") from error
    return assembly


def locate(run: str | None, ckpt: str | None) -> tuple[Loaded, Path]:
    """The checkpoint to judge and the directory that the results go to.

    Raises InputError unless one of the two is given, and where it has no checkpoint that can be read.
    """
    if (run is None) == (ckpt is None):
        raise InputError("give either run=RUN_DIR or ckpt=PATH")
    if run is not None:
        run_dir = Path(str(run)).expanduser()  # a name of digits alone comes as a number
        newest = newest_checkpoint(run_dir)
        if newest is None:
            raise InputError(f"there is no checkpoint {last_checkpoint(run_dir)}; give the directory of a run")
        return newest, run_dir
    path = Path(str(ckpt)).expanduser()
    return Loaded(path, load_checkpoint(path)), path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("what is only evaluated is not optimised")


def _refuse_foreign(part: Any, key: str, room: str) -> None:
    """Raise InputError unless a part of a configuration names a part of this project, and holds plain values alone."""
    target = part.get("_target_") if OmegaConf.is_dict(part) else part
    plain = OmegaConf.is_dict(part) and all(name == "_target_" or _is_plain(value) for name, value in part.items())
    try:
        ours = plain and str(target).startswith(room) and get_object(str(target)).__module__.startswith(room)
    except (ImportError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(
            f"the checkpoint's {key} is {target}, which is not a part of this project, or holds another one"
        )


def _is_plain(value: Any) -> bool:
    """Whether `value` names nothing that could be built, however deep."""
    if OmegaConf.is_dict(value):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if OmegaConf.is_list(value) else True
