"""A search by Optuna, its trials played by a function of known optimum."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from simclr.runs.search import RESULTS, OptunaSweeper, search_space  # noqa: E402


class Trials:
    """A launcher that computes `outcome` of the numbers in a job's overrides."""

    def __init__(self, outcome: Callable[[dict[str, str]], float]) -> None:
        self.outcome = outcome
        self.asked: list[list[str]] = []
        self.first: list[int] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.first.append(initial_job_idx)
        return [self.one(list(overrides)) for overrides in job_overrides]

    def one(self, overrides: list[str]) -> JobReturn:
        self.asked.append(overrides)
        result = JobReturn()
        try:
            result.return_value, result.status = (
                self.outcome(dict(o.split("=", 1) for o in overrides)),
                JobStatus.COMPLETED,
            )
        except ValueError as error:
            result.return_value, result.status = error, JobStatus.FAILED
        return result


def search(folder: Path, outcome: Callable[[dict[str, str]], float], *arguments: str, **settings: object) -> Trials:
    given: dict[str, Any] = {
        "direction": "minimize",
        "n_trials": 25,
        "n_jobs": 1,
        "params": {"x": "interval(-10.0, 10.0)"},
    } | settings
    sweeper = OptunaSweeper(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8), **given)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.loader = None
    sweeper.launcher = trials = Trials(outcome)  # type: ignore[assignment]
    sweeper.sweep(list(arguments))
    return trials


def parabola(values: dict[str, str]) -> float:
    return (float(values["x"]) - 2) ** 2


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("lr=interval(1e-4, 1e-2)", FloatDistribution(1e-4, 1e-2)),
        ("lr=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("epochs=int(interval(1, 9))", IntDistribution(1, 9)),
        (
            "epochs=range(1, 10, 2)",
            IntDistribution(1, 9, step=2),
        ),  # a grid's range leaves its end out, and so does this
        ("tau=range(0.1, 0.5, 0.2)", FloatDistribution(0.1, 0.3, step=0.2)),
        ("seed=1,2,3", CategoricalDistribution([1, 2, 3])),
        ("head=slim,baseline,null", CategoricalDistribution(["slim", "baseline", "null"])),
    ],
)
def test_sweeps_are_written_as_for_a_grid(written, wanted):
    space, fixed = search_space([written, "epochs=3", "+new.key='a b'"] if "epochs" not in written else [written])
    assert space == {written.partition("=")[0]: wanted}
    assert fixed == ([] if "epochs" in written else ["epochs=3", "+new.key='a b'"])


def test_what_the_command_line_says_counts(tmp_path):
    assert search_space(["x=interval(0.0, 1.0)", "x=3"]) == ({}, ["x=3"])
    trials = search(tmp_path, parabola, "x=choice(1.5,7)", "seed=4", n_trials=6)
    assert {tuple(overrides) for overrides in trials.asked} <= {("seed=4", "x=1.5"), ("seed=4", "x=7")}
    assert OmegaConf.load(tmp_path / RESULTS) == {"name": "optuna", "best_params": {"x": 1.5}, "best_value": 0.25}


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_search_comes_near_the_optimum_and_is_the_same_when_repeated(tmp_path, at_once):
    (tmp_path / "again").mkdir()
    found = search(tmp_path, parabola, n_jobs=at_once)
    assert len(found.asked) == 25
    assert found.first == list(range(0, 25, at_once))
    best = OmegaConf.load(tmp_path / RESULTS)
    assert best.best_params.x == pytest.approx(2, abs=1)
    assert best.best_value == min(parabola(dict(o.split("=") for o in overrides)) for overrides in found.asked)
    assert search(tmp_path / "again", parabola, n_jobs=at_once).asked == found.asked


def test_it_maximises_too(tmp_path):
    search(tmp_path, lambda values: -parabola(values), direction="maximize")
    assert OmegaConf.load(tmp_path / RESULTS).best_params.x == pytest.approx(2, abs=1)


def test_trials_that_fail_are_passed_over(tmp_path, caplog):
    """By an exception, with no number, with one that is not finite."""

    def outcome(values):
        x = float(values["x"])
        if x < -5:
            raise ValueError("diverged")
        return None if x < 0 else float("nan") if x > 8 else parabola(values)

    trials = search(tmp_path, outcome)
    assert len(trials.asked) == 25
    assert OmegaConf.load(tmp_path / RESULTS).best_params.x == pytest.approx(2, abs=1)
    assert "has no number to go by; the search goes on" in caplog.text


def test_a_search_without_any_number_says_so(tmp_path, caplog):
    search(tmp_path, lambda values: None, n_trials=2)
    assert "there is no best one" in caplog.text
    assert not (tmp_path / RESULTS).exists()


@pytest.mark.parametrize("setting", ["direction=up", "n_trials=0", "n_trials=many", "n_jobs=0.5"])
def test_settings_that_cannot_be_are_refused_in_a_line(run, setting):
    done = run("train.py", "data=shapes", "hparams_search=optuna", f"hydra.sweeper.{setting}", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: hydra.sweeper.{setting} is not ")
    assert "Traceback" not in done.stderr
