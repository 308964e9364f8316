"""Whose a run directory is, and emptying it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from simclr.cli import run_identity
from simclr.errors import InputError, InUse
from simclr.files import remove_unfinished, replacing


@contextmanager
def claimed(run_dir: Path, config: DictConfig) -> Iterator[None]:
    """Hold the run directory for this process and this configuration; refuse one that belongs to another."""
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InUse(f"another process is training in {run_dir}; wait for it or stop it") from None
    try:
        for folder in (run_dir, run_dir / "checkpoints"):
            remove_unfinished(folder)
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
            with replacing(stored) as unfinished:
                OmegaConf.save(config, unfinished, resolve=True)
        yield
    finally:
        lock.release()


def clear(run_dir: Path) -> None:
    """Delete what an earlier training and its evaluation left."""
    names = ("metrics.json", "backbone.safetensors", "hparams.yaml", "*_eval*.json", "events.out.tfevents.*")
    for leftover in (path for name in names for path in run_dir.glob(name)):
        leftover.unlink()
    for folder in ("checkpoints", "features", "figures", "evaluation"):
        shutil.rmtree(run_dir / folder, ignore_errors=True)


def forget_judgements(run_dir: Path) -> None:
    """Delete what evaluation found of weights that were the last, and are so no longer."""
    for result in run_dir.glob("*_eval*.json"):
        if not result.stem.endswith("_untrained") and "_epoch-" not in result.stem:
            for shown in evaluation_events(run_dir, result.stem):
                shown.unlink(missing_ok=True)
            result.unlink()


def evaluation_events(run_dir: Path, name: str) -> list[Path]:
    """The event files that show the result `name` (as in linear_eval.json, less its ending) in TensorBoard."""
    return list((run_dir / "evaluation").glob(f"events.out.tfevents.*.{escape(name)}"))
