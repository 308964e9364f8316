"""Judge what a run has learned. `python linear_eval.py --help` shows commands and keys."""

from __future__ import annotations

import logging
from typing import Any

import hydra
from omegaconf import DictConfig

from simclr.cli import build, clear_errors, quiet_libraries, run_command
from simclr.errors import InputError

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
    from simclr.rebuild import locate, rebuild_encoder, stored
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


@hydra.main(version_base="1.3", config_path="configs", config_name="linear_eval")
def main(config: DictConfig) -> float | None:
    with clear_errors("use a smaller limit_images"):
        from simclr import distributed

        with distributed.joined():
            return evaluate(config)
    return None


if __name__ == "__main__":
    run_command(main, "linear_eval")
