"""One pre-training from beginning to end: what it reads, what it is, where it starts, what is left when it is done."""

from __future__ import annotations

import logging
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar

from simclr.augment import batched
from simclr.commands.app import quiet_libraries
from simclr.commands.arguments import program
from simclr.commands.choices import chosen_callbacks, chosen_loggers, chosen_machine, settings
from simclr.commands.judge import protocol_config
from simclr.commands.launch import placement
from simclr.commands.panels import beginning, end
from simclr.data.checks import warn_of_doubts
from simclr.errors import InputError
from simclr.evaluation.protocol import Protocol
from simclr.models.backbone import compile_in_place
from simclr.models.batch_norm import synchronise_batch_norm
from simclr.runs import sweep
from simclr.runs.assemble import assemble
from simclr.runs.build import build
from simclr.runs.checkpoint import HISTORY, check_fits, export_backbone, last_checkpoint, resume_point
from simclr.runs.directory import clear, forget_judgements, keep_config
from simclr.runs.events import sorted_last
from simclr.runs.identity import as_dict
from simclr.runs.images import Images, check_finished, check_same_images, remember_images
from simclr.runs.naming import shorter_run
from simclr.runs.results import write_json
from simclr.system import distributed
from simclr.system.precision import LIGHTNING_PRECISION, check_precision, choose_accelerator
from simclr.system.signals import Stop
from simclr.system.threads import CoreMeter, default_threads
from simclr.training.asked_for import AskedFor
from simclr.training.busy_cores import BusyCores
from simclr.training.curves import Curves
from simclr.training.datamodule import PretrainingData
from simclr.training.health import Health
from simclr.training.last_checkpoint import LastCheckpoint, StopRequest, WriteHere
from simclr.training.not_finite import NotFinite
from simclr.training.progress import alarms
from simclr.training.run_metrics import RunMetrics
from simclr.training.step_seed import StepSeed
from simclr.training.tensorboard import tell_settings
from simclr.training.verdict import doubts

log = logging.getLogger(__name__)


def pretrain(config: DictConfig, stop: Stop) -> None:
    """Run or resume one pre-training. stop: where it is asked to go, which training answers with a checkpoint."""
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
        return

    processes = distributed.world_size()
    accelerator = choose_accelerator(str(config.trainer.accelerator), "trainer.accelerator")
    check_precision(str(config.precision))
    own = chosen_callbacks(config)  # what cannot be is refused before the images are read
    source, augmentation, method = assemble(config)
    data = PretrainingData(
        source,
        augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        limit_images=config.limit_images,
        images_per_epoch=config.images_per_epoch,
        reads=method.reads,
        wants={column for callback in own for column in getattr(callback, "wants", ())},
        augment=partial(batched.augment, fused=config.compile),
        plan=batched.plan,
    )
    data.setup()
    pl.seed_everything(config.seed, verbose=False)
    method.prepare(data.pretrain.columns)
    left_over = len(data.pretrain) % config.batch_size
    if 10 * left_over > len(data.pretrain):
        log.warning(
            "batch_size=%d leaves %d of %d images out of every epoch; another size may waste fewer.",
            config.batch_size,
            left_over,
            len(data.pretrain),
        )
    warn_of_doubts(data.train, data.val, data.pretrain)
    for name in config.evaluate:  # an evaluation that cannot be is refused before the training, not after it
        protocol: Protocol = build(protocol_config(name).protocol)
        protocol.check(data.train, data.val)
        if lacking := sorted(protocol.parts - method.parts().keys()):
            raise InputError(
                f"evaluate={name} compares images with sentences, and this method has no {lacking[0]} part"
            )
    if processes > 1:
        each = config.batch_size // processes
        log.info("%d processes: each works on %d images of a batch of %d.", processes, each, config.batch_size)
    steps = data.steps_per_epoch
    if config.compile:
        compile_in_place(method.parts()["backbone"], accelerator)
    if accelerator == "cuda":  # as the maps do; else cuDNN lays every kernel out anew in every step
        method.to(memory_format=torch.channels_last)
    if processes > 1:
        synchronise_batch_norm(method)
    first = distributed.rank() == 0
    images = Images.of(data.pretrain, data.val)
    resume, step, before, history = distributed.from_first(
        starting_point(run_dir, config, images, config.epochs * steps) if first else None
    )
    machine = chosen_machine(config, accelerator, before, meter)

    # What the run directory promises to hold does not depend on the choice of callbacks.
    changed = bool(history and history[-1]["step"] == step and history[-1]["changed"])
    measure = RunMetrics(run_dir, machine.precision, config.batch_size, changed)
    keep = LastCheckpoint(
        run_dir,
        config.checkpoint_minutes,
        config.keep_every_n_epochs,
        as_dict(config),
        stop,
        machine._asdict(),
        history,
    )
    loggers = chosen_loggers(config, run_dir, step)
    trainer: pl.Trainer = build(
        config.trainer,
        precision=LIGHTNING_PRECISION[machine.precision],
        **placement(config.trainer.devices, plugins=[WriteHere()]),
        logger=loggers or False,
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
            Curves(),
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
            for logger in loggers:
                _ = logger.experiment  # opens its file
        for logger in loggers:
            tell_settings(logger, run_dir.name, settings(config), as_dict(config))
        for line in beginning(config, data, augmentation, method, machine):
            log.info(line)
    try:
        trainer.fit(method, data, ckpt_path=resume, weights_only=True)
    except FloatingPointError as error:
        raise InputError(f"{error}; {keep.advice()}") from error
    if not first:
        return

    if trainer.current_epoch < config.epochs:
        log.info("Ended after %d of %d epochs, as a callback asked to.", trainer.current_epoch, config.epochs)
    export_backbone(method.parts()["backbone"], run_dir / "backbone.safetensors")
    metrics = measure.summary(trainer) | ({HISTORY: history} if history else {})
    forget_judgements(run_dir)
    write_json(finished, metrics)  # last of all: a run that has it is finished
    reasons = doubts(method, metrics, alarms(trainer))
    if reasons:
        log.warning(
            "This run seems to have learned nothing: %s. Try a smaller optimizer.lr, or more epochs.",
            "; ".join(reasons),
        )
    for line in end(config, run_dir, metrics, data, method):
        log.info(line)


def starting_point(
    run_dir: Path, config: DictConfig, images: Images, total_steps: int
) -> tuple[Path | None, int, dict[str, Any] | None, list[dict[str, Any]]]:
    """The checkpoint to go on from, None for none, its step, how it was computed, and the run's history with this one.

    How: as choices.Machine, empty where the checkpoint does not tell, None for a new run. images: those that are there
    to train on.
    """
    if config.resume != "never":
        check_same_images(run_dir, images, config.data.get("root"))
    found = resume_point(run_dir, str(config.resume))
    if found is None:
        shorter = shorter_run(run_dir, as_dict(config)) if config.resume == "auto" else None
        if shorter is not None:
            arguments = shlex.join([*HydraConfig.get().overrides.task, f"resume={shorter}"])
            log.info("A run that differs in epochs alone has finished. To go on: %s %s", program("train.py"), arguments)
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
