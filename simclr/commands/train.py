"""Pre-train an encoder without labels. `python train.py --help` shows commands, choices and keys."""

from __future__ import annotations

import json
import logging
import shlex
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from simclr.checks import MAX_SEED
from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.commands.arguments import quoted
from simclr.errors import InputError
from simclr.runs import sweep
from simclr.runs.compose import CONFIGS, build, check_number
from simclr.runs.directory import claimed
from simclr.runs.identity import as_dict, with_absolute_paths
from simclr.runs.naming import shorter_run
from simclr.system.shell import settle, started_by_torchrun
from simclr.system.signals import Stop
from simclr.training.trainer_settings import check_trainer_settings

if TYPE_CHECKING:
    from simclr.runs.images import Images

LESS_MEMORY = "use a smaller batch_size, or keep it and set method.micro_batch=64"

log = logging.getLogger(__name__)


def train(config: DictConfig, stop: Stop) -> float | None:
    """Run or resume one pre-training; returns the final k-NN accuracy (per cent), which sweepers may maximise.

    None where it was not measured, or features were not finite: a search counts that trial as failed and goes on.
    stop: where it is asked to go, which training answers with a checkpoint.
    """
    # Imported here, not above: showing a configuration must not wait for torch.
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ProgressBar

    from simclr.augment import batched
    from simclr.commands.choices import chosen_callbacks, chosen_logger, chosen_machine
    from simclr.commands.launch import placement
    from simclr.data.checks import warn_of_doubts
    from simclr.models.backbone import compile_in_place
    from simclr.models.batch_norm import synchronise_batch_norm
    from simclr.runs.assemble import assemble
    from simclr.runs.checkpoint import HISTORY, export_backbone
    from simclr.runs.directory import clear, forget_judgements, keep_config
    from simclr.runs.events import sorted_last
    from simclr.runs.images import Images, check_finished, remember_images
    from simclr.runs.results import write_json
    from simclr.system import distributed
    from simclr.system.precision import LIGHTNING_PRECISION, check_precision, choose_accelerator
    from simclr.system.threads import CoreMeter, default_threads
    from simclr.training.asked_for import AskedFor
    from simclr.training.busy_cores import BusyCores
    from simclr.training.datamodule import PretrainingData
    from simclr.training.health import Health
    from simclr.training.last_checkpoint import LastCheckpoint, StopRequest, WriteHere
    from simclr.training.not_finite import NotFinite
    from simclr.training.progress import alarms
    from simclr.training.run_metrics import RunMetrics
    from simclr.training.step_seed import StepSeed
    from simclr.training.verdict import doubts

    quiet_libraries()
    default_threads()  # before one is set, by this run or, in a sweep, by one before it
    meter = CoreMeter()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    log.info("Run directory: %s", run_dir)
    finished = run_dir / "metrics.json"
    if distributed.from_first(config.resume == "auto" and finished.exists()):
        if distributed.rank() == 0:
            check_finished(run_dir, as_dict(config))
        log.info("This run has finished already; resume=never trains it anew.")
        sweep.found_finished.add(str(run_dir))
        return last_accuracy(run_dir)

    processes = distributed.world_size()
    accelerator = choose_accelerator(config.trainer.accelerator)
    check_precision(str(config.precision))
    own = chosen_callbacks(config)  # what cannot be is refused before the images are read
    source, augmentation, method = assemble(config)
    data = PretrainingData(
        source,
        augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        limit_images=config.limit_images,
        reads=method.reads,
        augment=partial(batched.augment, fused=config.compile),
    )
    data.setup()
    left_over = len(data.pretrain) % config.batch_size
    if 10 * left_over > len(data.pretrain):
        log.warning(
            "batch_size=%d leaves %d of %d images out of every epoch; another size may waste fewer.",
            config.batch_size,
            left_over,
            len(data.pretrain),
        )
    warn_of_doubts(data.train, data.val)
    for name in config.evaluate:  # an evaluation that cannot be is refused before the training, not after it
        build(protocol_config(name).protocol).check(data.train, data.val)
    if processes > 1:
        each = config.batch_size // processes
        log.info("%d processes: each works on %d images of a batch of %d.", processes, each, config.batch_size)
    steps = data.steps_per_epoch
    if config.compile:
        compile_in_place(method.parts()["backbone"], accelerator)
    if processes > 1:
        synchronise_batch_norm(method, accelerator)
    first = distributed.rank() == 0
    images = Images.of(data.pretrain, data.val)
    resume, step, before, history = distributed.from_first(
        starting_point(run_dir, config, images, config.epochs * steps) if first else None
    )
    machine = chosen_machine(config, accelerator, before, meter)

    # What the run directory promises to hold does not depend on the choice of callbacks.
    measure = RunMetrics(run_dir, machine.precision, config.batch_size)
    keep = LastCheckpoint(
        run_dir,
        config.checkpoint_minutes,
        config.keep_every_n_epochs,
        as_dict(config),
        stop,
        machine._asdict(),
        history,
    )
    logger = chosen_logger(config, run_dir, step)
    trainer: pl.Trainer = build(
        config.trainer,
        precision=LIGHTNING_PRECISION[machine.precision],
        **placement(config.trainer.devices, plugins=[WriteHere()]),
        logger=logger,
        callbacks=[
            StopRequest(stop),
            StepSeed(config.seed),
            measure,
            NotFinite(config.on_nan),
            Health(),
            BusyCores(config.batch_size),
            keep,
            AskedFor(),
            *own,
        ],
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in own),  # else Lightning adds its own
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(1, steps // 10)),
        default_root_dir=run_dir,
    )
    if first:
        if config.resume == "never":
            clear(run_dir)
        finished.unlink(missing_ok=True)
        remember_images(run_dir, images)
        keep_config(run_dir, config)
        with sorted_last(run_dir):
            _ = logger and logger.experiment  # opens its file
    try:
        trainer.fit(method, data, ckpt_path=resume, weights_only=True)
    except FloatingPointError as error:
        raise InputError(f"{error}; {keep.advice()}") from error
    if not first:
        return None

    if trainer.current_epoch < config.epochs:
        log.info("Ended after %d of %d epochs, as a callback asked to.", trainer.current_epoch, config.epochs)
    export_backbone(method.parts()["backbone"], run_dir / "backbone.safetensors")
    metrics = measure.summary(trainer) | ({HISTORY: history} if history else {})
    forget_judgements(run_dir)
    write_json(finished, metrics)  # last of all: a run that has it is finished
    reasons = doubts(method, metrics, alarms(trainer))
    if reasons:
        log.warning("This run seems to have learned nothing: %s. Try a smaller optimizer.lr.", "; ".join(reasons))
    judge_it = f"python linear_eval.py {quoted('run', str(run_dir))}"
    if data.val is None or data.val.labels is None:
        log.info("Done. These images have no labels to judge it by: %s data=...", judge_it)
    else:
        log.info("Done. Judge it with: %s", judge_it)
    return last_accuracy(run_dir)


def starting_point(
    run_dir: Path, config: DictConfig, images: Images, total_steps: int
) -> tuple[Path | None, int, dict[str, Any] | None, list[dict[str, Any]]]:
    """The checkpoint to go on from, None for none, its step, how it was computed, and the run's history with this one.

    How: as choices.Machine, empty where the checkpoint does not tell, None for a new run.

    images: those that are there to train on.
    """
    from simclr.runs.checkpoint import HISTORY, check_fits, last_checkpoint, resume_point
    from simclr.runs.images import check_same_images

    if config.resume != "never":
        check_same_images(run_dir, images, config.data.get("root"))
    found = resume_point(run_dir, str(config.resume))
    if found is None:
        shorter = shorter_run(run_dir, as_dict(config)) if config.resume == "auto" else None
        if shorter is not None:
            arguments = shlex.join([*HydraConfig.get().overrides.task, f"resume={shorter}"])
            log.info("A run that differs in epochs alone has finished. To go on from it: python train.py %s", arguments)
        return None, 0, None, []
    changed = check_fits(found, as_dict(config), images.train, total_steps)
    step, history = found.content["global_step"], found.content.get(HISTORY, [])
    log.info("Going on from %s, step %d.", found.path, step)
    for key, (then, now) in changed.items():
        log.info("From here on %s=%s, where it was %s.", key, now, then)
    if changed or found.path.resolve().parent != last_checkpoint(run_dir).resolve().parent:
        told = {key: list(values) for key, values in changed.items()}
        history = [*history, {"checkpoint": str(found.path.resolve()), "step": step, "changed": told}]
    return found.path, step, found.content.get("machine", {}), history


def evaluate(run_dir: Path, protocols: list[str]) -> None:
    """Evaluate a finished run by each of the protocols, as linear_eval.py does; what has been judged is left alone."""
    from simclr.commands.judge import judge
    from simclr.system import distributed

    for protocol in protocols:
        found = run_dir / f"{protocol}_eval.json"
        # One that was made by hand of fewer images is made again of all.
        if not distributed.from_first(
            found.exists() and json.loads(found.read_text(encoding="utf-8"))["limit_images"] is None
        ):
            config = protocol_config(protocol)
            config.run = str(run_dir)
            judge(config)


def protocol_config(protocol: str) -> DictConfig:
    """linear_eval.py's configuration with this choice of protocol."""
    return compose("linear_eval", [f"protocol={protocol}"])


def last_accuracy(run_dir: Path) -> float | None:
    """The k-NN accuracy in a finished run's metrics.json (per cent)."""
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8")).get("val/knn_top1")


def check_protocols(protocols: object) -> None:
    """Raise InputError unless `evaluate` lists protocols that need nothing but a run."""
    known = ("linear", "knn", "localize")
    if not isinstance(protocols, ListConfig) or not set(protocols) <= set(known):
        raise InputError(f"evaluate={protocols} is not usable; it lists protocols, of {', '.join(known)}")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def command(config: DictConfig) -> float | None:
    with clear_errors(LESS_MEMORY), Stop(config.requeue_exit_code) as stop:
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
        with_absolute_paths(config)
        if config.limit_images is not None:
            check_number(config, "limit_images", 1)
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        if str(run_dir) in sweep.theirs:
            config.resume = "auto"  # whatever it was: it has been followed elsewhere

        from simclr.commands import launch
        from simclr.system import distributed

        processes = launch.processes_here(**config.trainer)
        if processes > 1 and not started_by_torchrun():
            with claimed(run_dir, config):
                pass  # the processes claim it, and need seconds to find out that it is in use
            if str(run_dir) not in sweep.theirs:
                launch.launch(__spec__.name if __spec__ else __name__, run_dir, processes, stop)
            return last_accuracy(run_dir)
        with distributed.joined(), claimed(run_dir, config) if distributed.rank() == 0 else nullcontext():
            if passed_over:
                log.info(passed_over)  # not before the directory is known to be the run's, to whose log it goes
            accuracy = train(config, stop)
            stop.action = stop.leave
            if stop.received and config.evaluate:  # it came in the last step, with nothing left to save
                stop.leave()
            evaluate(run_dir, config.evaluate)
            return accuracy
    return None


def main() -> None:
    run_command(command, "train")


if __name__ == "__main__":  # one of several processes: see launch.py
    main()
