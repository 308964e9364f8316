"""What a configuration's `_target_` takes, checked before it is called: one line names key and argument."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, open_dict

from simclr.errors import InputError


def check_arguments(config: Any, given: Collection[str] = ()) -> None:
    """Raise InputError for a `_target_` that is not to be found, an argument it does not take, or one that it lacks.

    In `config` and in all below it. given: names of arguments that the caller adds.
    """
    if isinstance(config, ListConfig):
        for item in config:
            check_arguments(item)
    if not isinstance(config, DictConfig):
        return
    for node in config.values():
        check_arguments(node)
    if "_target_" not in config:
        return
    key, names = config._get_full_key(""), [str(name) for name in config if not str(name).startswith("_")]
    parameters = _parameters(config)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    called = config._target_.rpartition(".")[2]
    for name in names:
        if name not in parameters:
            raise InputError(
                f"{key}.{name}={config[name]} is not usable: {called} takes {', '.join(parameters) or 'nothing'}"
            )
    if config.get("_partial_", False) or "_partial_" in given or "_args_" in config:
        return
    for name, parameter in parameters.items():
        if (
            parameter.default is parameter.empty
            and name not in (*names, *given)
            and parameter.kind
            not in (
                parameter.VAR_POSITIONAL,
                parameter.POSITIONAL_ONLY,
            )
        ):
            raise InputError(f"{called} needs {name}; give it with +{key}.{name}=")


def loggers_of(config: DictConfig, **own: Any) -> list[DictConfig]:
    """The chosen loggers, each with those of the run's `own` arguments that its class takes and its config leaves open.

    Raises InputError for one that names no class.
    """
    chosen = config.get("logger")
    named = chosen.items() if isinstance(chosen, DictConfig) else []
    for name, logger in named:
        if logger is not None and (not isinstance(logger, DictConfig) or "_target_" not in logger):
            raise InputError(f"logger.{name!s}={logger} is not usable; name a class with +logger.NAME._target_=")
    return [_filled(logger, own) for _, logger in named if logger is not None]


def _filled(logger: DictConfig, own: dict[str, Any]) -> DictConfig:
    logger, takes = logger.copy(), {*_parameters(logger)}
    if logger._target_.endswith("TensorBoardLogger"):
        takes.add("purge_step")  # for its writer
    with open_dict(logger):
        logger.update({name: value for name, value in own.items() if name in takes and logger.get(name) is None})
    return logger


def _parameters(config: DictConfig) -> dict[str, inspect.Parameter]:
    if config._target_.startswith("lightning.pytorch."):
        ours = config._target_.replace("lightning.pytorch.", "pytorch_lightning.", 1)
        raise InputError(f"{config._get_full_key('')}._target_={config._target_} is called {ours} here; use that")
    try:
        target = get_object(config._target_)
    except (ImportError, ValueError, AttributeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if reason == "No module named 'timm'":
            raise InputError(
                f'{config._target_} needs a package that is not installed: pip install -e ".[timm]"'
            ) from None
        raise InputError(
            f"{config._get_full_key('')}._target_={config._target_} cannot be imported ({reason})"
        ) from error
    try:
        if inspect.isclass(target) and target.__module__.startswith("simclr."):
            return _of_class(target)
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # what is written in C may not tell
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def _of_class(target: type) -> dict[str, inspect.Parameter]:
    """The parameters of one of our classes, whose **base stands for what the class that it extends takes."""
    found: dict[str, inspect.Parameter] = {}
    for kind in target.__mro__[:-1]:  # all but object
        if "__init__" in vars(kind):
            own = inspect.signature(kind).parameters
            found = {**found, **{name: one for name, one in own.items() if name not in found}}
            if not any(one.kind is one.VAR_KEYWORD for one in own.values()):
                return {name: one for name, one in found.items() if one.kind is not one.VAR_KEYWORD}
    return found
