"""The report as Markdown: its summary, cells and effects, followed by the sections of `background`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from simclr.report.background import (
    cost_section,
    curves_section,
    leaks,
    meaning_section,
    mixed,
    on_the_way_section,
    provenance_section,
    ranking_section,
    time_section,
)
from simclr.report.markdown import bullets, figure_block, level, literal, table
from simclr.report.outcomes import LINEAR, Outcome, having
from simclr.report.study import Study, Tested
from simclr.report.wording import (
    effect_sentence,
    interval,
    is_claimed,
    listed,
    named,
    p_value,
    places_of,
    plain,
    seeds,
    signed,
)


def write_report(study: Study, figures: Mapping[str, Path], command: str) -> str:
    """The whole report. figures: name -> path, as `figures.draw_all` gives them. command: what repeats it."""
    sections: list[Callable[[], list[str]]] = [
        lambda: _summary(study),
        lambda: _cells(study, figures),
        lambda: _primary(study, figures),
        lambda: _secondary(study),
        lambda: on_the_way_section(study, figures),
        lambda: curves_section(study, figures),
        lambda: time_section(study, figures),
        lambda: cost_section(study),
        lambda: ranking_section(study, figures),
        lambda: meaning_section(study),
        lambda: provenance_section(study, command),
    ]
    return "\n\n".join(block for section in sections for block in section()) + "\n"


def _summary(study: Study) -> list[str]:
    design = study.design
    varied = [f"{literal(f.name)} ({listed([literal(level) for level in f.levels])})" for f in design.factors]
    what = f"vary {listed(varied)}, and the seed" if varied else "differ in the seed alone"
    cells = len(design.ordered_cells())
    counted = f"{len(study.runs)} finished {'run' if len(study.runs) == 1 else 'runs'}"
    facts = [f"The runs {what}: {counted}, {cells} {'cell' if cells == 1 else 'cells'}, {seeds(len(study.seeds))}."]
    if len(study.runs) == 1:
        facts = ["There is one finished run."]
    if study.unfinished:
        facts.append(f"Left out, not finished: {listed([literal(name) for name in study.unfinished])}.")
    if study.left_out:
        facts.append(f"Left out, not comparable: {listed([literal(result) for result in study.left_out])}.")
    if study.repeated:
        facts.append(f"Left out, a cell and seed met before: {listed([literal(name) for name in study.repeated])}.")
    if design.derived:
        facts.append(f"Follows from the others, so no factor: {listed([literal(name) for name in design.derived])}.")
    if study.primary != LINEAR:
        facts.append(f"No run has a linear_eval.json, so {study.primary.label} stands in as the primary outcome.")
    facts += leaks(study) + mixed(study)
    blocks = [f"# What the runs in {literal(study.folder.resolve().name)} show", bullets(facts)]
    if design.factors:
        blocks += ["**In short**", bullets(_sentences(study.primary_effects))]
    if len(study.seeds) == 1:
        blocks.append(
            "**With one seed nothing can be concluded**: how much runs differ by chance alone is not known. Repeat the "
            "sweep with three seeds or more."
        )
    return blocks


def _sentences(tested: Sequence[Tested]) -> list[str]:
    estimated = [t for t in tested if t.effect.estimate is not None]
    sentences = _sentences_of(estimated, sum(t.adjusted_p is not None for t in tested))
    beyond = [literal(named(t.effect)) for t in tested if t.effect.estimate is None]
    if beyond:
        sentences.append(f"Not estimated, as no seed has every cell needed: {'; '.join(beyond)}.")
    return sentences


def _cells(study: Study, figures: Mapping[str, Path]) -> list[str]:
    untrained = Outcome("linear_eval_untrained", "top1", "linear top-1, untrained", "points")
    shown = [*study.outcomes, *([untrained] if having(study.runs, untrained) else [])]
    rows = []
    for cell in study.design.ordered_cells():
        estimates = [study.cell_mean(cell, outcome) for outcome in shown]
        rows.append([literal(study.design.label(cell)), str(len(study.of_cell(cell))), *map(level, estimates)])
    blocks = [
        "## The cells",
        "Mean over seeds ± half its 95 % interval (Student t), where there are two seeds or more. Accuracies are "
        "per cent. Cells that share a seed share the initial backbone and the order of the images, so their "
        "differences are known better than these intervals suggest: compare cells by the effects below.",
        table(["cell", "runs", *[literal(outcome.label) for outcome in shown]], rows),
    ]
    if len(study.seeds) == 1 and study.primary.file == "linear_eval":
        blocks.append(_over_images(study))
    if study.partial:
        names = [f"{literal(o.label)} ({len(having(study.runs, o))} of {len(study.runs)} runs)" for o in study.partial]
        blocks.append(f"Not compared, because some runs lack it: {listed(names)}.")
    if study.differently:
        names = [f"{literal(tag)} ({listed([literal(k) for k in keys])})" for tag, keys in study.differently.items()]
        blocks.append(f"Not compared, because the runs measured them by other settings: {listed(names)}.")
    lacking = [run.name for run in study.runs if study.primary.of(run) is None]
    if lacking:
        blocks.append(f"Without {study.primary.label}: {listed([literal(name) for name in lacking])}.")
    caption = f"{study.primary.label}: one dot a run, bars: means of cells, grey lines: runs of one seed"
    return [*blocks, *figure_block(figures, "cells", caption)]


def _over_images(study: Study) -> str:
    """What one run's own interval is an interval of."""
    known = [
        f"{literal(run.name)} {plain(low, 2)} to {plain(high, 2)}"
        for run in study.runs
        if (low := run.number("linear_eval", "top1_low")) is not None
        and (high := run.number("linear_eval", "top1_high")) is not None
    ]
    if not known:
        return "No run has an interval of its own."
    return f"95 % intervals over validation images, which say nothing of other seeds: {'; '.join(known)}."


def _primary(study: Study, figures: Mapping[str, Path]) -> list[str]:
    if not study.primary_effects:
        return []
    tested = sum(t.adjusted_p is not None for t in study.primary_effects)
    text = (
        f"The primary outcome is {study.primary.label}. An effect is taken within each seed: the level's value less "
        "the reference's, averaged over the levels of the other factors; an interaction is the difference of two such "
        "differences. Its interval is Student's t over seeds. "
    )
    if tested:
        text += (
            f"{tested} {'effect is' if tested == 1 else 'effects are'} tested here, and an effect is claimed only "
            "where its 95 % interval excludes 0 and its p-value, adjusted for that number (Holm), is below 0.05."
        )
    else:
        text += "There are too few seeds to test any."
    if len(study.design.factors) > 2:
        text += " Interactions of three factors are not looked at."
    blocks = [f"## Effects on {study.primary.label}", text, _effect_table(study.primary_effects)]
    blocks += figure_block(
        figures,
        "effects",
        "Effects with 95 % intervals; hollow dots: single seeds; orange: claimed, blue: not",
    )
    left_out = [
        f"{literal(named(t.effect))}: seed {seed} lacks {listed([literal(study.design.label(c)) for c in cells])}"
        for t in study.primary_effects
        for seed, cells in t.effect.left_out.items()
    ]
    if left_out:
        blocks += ["Seeds left out, because a cell that the effect needs is missing:", bullets(left_out)]
    names = [name for factor in study.design.factors for name in factor.name.split(" + ")]
    if any(name.startswith("data") for name in (*names, *study.design.derived)):
        blocks.append(
            "Not all runs are judged on the same images: an effect between them is one of what accuracy is measured "
            "on, too."
        )
    else:
        blocks.append(
            "All runs are judged on the same images: the intervals cover what another seed would change, not what "
            "other images would."
        )
    return blocks


def _effect_table(effects: Sequence[Tested], with_outcome: bool = False) -> str:
    rows = []
    for t in effects:
        estimate = t.effect.estimate
        rows.append(
            [
                *([literal(t.outcome.label)] if with_outcome else []),
                literal(named(t.effect)),
                "–" if estimate is None else signed(estimate.mean, places_of(estimate)),
                "–" if estimate is None else interval(estimate),
                "0" if estimate is None else str(estimate.n),
                "–" if t.effect.p is None else p_value(t.effect.p),
                "–" if t.adjusted_p is None else p_value(t.adjusted_p),
                "yes" if is_claimed(t.effect, t.adjusted_p) else "no",
            ]
        )
    words = ["outcome", "effect"] if with_outcome else ["effect"]
    header = [*words, "change", "95 % interval", "seeds", "p", "p (Holm)", "claimed"]
    return table(header, rows, words=len(words))


def _secondary(study: Study) -> list[str]:
    if not study.secondary_effects:
        return []
    tested = sum(t.adjusted_p is not None for t in study.secondary_effects)
    text = (
        f"{tested} effects on the {len(study.outcomes) - 1} outcomes that all runs have are tested, as a family of "
        "their own: p-values are adjusted for their number. "
        "They are secondary: they help to read the primary outcome, and decide nothing. "
        "Changes of accuracies are in points."
    )
    if any(outcome.file == "metrics" and outcome.key.startswith("train/") for outcome in study.outcomes):
        text += (
            " Training loss and contrastive top-1 are those of each run's own task; another augmentation or "
            "temperature is another task, whose loss does not compare."
        )
    claimed = [t for t in study.secondary_effects if is_claimed(t.effect, t.adjusted_p)]
    verdict = bullets(_sentences_of(claimed, tested)) if claimed else "None of them is claimed."
    return ["## Other outcomes", text, verdict, _effect_table(study.secondary_effects, with_outcome=True)]


def _sentences_of(effects: Sequence[Tested], tested: int) -> list[str]:
    return [literal(effect_sentence(t.effect, t.outcome.label, t.outcome.unit, t.adjusted_p, tested)) for t in effects]
