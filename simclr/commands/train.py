"""Pre-train an encoder without labels. `python train.py --help` shows commands, choices and keys."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from simclr.checks import MAX_SEED, is_finite
from simclr.commands.app import clear_errors, run_command
from simclr.errors import InputError
from simclr.runs import sweep
from simclr.runs.build import check_number
from simclr.runs.configs import CONFIGS
from simclr.runs.directory import claimed
from simclr.runs.identity import as_dict, with_absolute_paths
from simclr.system.shell import settle, started_by_torchrun
from simclr.system.signals import Stop
from simclr.training.trainer_settings import check_trainer_settings

LESS_MEMORY = "use a smaller batch_size"
MEASURED = "val/knn_top1"  # what a search goes by, unless it is told otherwise
IN_PARTS = "or keep it and set method.micro_batch=64"  # where the method can

log = logging.getLogger(__name__)


def evaluate(run_dir: Path, protocols: list[str], accelerator: str) -> None:
    """Evaluate a finished run by each of the protocols, as linear_eval.py does; what has been judged is left alone."""
    from simclr.commands.judge import judge, protocol_config
    from simclr.system import distributed

    for protocol in protocols:
        found = run_dir / f"{protocol}_eval.json"
        # One that was made by hand of fewer images is made again of all.
        if not distributed.from_first(
            found.exists() and json.loads(found.read_text(encoding="utf-8"))["limit_images"] is None
        ):
            config = protocol_config(protocol)
            config.run, config.accelerator = str(run_dir), accelerator
            judge(config)


def outcome(run_dir: Path, metric: str) -> float | None:
    """The number of a finished run that a search goes by.

    metric: a tag of metrics.json, as "val/knn_top1", or a file of the evaluation's and its key, as
    "linear_eval/held_out_top1". None where it was not measured, or features were not finite: a search counts that trial
    as failed and goes on.
    """
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    file, _, key = metric.partition("/")
    judged = run_dir / f"{file}.json"
    value = metrics.get(metric)
    if metric not in metrics and file.endswith("_eval") and judged.is_file():
        value = json.loads(judged.read_text(encoding="utf-8")).get(key)
    if value is None and metric != MEASURED:
        log.warning("%s has no %s to go by; what there is: %s.", run_dir.name, metric, ", ".join(_numbers(metrics)))
    return value if is_finite(value) else None


def _numbers(metrics: dict[str, Any]) -> list[str]:
    return [tag for tag, value in metrics.items() if "/" in tag and is_finite(value)]


def check_protocols(protocols: object) -> None:
    """Raise InputError unless `evaluate` lists protocols that need nothing but a run."""
    known = ("linear", "knn", "localize", "segment", "few_shot", "cluster", "robust", "zero_shot", "retrieval")
    if not isinstance(protocols, ListConfig) or not set(protocols) <= set(known):
        raise InputError(f"evaluate={protocols} is not usable; it lists protocols, of {', '.join(known)}")


def check_temperature(config: DictConfig) -> None:
    """Raise InputError where one run is asked for a temperature that its method does not have."""
    asked = [override for override in HydraConfig.get().overrides.task if override.split("=")[0] == "temperature"]
    if asked and "temperature" not in config.method and HydraConfig.get().mode != RunMode.MULTIRUN:
        method = HydraConfig.get().runtime.choices["method"]
        raise InputError(f"{asked[0]} is not usable: method={method} has no temperature; leave it out")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def command(config: DictConfig) -> float | None:
    less_memory = f"{LESS_MEMORY}, {IN_PARTS}" if "micro_batch" in (config.get("method") or {}) else LESS_MEMORY
    with clear_errors(less_memory), Stop(config.requeue_exit_code) as stop:
        passed_over = settle()
        check_number(config, "epochs", 1)
        check_number(config, "batch_size", 2)
        check_number(config, "seed", 0, MAX_SEED)
        if config.threads != "auto":
            check_number(config, "threads", 1, 4096)
        check_number(config, "requeue_exit_code", 3, 255)  # 1 is an error's, 2 says that the run is in use
        check_number(config, "trainer.log_every_n_steps", 1)
        check_trainer_settings(as_dict(config.trainer), config.epochs)
        check_protocols(config.evaluate)
        check_temperature(config)
        if not isinstance(config.optimized_metric, str):
            raise InputError(f"optimized_metric={config.optimized_metric} is not usable; it is a tag of metrics.json")
        with_absolute_paths(config)
        if config.limit_images is not None:
            check_number(config, "limit_images", 1)
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        if str(run_dir) in sweep.theirs:
            config.resume = "auto"  # whatever it was: it has been followed elsewhere

        # Imported here, not above: showing a configuration must not wait for torch.
        from simclr.commands import launch
        from simclr.system import distributed

        processes = launch.processes_here(**config.trainer)
        if processes > 1 and not started_by_torchrun():
            with claimed(run_dir, config):
                pass  # the processes claim it, and need seconds to find out that it is in use
            if str(run_dir) not in sweep.theirs:
                launch.launch(__spec__.name if __spec__ else __name__, run_dir, processes, stop)
            return outcome(run_dir, config.optimized_metric)
        with distributed.joined(), claimed(run_dir, config) if distributed.rank() == 0 else nullcontext():
            if passed_over:
                log.info(passed_over)  # not before the directory is known to be the run's, to whose log it goes
            from simclr.commands.pretrain import pretrain

            pretrain(config, stop)
            stop.action = stop.leave
            if stop.received and config.evaluate:  # it came in the last step, with nothing left to save
                stop.leave()
            evaluate(run_dir, config.evaluate, config.trainer.accelerator)
            return outcome(run_dir, config.optimized_metric) if distributed.rank() == 0 else None
    return None


def main() -> None:
    run_command(command, "train")


if __name__ == "__main__":  # one of several processes: see launch.py
    main()
