"""Effects and rankings: planted ones come back, and nothing is claimed that the runs do not show."""

import csv
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from simclr.commands.report import command
from simclr.report.effects import Effect, all_effects, holm, t_interval
from simclr.report.factors import Cell, Factor
from simclr.report.outcomes import LINEAR
from simclr.report.wording import effect_sentence
from tests.report.sweeps import accuracies, study, write_run, write_study

AUGMENTATION = Factor("augmentation", ("baseline", "modified"), True)
HEAD = Factor("head", ("baseline", "slim"), True)


def effects_of(values: Mapping[Cell, Mapping[int, float]], factors: list[Factor]) -> list[Effect]:
    """values: cell -> seed -> linear top-1."""
    known = {(*cell, seed): value for cell, of_cell in values.items() for seed, value in of_cell.items()}
    return all_effects(LINEAR, pd.Series(known).rename_axis([*(factor.name for factor in factors), "seed"]), factors)


def test_a_planted_effect_and_interaction_are_found(tmp_path, cells):
    """With seeds that differ by far more than the effects: only pairing shows them. Numbers are scipy's."""
    write_study(tmp_path, cells, range(5), {"augmentation": 2.0, "head": 0.0, "both": -1.5})
    found = study(tmp_path)
    assert [(f.name, f.levels) for f in found.design.factors] == [
        ("augmentation", ("baseline", "modified")),
        ("head", ("baseline", "slim")),
    ]
    top1 = accuracies(tmp_path)
    a, b, c, d = (
        np.array([top1[f"simclr-{cell}-seed{seed}"] for seed in range(5)])
        for cell in ("baseline-baseline", "baseline-slim", "modified-baseline", "modified-slim")
    )
    sides = [((c + d) / 2, (a + b) / 2), ((b + d) / 2, (a + c) / 2), (d - c, b - a)]
    planted = [2.0 - 0.75, -0.75, -1.5]
    for effect, (one, other), truth in zip(found.primary_effects, sides, planted, strict=True):
        oracle = stats.ttest_rel(one, other)
        expected = oracle.confidence_interval(0.95)
        estimate = effect.estimate
        assert estimate.mean == pytest.approx((one - other).mean())
        assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
        assert estimate.p == pytest.approx(oracle.pvalue)
        assert estimate.low < truth < estimate.high
        assert estimate.high - estimate.low < 1  # the seeds' own spread of 5 points is not in it
    assert not effect.is_main


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 300 sweeps of 4 seeds, in which runs of one seed share their luck."""
    random = np.random.default_rng(0)
    inside = np.zeros(3)
    for _ in range(300):
        luck = random.normal(0, 3, 4)
        values = {
            (a, h): {s: luck[s] + 0.5 * (a == "modified") + random.normal(0, 0.4) for s in range(4)}
            for a in AUGMENTATION.levels
            for h in HEAD.levels
        }
        for i, (effect, truth) in enumerate(
            zip(effects_of(values, [AUGMENTATION, HEAD]), (0.5, 0.0, 0.0), strict=True)
        ):
            inside[i] += effect.estimate.low <= truth <= effect.estimate.high
    # 95 % give or take four standard errors of a share among 300
    assert (np.abs(inside / 300 - 0.95) < 4 * (0.95 * 0.05 / 300) ** 0.5).all(), inside / 300


def test_adjusting_for_the_number_of_effects_bounds_false_findings():
    """Where nothing differs, one of three effects looks real in a sweep of seven; adjusted, in one of twenty."""
    random = np.random.default_rng(2)
    alone = adjusted = 0
    for _ in range(1000):
        p = [t_interval(random.normal(size=5).tolist()).p for _ in range(3)]
        alone += min(p) < 0.05
        adjusted += min(holm(p)) < 0.05
    assert alone > 110
    assert adjusted < 75
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # Holm 1979, by hand


def test_no_effect_is_claimed_where_there_is_none(tmp_path, cells):
    write_study(tmp_path, cells, range(5), {"augmentation": 0, "head": 0, "both": 0}, noise=0.5)
    assert command([str(tmp_path)]) == 0
    summary = (tmp_path / "report" / "report.md").read_text().split("## The cells")[0]
    assert summary.count("so no effect is claimed") == 3
    assert "increase" not in summary
    assert "decrease" not in summary
    with (tmp_path / "report" / "effects.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == "primary"]
    low, high = float(rows[0]["low"]), float(rows[0]["high"])
    sentence = next(
        line for line in summary.splitlines() if line.startswith("- augmentation modified against baseline")
    )
    shown = [float(n.replace("−", "-")) for n in re.findall(r"([+−]?\d+\.\d+) points", sentence)]
    assert shown[1:] == pytest.approx([low, high], abs=0.005)  # what is excluded lies beyond the interval


def test_the_words_follow_the_interval():
    """One sweep of a clear effect, one whose interval alone would mislead, one of a single seed."""

    def sentence(differences: list[float], adjusted: float | None, tested: int) -> str:
        values: dict[Cell, dict[int, float]] = {
            ("baseline",): dict.fromkeys(range(9), 0.0),
            ("modified",): dict(enumerate(differences)),
        }
        (effect,) = effects_of(values, [AUGMENTATION])
        return effect_sentence(replace(effect, holm_p=effect.p if adjusted is None else adjusted), tested)

    clear = sentence([1.0, 1.1, 1.2], None, 1)
    assert clear.startswith(
        "augmentation modified against baseline changes linear top-1 by +1.10 points (95 % interval"
    )
    assert "3 seeds): the interval excludes 0: an increase." in clear
    weak = sentence([0.1, 0.6, 0.4, 0.3], 0.08, 3)
    assert "among 3 effects tested it does not stand out (Holm-adjusted p = 0.08), so no effect is claimed" in weak
    assert "nothing can be concluded from one seed" in sentence([3.0], None, 1)
    assert "all equal" in sentence([0.5, 0.5], None, 1)


def test_one_seed_concludes_nothing(tmp_path, cells):
    write_study(tmp_path, cells, range(1), {"augmentation": 9, "head": 9, "both": 9})
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "**With one seed nothing can be concluded**" in report
    assert report.count(": nothing can be concluded from one seed") == 3
    assert all(effect.p is None for effect in study(tmp_path).primary_effects)


def test_missing_cells_and_unfinished_runs_are_left_out_and_said(tmp_path, cells):
    write_study(tmp_path, cells, range(4), {"augmentation": 1, "head": 0, "both": 0})
    (tmp_path / "simclr-modified-slim-seed3" / "metrics.json").unlink()
    found = study(tmp_path)
    assert found.sweep.unfinished == ["simclr-modified-slim-seed3"]
    for effect in found.primary_effects:
        assert sorted(effect.differences) == [0, 1, 2]
        assert effect.left_out == {3: (("modified", "slim"),)}
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Left out, not finished: simclr-modified-slim-seed3." in report
    assert "seed 3 lacks modified · slim" in report


def test_only_the_seed_varies(tmp_path, cells):
    for seed, top1 in enumerate((40.0, 41.0, 43.0)):
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, top1)
    assert command([str(tmp_path)]) == 0
    expected = stats.t.interval(0.95, 2, 124 / 3, stats.sem([40.0, 41.0, 43.0]))
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"41.33 ± {(expected[1] - expected[0]) / 2:.2f}" in report
    assert "differ in the seed alone" in report
    assert "## Effects" not in report


def test_label_free_metrics_rank_the_runs(tmp_path, cells):
    """A metric in the runs' order, one in the opposite order of which less is better, and one that is alike in all."""
    for seed in range(8):
        metrics = {"features/rankme": 10.0 + seed**2, "features/alignment": 9.0 - seed, "embeddings/std": 1.0}
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed, metrics)
    rankings = study(tmp_path).rankings.set_index("metric")
    for key in ("features/rankme", "features/alignment"):
        assert rankings.loc[key, "rho"] == pytest.approx(1)
        assert rankings.loc[key, "holm_p"] < 0.01
    assert np.isnan(rankings.loc["embeddings/std", "rho"])
