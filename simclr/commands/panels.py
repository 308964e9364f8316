"""What a run says of itself before it trains and after: what it is, what came of it, and what is next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from simclr.augment.augmentation import Augmentation
from simclr.commands.arguments import program, quoted
from simclr.commands.choices import Machine
from simclr.data.checks import leak_words
from simclr.methods.base import Method
from simclr.runs.targets import loggers_of
from simclr.training.datamodule import PretrainingData

# Of ResNet-18 on all of Tiny ImageNet, linear and 5-NN top-1 (Ermolov et al. 2021, table 1).
PUBLISHED = {"simclr": (48.8, 32.9), "byol": (51.0, 36.2)}
EPOCHS_PUBLISHED = 1000


def beginning(
    config: DictConfig, data: PretrainingData, augmentation: Augmentation, method: Method, machine: Machine
) -> list[str]:
    """What is about to be trained, on what, for how long, and where to watch it: a line each."""
    sizes = sorted(augmentation.sizes)
    pixels = f"{sizes[0]} pixels" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} pixels"
    views = len(augmentation.views)
    seen = f"{len(data.pretrain):,} images, {views} {'view' if views == 1 else 'views'} of {pixels}"
    parts = ", ".join(
        f"{name} {sum(p.numel() for p in part.parameters()):,}"
        for name, part in method.parts().items()
        if any(p.requires_grad for p in part.parameters())
    )
    steps, rate = data.steps_per_epoch, config.optimizer.get("lr")
    epochs = f"{config.epochs} {'epoch' if config.epochs == 1 else 'epochs'} of {steps:,} steps"
    where = f"{machine.threads} threads, " if machine.accelerator == "cpu" and machine.threads > 1 else ""
    lines = {
        "learns": f"{type(method).__name__} of {seen}",
        "parts": f"{parts} parameters",
        "steps": f"{epochs}, {config.batch_size} images each; {_name(config.optimizer)} at {rate}",
        "device": f"{machine.accelerator}, {where}precision {machine.precision}",
    }
    if any(str(logger._target_).endswith("TensorBoardLogger") for logger in loggers_of(config)):
        lines["watch"] = f"tensorboard --logdir {Path(str(config.output_root))}, at localhost:6006/#custom_scalars"
    return [f"{name:<7} {text}" for name, text in lines.items()]


def end(
    config: DictConfig, run_dir: Path, metrics: Mapping[str, Any], data: PretrainingData, method: Method
) -> list[str]:
    """What came of it beside the untrained encoder, what is known of longer runs, and the commands that come next."""
    lines = []
    knn, before = metrics.get("val/knn_top1"), metrics.get("val/knn_top1_untrained")
    if knn is not None and before is not None:
        better = "above" if knn > before else "below"
        leaked = metrics.get("val_images_in_train")
        leak = f"; {leak_words(leaked, len(data.val))}" if leaked and data.val is not None else ""
        lines.append(f"k-NN top-1 {knn:.2f} %, {abs(knn - before):.2f} points {better} the untrained encoder's{leak}")
    known = PUBLISHED.get(_name(config.method).lower())
    resnet18 = str(config.backbone.get("_target_")).endswith("resnet18_encoder")
    if known and resnet18 and str(config.data.get("_target_")).endswith("TinyImageNet"):
        lines.append(
            f"For scale: after {EPOCHS_PUBLISHED:,} epochs of Tiny ImageNet {known[1]} % by 5-NN and {known[0]} % by a "
            "linear classifier are published."
        )
    run = quoted("run", str(run_dir))
    judge_it = f"{program('linear_eval.py')} {run}"
    if "text" in method.parts() and data.val is not None and "captions" in data.val.columns:
        lines.append(f"Done. Judge it with: {judge_it} protocol=retrieval")
    elif data.val is None or data.val.labels is None:
        lines.append(f"Done. These images have no labels to judge it by: {judge_it} data=...")
    else:
        lines.append(f"Done. Judge it with: {judge_it}")
    return [
        *lines,
        f"Look at it with: python -m simclr.visualize {run}",
        f"Take it with: python -m simclr.export {run}",
    ]


def _name(part: DictConfig) -> str:
    return str(part.get("_target_")).rpartition(".")[2]
