"""The report's later sections: what training cost, what the metrics tell, where the numbers come from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable

from simclr.report.effects import t_interval
from simclr.report.outcomes import on_the_way as judged_on_the_way
from simclr.report.study import Study
from simclr.report.wording import (
    bullets,
    counted,
    level,
    listed,
    literal,
    p_value,
    plain,
    ranking_sentence,
    signed,
    table,
)

Draw = Callable[[str, str], list[str]]  # a figure's name and caption -> its blocks, none where there is no such figure

COSTS = {
    "parameters": ("parameters", 1.0, 0),
    "encoder_parameters": ("of the encoder", 1.0, 0),
    "images_per_second": ("images/s", 1.0, 1),
    "system/memory_gb": ("memory of the process, GB", 1.0, 2),
    "system/gpu_memory_gb": ("peak memory of the GPU, GB", 1.0, 2),
    "wall_seconds": ("training, minutes", 1 / 60, 1),
}
PROVENANCE = {"git_commit": "commit", "device": "device", "precision": "precision", "epochs": "epochs"}


def on_the_way(study: Study, draw: Draw) -> list[str]:
    """Linear accuracy of checkpoints that were judged while training went on."""
    top1 = judged_on_the_way(study.sweep, "top1")
    if not study.sweep.numbers.filter(regex="^linear_eval_epoch-").size:
        return []
    rows = []
    for cell, runs in study.cells.items():
        known = [top1.loc[runs, epoch].dropna() for epoch in top1]
        means = [t_interval(values.to_numpy()) if len(values) else None for values in known]
        rows.append([literal(study.design.label(cell)), *map(level, means)])
    return [
        "## Linear top-1 while training went on",
        "Mean over the seeds that have it ± half its 95 % interval. These checkpoints are shown, and not tested.",
        table(["cell", *("untrained" if epoch == 0 else f"epoch {epoch}" for epoch in top1)], rows),
        *draw(
            "on_the_way",
            "Before, during and after training; bars of a single run: its 95 % interval over validation images",
        ),
    ]


def curves(study: Study, draw: Draw) -> list[str]:
    runs, known = len(study.sweep.files), study.curves["run"].nunique()
    caption = "Mean over seeds; bands: lowest to highest seed; each point is a mean of logged steps"
    blocks = draw("curves", caption)
    if blocks:
        blocks.append("Every curve is thinned to at most 100 points, each the mean of equally many logged batches.")
    if known < runs:
        blocks.append(
            f"{runs - known} of {runs} runs have neither TensorBoard events nor rows in curves.csv, so their curves "
            "are left out."
        )
    return ["## Training curves", *blocks] if blocks else []


def time(study: Study, draw: Draw) -> list[str]:
    caption = "The training time of each run, and what it came to"
    if study.has_knn_curves:
        caption += "; above it, k-NN top-1 while training went on: mean and range over seeds"
    blocks = draw("time", caption)
    if blocks and study.has_knn_curves:
        blocks.append("Within a run, time is taken to pass evenly from step to step.")
    return ["## Accuracy against training time", *blocks] if blocks else []


def cost(study: Study, draw: Draw) -> list[str]:
    known = {key: cost for key, cost in COSTS.items() if key in study.sweep.numbers}
    if not known:
        return []
    rows = []
    for cell in study.cells:
        means = [(factor * study.values(key, cell).mean(), places) for key, (_, factor, places) in known.items()]
        rows.append([literal(study.design.label(cell)), *("–" if math.isnan(m) else plain(m, n) for m, n in means)])
    return [
        "## Cost",
        "Means over seeds. An image is a source image, which costs two views. Runs that shared a machine slowed each "
        "other, and their times say so.",
        table(["cell", *(words for words, _, _ in known.values())], rows),
    ]


def ranking(study: Study, draw: Draw) -> list[str]:
    ranked, primary = study.rankings, study.primary.label
    if ranked["rho"].isna().all():
        return []  # too few runs, or all alike
    rows, sentences = [], []
    within = ranked["rho_within"].notna().any()
    for r in ranked.itertuples():
        label = literal(r.label) + (" (less is better)" if r.smaller_is_better else "")
        rho = _rho(r.rho, r.rho_low, r.rho_high)
        of_methods = [_rho(r.rho_within, r.within_low, r.within_high)] if within else []
        of_cells = "–" if math.isnan(r.rho_of_cell_means) else f"{signed(r.rho_of_cell_means, 2)} ({r.cells} cells)"
        rows.append([label, rho, str(r.runs), p_value(r.p), p_value(r.holm_p), *of_methods, of_cells])
        sentences.append(literal(ranking_sentence(r.label, r.rho, r.holm_p, r.runs, primary)))
    heads = ["within a method (95 % interval)"] if within else []
    return [
        f"## Do loss and label-free metrics rank the runs as {primary} does?",
        f"Spearman's rho between each metric and {primary} over runs. It is turned round for metrics of which less is "
        f"better, so +1 always reads: the metric puts the runs in the order that {primary} does. p is by permutation "
        f"of runs (two-sided), adjusted for {len(rows)} metrics after Holm. Runs of one cell resemble each other, so p "
        "is somewhat too small and the interval (Bonett & Wright) too narrow; rho among the means of cells is "
        "beside them."
        + (
            " Within a method is rho among the runs of one method, pooled over methods: what ranks there may mislead "
            "across methods, whose features differ in other ways."
            if within
            else ""
        ),
        bullets(sentences),
        table(["metric", "rho (95 % interval)", "runs", "p", "p (Holm)", *heads, "rho of cell means"], rows),
        *draw("ranking", f"Each metric against {primary}, one dot a run"),
    ]


def _rho(rho: float, low: float, high: float) -> str:
    if math.isnan(rho):
        return "–"
    return signed(rho, 2) + ("" if math.isnan(low) else f" ({signed(low, 2)} to {signed(high, 2)})")


def meaning(study: Study, draw: Draw) -> list[str]:
    """The protocols that the runs' own files state."""
    stated: dict[str, list[str]] = {}
    for of_run in study.sweep.files.values():
        for file, content in of_run.items():
            protocol = content.get("protocol")
            parts = protocol if isinstance(protocol, dict) else {"": protocol} if protocol else {}
            for name, text in parts.items():
                texts = stated.setdefault(f"{file}.json" + (f", {name}" if name else ""), [])
                if str(text) not in texts:
                    texts.append(str(text))
    if not stated:
        return []
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, texts in sorted(stated.items()):
        alike.setdefault(tuple(texts), []).append(name)
    lines = [
        f"**{literal('; '.join(names))}**: {' — or: '.join(map(literal, texts))}" for texts, names in alike.items()
    ]
    differ = any(len(texts) > 1 for texts in alike)
    warning = "**The runs were not all measured by the same protocol; their numbers may not compare.**"
    return ["## How the numbers were measured", *([warning] if differ else []), bullets(lines)]


def _stated(study: Study, key: str) -> dict[str, int]:
    """Each value that the runs' metrics.json state, and in how many of them."""
    values = ["not stated" if value is None else str(value) for value in study.sweep.metric(key)]
    return {value: values.count(value) for value in dict.fromkeys(values)}


def warnings(study: Study) -> list[str]:
    """What stands beside the findings: validation images that were trained on, runs that were not made alike."""
    leaking = study.sweep.numbers.filter(regex="(^|/)val_images_in_train$").max(axis=1)
    found = []
    if (leaking > 0).any():
        found.append(
            f"LEAK: validation images are training images too, {leaking.max():,.0f} at most, in {(leaking > 0).sum()} "
            f"of {len(leaking)} runs; they flatter accuracies."
        )
    names = {**PROVENANCE, "versions": "package versions"}
    mixed = [names[key] for key in ("git_commit", "device", "precision", "versions") if len(_stated(study, key)) > 1]
    if mixed:
        found.append(f"**The runs were not all made alike: they differ in {listed(mixed)}** (see Provenance).")
    return found


def provenance(study: Study, command: str) -> list[str]:
    rows = []
    for key, name in PROVENANCE.items():
        values = _stated(study, key)
        runs = {value: f" ({counted(n, 'run')})" if len(values) > 1 else "" for value, n in values.items()}
        rows.append([name, "; ".join(literal(value) + told for value, told in runs.items())])
    versions = [of_run for of_run in study.sweep.metric("versions") if isinstance(of_run, dict)]
    for package in dict.fromkeys(package for of_run in versions for package in of_run):
        found = dict.fromkeys(str(of_run.get(package)) for of_run in versions)
        rows.append([literal(package), literal("; ".join(found))])
    rows.append(["seeds", ", ".join(map(str, study.seeds))])
    sweep = _sweep_command(study)
    return [
        "## Provenance",
        table(["", "value"], rows, words=2),
        "`runs.csv` holds every number of every run, `settings.csv` what all runs were configured to, `effects.csv`, "
        "`ranking.csv` and `curves.csv` what the tables and figures show. "
        + (f"Beside the settings that all share, the runs are those of `{sweep}`. " if sweep else "")
        + "This report was made by",
        f"```\n{command}\n```",
    ]


def _sweep_command(study: Study) -> str | None:
    """The overrides that make these cells; None where they are no full grid, or no single override makes a level."""
    factors = study.design.factors
    grid = math.prod(len(factor.levels) for factor in factors) == len(study.cells)
    if not grid or any(" + " in factor.name or factor.name.endswith("_target_") for factor in factors):
        return None
    overrides = [f"{factor.name}={','.join(factor.levels)}" for factor in factors]
    return f"python train.py -m {shlex.join([*overrides, 'seed=' + ','.join(map(str, study.seeds))])}"
