"""Everything that a report says of a sweep, worked out before a word of it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simclr.errors import InputError
from simclr.report.curves import Curves, read_curves
from simclr.report.effects import (
    Effect,
    Estimate,
    RankCorrelation,
    Values,
    all_effects,
    holm,
    rank_correlation,
    t_interval,
)
from simclr.report.factors import Cell, Design, find_design
from simclr.report.outcomes import Outcome, by_cell, find_outcomes, having, label_free_metrics, measured_differently
from simclr.report.runs import Run, read_sweep


@dataclass(frozen=True)
class Tested:
    """An effect on an outcome, with its Holm-adjusted p among all effects of its family (None: no p-value)."""

    outcome: Outcome
    effect: Effect
    adjusted_p: float | None


@dataclass(frozen=True)
class Ranked:
    """How a metric ranks the runs against the primary outcome.

    correlation: its rho is turned round for a metric of which less is better. of_cells: the same among cell means.
    """

    metric: Outcome
    correlation: RankCorrelation
    of_cells: RankCorrelation
    adjusted_p: float | None


@dataclass(frozen=True)
class Study:
    """folder: that of the sweep. runs: the finished ones, each cell and seed once. repeated: runs left out for that.

    primary_effects and secondary_effects are two families of tests. partial: outcomes that only some runs have, which
    are given no effects. differently: see `measured_differently`. curves: see `read_curves`; without those tags.
    """

    folder: Path
    runs: list[Run]
    unfinished: list[str]
    left_out: list[str]
    repeated: list[str]
    design: Design
    outcomes: list[Outcome]
    partial: list[Outcome]
    differently: Mapping[str, list[str]]
    primary_effects: list[Tested]
    secondary_effects: list[Tested]
    rankings: list[Ranked]
    curves: Curves

    @property
    def primary(self) -> Outcome:
        return self.outcomes[0]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def of_cell(self, cell: Cell) -> list[Run]:
        return [run for run in self.runs if self.design.cells[run.name] == cell]

    def values(self, outcome: Outcome) -> Values:
        return by_cell(self.runs, self.design, outcome)

    def cell_mean(self, cell: Cell, outcome: Outcome) -> Estimate | None:
        """Mean over seeds, whose interval is not paired; None where no run of the cell has the outcome."""
        values = list(self.values(outcome).get(cell, {}).values())
        return t_interval(values) if values else None


def study_sweep(folder: Path, configs: Path, references: Mapping[str, str]) -> Study:
    """Read the runs below `folder` and work out what they show. Raises InputError for what cannot be read.

    configs: the folder of the configuration groups. references: factor -> reference level, see `find_design`.
    """
    sweep = read_sweep(folder)
    design = find_design(sweep.runs, configs, references)
    runs: list[Run] = []
    repeated: list[str] = []
    met: set[tuple[Cell, int]] = set()
    for run in sweep.runs:
        place = (design.cells[run.name], run.seed)
        if place in met:
            repeated.append(run.name)
        else:
            runs.append(run)
            met.add(place)
    outcomes = find_outcomes(runs)
    if not outcomes:
        raise InputError(
            f"no run below {folder} has an outcome; run python linear_eval.py run=RUN_DIR for each of them"
        )
    differently = measured_differently(runs)
    curves = read_curves(runs, folder / "curves.csv")
    primary, secondary = outcomes[:1], [o for o in outcomes[1:] if len(having(runs, o)) == len(runs)]
    return Study(
        folder=folder,
        runs=runs,
        unfinished=sweep.unfinished,
        left_out=sweep.left_out,
        repeated=repeated,
        design=design,
        outcomes=primary + secondary,
        differently=differently,
        partial=[outcome for outcome in outcomes[1:] if outcome not in secondary],
        primary_effects=_tested(runs, design, primary),
        secondary_effects=_tested(runs, design, secondary),
        rankings=_rankings(runs, design, primary[0]),
        curves={key: curve for key, curve in curves.items() if not key[1].startswith(tuple(differently))},
    )


def _tested(runs: Sequence[Run], design: Design, outcomes: Sequence[Outcome]) -> list[Tested]:
    effects = [(o, effect) for o in outcomes for effect in all_effects(by_cell(runs, design, o), design.factors)]
    adjusted = _adjusted([effect.p for _, effect in effects])
    return [Tested(outcome, effect, p) for (outcome, effect), p in zip(effects, adjusted, strict=True)]


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment among those that are there."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _rankings(runs: Sequence[Run], design: Design, primary: Outcome) -> list[Ranked]:
    metrics = [metric for metric in label_free_metrics(runs) if metric != primary]
    found = [_correlations(runs, design, metric, primary) for metric in metrics]
    adjusted = _adjusted([of_runs.p for of_runs, _ in found])
    return [Ranked(metric, *pair, p) for metric, pair, p in zip(metrics, found, adjusted, strict=True)]


def _correlations(
    runs: Sequence[Run], design: Design, metric: Outcome, primary: Outcome
) -> tuple[RankCorrelation, RankCorrelation]:
    """Among runs, and among the means of cells."""
    sign = -1.0 if metric.smaller_is_better else 1.0
    cells: dict[Cell, list[tuple[float, float]]] = {}
    for run in runs:
        value, accuracy = metric.of(run), primary.of(run)
        if value is not None and accuracy is not None:
            cells.setdefault(design.cells[run.name], []).append((sign * value, accuracy))
    pairs = [pair for of_cell in cells.values() for pair in of_cell]
    means = [tuple(sum(side) / len(of_cell) for side in zip(*of_cell, strict=True)) for of_cell in cells.values()]
    return (
        rank_correlation([x for x, _ in pairs], [y for _, y in pairs]),
        rank_correlation([x for x, _ in means], [y for _, y in means]),
    )
