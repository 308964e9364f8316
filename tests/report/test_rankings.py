"""Whether metrics rank runs as their accuracy does, and how surely."""

import math

import numpy as np
import pytest
from scipy import stats

from simclr.commands.report import command
from simclr.report.rankings import pool, rank_correlation, rank_interval
from simclr.runs.compose import compose_config
from simclr.runs.identity import as_dict
from tests.report.sweeps import study, write_run


def test_rank_correlation_against_scipy():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 6)).round(1)
    y += x
    rho, p = rank_correlation(x.tolist(), y.tolist())
    exact = stats.permutation_test(
        (x,), lambda a: stats.spearmanr(a, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert p == pytest.approx(exact.pvalue)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("n", [8, 30])
def test_intervals_hold_the_true_rho_nineteen_times_in_twenty(correlation, n):
    """Of normal variables, whose Spearman's rho is known: 6/π · asin(r/2)."""
    random = np.random.default_rng(4)
    truth, draws, held = 6 / math.pi * math.asin(correlation / 2), 1000, 0
    for pair in random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], size=(draws, n)):
        low, high = rank_interval(float(stats.spearmanr(pair).statistic), n)
        held += low <= truth <= high
    assert held / draws == pytest.approx(0.95, abs=0.03)


def test_intervals_at_the_ends():
    assert all(map(math.isnan, (*rank_interval(None, 9), *rank_interval(0.5, 3))))
    low, high = rank_interval(1.0, 8)
    assert 0 < low < 1 == high
    assert rank_interval(-1.0, 8) == (-high, -low)


def test_groups_are_pooled_by_what_they_know():
    rho, low, high, groups = pool([(0.5, 10), (0.5, 10), (None, 9), (0.9, 3)])
    assert (rho, groups) == (pytest.approx(0.5), 2)
    alone = rank_interval(0.5, 10)
    assert alone[0] < low < 0.5 < high < alone[1]
    assert pool([(0.2, 40), (0.8, 5)])[0] == pytest.approx(0.2, abs=0.1)
    assert pool([])[3] == 0


def test_a_metric_that_ranks_within_methods_may_mislead_across_them(tmp_path):
    """As where one method's features have a higher rank whatever they are worth."""
    for method, rank, top1 in (("simclr", 10, 50), ("byol", 60, 30)):
        config = as_dict(compose_config(f"method={method}", "data=shapes"))
        for seed in range(6):
            write_run(tmp_path / f"{method}-{seed}", config, seed, top1 + seed, {"features/rankme": rank + seed})
    row = study(tmp_path).rankings.set_index("metric").loc["features/rankme"]
    assert row["rho_within"] > 0.9
    assert row["within_low"] > 0
    assert row["methods"] == 2
    assert row["rho"] < 0
    assert row["rho_high"] < 0.2
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "within a method (95 % interval)" in report
