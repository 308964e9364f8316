"""Checkpoints: where a run goes on, what evaluation reads, and the encoder in the form that others load."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from simclr.errors import InputError
from simclr.runs.identity import COMPUTES, differences, kind
from simclr.system.files import is_file, replacing

log = logging.getLogger(__name__)

# A checkpoint's entries: the keys of the images that were trained on, and of those held out; and from which checkpoints
# the run has gone on, at which steps, and with which settings other than theirs.
TRAIN_IMAGES, VAL_IMAGES, HISTORY = "train_images_key", "val_images_key", "resumed_from"
EXPORTED = "simclr"  # the entry of an exported file's metadata that says what it holds


class Loaded(NamedTuple):
    """A checkpoint and the file that it was read from."""

    path: Path
    content: dict[str, Any]


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run keeps its latest checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"


def previous_checkpoint(run_dir: Path) -> Path:
    """Where a run keeps the checkpoint before the latest."""
    return run_dir / "checkpoints" / "previous.ckpt"


def epoch_weights(run_dir: Path, epoch: int) -> Path:
    """Where a run keeps its weights as they were after `epoch` epochs, if it keeps them."""
    return run_dir / "checkpoints" / f"epoch-{epoch:03d}.ckpt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this project on the CPU; only tensors, numbers and plain containers are ever unpickled.

    Raises InputError for a file that is absent, damaged, not one of ours, or that would run code.
    """
    if not is_file(path):
        raise InputError(f"there is no checkpoint {path}; give the path of one, or of a run that has one")
    checkpoint = read_plain(path)
    if not is_of_a_run(checkpoint):
        raise InputError(
            f"{path} is not a checkpoint of this project; give one that train.py wrote, or judge weights of others by "
            "linear_eval.py with backbone= and data="
        )
    return checkpoint


def is_of_a_run(content: Any) -> bool:
    """Whether this, read from a file, is a checkpoint of this project."""
    ours = {"state_dict": dict, "config": dict, "global_step": int}
    return isinstance(content, dict) and all(isinstance(content.get(key), ours[key]) for key in ours)


def read_plain(path: Path) -> Any:
    """What torch.save wrote, on the CPU; only tensors, numbers and plain containers are ever unpickled.

    Raises InputError for a file that is damaged, is none of torch's, or would run code.
    """
    try:
        if zipfile.is_zipfile(path):  # before torch 1.6 it was none
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums that it writes
            if damaged is not None:
                raise zipfile.BadZipFile(f"its part {damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it names {found[1]}" if found else "its pickle is not plain data"
        raise InputError(
            f"{path} is refused: a checkpoint holds tensors and plain data, and {what}, code that loading could run; "
            "nothing of it was run. Use a checkpoint that train.py wrote, or a state dict alone"
        ) from error
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}); use another one") from error


def newest_checkpoint(run_dir: Path) -> Loaded | None:
    """The last checkpoint of a run, or the one before where that is damaged, which is said; None where there is none.

    Raises InputError where there are some and all are damaged.
    """
    damage = None
    for path in (last_checkpoint(run_dir), previous_checkpoint(run_dir)):
        try:
            if not is_file(path):
                continue
            checkpoint = Loaded(path, load_checkpoint(path))
        except InputError as error:
            damage = error
        else:
            if damage is not None:
                log.warning("%s. Falling back to the one before, %s.", damage, path)
            return checkpoint
    if damage is not None:
        raise InputError(f"{damage}; no other is left in {run_dir}: resume=never starts the run over") from damage
    return None


def locate(run: str | None, ckpt: str | None) -> tuple[Loaded, Path, str]:
    """The checkpoint that run= or ckpt= means, the directory that results go to, and what their names say of it.

    Either takes a run's directory, which means its newest checkpoint, or the path of a checkpoint. Of a run's last the
    name says nothing. Raises InputError unless one of the two is given, and where no checkpoint can be read.
    """
    if (run is None) == (ckpt is None):
        raise InputError("give either run=RUN_DIR or ckpt=PATH")
    path = Path(str(ckpt if run is None else run)).expanduser()  # a name of digits alone comes as a number
    if path.is_dir() or (run is not None and not is_file(path)):
        return _newest(path), path, ""
    found = Loaded(path, load_checkpoint(path))
    if of_a_run(path):
        return found, path.parent.parent, "" if path.stem == "last" else path.stem
    return found, path.parent, path.stem


def of_a_run(path: Path) -> bool:
    """Whether a checkpoint lies where runs keep theirs."""
    return path.parent.name == "checkpoints"


def _newest(run_dir: Path) -> Loaded:
    newest = newest_checkpoint(run_dir)
    if newest is None:
        raise InputError(f"there is no checkpoint {last_checkpoint(run_dir)}; give the directory of a run")
    return newest


def resume_point(run_dir: Path, resume: str) -> Loaded | None:
    """The checkpoint to go on from, None to start afresh.

    resume: "auto" (the run's own newest checkpoint, if there is one), "never", or a path: of a checkpoint, or of a run,
    which means its newest one. A run that began at such a path and was killed further on goes on from its own
    checkpoint.
    """
    if resume == "never":
        return None
    own = newest_checkpoint(run_dir)
    if resume == "auto":
        return own
    path = Path(resume).expanduser()
    given = _newest(path) if path.is_dir() else Loaded(path, load_checkpoint(path))
    if "optimizer_states" not in given.content:
        raise InputError(f"{path} holds weights alone, for evaluation; resume from a last.ckpt or previous.ckpt")
    if own is not None and own.content["global_step"] > given.content["global_step"]:
        return own
    return given


def check_fits(checkpoint: Loaded, config: dict[str, Any], images: str, total_steps: int) -> dict[str, tuple[Any, Any]]:
    """The settings that a run of `config`, `total_steps` long, changes as it goes on from the checkpoint: then and now.

    Raises InputError where it cannot: it computes something else (see simclr.runs.identity), on other images, or is
    shorter. images: the key of those that are there to train on.
    """
    path = checkpoint.path
    changed = differences(checkpoint.content["config"], config)
    for key, (then, now) in changed.items():
        if kind(key) in (COMPUTES, None):
            raise InputError(
                f"{path} has {key}={then}, and this run has {key}={now}; go on with {key}={then}, or start afresh "
                "without resume="
            )
    trained_on = checkpoint.content.get(TRAIN_IMAGES)
    if trained_on is None:
        log.warning("%s does not tell which images it was trained on; going on with those that are there now.", path)
    elif trained_on != images:
        place = config["data"].get("root")
        raise InputError(
            f"{path} was trained on other images (key {trained_on}) than those that are there now"
            f"{'' if place is None else f' at data.root={place}'} (key {images}); restore them, or start over with "
            "resume=never"
        )
    step = checkpoint.content["global_step"]
    if step > total_steps:
        raise InputError(f"{path} is at step {step}, beyond this run's {total_steps}; use more epochs")
    return changed


def weights_of(checkpoint: Mapping[str, Any], part: str) -> dict[str, torch.Tensor]:
    """The weights of one part of the method, such as "backbone", under that part's own keys."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def export_backbone(backbone: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the encoder's weights as safetensors, under torchvision's keys less those of the classifier (fc.*).

    metadata: texts that the file is to hold beside them.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    with replacing(path) as unfinished:
        unfinished.write_bytes(save(weights, None if metadata is None else dict(metadata)))
