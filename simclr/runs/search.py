"""A search: Optuna proposes a sweep's values in place of a grid, and learns from what the runs came to.

Hydra's own plugin asks for the Optuna of 2021; this is the part of it that a search needs, over today's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from simclr.checks import is_whole

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

# Hydra takes a sweeper from no other package than hydra_plugins, whose classes it finds by name.
NAME = "hydra_plugins.simclr.OptunaSweeper"
RESULTS = "optimization_results.yaml"


class OptunaSweeper(Sweeper):
    """Asks Optuna for values, has them run, and tells it the numbers, until all trials are run.

    sampler: one of Optuna's, seeded. direction: "maximize" or "minimize" what a job returns. n_trials: how many in all;
    n_jobs: how many are proposed, and given to the launcher, at once. params: sweeps by key, before those of the
    command line: choice(...), range(...), interval(low, high), tag(log, interval(low, high)).

    The study lives in memory. Draws are seeded, so a command that is repeated proposes the same values, and the runs
    that have finished answer at once.
    """

    def __init__(
        self,
        sampler: optuna.samplers.BaseSampler,
        direction: Literal["maximize", "minimize"],
        n_trials: int,
        n_jobs: int,
        params: Mapping[str, Any],
    ) -> None:
        self.sampler, self.direction = sampler, direction
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader: ConfigLoader | None = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        import optuna

        assert self.config is not None
        assert self.launcher is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, fixed = search_space(
            [*(f"{key}={value}" for key, value in self.params.items()), *arguments], self.loader
        )
        study = optuna.create_study(sampler=self.sampler, direction=self.direction)
        for first in range(0, self.n_trials, self.n_jobs):
            trials = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - first))]
            proposed = [[*fixed, *(f"{key}={trial.params[key]}" for key in space)] for trial in trials]
            results = self.launcher.launch(proposed, initial_job_idx=first)
            for trial, result in zip(trials, results, strict=True):
                value = number(result)
                if value is None:
                    log.warning("Trial %d has no number to go by; the search goes on.", trial.number)
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, value)
        if not study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
            log.warning("No trial has a number to go by, so there is no best one.")
            return
        best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
        OmegaConf.save(OmegaConf.create(best), Path(self.config.hydra.sweep.dir) / RESULTS)
        log.info("Best of %d trials: %s with %s", len(study.trials), study.best_value, study.best_params)


def search_space(
    arguments: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched over, by key, and the overrides of every trial. Of two for one key the later one counts."""
    by_key = {one.get_key_element(): one for one in OverridesParser.create(loader).parse_overrides(list(arguments))}
    space = {key: distribution(one) for key, one in by_key.items() if one.is_sweep_override()}
    return space, [str(one.input_line) for one in by_key.values() if not one.is_sweep_override()]


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution of a sweep in Hydra's words: numbers in order where they have one, else choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        is_log = "log" in sweep.tags
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=is_log)
        return FloatDistribution(sweep.start, sweep.end, log=is_log)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        step = abs(sweep.step)
        if all(isinstance(value, int) for value in values):
            return IntDistribution(int(min(values)), int(max(values)), step=int(step))
        return FloatDistribution(float(min(values)), round(float(max(values)), 12), step=float(step))
    choices: list[Any] = list(override.sweep_iterator(Transformer.encode))
    return CategoricalDistribution(choices)


def number(result: JobReturn) -> float | None:
    """What a job came to; None where it failed, or came to no finite number."""
    try:
        value = float(result.return_value)
    except Exception:  # whatever the job ended with; the sweep's account tells of it
        return None
    return value if math.isfinite(value) else None


def unusable(config: DictConfig) -> str | None:
    """What of a search's settings cannot be, with the remedy; None if nothing, or if no search was asked for."""
    sweeper = config.hydra.sweeper
    if sweeper._target_ != NAME:
        return None
    if sweeper.direction not in ("maximize", "minimize"):
        return f"hydra.sweeper.direction={sweeper.direction} is not known; choose maximize or minimize"
    for key in ("n_trials", "n_jobs"):
        if not is_whole(sweeper[key]) or sweeper[key] < 1:
            return f"hydra.sweeper.{key}={sweeper[key]} is not usable; write a whole number from 1"
    return None


def register() -> None:
    """Let Hydra find this sweeper by its name in configs/hydra/sweeper/optuna.yaml."""
    Plugins.instance().class_name_to_class[NAME] = OptunaSweeper
