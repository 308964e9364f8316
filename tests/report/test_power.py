"""What a design can see: against simulated sweeps and textbooks."""

import numpy as np
import pytest
from scipy import stats

from simclr.report.effects import t_interval
from simclr.report.power import power, seeds_for, smallest_effect, spread_of
from tests.report.sweeps import study, write_study


@pytest.mark.parametrize(("effect", "spread", "n"), [(1.0, 0.8, 3), (1.0, 0.8, 5), (0.4, 1.0, 20), (0.0, 1.0, 4)])
def test_the_chance_to_find_an_effect_is_that_of_simulated_sweeps(effect, spread, n):
    differences = np.random.default_rng(0).normal(effect, spread, (20_000, n))
    found = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
    assert power(effect, spread, n) == pytest.approx(found, abs=4 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize(("effect", "n"), [(0.3, 3), (1.0, 5), (0.5, 40)])
def test_it_is_the_non_central_t_where_scipy_can_tell(effect, n):
    bound, shift = stats.t.ppf(0.975, n - 1), effect * np.sqrt(n)
    theirs = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
    assert power(effect, 1.0, n) == pytest.approx(theirs, abs=1e-4)


def test_the_sample_sizes_are_those_of_the_textbooks():
    """Cohen (1988), and G*Power's for a two-sided paired t test at 5 %, power 80 %: d = 0.2, 0.5, 0.8."""
    assert [seeds_for(d, 1.0) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert seeds_for(1e-4, 1.0) is None


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_smallest_effect_is_found_as_often_as_it_says(n):
    found = smallest_effect(0.7, n)
    assert power(found, 0.7, n) == pytest.approx(0.8, abs=1e-6)
    assert seeds_for(found * 1.001, 0.7) == n


def test_the_spread_is_that_of_the_differences():
    values = np.random.default_rng(0).normal(1, 2, 7)
    assert spread_of(t_interval(values)) == pytest.approx(values.std(ddof=1))
    assert spread_of(t_interval([1.0])) is None


def test_the_report_says_what_its_design_could_have_seen(tmp_path, cells):
    from simclr.report.sections import write_report

    write_study(tmp_path, cells, range(5), {"augmentation": 0.0, "head": 0.0, "both": 0.0}, noise=0.5)
    found = study(tmp_path)
    text = write_report(found, {}, "python -m simclr.report")
    (row,) = (line for line in text.splitlines() if line.startswith("| augmentation:") and "points" in line)
    differences = np.array(list(found.primary_effects[0].differences.values()))
    spread = differences.std(ddof=1)
    assert f"| {spread:.2f} | {smallest_effect(spread, 5):.2f} points | {seeds_for(1.0, spread)} |" in row
