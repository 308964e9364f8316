"""The files that an export writes: where they go, what they say of themselves, and the model card beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from simclr.errors import InputError

log = logging.getLogger(__name__)

CARD = "README.md"  # in a folder; beside a file it is called as that is


def write_card(
    path: Path, config: DictConfig, source: Path, checkpoint: Mapping[str, Any], run_dir: Path, loads: str
) -> None:
    """Write the model card of what was exported; one that somebody has written by hand is left alone, and said."""
    from simclr.commands.model_card import is_ours, model_card
    from simclr.runs.identity import upgraded
    from simclr.system.files import replacing

    if path.exists() and not is_ours(path):
        log.info("%s is not this command's, so it is left as it is, and no model card written.", path)
        return
    about = described(config, source, checkpoint, run_dir)
    loads = loads.replace(f"{path.parent}/", "")  # whoever gets it has other folders
    with replacing(path) as unfinished:
        unfinished.write_text(model_card(about, upgraded(checkpoint["config"]), run_dir, loads), encoding="utf-8")
    log.info("Its model card: %s", path)


def described(config: DictConfig, source: Path, checkpoint: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """What a file says of itself: which part of which run it is, and the images that this has learned from."""
    from simclr.runs.identity import upgraded

    settings = upgraded(checkpoint["config"])
    augmentation = settings.get("augmentation") or {}
    return {
        "part": config.part,
        "backbone": settings["backbone"],
        "image_size": augmentation.get("size"),
        "mean": augmentation.get("mean"),
        "std": augmentation.get("std"),
        "run": run_dir.resolve().name,
        "checkpoint": source.name,
        "step": checkpoint["global_step"],
    }


def new_file(config: DictConfig, run_dir: Path, moment: str, ending: str, ours: Callable[[Path], bool]) -> Path:
    """The file to write, by default in the run directory; see `file_to_write`."""
    from simclr.runs.place import file_to_write, results_place

    # Weights on the way, or of a bare checkpoint, never take the place of the encoder that a run has ended with.
    name = f"{config.part}_{moment}" if moment else config.part
    return file_to_write(
        config.output, lambda: results_place(run_dir, None) / f"{name}{ending}", ours, f"encoder{ending}"
    )


def new_folder(output: object, usual: Path, files: Sequence[str]) -> Path:
    """The folder to write `files` into. Raises InputError for one with others in it, and for a file in its place."""
    folder = usual if output is None else Path(str(output)).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output={folder} is a file; both towers make a folder, so give the name of one")
    strange = [path.name for path in folder.glob("*") if path.name not in (*files, CARD)]
    if strange:
        raise InputError(
            f"output={folder} holds other files, {sorted(strange)[0]} first; give a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def told_by(path: Path) -> dict[str, Any] | None:
    """What this command noted in a file that it has written; None for any other file."""
    from safetensors import SafetensorError, safe_open

    from simclr.runs.checkpoint import EXPORTED

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[EXPORTED])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
