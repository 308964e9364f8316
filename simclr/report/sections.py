"""The report in Markdown: what the runs are, and which effects they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simclr.report import background
from simclr.report.background import Draw
from simclr.report.effects import SIGNIFICANT, Effect
from simclr.report.outcomes import LINEAR
from simclr.report.power import CHANCE, MOST_SEEDS, seeds_for, smallest_effect, spread_of
from simclr.report.study import Study
from simclr.report.wording import (
    bullets,
    counted,
    decimals,
    effect_sentence,
    interval,
    level,
    listed,
    literal,
    literals,
    named,
    p_value,
    places_of,
    plain,
    signed,
    table,
)


def write_report(study: Study, figures: Mapping[str, Path], command: str) -> str:
    """The whole report. figures: name -> path, as `figures.draw_all` gives them. command: what repeats it."""

    def draw(name: str, caption: str) -> list[str]:
        return [f"![{caption}]({figures[name].name})", f"*{caption}*"] if name in figures else []

    findings = [_summary, _cells, _primary, _secondary]
    later = [background.on_the_way, background.curves, background.time, background.cost, background.ranking]
    blocks = [block for section in [*findings, *later, background.meaning] for block in section(study, draw)]
    return "\n\n".join([*blocks, *background.provenance(study, command)]) + "\n"


def _summary(study: Study, draw: Draw) -> list[str]:
    design, sweep = study.design, study.sweep
    varied = [f"{literal(f.name)} ({literals(f.levels)})" for f in design.factors]
    what = f"vary {listed(varied)}, and the seed" if varied else "differ in the seed alone"
    amounts = [(len(sweep.files), "finished run"), (len(study.cells), "cell"), (len(study.seeds), "seed")]
    facts = [f"The runs {what}: {', '.join(counted(n, noun) for n, noun in amounts)}."]
    if len(sweep.files) == 1:
        facts = ["There is one finished run."]
    if sweep.unfinished:
        facts.append(f"Left out, not finished: {literals(sweep.unfinished)}.")
    if sweep.left_out:
        facts.append(f"Left out, not comparable: {literals(sweep.left_out)}.")
    if study.repeated:
        facts.append(f"Left out, a cell and seed met before: {literals(study.repeated)}.")
    if design.derived:
        facts.append(f"Follows from the others, so no factor: {literals(design.derived)}.")
    if study.primary != LINEAR:
        facts.append(f"No run has a linear_eval.json, so {study.primary.label} stands in as the primary outcome.")
    facts += background.warnings(study)
    blocks = [f"# What the runs in {literal(sweep.folder.resolve().name)} show", bullets(facts)]
    if design.factors:
        sentences = _sentences(study.primary_effects, [e for e in study.primary_effects if e.estimate is not None])
        beyond = [literal(named(effect)) for effect in study.primary_effects if effect.estimate is None]
        if beyond:
            sentences.append(f"Not estimated, as no seed has every cell needed: {'; '.join(beyond)}.")
        blocks += ["**In short**", bullets(sentences)]
    if len(study.seeds) == 1:
        blocks.append(
            "**With one seed nothing can be concluded**: how much runs differ by chance alone is not known. Repeat the "
            "sweep with three seeds or more."
        )
    return blocks


def _sentences(family: Sequence[Effect], effects: Sequence[Effect]) -> list[str]:
    return [literal(effect_sentence(effect, _tested(family))) for effect in effects]


def _tested(family: Sequence[Effect]) -> int:
    return sum(effect.holm_p is not None for effect in family)


def _cells(study: Study, draw: Draw) -> list[str]:
    sweep, primary, untrained = study.sweep, study.primary, "linear_eval_untrained/top1"
    shown = {outcome.column: outcome.label for outcome in study.outcomes}
    if untrained in sweep.numbers:
        shown[untrained] = "linear top-1, untrained"
    cells, ranked = list(study.cells), "" if len(study.cells) < 3 or len(study.design.factors) > 1 else " Best first."
    if ranked:
        means = {cell: study.mean(primary.column, cell) for cell in cells}
        cells.sort(key=lambda cell: float("inf") if (mean := means[cell]) is None else -mean.mean)
    rows = [
        [
            literal(study.design.label(cell)),
            str(len(study.cells[cell])),
            *(level(study.mean(column, cell)) for column in shown),
        ]
        for cell in cells
    ]
    blocks = [
        "## The cells",
        "Mean over seeds ± half its 95 % interval (Student t), where there are two seeds or more. Accuracies are "
        "per cent. Cells that share a seed share the initial backbone and the order of the images, so their "
        f"differences are known better than these intervals suggest: compare cells by the effects below.{ranked}",
        table(["cell", "runs", *map(literal, shown.values())], rows),
    ]
    if len(study.seeds) == 1 and primary.file == "linear_eval":
        bounds = sweep.numbers.reindex(columns=["linear_eval/top1_low", "linear_eval/top1_high"]).dropna()
        known = [f"{literal(run)} {plain(low, 2)} to {plain(high, 2)}" for run, low, high in bounds.itertuples()]
        text = f"95 % intervals over validation images, which say nothing of other seeds: {'; '.join(known)}."
        blocks.append(text if known else "No run has an interval of its own.")
    if study.partial:
        names = [
            f"{literal(o.label)} ({sweep.number(o.column).count()} of {len(sweep.files)} runs)" for o in study.partial
        ]
        blocks.append(f"Not compared, because some runs lack it: {listed(names)}.")
    if study.differently:
        names = [f"{literal(tag)} ({literals(keys)})" for tag, keys in study.differently.items()]
        blocks.append(f"Not compared, because the runs measured them by other settings: {listed(names)}.")
    values = sweep.number(primary.column)
    if values.isna().any():
        blocks.append(f"Without {primary.label}: {literals(values.index[values.isna()])}.")
    return [
        *blocks,
        *draw("cells", f"{primary.label}: one dot a run, bars: means of cells, grey lines: runs of one seed"),
    ]


def _primary(study: Study, draw: Draw) -> list[str]:
    effects, design = study.primary_effects, study.design
    if not effects:
        return []
    tested = _tested(effects)
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
    if len(design.factors) > 2:
        text += " Interactions of three factors are not looked at."
    blocks = [f"## Effects on {study.primary.label}", text, _effect_table(effects)]
    blocks += draw("effects", "Effects with 95 % intervals; hollow dots: single seeds; orange: claimed, blue: not")
    blocks += _seen(study)
    left_out = [
        f"{literal(named(effect))}: seed {seed} lacks {literals(map(design.label, cells))}"
        for effect in effects
        for seed, cells in effect.left_out.items()
    ]
    if left_out:
        blocks += ["Seeds left out, because a cell that the effect needs is missing:", bullets(left_out)]
    names = [*design.derived, *(name for factor in design.factors for name in factor.name.split(" + "))]
    blocks.append(
        "Not all runs are judged on the same images: an effect between them is one of what accuracy is measured on, "
        "too."
        if any(name.startswith("data") for name in names)
        else "All runs are judged on the same images: the intervals cover what another seed would change, not what "
        "other images would."
    )
    return blocks


def _seen(study: Study) -> list[str]:
    """What the design could have seen."""
    unit = study.primary.unit
    rows = []
    for effect in study.primary_effects:
        spread = None if effect.estimate is None else spread_of(effect.estimate)
        if effect.estimate is None or spread is None:
            continue
        seen = smallest_effect(spread, effect.estimate.n)
        places = max(2, decimals(seen))
        needed = [seeds_for(size, spread) for size in ((1.0, 0.5) if unit == "points" else (seen / 2,))]
        seeds = [f"over {MOST_SEEDS:,}" if n is None else f"{n:,}" for n in needed]
        rows.append([literal(named(effect)), plain(spread, places), f"{plain(seen, places)} {unit}".strip(), *seeds])
    if not rows:
        return []
    sizes = ["seeds for 1 point", "seeds for 0.5"] if unit == "points" else ["seeds for half of that"]
    return [
        "What this design could have seen: the standard deviation of an effect over seeds; the smallest true effect "
        f"that so many seeds find (p < {SIGNIFICANT} alone) in {100 * CHANCE:.0f} % of such sweeps; and how many seeds "
        "would find others. The spread is an estimate from these seeds, and with few of them a rough one.",
        table(["effect", "standard deviation", "smallest found", *sizes], rows),
    ]


def _secondary(study: Study, draw: Draw) -> list[str]:
    effects = study.secondary_effects
    if not effects:
        return []
    tested = _tested(effects)
    text = (
        f"{tested} effects on the {len(study.outcomes) - 1} outcomes that all runs have are tested, as a family of "
        "their own: p-values are adjusted for their number. "
        "They are secondary: they help to read the primary outcome, and decide nothing. "
        "Changes of accuracies are in points."
    )
    own = [literal(outcome.label) for outcome in study.outcomes if outcome.column.startswith("train/")]
    if own:
        names = listed(own)
        text += (
            f" {names[0].upper()}{names[1:]} are those of each run's own task; another augmentation or temperature is "
            "another task, whose loss does not compare."
        )
    claimed = [effect for effect in effects if effect.claimed]
    verdict = bullets(_sentences(effects, claimed)) if claimed else "None of them is claimed."
    return ["## Other outcomes", text, verdict, _effect_table(effects, with_outcome=True)]


def _effect_table(effects: Sequence[Effect], with_outcome: bool = False) -> str:
    rows = []
    for effect in effects:
        estimate = effect.estimate
        change = ["–", "–", "0"]
        if estimate is not None:
            change = [signed(estimate.mean, places_of(estimate)), interval(estimate), str(estimate.n)]
        tests = [p_value(effect.p), p_value(effect.holm_p), "yes" if effect.claimed else "no"]
        words = [literal(effect.outcome.label)] if with_outcome else []
        rows.append([*words, literal(named(effect)), *change, *tests])
    heads = ["outcome", "effect"] if with_outcome else ["effect"]
    return table([*heads, "change", "95 % interval", "seeds", "p", "p (Holm)", "claimed"], rows, words=len(heads))
