"""What every command shares around Hydra: how it starts, what it logs to, how its errors read, how it ends.

Showing a configuration must not wait for torch, so nothing here imports it at import time.
"""

from __future__ import annotations

import difflib
import errno
import logging
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from simclr.commands import launch
from simclr.commands.arguments import named, prepared
from simclr.commands.hydra_help import help_in_strings
from simclr.errors import InputError, InUse, Refused
from simclr.runs import sweep
from simclr.runs.compose import prefer_own_configs
from simclr.runs.configs import CONFIGS
from simclr.system.memory import keep_freed_memory
from simclr.system.output import prepare_output
from simclr.system.shell import keep_own_configs, started_by_torchrun
from simclr.system.signals import Requeue, ignore_stop_signals


class ConsoleHandler(logging.StreamHandler):
    """Log to what is standard output at the moment: a progress bar replaces it, to keep lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stdout


made: list[Path] = []  # folders that this process made to write into, each before the one that holds it


class WritableOutput(Callback):
    """Tells Hydra's users in one line where a run's directory, or a sweep's, cannot be made; none is left empty.

    remedy: how another place is chosen.
    """

    def __init__(self, remedy: str = "output_root=FOLDER") -> None:
        self.remedy = remedy

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.run.dir != ".":  # where nothing is written
            self._make(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._make(config, "sweep")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        if folder.resolve() != Path.cwd():  # which is the user's, and theirs even if it is empty
            with suppress(OSError):  # as a rule it holds something
                folder.rmdir()

    def _make(self, config: DictConfig, mode: str) -> None:
        HydraConfig.instance().set_config(config)  # the folder's name refers to it; Hydra does this a moment later
        folder = config.hydra[mode].dir
        try:
            made.extend(path for path in (Path(folder), *Path(folder).parents) if not path.exists())
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            print(
                f"error: cannot write into {folder} ({error.strerror}); choose another place with {self.remedy}",
                file=sys.stderr,
            )
            raise Refused(1) from None


def leave_no_empty_folders() -> None:
    """Remove the folders that this process made, where all that was to be written into them was refused."""
    for folder in made:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == ["multirun.yaml"]:  # Hydra's note of a sweep's command
                (folder / "multirun.yaml").unlink()
            folder.rmdir()


@contextmanager
def clear_errors(needs_less_memory: str) -> Iterator[None]:
    """Turn an InputError, a full disk and a lack of memory into one line and exit status 1; bugs keep their traceback.

    needs_less_memory: what to do where there is too little.
    In a sweep the other jobs still run, and the command's exit status is 1 at the end; a run that another process
    trains is left to it, which is no error there.
    """
    said = "one of its processes has said why"
    try:
        yield
        return
    except Refused:
        pass  # it has been printed
    except Exception as error:
        if isinstance(error, InUse) and HydraConfig.get().mode == RunMode.MULTIRUN:
            run_dir = HydraConfig.get().runtime.output_dir
            print(f"{Path(run_dir).name}: another process trains it; left to it", flush=True)
            sweep.left.add(run_dir)
            return
        if launch.first_to_fail():
            if isinstance(error, InUse) and launch.started_by_launch():
                raise Refused(launch.IN_USE) from None  # for the command that started it to say
            message = _for_the_user(error, needs_less_memory)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr, flush=True)
            said = message
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        raise Refused(1) from None
    sweep.refused[HydraConfig.get().runtime.output_dir] = said


# What torch says of it with an error of another class: on the CPU, and on a GPU where a library could get no memory.
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def _for_the_user(error: Exception, needs_less_memory: str) -> str | None:
    """One sentence for what a person can mend; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        where = f" {error.filename}" if error.filename else ""
        return f"cannot write{where} ({error.strerror}); free some space and repeat the command"
    # Torch's own class on a GPU, a RuntimeError on a CPU; importing torch here would slow every command down.
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in OUT_OF_MEMORY)
    ):
        return f"out of memory ({str(error).splitlines()[0] if str(error) else 'Python'}); {needs_less_memory}"
    # A callback of the user's own that cannot be where it is: Lightning's class, and EarlyStopping's RuntimeError.
    if type(error).__name__ == "MisconfigurationException" or "conditioned on metric" in str(error):
        return " ".join(str(error).split())
    if started_by_torchrun() and re.search("Connection (closed|reset) by peer|remote process exited", str(error)):
        return "another process has ended, and the connection to it is lost; its own error says why"
    return None


def quiet_libraries() -> None:
    """Keep what Lightning says about itself out of a run's log."""
    import pytorch_lightning  # noqa: F401  it sets its level when it is imported

    for name in ("pytorch_lightning", "lightning_fabric"):  # the second advises TF32, which InfoNCE must not have
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.utilities\._pytree")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # 1×1 convolutions


def run_command(main: Callable[[], Any], config_name: str, words: Sequence[str] = ()) -> None:
    """Run a Hydra command; where Hydra refuses a mistyped key, say which keys there are.

    words: the keys that its arguments without a key are given, in order.
    """
    prepare_output()
    keep_own_configs()
    keep_freed_memory()
    prefer_own_configs()
    help_in_strings()
    try:
        sys.argv[1:] = prepared(named(sys.argv[1:], words) if words else sys.argv[1:], config_name)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise Refused(1) from None
    logging.raiseExceptions = False  # a log file on a full disk must not print a traceback for every line
    try:
        main()
    except Requeue:
        ignore_stop_signals()
        raise
    except Refused:
        raise
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as stop:
        said = hint(config_name, sys.argv[1:]) if stop.code else None
        if said is not None:
            print(said, file=sys.stderr)
        raise
    finally:
        failed = sweep.conclude()
        leave_no_empty_folders()
    if failed:
        raise SystemExit(f"error: {failed} of the sweep's runs failed; see above")


def hint(config_name: str, arguments: list[str]) -> str | None:
    """A sentence about the first override that names no key, or None. The group choices among them are respected."""
    overrides = [argument for argument in arguments if re.match(r"[A-Za-z_][\w./@]*=", argument)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        groups = {path.parent.name for path in CONFIGS.glob("*/*.yaml")}
        choices = [override.split(",")[0] for override in overrides if override.split("=")[0] in groups]
        try:
            config = compose(config_name, choices)
        except Exception:
            return None  # a mistyped choice: Hydra has listed the choices itself
    for key in (override.split("=")[0] for override in overrides):
        if key in groups or key.startswith("hydra"):
            continue
        *parents, leaf = key.split(".")
        node: Any = config
        for depth, parent in enumerate([*parents, leaf]):
            if not isinstance(node, DictConfig) or parent not in node.keys():  # noqa: SIM118  'in' passes over ???
                if depth == 0 and parent in groups:
                    return f"\nChoose {parent} first, as in {parent}=...; then its keys can be set."
                names = map(str, node) if isinstance(node, DictConfig) else ()
                allowed = sorted(name for name in names if not name.startswith("_"))
                where = ".".join(parents[:depth]) or "the configuration"
                close = difflib.get_close_matches(parent, allowed, n=1)
                guess = f" Did you mean {close[0]}?" if close else ""
                return (
                    f"\n{parent} is not a key of {where}.{guess} Allowed: {', '.join(allowed) or 'nothing below it'}."
                )
            node = node._get_node(parent)
    return None
