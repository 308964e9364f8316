"""What a run's directory is called, and where the same run, begun by this version or an earlier one, lies already.

Composing a configuration must not import torch, so nothing here does at import time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from simclr.errors import InputError
from simclr.runs.identity import RUNS, absolute, as_dict, digest, identity, kind

# What every version's configuration of a run has.
KEYS = {"seed", "epochs", "batch_size", "data", "augmentation", "backbone", "head", "method", "optimizer"}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast


def choices(root: DictConfig) -> dict[str, Any]:
    """The option that was chosen of each configuration group."""
    if "hydra" not in root and not HydraConfig.initialized():
        raise InputError(
            "hydra.compose keeps no record of the choices that name a run; use simclr.runs.compose.compose_config, or "
            "return_hydra_config=True"
        )
    return dict((root.hydra if "hydra" in root else HydraConfig.get()).runtime.choices)


def unless(usual: str, key: str, *, _root_: DictConfig) -> str:
    """What a name says of a group's choice, or of a key, that is not the usual one: "-shapes", "-small_stem".

    A key called name speaks for itself: "-convnext_atto".
    """
    chosen = choices(_root_)
    value = chosen[key] if key in chosen else OmegaConf.select(_root_, key)
    if value is None or str(value) == usual:
        return ""
    leaf = key.rsplit(".", 1)[-1]
    return f"-{value}" if key in chosen or leaf == "name" else f"-{value}_{leaf}"


def run_name(parent: str, name: str, *, _root_: DictConfig) -> str:
    """The directory in `parent` that is this run's: NAME-DIGEST, or where it was begun already.

    The digest is that of the run's identity. A run that was begun on images of another path is this one if they are the
    same images; else this one has the images' key in its digest, too.
    """
    wanted = as_dict(OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if kind(str(key)) != RUNS]))
    mine, folder = identity(wanted), Path(str(parent))
    todays = folder / f"{name}-{digest(mine)}"
    begun = stored_config(todays) is not None
    names = {name}
    if OmegaConf.is_interpolation(_root_, "name"):  # nobody has named it: it may be one of an earlier version's name
        chosen = choices(_root_)
        names.add(f"{chosen['method']}-{chosen['augmentation']}-{chosen['head']}-seed{wanted['seed']}")
    same = (
        [todays]
        if begun
        else [run for run, config in _runs_in(folder) if config.get("name") in names and identity(config) == mine]
    )
    if not same:
        return todays.name
    same.sort(key=lambda run: ((run / "metrics.json").exists(), (run / "config.yaml").stat().st_mtime), reverse=True)
    place = _place(wanted)
    here = next((run for run in same if _place(stored_config(run) or {}) == place), None)
    if here is not None:
        return here.name

    from simclr.runs.images import images_there, known_images

    there = images_there(wanted)
    for run in same:
        known = known_images(run)
        if there is not None and known is not None and known.train == there.train:
            return run.name
    # Of images that cannot be opened, whoever trains on them says why.
    return f"{name}-{digest(mine | {'images': place if there is None else there.train})}"


def shorter_run(run_dir: Path, config: Mapping[str, Any]) -> Path | None:
    """The longest finished run beside `run_dir` that differs from this one by fewer epochs alone."""
    mine, found = identity(config), []
    for run, stored in _runs_in(run_dir.parent):
        theirs = identity(stored)
        if (
            {**theirs, "epochs": mine["epochs"]} == mine
            and theirs["epochs"] < mine["epochs"]
            and _place(stored) == _place(config)
            and (run / "metrics.json").exists()
        ):
            found.append((theirs["epochs"], run))
    return max(found)[1] if found else None


def _runs_in(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The directories in `folder` that hold a run's configuration, with it."""
    for path in sorted(folder.glob("*/config.yaml")):
        stored = stored_config(path.parent)
        if stored is not None:
            yield path.parent, stored


def stored_config(run_dir: Path) -> dict[str, Any] | None:
    """The configuration, plain, of the run whose directory this is; None where it is none's."""
    path = run_dir / "config.yaml"
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


@cache
def _read(path: Path, mtime: int) -> dict[str, Any] | None:
    """A file is read once for all the jobs of a sweep, which may find hundreds. mtime: of the file, as it is now."""
    content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    return content if isinstance(content, dict) and content.keys() >= KEYS else None


def _place(config: Mapping[str, Any]) -> str | None:
    """Where the images lie, links followed; None for images that lie nowhere, being made on the spot."""
    root = (config.get("data") or {}).get("root")
    return root if root is None or "://" in str(root) else os.path.realpath(absolute(root))
