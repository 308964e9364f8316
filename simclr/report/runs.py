"""Read the runs of a sweep into tables: a row a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from simclr.checks import is_finite
from simclr.errors import InputError
from simclr.runs.identity import RUNS, flat, kind, upgraded
from simclr.runs.questions import incomparable

ABSENT = "(none)"  # in place of a setting that a run lacks


@dataclass(frozen=True)
class Sweep:
    """The finished runs below `folder`, by name: their path from there. unfinished: those without metrics.json.
    left_out: evaluations that do not compare with the others of their name, and why.

    settings: a row a run, its configuration under dotted keys, ABSENT where it has no such key. numbers: a row a run,
    the finite numbers of its JSON files, NaN elsewhere; those of metrics.json under their key, those of an evaluation
    under FILE/KEY. files: run -> file name without its ending -> content. paths: run -> directory.
    """

    folder: Path
    settings: pd.DataFrame
    numbers: pd.DataFrame
    files: Mapping[str, Mapping[str, Mapping[str, Any]]]
    paths: Mapping[str, Path]
    unfinished: list[str]
    left_out: list[str]

    @property
    def seeds(self) -> pd.Series:
        return self.settings["seed"].astype(int)

    def number(self, column: str) -> pd.Series:
        """One column of `numbers`; all NaN where no run has it."""
        return self.numbers.reindex(columns=[column])[column]

    def metric(self, key: str) -> list[Any]:
        """What each run's metrics.json says under `key`."""
        return [of_run["metrics"].get(key) for of_run in self.files.values()]

    def only(self, runs: Collection[str]) -> Sweep:
        settings, numbers = self.settings.loc[list(runs)], self.numbers.loc[list(runs)].dropna(axis=1, how="all")
        return replace(self, settings=settings, numbers=numbers, files={run: self.files[run] for run in runs})


def read_sweep(folder: Path) -> Sweep:
    """All runs at any depth below `folder`; a directory with `config.yaml` is a run.

    Raises InputError where there is no finished run, and for a file that cannot be read.
    """
    if not os.path.isdir(folder):  # Path.is_dir() raises OSError for a name that is too long, before Python 3.14
        raise InputError(f"there is no folder {folder}; give the folder of a sweep, for example multirun/grid")
    found = {path.parent.relative_to(folder): path.parent for path in sorted(folder.rglob("config.yaml"))}
    # Other tools keep hidden folders beside a run. A folder may be a run itself.
    named = {
        place.as_posix() if place.parts else path.resolve().name: path
        for place, path in found.items()
        if not any(part.startswith(".") for part in place.parts)
    }
    paths = {name: path for name, path in named.items() if (path / "metrics.json").exists()}
    unfinished = [name for name in named if name not in paths]
    if not paths:
        count = "1 run, not finished" if len(unfinished) == 1 else f"{len(unfinished)} unfinished runs"
        what = f"{count} (there is no metrics.json)" if unfinished else "no run"
        raise InputError(f"{folder} holds {what}; give the folder that train.py -m wrote its runs into")
    settings = [flat(upgraded(_read_config(path / "config.yaml"))) for path in paths.values()]
    keys = dict.fromkeys(key for of_run in settings for key in of_run)
    rows = [[of_run.get(key, ABSENT) for key in keys] for of_run in settings]
    files = {
        run: {file.stem: _read_json(file) for file in [path / "metrics.json", *sorted(path.glob("*_eval*.json"))]}
        for run, path in paths.items()
    }
    left_out = []
    for file in sorted({file for of_run in files.values() for file in of_run} - {"metrics"}):
        results = {run: of_run[file] for run, of_run in files.items() if file in of_run}
        for run, why in incomparable(results, {run: of_run["metrics"] for run, of_run in files.items()}).items():
            del files[run][file]
            left_out.append(f"{run}/{file}.json ({why})")
    numbers = [
        {
            key if file == "metrics" else f"{file}/{key}": value
            for file, content in of_run.items()
            for key, value in content.items()
            if is_finite(value)
        }
        for of_run in files.values()
    ]
    return Sweep(
        folder=folder,
        settings=pd.DataFrame(rows, list(paths), list(keys), dtype=object),
        numbers=pd.DataFrame(numbers, list(paths), dtype=float),
        files=files,
        paths=paths,
        unfinished=unfinished,
        left_out=left_out,
    )


def may_be_factor(key: str) -> bool:
    """Whether a setting may decide what a run learns."""
    return kind(key) != RUNS and key != "seed"


def _read(path: Path, parse: Callable[[str], Any], form: str, remedy: str) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as {form} ({' '.join(str(error).split())}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no {form} object; {remedy}")
    return content


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "restore it, or move the run away"
    content = _read(path, yaml.safe_load, "YAML", remedy)
    if not isinstance(content.get("seed"), int):
        raise InputError(f"{path} has no whole number as seed; {remedy}")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    return _read(path, json.loads, "JSON", "delete it and repeat the command that writes it")
