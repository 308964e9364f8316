"""Which settings a sweep varies, and what their levels are called."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import yaml

from simclr.errors import InputError
from simclr.report.runs import ABSENT, Sweep, may_be_factor
from simclr.runs.identity import flat

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
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, 0, -1))
        return next((e for e in ends if not any(f".{k}".endswith(f".{e}") for k in self.keys if k != name)), name)

    def ordered_cells(self) -> list[Cell]:
        """The cells that have a run, those of reference levels first."""
        places = [{level: place for place, level in enumerate(factor.levels)} for factor in self.factors]
        return sorted(
            set(self.cells.values()), key=lambda cell: [at[level] for at, level in zip(places, cell, strict=True)]
        )


def find_design(sweep: Sweep, configs: Path, references: Mapping[str, str]) -> Design:
    """The factors that vary among the runs.

    A configuration group whose content is one of its options in every run is one factor, with the options' names as
    levels. Settings that vary together are one factor; those that follow from other factors are none, and neither are
    the head and the augmentation that each method brings. Where the runs saw other images, data.root is a factor; one
    place by another path is the same level.
    configs: the folder of the configuration groups. references: factor name -> its reference level, where it shall not
    be `baseline`, the default or the first in sorted order. Raises InputError for a reference that no run has.
    """
    candidates, groups = _candidates(sweep, configs)
    together: dict[tuple[int, ...], list[str]] = {}  # by partition: each run's level, numbered in order of appearance
    for name in candidates:
        together.setdefault(tuple(pd.factorize(candidates[name])[0].tolist()), []).append(name)
    accepted: list[tuple[int, ...]] = []
    derived: list[str] = []
    # The method first, which brings a head and views of its own; then few levels first: the others follow from them.
    for partition in sorted(together, key=lambda partition: ("method" not in together[partition], max(partition))):
        known = set(zip(*accepted, strict=True)) if accepted else {()}
        if len(set(zip(*accepted, partition, strict=True))) == len(known):
            derived += together[partition]
        else:
            accepted.append(partition)
    for names in together.values():
        brought = [name for name in names if "method" in names and name in groups - {"method"}]
        names[:] = [name for name in names if name not in brought]
        derived += brought
    # In the configuration's order again.
    chosen = [_not_copied(candidates[names]) for partition, names in together.items() if partition in accepted]
    levels = {" + ".join(table): table.agg(" + ".join, axis=1) for table in chosen}
    varied = ", ".join(levels) or "nothing but the seed"
    for name in references:
        if name not in levels:
            raise InputError(f"--reference {name}: the runs do not vary it; they vary {varied}")
    usual = _defaults(configs / "train.yaml")
    factors = [
        Factor(name, _ordered(name, values, references.get(name), usual), set(name.split(" + ")) <= groups)
        for name, values in levels.items()
    ]
    cells = {run: tuple(values[run] for values in levels.values()) for run in sweep.files}
    return Design(tuple(factors), cells, tuple(derived), tuple(sweep.settings))


def _candidates(sweep: Sweep, configs: Path) -> tuple[pd.DataFrame, set[str]]:
    """What varies, as text: a column a setting or a configuration group, and which of them are groups."""
    texts = pd.DataFrame({key: [_text(key, value) for value in sweep.settings[key]] for key in sweep.settings})
    several_seeds = sweep.seeds.nunique() > 1
    varying = [
        key
        for key in texts
        if may_be_factor(key) and texts[key].nunique() > 1 and not (several_seeds and texts[key].equals(texts["seed"]))
    ]
    columns: dict[str, list[Any]] = {"data.root": _images(sweep, texts)}
    groups = set()
    for group in dict.fromkeys(key.split(".")[0] for key in varying):
        own = [key for key in varying if key.split(".")[0] == group]
        options = {path.stem: _option(path) for path in sorted((configs / group).glob("*.yaml"))}
        chosen = [_chosen(settings, group, own, options) for settings in sweep.settings.to_dict("records")]
        if None in chosen:
            columns |= {key: list(texts[key]) for key in own}
        else:
            columns[group] = chosen
            groups.add(group)
    table = pd.DataFrame(columns, index=sweep.settings.index)
    return table.loc[:, table.nunique() > 1], groups


def _text(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if key.endswith("_target_") else value
    return json.dumps(value)


def _images(sweep: Sweep, texts: pd.DataFrame) -> list[str]:
    """What to call the images of each run: the end of their path, as short as it stays unambiguous.

    Paths at which some runs found the same contents are one place. A place whose contents changed between runs of equal
    settings has their keys beside it. Runs that do not tell their contents are known by the path alone.
    """
    roots = texts["data.root"] if "data.root" in texts else [ABSENT] * len(texts)
    paths = [str(PurePath(root)) for root in roots]
    keys = [sweep.metric("train_images_key"), sweep.metric("val_images_key")]
    contents = [tuple(str(key) for key in of_run if key is not None) for of_run in zip(*keys, strict=True)]
    place = {path: path for path in paths}
    for content in set(contents) - {()}:
        same = {place[path] for path, found in zip(paths, contents, strict=True) if found == content}
        place = {path: min(same) if at in same else at for path, at in place.items()}
    parts = {path: PurePath(path).parts for path in place.values()}
    length = next(n for n in range(1, 99) if len({own[-n:] for own in parts.values()}) == len(parts))
    names = ["/".join(parts[place[path]][-length:]) for path in paths]
    # Beside where they lie, these decide which images a run sees, and in which size.
    view = [key for key in texts if key == "limit_images" or (key.startswith("data.") and may_be_factor(key))]
    wanted = list(zip(names, *(texts[key] for key in view), strict=True))
    found = {what: {c for w, c in zip(wanted, contents, strict=True) if c and w == what} for what in wanted}
    return [
        f"{what[0]} ({' '.join(key[:6] for key in content)})" if content and len(found[what]) > 1 else what[0]
        for what, content in zip(wanted, contents, strict=True)
    ]


def _option(path: Path) -> dict[str, Any]:
    """The flattened content of an option of a configuration group, with that of the options it is based on."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    bases = [path.with_name(f"{base}.yaml") for base in content.pop("defaults", []) if _is_base(base)]
    result: dict[str, Any] = {}
    for base in bases:
        result |= _option(base) if base.exists() else {}
    return result | flat(content)


def _is_base(entry: object) -> bool:
    """Whether an entry of a defaults list is an option of the same group: a method may choose its own head, too."""
    return isinstance(entry, str) and entry != "_self_"


def _chosen(settings: dict[str, Any], group: str, varying: list[str], options: dict[str, dict[str, Any]]) -> str | None:
    """The one option that a run's group agrees with in all that varies; where several do, in everything."""
    own = [key for key, value in settings.items() if key.startswith(f"{group}.") and value != ABSENT]
    for keys in (varying, own):
        agree = [
            name
            for name, option in options.items()
            if all(_agrees(settings, settings[key], option.get(key.removeprefix(f"{group}."), ABSENT)) for key in keys)
        ]
        if len(agree) == 1:
            return agree[0]
    return None


def _agrees(settings: Mapping[str, Any], value: Any, expected: Any) -> bool:
    if isinstance(expected, str) and "${" in expected and value != ABSENT:
        reference = re.fullmatch(r"\$\{([\w.]+)\}", expected)
        if reference is None:
            return True  # what Hydra computes is not known here
        expected = settings.get(reference[1])
    return _plain(value) == _plain(expected)


def _plain(value: Any) -> Any:
    """YAML 1.1 takes 3e-4 for text, Hydra for a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _not_copied(together: pd.DataFrame) -> pd.DataFrame:
    """Of candidates that vary together: each configuration group once, and a copied value not at all."""
    chosen: dict[str, str] = {}
    for name in sorted(together, key=lambda name: name.count(".")):  # a top-level key before what copies it
        if not any(together[name].equals(together[other]) for other in chosen.values()):
            chosen.setdefault(name.split(".")[0], name)
    return together[list(chosen.values())]


def _defaults(path: Path) -> dict[str, str]:
    """The option that each configuration group has where nothing else is asked for."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"] if path.exists() else []
    return {group: option for entry in listed if isinstance(entry, dict) for group, option in entry.items()}


def _ordered(name: str, values: pd.Series, reference: str | None, usual: Mapping[str, str]) -> tuple[str, ...]:
    """The levels of a factor in order, its reference first. usual: the default of a factor that is a group."""
    levels = sorted(set(values), key=_by_size)
    if reference is not None and reference not in levels:
        raise InputError(f"--reference {name}={reference}: no run has it; there are {', '.join(levels)}")
    baselines = [level for level in levels if set(level.split(" + ")) == {"baseline"}]
    first = reference or next(iter([*baselines, *(level for level in levels if level == usual.get(name))]), levels[0])
    return (first, *(level for level in levels if level != first))


def _by_size(level: str) -> tuple[int, float, str]:
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)
