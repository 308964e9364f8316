"""Everything that a report says of a sweep, worked out before a word of it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from simclr.errors import InputError
from simclr.report.curves import read_curves
from simclr.report.effects import Effect, Estimate, all_effects, holm, t_interval
from simclr.report.factors import Cell, Design, find_design
from simclr.report.outcomes import (
    KNN,
    Outcome,
    described_scalars,
    find_outcomes,
    measured_differently,
)
from simclr.report.rankings import rank_metrics
from simclr.report.runs import Sweep, read_sweep


@dataclass(frozen=True)
class Study:
    """sweep: the finished runs, each cell and seed once. repeated: runs left out for that.

    partial: outcomes that only some runs have, which are given no effects. differently: see `measured_differently`.
    primary_effects and secondary_effects are two families of tests. rankings: how metrics rank the runs against the
    primary outcome, a row a metric: `rank_metrics`. curves: see `read_curves`.
    """

    sweep: Sweep
    repeated: list[str]
    design: Design
    outcomes: list[Outcome]
    partial: list[Outcome]
    differently: Mapping[str, list[str]]
    primary_effects: list[Effect]
    secondary_effects: list[Effect]
    rankings: pd.DataFrame
    curves: pd.DataFrame

    @property
    def primary(self) -> Outcome:
        return self.outcomes[0]

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.sweep.seeds))

    @cached_property
    def cells(self) -> dict[Cell, list[str]]:
        """The runs of each cell, cells of reference levels first."""
        of_run = self.design.cells
        return {cell: [run for run in of_run if of_run[run] == cell] for cell in self.design.ordered_cells()}

    @property
    def has_knn_curves(self) -> bool:
        """Whether there are curves of k-NN accuracy that compare."""
        knn = KNN[-1].column
        return knn not in self.differently and bool((self.curves["tag"] == knn).any())

    def values(self, column: str, cell: Cell) -> pd.Series:
        """A number of the cell's runs that have it."""
        return self.sweep.number(column)[self.cells[cell]].dropna()

    def mean(self, column: str, cell: Cell) -> Estimate | None:
        """Over seeds, with an interval that is not paired; None where no run of the cell has the number."""
        values = self.values(column, cell)
        return t_interval(values.to_numpy()) if len(values) else None


def study_sweep(folder: Path, configs: Path, references: Mapping[str, str]) -> Study:
    """Read the runs below `folder` and work out what they show. Raises InputError for what cannot be read.

    configs: the folder of the configuration groups. references: factor -> reference level, see `find_design`.
    """
    every = read_sweep(folder)
    design = find_design(every, configs, references)
    cells = pd.Series(design.cells)
    again = pd.DataFrame({"cell": cells, "seed": every.seeds}).duplicated()
    sweep = every.only(list(again.index[~again]))
    design = replace(design, cells={run: design.cells[run] for run in sweep.files})
    outcomes = find_outcomes(sweep)
    if not outcomes:
        raise InputError(
            f"no run below {folder} has an outcome; run python linear_eval.py run=RUN_DIR for each of them"
        )
    primary, *others = outcomes
    secondary = [outcome for outcome in others if sweep.number(outcome.column).notna().all()]
    tags = [outcome.column for outcome in [*described_scalars(sweep), KNN[-1]]]
    return Study(
        sweep=sweep,
        repeated=list(again.index[again]),
        design=design,
        outcomes=[primary, *secondary],
        partial=[outcome for outcome in others if outcome not in secondary],
        differently=measured_differently(sweep),
        primary_effects=_effects(sweep, design, [primary]),
        secondary_effects=_effects(sweep, design, secondary),
        rankings=rank_metrics(sweep, design, primary),
        curves=read_curves({run: sweep.paths[run] for run in sweep.files}, tags, folder / "curves.csv"),
    )


def _effects(sweep: Sweep, design: Design, outcomes: Sequence[Outcome]) -> list[Effect]:
    """A family of effects, with p-values adjusted for their number."""
    places = [(*cell, seed) for cell, seed in zip(design.cells.values(), sweep.seeds, strict=True)]
    index = pd.MultiIndex.from_tuples(places, names=[*(factor.name for factor in design.factors), "seed"])
    effects = [
        effect
        for outcome in outcomes
        for effect in all_effects(outcome, sweep.number(outcome.column).set_axis(index).dropna(), design.factors)
    ]
    adjusted = holm([effect.p for effect in effects])
    return [replace(effect, holm_p=p) for effect, p in zip(effects, adjusted, strict=True)]
