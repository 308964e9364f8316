"""Pre-train an encoder without labels. `python train.py --help` shows commands, choices and keys."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from simclr.cli import as_dict, build, clear_errors, quiet_libraries, run_command, run_identity
from simclr.errors import InputError

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float | None:
    """Run or resume one pre-training; returns the final k-NN accuracy (per cent), which sweepers may maximise."""
    # Imported here, not above: showing a configuration must not wait for torch.
    import pytorch_lightning as pl

    from simclr.callbacks.last_checkpoint import LastCheckpoint
    from simclr.callbacks.run_metrics import RunMetrics
    from simclr.checkpoint import export_backbone, last_checkpoint, load_checkpoint, resume_point
    from simclr.data.datamodule import TwoViews
    from simclr.precision import LIGHTNING_PRECISION, choose_accelerator, choose_precision

    quiet_libraries()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    log.info("Run directory: %s", run_dir)
    for key, least in (("epochs", 1), ("seed", 0)):
        if config[key] < least:
            raise InputError(f"{key}={config[key]} is not usable; use {least} or more")
    claim(run_dir, config)
    finished = run_dir / "metrics.json"
    if config.resume == "auto" and finished.exists():
        log.info("This run has finished already; resume=never trains it anew.")
        return json.loads(finished.read_text()).get("val/knn_top1")

    precision, notice = choose_precision(str(config.precision), choose_accelerator(config.trainer.accelerator))
    if notice is not None:
        log.warning(notice)
    resume = resume_point(run_dir, str(config.resume))
    step = 0 if resume is None else load_checkpoint(resume)["global_step"]
    if resume is not None:
        log.info("Going on from %s, step %d.", resume, step)

    data = TwoViews(
        source=build(config.data),
        recipe=build(config.augmentation),
        batch_size=config.batch_size,
        seed=config.seed,
        limit_images=config.limit_images,
    )
    data.setup()
    steps = data.steps_per_epoch
    pl.seed_everything(config.seed, verbose=False)
    backbone = build(config.backbone)  # before the head, so that one seed gives every head the same backbone
    method = build(
        config.method,
        backbone=backbone,
        head=build(config.head, in_features=backbone.num_features),
        optimizer=build(config.optimizer),
        scheduler=build(config.scheduler, total_steps=config.epochs * steps, steps_per_epoch=steps),
    )
    # What the run directory promises to hold does not depend on the choice of callbacks.
    contract = [
        RunMetrics(run_dir, precision, config.batch_size),
        LastCheckpoint(last_checkpoint(run_dir), config.checkpoint_minutes, as_dict(config)),
    ]
    trainer: pl.Trainer = build(
        config.trainer,
        precision=LIGHTNING_PRECISION[precision],
        logger=build(config.logger, save_dir=run_dir, purge_step=step),
        callbacks=[*contract, *(build(callback) for callback in config.callbacks.values() if callback is not None)],
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(1, steps // 10)),
        default_root_dir=run_dir,
    )
    if trainer.world_size > 1:
        raise InputError(f"trainer.devices={config.trainer.devices} is not usable: training runs in one process; use 1")
    trainer.fit(method, data, ckpt_path=resume, weights_only=True)
    export_backbone(method.backbone, run_dir / "backbone.safetensors")
    log.info("Done. Judge it with: python linear_eval.py run=%s", run_dir)
    return json.loads(finished.read_text()).get("val/knn_top1")


def claim(run_dir: Path, config: DictConfig) -> None:
    """Make `run_dir` this configuration's own: refuse one that belongs to another, clear it for resume=never."""
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
    if config.resume == "never":
        results = [run_dir / name for name in ("metrics.json", "checkpoints", "features")]
        for leftover in (*results, *run_dir.glob("events.out.tfevents.*"), *run_dir.glob("linear_eval*.json")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    OmegaConf.save(config, stored, resolve=True)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float | None:
    with clear_errors():
        return train(config)


if __name__ == "__main__":
    run_command(main, "train")
