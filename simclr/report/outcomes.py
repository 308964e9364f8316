"""Which numbers of the runs are outcomes, and what they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from simclr.report.runs import Sweep

HEADLINES = {
    "top1": "top-1",
    "balanced_top1": "balanced top-1",
    "top5": "top-5",
    "knn_top1": "k-NN top-1",
    "mean_iou": "mean IoU",
    "nmi": "NMI",
    "ari": "ARI",
}
# SimCLR's, for runs whose metrics.json does not describe its own under "scalars".
SCALARS: dict[str, dict[str, Any]] = {
    "train/loss": {"words": "training loss", "unit": "", "higher_is_better": False, "short": "loss"},
    "train/top1": {"words": "contrastive top-1", "unit": "%", "higher_is_better": True, "short": "top-1"},
}
# How tags of metrics.json begin, and the settings that decide how they were measured.
MEASURED_BY = {
    "train/": "method._target_",
    "val/knn_top1": "callbacks.online_knn",
    "features/": "callbacks.label_free",
    "embeddings/": "callbacks.label_free",
}


@dataclass(frozen=True)
class Outcome:
    """One column of a sweep's numbers, in words, and the unit of a change: "points" for per cent, else ""."""

    column: str
    label: str
    unit: str = ""
    smaller_is_better: bool = False

    @property
    def file(self) -> str:
        """The evaluation that it is from; "" for one of metrics.json."""
        return self.column.split("/")[0] if "_eval" in self.column else ""

    @property
    def axis(self) -> str:
        return f"{self.label}, per cent" if self.unit == "points" else self.label


LINEAR = Outcome("linear_eval/top1", "linear top-1", "points")
KNN = [Outcome(c, "k-NN top-1", "points") for c in ("linear_eval/knn_top1", "knn_eval/top1", "val/knn_top1")]


def measured_differently(sweep: Sweep) -> dict[str, list[str]]:
    """Of MEASURED_BY the tags that runs have measured by different settings, so that they do not compare, and these."""
    found = {}
    for tag, measured_by in MEASURED_BY.items():
        having = sweep.numbers.filter(regex=f"^{tag}").notna().any(axis=1)
        settings = sweep.settings[having].filter(regex=rf"^{re.escape(measured_by)}(\.|$)").astype(str)
        settings = settings.loc[:, ~settings.columns.str.endswith(".every_n_epochs")]  # which is when, not how
        if keys := [key for key in settings if settings[key].nunique() > 1]:
            found[tag] = keys
    return found


def _comparable(sweep: Sweep, outcomes: list[Outcome]) -> list[Outcome]:
    """Those that a run has, but for what was measured differently."""
    differently = tuple(measured_differently(sweep))
    return [o for o in outcomes if o.column in sweep.numbers and not o.column.startswith(differently)]


def scalars(sweep: Sweep) -> list[Outcome]:
    """What the method measures while it trains and shows in its bar, but for what was measured differently."""
    return _comparable(sweep, described_scalars(sweep))


def described_scalars(sweep: Sweep) -> list[Outcome]:
    """All that the method shows in its bar, as the runs' metrics.json describe it."""
    described = {tag: scalar for of_run in sweep.metric("scalars") for tag, scalar in (of_run or {}).items()}
    shown = {tag: scalar for tag, scalar in (described or SCALARS).items() if scalar["short"] is not None}
    return [
        Outcome(tag, scalar["words"], "points" if scalar["unit"] == "%" else "", scalar["higher_is_better"] is False)
        for tag, scalar in shown.items()
    ]


def find_outcomes(sweep: Sweep) -> list[Outcome]:
    """The outcomes that at least one run has, the primary one first: linear top-1, or the next where no run has it.

    k-NN accuracy counts once, from the file that most runs have. Encoders before and during training are no outcomes,
    nor is what was measured differently.
    """
    knn = sorted(_comparable(sweep, KNN), key=lambda outcome: -sweep.number(outcome.column).count())[:1]
    balanced = Outcome("linear_eval/balanced_top1", "linear balanced top-1", "points")
    found = [LINEAR, balanced, Outcome("linear_eval/top5", "linear top-5", "points"), *knn]
    for column in sorted(sweep.numbers, key=lambda column: column.partition("/")[0]):  # those of a file stay in order
        file, _, key = column.partition("/")
        kind, is_evaluation, variant = file.partition("_eval")
        if not is_evaluation or file in ("linear_eval", "knn_eval") or "untrained" in file or "epoch-" in file:
            continue
        name = f"{kind} ({variant.strip('_')})" if variant.strip("_") else kind
        # A headline number is known by its name, or by the interval that stands beside it.
        if key in HEADLINES or {f"{column}_low", f"{column}_high"} <= set(sweep.numbers):
            label = f"{name} {HEADLINES.get(key, key.replace('_', ' '))}"
            found.append(Outcome(column, label, "points" if re.search(r"top|_r\d+$", key) else ""))
    return [o for o in [*_comparable(sweep, found), *scalars(sweep)] if not _repeats_top1(sweep, o)]


def _repeats_top1(sweep: Sweep, outcome: Outcome) -> bool:
    """Whether it is balanced accuracy, and every class has as many validation images."""
    top1 = sweep.number(outcome.column.replace("balanced_top1", "top1")).fillna(0)
    return "balanced_top1" in outcome.column and not ((sweep.number(outcome.column) - top1).abs() >= 1e-3).any()


def label_free_metrics(sweep: Sweep) -> list[Outcome]:
    """What is known of a representation without labels, and the training's own numbers."""
    tags = sorted(column for column in sweep.numbers if column.startswith(("features/", "embeddings/")))
    metrics = [
        Outcome(tag, tag, smaller_is_better=tag.endswith(("alignment", "uniformity", "alpha_req"))) for tag in tags
    ]
    return [*scalars(sweep), *_comparable(sweep, metrics)]


def on_the_way(sweep: Sweep, key: str) -> pd.DataFrame:
    """`key` of the linear evaluations of a run's checkpoints: a row a run, a column an epoch, 0 before training."""
    found: dict[str, dict[int, float]] = {run: {} for run in sweep.files}
    for column in sweep.numbers:
        match = re.fullmatch(rf"linear_eval(?:_epoch-(\d+)|_(untrained))?/{key}", column)
        if match:
            epochs = sweep.number("epochs") if not any(match.groups()) else int(match[1] or 0)
            points = pd.DataFrame({"epoch": epochs, "value": sweep.numbers[column]}).dropna()
            for run, epoch, value in points.itertuples(name=None):
                found[run][int(epoch)] = value
    table = pd.DataFrame.from_dict(found, orient="index", dtype=float)
    return table[sorted(table)]
