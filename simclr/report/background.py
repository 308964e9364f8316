"""The report's later sections: what training cost, what the metrics tell, where the numbers come from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from simclr.report.markdown import bullets, figure_block, level, literal, table
from simclr.report.outcomes import Outcome, moments
from simclr.report.study import Study
from simclr.report.wording import listed, p_value, plain, ranking_sentence, signed


def on_the_way_section(study: Study, figures: Mapping[str, Path]) -> list[str]:
    """Linear accuracy of checkpoints that were judged while training went on."""
    known = {epoch: file for run in study.runs for epoch, file in moments(run).items()}
    if not any("epoch-" in file for file in known.values()):
        return []
    rows = []
    for cell in study.design.ordered_cells():
        files = {epoch: file for run in study.of_cell(cell) for epoch, file in moments(run).items()}
        means = [
            study.cell_mean(cell, Outcome(files[epoch], "top1", "", "points")) if epoch in files else None
            for epoch in sorted(known)
        ]
        rows.append([literal(study.design.label(cell)), *(level(mean) for mean in means)])
    heads = ["untrained" if epoch == 0 else f"epoch {epoch}" for epoch in sorted(known)]
    caption = "Before, during and after training; bars of a single run: its 95 % interval over validation images"
    return [
        "## Linear top-1 while training went on",
        "Mean over the seeds that have it ± half its 95 % interval. These checkpoints are shown, and not tested.",
        table(["cell", *heads], rows),
        *figure_block(figures, "on_the_way", caption),
    ]


def curves_section(study: Study, figures: Mapping[str, Path]) -> list[str]:
    without = [run.name for run in study.runs if all(name != run.name for name, _ in study.curves)]
    blocks = ["## Training curves"]
    if "curves" in figures:
        blocks += figure_block(
            figures, "curves", "Mean over seeds; bands: lowest to highest seed; each point is a mean of logged steps"
        )
        blocks.append("Every curve is thinned to at most 100 points, each the mean of equally many logged batches.")
    if without:
        blocks.append(
            f"{len(without)} of {len(study.runs)} runs have neither TensorBoard events nor rows in curves.csv, so "
            "their curves are left out."
        )
    return blocks if len(blocks) > 1 else []


def time_section(study: Study, figures: Mapping[str, Path]) -> list[str]:
    knn = any(tag == "val/knn_top1" for _, tag in study.curves)
    caption = "The training time of each run, and what it came to"
    if knn:
        caption += "; above it, k-NN top-1 while training went on: mean and range over seeds"
    drawn = figure_block(figures, "time", caption)
    note = ["Within a run, time is taken to pass evenly from step to step."] if knn else []
    return ["## Accuracy against training time", *drawn, *note] if drawn else []


COSTS = {
    "parameters": ("parameters", 1.0, 0),
    "encoder_parameters": ("of the encoder", 1.0, 0),
    "images_per_second": ("images/s", 1.0, 1),
    "system/memory_gb": ("memory of the process, GB", 1.0, 2),
    "system/gpu_memory_gb": ("peak memory of the GPU, GB", 1.0, 2),
    "wall_seconds": ("training, minutes", 1 / 60, 1),
}


def cost_section(study: Study) -> list[str]:
    known = [key for key in COSTS if any(run.number("metrics", key) is not None for run in study.runs)]
    if not known:
        return []
    rows = []
    for cell in study.design.ordered_cells():
        row = [literal(study.design.label(cell))]
        for key in known:
            numbers = [n for run in study.of_cell(cell) if (n := run.number("metrics", key)) is not None]
            _, factor, places = COSTS[key]
            row.append(plain(factor * sum(numbers) / len(numbers), places) if numbers else "–")
        rows.append(row)
    return [
        "## Cost",
        "Means over seeds. An image is a source image, which costs two views. Runs that shared a machine slowed each "
        "other, and their times say so.",
        table(["cell", *[COSTS[key][0] for key in known]], rows),
    ]


def ranking_section(study: Study, figures: Mapping[str, Path]) -> list[str]:
    if all(ranked.correlation.rho is None for ranked in study.rankings):
        return []  # too few runs, or all alike
    primary = study.primary.label
    rows = [
        [
            literal(r.metric.label) + (" (less is better)" if r.metric.smaller_is_better else ""),
            "–" if r.correlation.rho is None else signed(r.correlation.rho, 2),
            str(r.correlation.n),
            "–" if r.correlation.p is None else p_value(r.correlation.p),
            "–" if r.adjusted_p is None else p_value(r.adjusted_p),
            "–" if r.of_cells.rho is None else f"{signed(r.of_cells.rho, 2)} ({r.of_cells.n} cells)",
        ]
        for r in study.rankings
    ]
    text = (
        f"Spearman's rho between each metric and {primary} over runs. It is turned round for metrics of which less is "
        f"better, so +1 always reads: the metric puts the runs in the order that {primary} does. p is by permutation "
        f"of runs (two-sided), adjusted for {len(rows)} metrics after Holm. Runs of one cell resemble each other, so p "
        "is somewhat too small; rho among the means of cells stands beside it."
    )
    sentences = [ranking_sentence(r.metric.label, r.correlation, r.adjusted_p, primary) for r in study.rankings]
    header = ["metric", "rho", "runs", "p", "p (Holm)", "rho of cell means"]
    return [
        f"## Do loss and label-free metrics rank the runs as {primary} does?",
        text,
        bullets([literal(sentence) for sentence in sentences]),
        table(header, rows),
        *figure_block(figures, "ranking", f"Each metric against {primary}, one dot a run"),
    ]


def meaning_section(study: Study) -> list[str]:
    """The protocols that the runs' own files state."""
    stated: dict[str, list[str]] = {}
    for run in study.runs:
        for file, content in {"metrics": run.metrics, **run.evaluations}.items():
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
    differ = any(len(texts) > 1 for texts in stated.values())
    warning = "**The runs were not all measured by the same protocol; their numbers may not compare.**"
    return ["## How the numbers were measured", *([warning] if differ else []), bullets(lines)]


PROVENANCE = {"git_commit": "commit", "device": "device", "precision": "precision", "epochs": "epochs"}


def _stated(study: Study, key: str) -> dict[str, int]:
    """Each value that the runs' metrics state, and in how many of them."""
    values = [str(run.metrics.get(key, "not stated")) for run in study.runs]
    return {value: values.count(value) for value in dict.fromkeys(values)}


def mixed(study: Study) -> list[str]:
    mixed = [PROVENANCE[key] for key in ("git_commit", "device", "precision") if len(_stated(study, key)) > 1]
    mixed += ["package versions"] if len(_stated(study, "versions")) > 1 else []
    if not mixed:
        return []
    return [f"**The runs were not all made alike: they differ in {listed(mixed)}** (see Provenance)."]


def leaks(study: Study) -> list[str]:
    known = {
        run.name: max(run.number(file, "val_images_in_train") or 0 for file in ("metrics", *run.evaluations))
        for run in study.runs
    }
    leaking = [count for count in known.values() if count > 0]
    if not leaking:
        return []
    return [
        f"LEAK: validation images are training images too, {max(leaking):,.0f} at most, in {len(leaking)} of "
        f"{len(known)} runs; they flatter accuracies."
    ]


def provenance_section(study: Study, command: str) -> list[str]:
    rows = []
    for key, name in PROVENANCE.items():
        values = _stated(study, key)
        text = "; ".join(
            literal(value) + (f" ({n} {'run' if n == 1 else 'runs'})" if len(values) > 1 else "")
            for value, n in values.items()
        )
        rows.append([name, text])
    sets = [run.metrics.get("versions") for run in study.runs]
    packages = dict.fromkeys(package for versions in sets if isinstance(versions, dict) for package in versions)
    for package in packages:
        found = dict.fromkeys(str(versions.get(package)) for versions in sets if isinstance(versions, dict))
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
    grid = math.prod(len(factor.levels) for factor in factors) == len(study.design.ordered_cells())
    if not grid or any(" + " in factor.name or factor.name.endswith("_target_") for factor in factors):
        return None
    overrides = [f"{factor.name}={','.join(factor.levels)}" for factor in factors]
    overrides.append(f"seed={','.join(map(str, study.seeds))}")
    return f"python train.py -m {shlex.join(overrides)}"
