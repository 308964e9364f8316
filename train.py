"""Pre-train an encoder without labels. `python train.py --help` shows commands, choices and keys."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from simclr.cli import as_dict, build, check_numbers, clear_errors, quiet_libraries, run_command, run_identity
from simclr.errors import InputError

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float | None:
    """Run or resume one pre-training; returns the final k-NN accuracy (per cent), which sweepers may maximise."""
    # Imported here, not above: showing a configuration must not wait for torch.
    import pytorch_lightning as pl

    from simclr.augment import batched
    from simclr.callbacks.last_checkpoint import LastCheckpoint
    from simclr.callbacks.run_metrics import RunMetrics
    from simclr.checkpoint import check_fits, export_backbone, last_checkpoint, load_checkpoint, resume_point
    from simclr.data.datamodule import TwoViews
    from simclr.models.backbone import compile_in_place
    from simclr.precision import LIGHTNING_PRECISION, choose_accelerator, choose_precision
    from simclr.results import write_json

    quiet_libraries()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    log.info("Run directory: %s", run_dir)
    finished = run_dir / "metrics.json"
    if config.resume == "auto" and finished.exists():
        log.info("This run has finished already; resume=never trains it anew.")
        return json.loads(finished.read_text()).get("val/knn_top1")

    accelerator = choose_accelerator(config.trainer.accelerator)
    precision, notice = choose_precision(str(config.precision), accelerator)
    if notice is not None:
        log.warning(notice)
    data = TwoViews(
        source=build(config.data),
        recipe=build(config.augmentation),
        batch_size=config.batch_size,
        seed=config.seed,
        limit_images=config.limit_images,
        augment=partial(batched.augment, fused=config.compile),
    )
    data.setup()
    steps = data.steps_per_epoch
    pl.seed_everything(config.seed, verbose=False)
    backbone = build(config.backbone)  # before the head, so that one seed gives every head the same backbone
    if config.compile:
        compile_in_place(backbone, accelerator)
    method = build(
        config.method,
        backbone=backbone,
        head=build(config.head, in_features=backbone.num_features),
        optimizer=build(config.optimizer),
        scheduler=build(config.scheduler, total_steps=config.epochs * steps, steps_per_epoch=steps),
    )
    resume = resume_point(run_dir, str(config.resume))
    step = 0
    if resume is not None:
        checkpoint = load_checkpoint(resume)
        check_fits(checkpoint, resume, as_dict(config), total_steps=config.epochs * steps)
        step = checkpoint["global_step"]
        log.info("Going on from %s, step %d.", resume, step)

    # What the run directory promises to hold does not depend on the choice of callbacks.
    measure = RunMetrics(run_dir, precision, config.batch_size)
    keep = LastCheckpoint(last_checkpoint(run_dir), config.checkpoint_minutes, as_dict(config))
    trainer: pl.Trainer = build(
        config.trainer,
        precision=LIGHTNING_PRECISION[precision],
        logger=build(config.logger, save_dir=run_dir, purge_step=step),
        callbacks=[measure, keep, *(build(one) for one in config.callbacks.values() if one is not None)],
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(1, steps // 10)),
        default_root_dir=run_dir,
    )
    if trainer.world_size > 1:
        raise InputError(f"trainer.devices={config.trainer.devices} is not usable: training runs in one process; use 1")
    if config.resume == "never":
        clear(run_dir)
    finished.unlink(missing_ok=True)
    trainer.fit(method, data, ckpt_path=resume, weights_only=True)

    export_backbone(method.backbone, run_dir / "backbone.safetensors")
    metrics = measure.summary(trainer)
    write_json(finished, metrics)  # last of all: a run that has it is finished
    log.info("Done. Judge it with: python linear_eval.py run=%s", run_dir)
    return metrics.get("val/knn_top1")


@contextmanager
def claimed(run_dir: Path, config: DictConfig) -> Iterator[None]:
    """Hold the run directory for this process and this configuration; refuse one that belongs to another."""
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process is training in {run_dir}; wait for it or stop it") from None
    try:
        stored = run_dir / "config.yaml"
        if stored.exists():
            other = OmegaConf.load(stored)
            assert isinstance(other, DictConfig)
            before = run_identity(other)
            different = [key for key, value in run_identity(config).items() if before.get(key) != value]
            if different:
                raise InputError(
                    f"{run_dir} belongs to a run with another {different[0]}; choose another name or output_root"
                )
        else:
            unfinished = run_dir / "config.yaml.part"
            OmegaConf.save(config, unfinished, resolve=True)
            unfinished.replace(stored)
        yield
    finally:
        lock.release()


def clear(run_dir: Path) -> None:
    """Delete what an earlier training and its evaluation left."""
    names = ("metrics.json", "backbone.safetensors", "hparams.yaml", "linear_eval*.json", "events.out.tfevents.*")
    for leftover in (path for name in names for path in run_dir.glob(name)):
        leftover.unlink()
    for folder in ("checkpoints", "features"):
        shutil.rmtree(run_dir / folder, ignore_errors=True)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float | None:
    with clear_errors():
        optional = {} if config.limit_images is None else {"limit_images": 1}
        check_numbers(config, {"epochs": 1, "batch_size": 2, "seed": 0} | optional)
        with claimed(Path(HydraConfig.get().runtime.output_dir), config):
            return train(config)
    return None


if __name__ == "__main__":
    run_command(main, "train")
