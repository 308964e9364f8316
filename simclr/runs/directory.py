"""Whose a run directory is, what in it is a run's own, and emptying it of that alone."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from simclr.errors import InputError, InUse
from simclr.runs.identity import run_identity, with_later_keys
from simclr.system.files import replacing
from simclr.system.locks import Locked, locked

log = logging.getLogger(__name__)

# Every file that training, evaluation and drawing write into a run directory, as a path below it. Nothing else in it is
# ever deleted.
PROTOCOLS = ("linear", "knn", "finetune", "localize", "transfer")
FIGURES = ("latent_space", "neighbours", "augmented_pairs")
RESULT = re.compile(rf"({'|'.join(PROTOCOLS)})_eval(_.+)?\.json")
OUTCOME = re.compile(
    r"(metrics\.json|backbone\.safetensors|hparams\.yaml|(evaluation/)?events\.out\.tfevents\..+"
    r"|checkpoints/(last|previous|epoch-\d+)\.ckpt"
    rf"|features/[0-9a-f]{{24}}\.safetensors|figures/({'|'.join(FIGURES)})\.png)"
)
FOLDERS = ("checkpoints", "evaluation", "features", "figures")
BEGINNING = re.compile(r"config\.yaml|train\.log|\.lock(\..+)?")  # what a run has before it trains
UNFINISHED = re.compile(rf"(config\.yaml|{OUTCOME.pattern}|{RESULT.pattern})(\.\d+)?\.part")

# What every version's configuration of a run has.
KEYS = {"seed", "epochs", "batch_size", "data", "augmentation", "backbone", "head", "method", "optimizer"}


@contextmanager
def claimed(run_dir: Path, config: DictConfig) -> Iterator[None]:
    """Hold the run directory for this process and this configuration.

    Raises InputError for one that belongs to another run, or holds files and is no run's, in which nothing is touched;
    InUse where another process trains in it. Where the run is then refused before it has written anything of value, a
    directory that was empty is empty again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    # A library may have made a remark before the run could claim its directory.
    own_logs = {Path(handler.baseFilename) for handler in _log_files(run_dir) if handler.stream is not None}
    found = [path.name for path in run_dir.iterdir() if path not in own_logs]
    _refuse_strange(run_dir, found)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run_dir / ".lock"))
        except Locked as other:
            who = f" ({other})" if str(other) else ""
            raise InUse(f"another process is training in {run_dir}; wait for it or stop it{who}") from None
        except OSError as error:
            raise InputError(
                f"cannot write into {run_dir} ({error.strerror or error}); choose another place with output_root=FOLDER"
            ) from error
        try:
            _begin(run_dir, config)
            yield
        except InputError:
            if not found:
                _leave_nothing(run_dir)
            raise


def clear(run_dir: Path) -> None:
    """Delete what an earlier training and its evaluation wrote; what else lies there stays."""
    for path in _files(run_dir):
        if OUTCOME.fullmatch(_below(path, run_dir)) or _is_result(path, run_dir):
            path.unlink()
    for folder in FOLDERS:
        with suppress(OSError):  # it holds something else
            (run_dir / folder).rmdir()


def forget_judgements(run_dir: Path) -> None:
    """Delete what evaluation found of weights that were the last, and are so no longer."""
    for path in _files(run_dir):
        if _is_result(path, run_dir) and not path.stem.endswith("_untrained") and "_epoch-" not in path.stem:
            for shown in evaluation_events(run_dir, path.stem):
                shown.unlink(missing_ok=True)
            path.unlink()


def evaluation_events(run_dir: Path, name: str) -> list[Path]:
    """The event files that show the result `name` (as in linear_eval.json, less its ending) in TensorBoard."""
    return list((run_dir / "evaluation").glob(f"events.out.tfevents.*.{escape(name)}"))


def _refuse_strange(run_dir: Path, found: list[str]) -> None:
    """Raise InputError where the directory holds files and is no run's."""
    began = any(name.startswith(".lock") for name in found) and all(
        BEGINNING.fullmatch(name) or UNFINISHED.fullmatch(name) for name in found
    )
    if found and _stored(run_dir) is None and not (began and "config.yaml" not in found):
        raise InputError(
            f"{run_dir} holds files and is no run's directory ({sorted(found)[0]}); choose where runs go with "
            "output_root=FOLDER and name=NAME, or give a new or empty folder"
        )


def _stored(run_dir: Path) -> DictConfig | None:
    """The configuration of the run whose directory this is; None where it is none's."""
    try:
        config = OmegaConf.load(run_dir / "config.yaml")
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, DictConfig) and config.keys() >= KEYS else None


def _begin(run_dir: Path, config: DictConfig) -> None:
    for path in _files(run_dir):
        if UNFINISHED.fullmatch(_below(path, run_dir)):
            path.unlink(missing_ok=True)
    stored = _stored(run_dir)
    if stored is None:
        with replacing(run_dir / "config.yaml") as unfinished:
            OmegaConf.save(config, unfinished, resolve=True)
        return
    now, then = run_identity(config), run_identity(stored)
    before = with_later_keys(then, now)
    different = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if different:
        raise InputError(f"{run_dir} belongs to a run with another {different[0]}; choose another name or output_root")
    if before != then:
        log.info("An earlier version began this run; it goes on.")


def _leave_nothing(run_dir: Path) -> None:
    """Delete the traces of a run that was refused, unless there is more."""
    left = list(run_dir.iterdir())
    if not all(BEGINNING.fullmatch(path.name) for path in left):
        return
    for handler in _log_files(run_dir):
        logging.getLogger().removeHandler(handler)
        handler.close()
    for path in left:
        if path.name != ".lock.owner":  # which goes with the lock
            path.unlink(missing_ok=True)


def _log_files(run_dir: Path) -> list[logging.FileHandler]:
    """What this process logs into the run directory, from its first line on."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, logging.FileHandler)]
    return [one for one in handlers if Path(one.baseFilename).parent == run_dir]


def _files(run_dir: Path) -> list[Path]:
    """The files in the run directory and in the folders that a run makes in it."""
    folders = [run_dir, *(run_dir / name for name in FOLDERS)]
    return [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]


def _below(path: Path, run_dir: Path) -> str:
    return path.relative_to(run_dir).as_posix()


def _is_result(path: Path, run_dir: Path) -> bool:
    """Whether an evaluation wrote this file: each names its protocol, which a note of the same name would not."""
    if not RESULT.fullmatch(_below(path, run_dir)):
        return False
    try:
        return "protocol" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return False
