"""Which numbers of a run are outcomes, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from simclr.report.factors import Cell, Design
from simclr.report.runs import Run

HEADLINES = {
    "top1": "top-1",
    "balanced_top1": "balanced top-1",
    "top5": "top-5",
    "knn_top1": "k-NN top-1",
    "mean_iou": "mean IoU",
}
SMALLER_IS_BETTER = ("loss", "alignment", "uniformity")


@dataclass(frozen=True)
class Outcome:
    """One number of a run: `key` of `file` ("metrics" or an evaluation's name), in words, and the unit of a change."""

    file: str
    key: str
    label: str
    unit: str  # "points" for per cent, else ""

    @property
    def column(self) -> str:
        """Its column in the CSV files."""
        return self.key if self.file == "metrics" else f"{self.file}/{self.key}"

    @property
    def smaller_is_better(self) -> bool:
        return self.column.endswith(SMALLER_IS_BETTER)

    def of(self, run: Run) -> float | None:
        return run.number(self.file, self.key)


LINEAR = Outcome("linear_eval", "top1", "linear top-1", "points")
KNN = (
    Outcome("linear_eval", "knn_top1", "k-NN top-1", "points"),
    Outcome("knn_eval", "top1", "k-NN top-1", "points"),
    Outcome("metrics", "val/knn_top1", "k-NN top-1", "points"),
)
TRAINING = (
    Outcome("metrics", "train/loss", "training loss", ""),
    Outcome("metrics", "train/top1", "contrastive top-1", "points"),
)
# How tags of metrics.json begin, and the callback whose settings decide how they were measured.
MEASURED_BY = {
    "val/knn_top1": "callbacks.online_knn",
    "features/": "callbacks.label_free",
    "embeddings/": "callbacks.label_free",
}


def measured_differently(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Of MEASURED_BY the tags that runs have measured by different settings, so that they do not compare, and these."""
    found = {}
    for tag, callback in MEASURED_BY.items():
        own = [run for run in runs if any(key.startswith(tag) for key in run.metrics)]
        keys = dict.fromkeys(key for run in own for key in run.settings if key.startswith(f"{callback}."))
        differing = [key for key in keys if len({str(run.settings.get(key)) for run in own}) > 1]
        if settings := [key for key in differing if not key.endswith(".every_n_epochs")]:  # which is when, not how
            found[tag] = settings
    return found


def _comparable(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> list[Outcome]:
    differently = tuple(measured_differently(runs))
    return [outcome for outcome in outcomes if outcome.file != "metrics" or not outcome.key.startswith(differently)]


def find_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """The outcomes that at least one run has, the primary one first: linear top-1, or the next where no run has it.

    k-NN accuracy counts once, from the file that most runs have. Encoders before and during training are no outcomes,
    nor is what was measured differently.
    """
    knn = max(_comparable(runs, KNN), key=lambda outcome: len(having(runs, outcome)))
    balanced = Outcome("linear_eval", "balanced_top1", "linear balanced top-1", "points")
    found = [LINEAR, balanced, Outcome("linear_eval", "top5", "linear top-5", "points"), knn]
    for file in sorted({file for run in runs for file in run.evaluations}):
        if file in ("linear_eval", "knn_eval") or "untrained" in file or "epoch-" in file:
            continue
        kind, _, variant = file.partition("_eval")
        name = f"{kind} ({variant.strip('_')})" if variant.strip("_") else kind
        keys = dict.fromkeys(key for run in runs for key in run.evaluations.get(file, {}))
        for key in keys:
            # A headline number is known by its name, or by the interval that stands beside it.
            if key in HEADLINES or {f"{key}_low", f"{key}_high"} <= set(keys):
                unit = "points" if "top" in key else ""
                found.append(Outcome(file, key, f"{name} {HEADLINES.get(key, key.replace('_', ' '))}", unit))
    return [outcome for outcome in [*found, *TRAINING] if having(runs, outcome) and not _repeats(runs, outcome)]


def _repeats(runs: Sequence[Run], outcome: Outcome) -> bool:
    """Whether it is top-1 once more: balanced accuracy, where every class has as many validation images."""
    if outcome.key != "balanced_top1":
        return False
    top1 = replace(outcome, key="top1")
    return all(abs((outcome.of(run) or 0) - (top1.of(run) or 0)) < 1e-3 for run in having(runs, outcome))


def label_free_metrics(runs: Sequence[Run]) -> list[Outcome]:
    """What is known of a representation without labels, and the training's own numbers."""
    keys = sorted({key for run in runs for key in run.metrics if key.startswith(("features/", "embeddings/"))})
    metrics = [Outcome("metrics", key, key, "") for key in keys]
    return [outcome for outcome in [*TRAINING, *_comparable(runs, metrics)] if having(runs, outcome)]


def moments(run: Run) -> dict[int, str]:
    """Epochs at which the run's linear accuracy is known, and the evaluation that says it; 0 is before training."""
    found = {}
    for file in run.evaluations:
        kind, _, when = file.partition("_eval")
        epoch = when.removeprefix("_epoch-")
        if kind == "linear" and (when in ("", "_untrained") or epoch.isdecimal()):
            last = run.number("metrics", "epochs")
            place = 0 if when == "_untrained" else last if when == "" else int(epoch)
            if place is not None:
                found[int(place)] = file
    return dict(sorted(found.items()))


def having(runs: Sequence[Run], outcome: Outcome) -> list[Run]:
    return [run for run in runs if outcome.of(run) is not None]


def by_cell(runs: Sequence[Run], design: Design, outcome: Outcome) -> Mapping[Cell, Mapping[int, float]]:
    """Cell -> seed -> value, for the runs that have it."""
    values: dict[Cell, dict[int, float]] = {}
    for run in runs:
        value = outcome.of(run)
        if value is not None:
            values.setdefault(design.cells[run.name], {})[run.seed] = value
    return values
