"""Which settings a sweep varies, and what their levels are called."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from simclr.errors import InputError
from simclr.report.runs import Run
from simclr.runs.identity import RUNS, flat, kind

ABSENT = "(none)"

Cell = tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """What varies, with the reference as its first level. is_group: the levels are options of a configuration group."""

    name: str
    levels: tuple[str, ...]
    is_group: bool

    @property
    def reference(self) -> str:
        return self.levels[0]


@dataclass(frozen=True)
class Design:
    """The factors of a sweep, the cell (a level of each factor) of every run, and settings that follow from others.

    keys: all settings that the runs have.
    """

    factors: tuple[Factor, ...]
    cells: Mapping[str, Cell]
    derived: tuple[str, ...]
    keys: tuple[str, ...]

    def label(self, cell: Cell) -> str:
        """A cell in words: "modified · slim", "temperature=0.2", "lr=0.001 + batch_size=64"."""
        parts = []
        for factor, level in zip(self.factors, cell, strict=True):
            names = factor.name.split(" + ")
            levels = level.split(" + ", len(names) - 1)
            named = [f"{self._short(name)}={one}" for name, one in zip(names, levels, strict=True)]
            parts.append(level if factor.is_group else " + ".join(named))
        return " · ".join(parts) or "all runs"

    def _short(self, name: str) -> str:
        """The last parts of a setting's name, as few as no other setting ends with."""
        parts = name.split(".")
        for start in range(len(parts) - 1, 0, -1):
            short = ".".join(parts[start:])
            if not any(f".{key}".endswith(f".{short}") for key in self.keys if key != name):
                return short
        return name

    def ordered_cells(self) -> list[Cell]:
        """The cells that have a run, those of reference levels first."""
        return sorted(
            set(self.cells.values()),
            key=lambda cell: [f.levels.index(level) for f, level in zip(self.factors, cell, strict=True)],
        )


@dataclass(frozen=True)
class _Candidate:
    name: str
    is_group: bool
    values: tuple[str, ...]  # of each run

    @property
    def partition(self) -> tuple[int, ...]:
        """The same for two candidates that vary together: each run's level, numbered in order of appearance."""
        first = list(dict.fromkeys(self.values))
        return tuple(first.index(value) for value in self.values)


def find_design(runs: Sequence[Run], configs: Path, references: Mapping[str, str]) -> Design:
    """The factors that vary among `runs`.

    A configuration group whose content is one of its options in every run is one factor, with the options' names as
    levels. Settings that vary together are one factor; those that follow from other factors are none. Where the runs
    saw other images, data.root is a factor; one place by another path is the same level.
    configs: the folder of the configuration groups. references: factor name -> its reference level, where it shall not
    be `baseline` or the first in sorted order. Raises InputError for a reference that no run has.
    """
    varying = _varying_settings(runs)
    candidates = [_Candidate("data.root", False, _images(runs))]
    for group in dict.fromkeys(key.split(".")[0] for key in varying):
        own = [key for key in varying if key.split(".")[0] == group]
        options = _options(configs / group)
        chosen = [_chosen_option(run, group, own, options) for run in runs] if options else [None]
        if None in chosen:
            candidates += [_Candidate(key, False, tuple(_shown(run.settings, key) for run in runs)) for key in own]
        else:
            candidates.append(_Candidate(group, True, tuple(map(str, chosen))))
    candidates = [candidate for candidate in candidates if len(set(candidate.values)) > 1]

    together: dict[tuple[int, ...], list[_Candidate]] = {}
    for candidate in candidates:
        together.setdefault(candidate.partition, []).append(candidate)
    accepted: list[tuple[int, ...]] = []
    derived: list[str] = []
    for partition in sorted(together, key=lambda p: max(p)):  # few levels first: they are what the others follow from
        known = list(zip(*accepted, strict=True)) if accepted else [()] * len(runs)
        if len(set(zip(known, partition, strict=True))) == len(set(known)):
            derived += [candidate.name for candidate in together[partition]]
        else:
            accepted.append(partition)
    accepted.sort(key=list(together).index)  # the configuration's order again
    merged = [_merge(together[partition]) for partition in accepted]
    unknown = set(references) - {candidate.name for candidate in merged}
    if unknown:
        names = ", ".join(candidate.name for candidate in merged) or "nothing but the seed"
        raise InputError(f"--reference {sorted(unknown)[0]}: the runs do not vary it; they vary {names}")
    factors = tuple(_factor(candidate, references.get(candidate.name)) for candidate in merged)
    cells = {run.name: tuple(candidate.values[i] for candidate in merged) for i, run in enumerate(runs)}
    return Design(factors, cells, tuple(derived), tuple(dict.fromkeys(key for run in runs for key in run.settings)))


def _varying_settings(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.settings if kind(key) != RUNS and key != "seed")
    several_seeds = len({run.seed for run in runs}) > 1
    return [
        key
        for key in keys
        if len({_shown(run.settings, key) for run in runs}) > 1
        and not (several_seeds and all(run.settings.get(key) == run.seed for run in runs))
    ]


def _images(runs: Sequence[Run]) -> tuple[str, ...]:
    """What to call the images of each run: the end of their path, as short as it stays unambiguous.

    Paths at which some runs found the same contents are one place. A place whose contents changed between runs of equal
    settings has their keys beside it. Runs that do not tell their contents are known by the path alone.
    """
    paths = [str(PurePath(str(run.settings["data.root"]))) if "data.root" in run.settings else ABSENT for run in runs]
    keys = ("train_images_key", "val_images_key")
    contents = [" ".join(str(run.metrics[key]) for key in keys if key in run.metrics) for run in runs]
    place = {path: path for path in paths}
    for content in set(contents) - {""}:
        same = {place[path] for path, found in zip(paths, contents, strict=True) if found == content}
        place = {path: min(same) if at in same else at for path, at in place.items()}
    names = _short(set(place.values()))
    levels = [names[place[path]] for path in paths]
    wanted = [(level, *_view(run)) for level, run in zip(levels, runs, strict=True)]
    found: dict[tuple[str, ...], set[str]] = {}
    for what, content in zip(wanted, contents, strict=True):
        found.setdefault(what, set()).update({content} - {""})
    return tuple(
        f"{what[0]} ({' '.join(key[:6] for key in content.split())})" if content and len(found[what]) > 1 else what[0]
        for what, content in zip(wanted, contents, strict=True)
    )


def _view(run: Run) -> list[str]:
    """The settings that decide, beside where they lie, which images a run sees and in which size."""
    keys = [key for key in run.settings if key.startswith("data.") and kind(key) != RUNS]
    return [f"{key}={_shown(run.settings, key)}" for key in (*keys, "limit_images")]


def _short(paths: set[str]) -> dict[str, str]:
    """The ends of paths, with as many parts as tell them all apart."""
    parts = {path: PurePath(path).parts for path in paths}
    for count in range(1, max(map(len, parts.values())) + 1):
        ends = {path: "/".join(own[-count:]) for path, own in parts.items()}
        if len(set(ends.values())) == len(paths):
            return ends
    return {path: path for path in paths}


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return ABSENT
    value = settings[key]
    if key.endswith("_target_"):
        return str(value).rsplit(".", 1)[-1]
    return value if isinstance(value, str) else json.dumps(value)


def _options(folder: Path) -> dict[str, dict[str, Any]]:
    """The flattened content of each option of a configuration group, under its name."""
    return {path.stem: _option(path) for path in sorted(folder.glob("*.yaml"))}


def _option(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    result: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_" and (path.parent / f"{base}.yaml").exists():
            result |= _option(path.parent / f"{base}.yaml")
    return result | flat(content)


def _chosen_option(run: Run, group: str, varying: list[str], options: dict[str, dict[str, Any]]) -> str | None:
    """The one option that a run's group agrees with in all that varies; where several do, in everything."""
    for keys in (varying, [key for key in run.settings if key.startswith(f"{group}.")]):
        agree = [
            name
            for name, option in options.items()
            if all(_agrees(run.settings, key, option, key.removeprefix(f"{group}.")) for key in keys)
        ]
        if len(agree) == 1:
            return agree[0]
    return None


def _agrees(settings: Mapping[str, Any], key: str, option: Mapping[str, Any], own_key: str) -> bool:
    if (key in settings) != (own_key in option):
        return False
    if key not in settings:
        return True
    expected = option[own_key]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", expected) if isinstance(expected, str) else None
    if reference is not None:
        expected = settings.get(reference[1])
    elif isinstance(expected, str) and "${" in expected:
        return True  # what Hydra computes is not known here
    return _plain(settings[key]) == _plain(expected)


def _plain(value: Any) -> Any:
    """YAML 1.1 takes 3e-4 for text, Hydra for a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _merge(candidates: list[_Candidate]) -> _Candidate:
    """Candidates that vary together as one: each configuration group once, and a copied value not at all."""
    parts: dict[str, _Candidate] = {}
    values: set[tuple[str, ...]] = set()
    for candidate in sorted(candidates, key=lambda c: c.name.count(".")):  # a top-level key before what copies it
        group = candidate.name.split(".")[0]
        if group not in parts and candidate.values not in values:
            parts[group] = candidate
            values.add(candidate.values)
    chosen = list(parts.values())
    if len(chosen) == 1:
        return chosen[0]
    levels = tuple(" + ".join(level) for level in zip(*(candidate.values for candidate in chosen), strict=True))
    all_groups = all(candidate.is_group for candidate in chosen)
    return _Candidate(" + ".join(candidate.name for candidate in chosen), all_groups, levels)


def _factor(candidate: _Candidate, reference: str | None) -> Factor:
    levels = sorted(set(candidate.values), key=_by_size)
    if reference is not None and reference not in levels:
        raise InputError(f"--reference {candidate.name}={reference}: no run has it; there are {', '.join(levels)}")
    first = reference or next((level for level in levels if set(level.split(" + ")) == {"baseline"}), levels[0])
    return Factor(candidate.name, (first, *(level for level in levels if level != first)), candidate.is_group)


def _by_size(level: str) -> tuple[int, float, str]:
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)
