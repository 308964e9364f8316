"""What `python -m simclr.doctor` looks at: the machine, the images, and a few seconds of the run itself."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from simclr.augment.augmentation import Augmentation
from simclr.augment.recipe import Recipe
from simclr.commands.app import quiet_libraries
from simclr.data.checks import in_both
from simclr.data.files.download import NotHere, no_downloads
from simclr.errors import InputError
from simclr.methods.base import Method
from simclr.models.whitening import BatchWhitening
from simclr.runs.assemble import assemble
from simclr.system.precision import (
    LIGHTNING_PRECISION,
    check_precision,
    choose_accelerator,
    choose_precision,
    cpu_instructions,
)
from simclr.system.threads import CoreMeter, choose_threads, cores, default_threads
from simclr.training.datamodule import PretrainingData
from simclr.training.time_left import spoken

FEW = 64  # images a step, below which a contrastive loss has little to tell apart
WARM = 2  # steps of a probe that do not count
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs", "afs", "ceph", "glusterfs")
# Where a run writes a lock and renames files; on some network disks neither is what it is elsewhere.


@dataclass(frozen=True)
class Finding:
    """state: "ok", "warning" or "error". text: a sentence; of an error with its remedy. numbers: for programs."""

    name: str
    state: str
    text: str
    numbers: dict[str, Any] | None = None


def examine(config: DictConfig, seconds: float) -> Iterator[Finding]:
    """What is found, one after the other; after an error that leaves nothing to try, no more."""
    quiet_libraries()
    meter = CoreMeter()
    yield Finding("software", "ok", f"Python {platform.python_version()}, torch {version('torch')}")
    try:
        accelerator = choose_accelerator(str(config.trainer.accelerator), "trainer.accelerator")
        check_precision(str(config.precision))
        precision, notice = choose_precision(str(config.precision), accelerator)
        default_threads()
        yield _device(accelerator, precision, notice)
        yield _cores(config, accelerator, meter)
        with no_downloads():
            source, augmentation, method = assemble(config)
            data = _data(config, source, augmentation, method)
    except NotHere:
        text = f"not at data.root={config.data.root}: a run would download them; say where they are, or let it"
        yield Finding("images", "warning", text)
        return
    except InputError as error:
        yield Finding("run", "error", str(error))
        return
    yield from _images(data)
    yield from _batch(config, method)
    yield _disk(config, method)
    if seconds > 0:
        yield from _speed(config, precision, seconds)


def _data(config: DictConfig, source: Any, augmentation: Augmentation, method: Method) -> PretrainingData:
    data = PretrainingData(
        source,
        augmentation,
        config.batch_size,
        config.seed,
        limit_images=config.limit_images,
        images_per_epoch=config.images_per_epoch,
        reads=method.reads,
    )
    data.setup()
    method.prepare(data.pretrain.columns)
    return data


def _device(accelerator: str, precision: str, notice: str | None) -> Finding:
    if accelerator == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        what = f"{torch.cuda.get_device_name()}, {memory:.0f} GB"
    else:
        units = sorted(name for name in cpu_instructions() if "amx" in name)
        what = f"{accelerator}, {cores()} cores, {', '.join(units) or 'no matrix units'}"
    asked = notice is not None and notice.startswith("precision=16 needs")
    said = f"; {notice}" if notice else f"; precision {precision}"
    return Finding("device", "warning" if asked else "ok", f"{what}{said}")


def _cores(config: DictConfig, accelerator: str, meter: CoreMeter) -> Finding:
    others = meter.others()
    threads = choose_threads(config.threads, None, others)
    torch.set_num_threads(threads.number)
    numbers = {"threads": threads.number, "busy_cores": others}
    if accelerator == "cpu" and others >= 0.5:
        said = threads.notice or f"other programs keep {others:.1f} of {cores()} cores busy, which costs speed"
        return Finding("cores", "warning", said, numbers)
    own = f"{threads.number} thread{'' if threads.number == 1 else 's'}"
    return Finding("cores", "ok", f"{own}; others keep {others:.1f} cores busy", numbers)


def _images(data: PretrainingData) -> Iterator[Finding]:
    val = "none to judge on" if data.val is None else f"{len(data.val):,} to judge on"
    numbers = {"pretrain": len(data.pretrain), "val": 0 if data.val is None else len(data.val)}
    text = f"{len(data.pretrain):,} of {data.pretrain.size} pixels to learn from, {val}"
    yield Finding("images", "ok" if data.val is not None else "warning", text, numbers)
    leaked = 0 if data.val is None else in_both(data.pretrain, data.val)
    if leaked:
        yield Finding("images", "warning", f"{leaked:,} validation images are training images too, pixel by pixel")


def _batch(config: DictConfig, method: Method) -> Iterator[Finding]:
    if "temperature" in config.method and config.batch_size < FEW:
        yield Finding(
            "batch",
            "warning",
            f"batch_size={config.batch_size} gives each view {2 * config.batch_size - 2} others to be told from, and "
            f"temperature={config.method.temperature:g} looks at the nearest alone; use {FEW} or more",
        )
    whitened = max((len(part.running_mean) for part in method.modules() if isinstance(part, BatchWhitening)), default=0)
    if config.batch_size < 2 * whitened:
        yield Finding(
            "batch",
            "warning",
            f"batch_size={config.batch_size} is few images to whiten {whitened} features by; use {2 * whitened} or "
            "more, or a head that ends in batch norm, as head=moco_v3 does",
        )


def _disk(config: DictConfig, method: Method) -> Finding:
    """Two checkpoints, each with weights and Adam's two moments, and the encoders that are kept on the way."""
    learning = sum(p.numel() for p in method.parameters())
    encoder = sum(p.numel() for p in method.parts()["backbone"].parameters())
    kept = 0 if config.keep_every_n_epochs is None else config.epochs // config.keep_every_n_epochs
    needed = 4 * (2 * 3 * learning + (kept + 1) * encoder)
    place = Path(str(config.output_root)).expanduser().absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = psutil.disk_usage(str(there)).free
    numbers = {"needed_bytes": needed, "free_bytes": free}
    text = f"{place} needs {needed / 1e9:.1f} GB, {free / 1e9:.0f} GB are free"
    if needed > free:
        return Finding("disk", "error", f"{text}; free some, or choose another disk with output_root=", numbers)
    kind = _file_system(there)
    if kind.lower().startswith(NETWORK):
        return Finding("disk", "warning", f"{text}; {kind} is a network's disk, which is slow to save to", numbers)
    return Finding("disk", "ok", text, numbers)


def _file_system(folder: Path) -> str:
    """Of the disk that a folder lies on."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[above] for above in (folder, *folder.parents) if above in mounts), "")


class _Fixed(Augmentation):
    """Views of one stage of the run, from its first step on."""

    def __init__(self, views: list[Recipe]) -> None:
        self.views, self.stages = views, [(1.0, views)]


class _Clock(Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds_a_step(self) -> float | None:
        ends = self.ends[WARM:]
        return statistics.median(b - a for a, b in pairwise(ends)) if len(ends) > 1 else None


def _speed(config: DictConfig, precision: str, seconds: float) -> Iterator[Finding]:
    """A few seconds of the run's own steps, in each stage of it, and what they make of the whole."""
    total, before, steps = 0.0, 0.0, 0
    for until, views in assemble(config).augmentation.stages:
        source, _, method = assemble(config)
        share, before = until - before, until
        clock, data = _Clock(), _data(config, source, _Fixed(views), method)
        trainer = pl.Trainer(
            accelerator=config.trainer.accelerator,
            devices=1,
            precision=LIGHTNING_PRECISION[precision],  # type: ignore[arg-type]
            max_epochs=config.epochs,
            max_time=timedelta(seconds=seconds * share),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        try:
            trainer.fit(method, data)
        except (InputError, ValueError) as error:
            yield Finding("speed", "error", str(error))
            return
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error) and "allocate" not in str(error):
                raise
            yield Finding("memory", "error", f"a step does not fit: use a smaller batch_size ({error})".split("\n")[0])
            return
        step = clock.seconds_a_step()
        if step is None:
            yield Finding("speed", "warning", f"no {WARM + 2} steps in {seconds:g} s; ask with a larger --seconds")
            return
        steps = data.steps_per_epoch * config.epochs
        total += steps * share * step
    images = steps * config.batch_size / total
    used, there = psutil.Process().memory_info().rss / 1e9, psutil.virtual_memory().total / 1e9
    yield Finding("memory", "ok" if used < 0.8 * there else "warning", f"{used:.1f} of {there:.0f} GB in use")
    yield Finding(
        "speed",
        "ok",
        f"{images:.0f} images/s: {spoken(total)} for {config.epochs} epochs of {steps // config.epochs:,} steps",
        {"images_per_second": images, "seconds": total},
    )
