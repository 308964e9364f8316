"""Judge what a run has learned. `python linear_eval.py --help` shows commands and keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from simclr.cli import build, clear_errors, quiet_libraries, run_command
from simclr.errors import InputError

if TYPE_CHECKING:
    from simclr.checkpoint import Loaded
    from simclr.models.backbone import Encoder

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> float | None:
    """Linear and k-NN accuracy of one checkpoint's frozen encoder; returns the linear top-1 (per cent)."""
    # Imported here, not above: showing a configuration must not wait for torch.
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from simclr import distributed
    from simclr.evaluation import knn, linear
    from simclr.evaluation.features import extract_with_cache
    from simclr.precision import choose_accelerator
    from simclr.results import provenance, write_json

    quiet_libraries()
    (path, checkpoint), run_dir = locate(config.run, config.ckpt)
    linear.check_grid(config.l2_grid)
    knn.check_settings(**config.knn)
    device = torch.device(choose_accelerator("auto"))
    encoder = rebuild_encoder(checkpoint, trained=not config.untrained).to(device)

    train, val = build(config.data if "data" in config else stored(checkpoint, "data")).load()
    if val is None or val.labels is None or train.labels is None:
        raise InputError("linear evaluation needs labelled training and validation pictures; choose others with data=")
    if train.classes != val.classes:
        raise InputError("training and validation pictures have other classes, so no classifier fits both; see data=")
    if config.limit_images is not None:
        train = train.first_of_shuffle(config.limit_images)
    cache, classes = run_dir / "features", len(train.classes)
    bank = extract_with_cache(encoder, train, device, cache, "Features of training pictures")
    queries = extract_with_cache(encoder, val, device, cache, "Features of validation pictures")
    if distributed.rank() > 0:
        return None  # the features were the heavy part; the first process does the rest
    bank_labels, query_labels = (torch.from_numpy(store.labels).to(device) for store in (train, val))

    probe = linear.linear_evaluation(bank, bank_labels, queries, query_labels, classes, config.l2_grid)
    correct = knn.knn_predict(bank, bank_labels, queries, classes, **config.knn) == query_labels
    knn_top1 = 100 * correct.float().mean().item()

    who = f"{run_dir}, untrained encoder" if config.untrained else f"{run_dir}, step {checkpoint['global_step']}"
    log.info("%s: %s training and %s validation pictures", who, f"{len(train):,}", f"{len(val):,}")
    log.info("linear top-1 %.2f %% (95 %% interval %.2f to %.2f)", probe.top1, probe.top1_low, probe.top1_high)
    log.info("linear top-5 %.2f %%, L2 strength %g", probe.top5, probe.l2)
    log.info("k-NN   top-1 %.2f %%", knn_top1)

    result: dict[str, Any] = probe._asdict() | {
        "knn_top1": knn_top1,
        "protocol": {
            "linear": linear.protocol(len(train), config.l2_grid),
            "knn": knn.protocol(len(train), **config.knn),
        },
        "train_images": len(train),
        "val_images": len(val),
        "checkpoint": None if config.untrained else str(path),
        **provenance(device),
    }
    write_json(run_dir / ("linear_eval_untrained.json" if config.untrained else "linear_eval.json"), result)
    if not config.untrained:
        with SummaryWriter(str(run_dir)) as events:
            for name in ("top1", "top5", "knn_top1"):
                events.add_scalar(f"linear_eval/{name}", result[name], checkpoint["global_step"])
    return probe.top1


def locate(run: str | None, ckpt: str | None) -> tuple[Loaded, Path]:
    """The checkpoint to judge and the directory that the results go to."""
    from simclr.checkpoint import Loaded, last_checkpoint, load_checkpoint, newest_checkpoint

    if (run is None) == (ckpt is None):
        raise InputError("give either run=RUN_DIR or ckpt=PATH")
    if run is not None:
        newest = newest_checkpoint(Path(run))
        if newest is None:
            raise InputError(f"there is no checkpoint {last_checkpoint(Path(run))}; give the directory of a run")
        return newest, Path(run)
    path = Path(str(ckpt))
    return Loaded(path, load_checkpoint(path)), path.parent.parent if path.parent.name == "checkpoints" else path.parent


def rebuild_encoder(checkpoint: dict[str, Any], trained: bool) -> Encoder:
    """The encoder that a checkpoint's own configuration describes: with its weights, or as its run's seed made it."""
    import pytorch_lightning as pl

    from simclr.checkpoint import backbone_weights

    pl.seed_everything(checkpoint["config"]["seed"], verbose=False)
    encoder: Encoder = build(stored(checkpoint, "backbone"))
    if trained:
        try:
            encoder.load_state_dict(backbone_weights(checkpoint))
        except RuntimeError as error:
            raise InputError(f"the checkpoint's weights do not fit its own configuration ({error})") from error
    return encoder


def stored(checkpoint: dict[str, Any], key: str) -> DictConfig:
    """One part of a checkpoint's configuration, which may name parts of this project and run nothing else."""
    part, room = checkpoint["config"].get(key), {"backbone": "simclr.models.", "data": "simclr.data."}[key]
    target = part.get("_target_") if isinstance(part, dict) else part
    plain = isinstance(part, dict) and not any(isinstance(value, dict | list) for value in part.values())
    try:
        ours = plain and str(target).startswith(room) and get_object(str(target)).__module__.startswith(room)
    except (ImportError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(
            f"the checkpoint's {key} is {target}, which is not a part of this project, or holds another one"
        )
    return OmegaConf.create(part)


@hydra.main(version_base="1.3", config_path="configs", config_name="linear_eval")
def main(config: DictConfig) -> float | None:
    with clear_errors("use a smaller limit_images"):
        from simclr import distributed

        with distributed.joined():
            return evaluate(config)
    return None


if __name__ == "__main__":
    run_command(main, "linear_eval")
