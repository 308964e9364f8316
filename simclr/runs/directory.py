"""Whose a run directory is, what in it is a run's own, and emptying it of that alone."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from simclr.errors import InputError, InUse
from simclr.runs.identity import as_dict, differences, upgraded
from simclr.runs.naming import stored_config
from simclr.system.files import replacing
from simclr.system.locks import Locked, locked

log = logging.getLogger(__name__)

# Every file that training, evaluation and drawing write into a run directory, as a path below it. Nothing else in it is
# ever deleted.
PROTOCOLS = (
    "linear",
    "knn",
    "finetune",
    "localize",
    "transfer",
    "zero_shot",
    "retrieval",
    "few_shot",
    "cluster",
    "robust",
    "segment",
)
FIGURES = ("latent_space", "neighbours", "augmented_pairs", "retrieval")
RESULT = re.compile(rf"({'|'.join(PROTOCOLS)})_eval(_.+)?\.json")
PART = r"(target_)?backbone(_previous|_epoch-\d+)?"  # in the names of what export writes
OUTCOME = re.compile(
    rf"(metrics\.(json|csv)|{PART}\.(safetensors|onnx|pt2|md)|search_[\w-]+\.html|embedded_[^/]+\.npz"
    r"|hparams\.yaml|(evaluation/)?events\.out\.tfevents\..+"
    r"|checkpoints/(last|previous|epoch-\d+)\.ckpt"
    r"|open_clip/(open_clip_config\.json|open_clip_model\.safetensors|tokenizer\.json|README\.md)"
    rf"|timm_{PART}/(config\.json|model\.safetensors|README\.md)"
    r"|onnx/(image\.onnx|text\.onnx|tokenizer\.json|README\.md)"
    r"|projector_config\.pbtxt|projector/(tensors\.tsv|metadata\.tsv|sprite\.png)"
    rf"|features/[0-9a-f]{{24}}\.safetensors|figures/({'|'.join(FIGURES)})\.png)"
)
FOLDERS = re.compile(rf"checkpoints|evaluation|features|figures|onnx|open_clip|projector|timm_{PART}")
BEGINNING = re.compile(r"config\.yaml|images\.json|train\.log|\.lock(\..+)?")  # what a run has before it trains
UNFINISHED = re.compile(rf"(config\.yaml|images\.json|{OUTCOME.pattern}|{RESULT.pattern})(\.\d+)?\.part")


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
    for folder in _folders(run_dir):
        with suppress(OSError):  # it holds something else
            folder.rmdir()


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
    # A signal may come between the first line of the log and the lock; a directory that naming.py has named is a run's.
    ours = any(name.startswith(".lock") for name in found) or re.search(r"-[0-9a-f]{8}$", run_dir.name)
    began = ours and all(BEGINNING.fullmatch(name) or UNFINISHED.fullmatch(name) for name in found)
    if found and stored_config(run_dir) is None and not (began and "config.yaml" not in found):
        raise InputError(
            f"{run_dir} holds files and is no run's directory ({sorted(found)[0]}); choose where runs go with "
            "output_root=FOLDER and name=NAME, or give a new or empty folder"
        )


def _begin(run_dir: Path, config: DictConfig) -> None:
    for path in _files(run_dir):
        if UNFINISHED.fullmatch(_below(path, run_dir)):
            path.unlink(missing_ok=True)
    stored = stored_config(run_dir)
    if stored is None:
        keep_config(run_dir, config)
        return
    now = as_dict(config)
    different = differences(stored, now)
    if different:
        key, (then, asked) = next(iter(different.items()))
        raise InputError(
            f"{run_dir} belongs to a run with another {key} ({then}, and now {asked}); choose another name or "
            "output_root"
        )
    if upgraded(stored) != stored:
        log.info("An earlier version began this run; it goes on.")


def keep_config(run_dir: Path, config: DictConfig) -> None:
    """Write the run's configuration, in which paths may have changed since it began, and how it is carried out."""
    with replacing(run_dir / "config.yaml") as unfinished:
        OmegaConf.save(config, unfinished, resolve=True)


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
    return [path for folder in (run_dir, *_folders(run_dir)) for path in folder.iterdir() if path.is_file()]


def _folders(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.iterdir() if FOLDERS.fullmatch(path.name) and path.is_dir()]


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
