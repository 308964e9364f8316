"""Read the runs of a sweep from their directories."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from simclr.errors import InputError
from simclr.runs.identity import flat, upgraded
from simclr.runs.questions import incomparable


@dataclass(frozen=True)
class Run:
    """One finished run. name: its path below the sweep's folder. settings: its configuration under dotted keys.

    metrics: the content of `metrics.json`. evaluations: that of each `*_eval*.json`, under the file's name without
    its ending.
    """

    name: str
    path: Path
    seed: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    evaluations: dict[str, Mapping[str, Any]]

    def number(self, file: str, key: str) -> float | None:
        """A finite number of one file ("metrics" or an evaluation's name); None where there is none."""
        return finite((self.metrics if file == "metrics" else self.evaluations.get(file, {})).get(key))


@dataclass(frozen=True)
class Sweep:
    """The runs below a folder. unfinished: the names of those without `metrics.json`.

    left_out: results that do not compare with those of the other runs, and why.
    """

    folder: Path
    runs: list[Run] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def finite(value: Any) -> float | None:
    """`value` as a float where it is a number other than NaN and infinity; else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def read_sweep(folder: Path) -> Sweep:
    """All runs at any depth below `folder`; a directory with `config.yaml` is a run.

    Raises InputError where there is no finished run, and for a file that cannot be read.
    """
    if not os.path.isdir(folder):  # Path.is_dir() raises OSError for a name that is too long, before Python 3.14
        raise InputError(f"there is no folder {folder}; give the folder of a sweep, for example multirun/grid")
    sweep = Sweep(folder)
    finished: dict[Path, tuple[str, dict[str, Any]]] = {}
    for config in sorted(folder.rglob("config.yaml")):
        run_dir = config.parent
        if any(part.startswith(".") for part in run_dir.relative_to(folder).parts):
            continue  # what other tools keep hidden beside a run
        name = run_dir.relative_to(folder).as_posix() if run_dir != folder else run_dir.resolve().name
        if (run_dir / "metrics.json").exists():
            finished[run_dir] = name, _read_config(config)
        else:
            sweep.unfinished.append(name)
    for run_dir, (name, settings) in finished.items():
        sweep.runs.append(_read_run(run_dir, name, flat(upgraded(settings))))
    sweep.left_out.extend(_leave_out(sweep.runs))
    if not sweep.runs:
        found = "no run"
        if sweep.unfinished:
            count = "1 run, not finished" if len(sweep.unfinished) == 1 else f"{len(sweep.unfinished)} unfinished runs"
            found = f"{count} (there is no metrics.json)"
        raise InputError(f"{folder} holds {found}; give the folder that train.py -m wrote its runs into")
    return sweep


def _leave_out(runs: list[Run]) -> list[str]:
    """Take results that do not compare with those of the other runs out of `runs`; returns which, and why."""
    said = []
    for file in sorted({file for run in runs for file in run.evaluations}):
        results = {run.name: run.evaluations[file] for run in runs if file in run.evaluations}
        for name, why in incomparable(results, {run.name: run.metrics for run in runs}).items():
            del next(run for run in runs if run.name == name).evaluations[file]
            said.append(f"{name}/{file}.json ({why})")
    return said


def _read_run(run_dir: Path, name: str, settings: dict[str, Any]) -> Run:
    seed = settings.get("seed")
    if not isinstance(seed, int):
        raise InputError(f"{run_dir / 'config.yaml'} has no whole number as seed; restore it, or move the run away")
    files = sorted(run_dir.glob("*_eval*.json"))
    evaluations: dict[str, Mapping[str, Any]] = {file.stem: read_json(file) for file in files}
    return Run(name, run_dir, seed, settings, read_json(run_dir / "metrics.json"), evaluations)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({_one_line(error)}); restore it, or move the run away") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not the configuration of a run; restore it, or move the run away")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError where it is damaged."""
    remedy = "delete it and repeat the command that writes it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({_one_line(error)}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; {remedy}")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
