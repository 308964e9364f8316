"""From a configuration to the objects that it describes.

Composing a configuration must not import torch, so nothing here does at import time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from simclr.checks import is_whole
from simclr.errors import InputError
from simclr.runs.identity import escaped
from simclr.runs.targets import check_arguments


def build(config: DictConfig, **arguments: Any) -> Any:
    """The object that a configuration with `_target_` describes.

    Raises InputError for what its constructor refuses: in the constructor's own words, with the key they are about.
    """
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise InputError(f"{sorted(missing)[0]} has no default; give it a value")
    check_arguments(config, arguments)
    with _naming_keys(config):
        plain = OmegaConf.to_container(config, resolve=True)
        # A text that holds `${`, as a path may: Hydra resolves what it has resolved a second time.
        described = OmegaConf.create(escaped(escaped(plain))) if "${" in str(plain) else config
        return instantiate(described, _convert_="all", **arguments)


def factory(config: DictConfig) -> Callable[..., Any]:
    """What makes the object anew at every call, given further arguments; it refuses in the words of `build`."""
    make = build(config, _partial_=True)

    def made(*arguments: Any, **named: Any) -> Any:
        with _naming_keys(config):
            return make(*arguments, **named)

    return made


@contextmanager
def _naming_keys(config: DictConfig) -> Iterator[None]:
    """Turn what the code behind a configuration refuses into an InputError about the key as its user writes it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            # Lightning's own class for settings that cannot be; importing it here would import torch.
            if isinstance(cause, ValueError) or type(cause).__name__ == "MisconfigurationException":
                raise InputError(_with_key(config, str(cause))) from error
            cause = cause.__cause__
        raise


def _with_key(config: DictConfig, message: str) -> str:
    """A message that begins with the name of an argument, `lr=3 is not usable`, with the key that sets it."""
    node, found = config._get_full_key(""), re.match(r"([a-z]\w*)[\w.\[\]]*=", message)
    if found is None or found[1] not in config:
        return f"{node}: {message}"
    value = config._get_node(found[1])
    assert value is not None, "it is in the configuration"
    # What refers to another key, as method.temperature does to temperature, is set by that one.
    origin = re.fullmatch(r"\$\{([a-z_.]+)\}", str(value._value())) if value._is_interpolation() else None
    return origin[1] + message.removeprefix(found[1]) if origin else f"{node}.{message}"


def check_number(config: DictConfig, key: str, low: int, high: int | None = None) -> None:
    """Raise InputError unless `key`, which may be dotted, holds a whole number from `low` to `high`, None: to any."""
    value = OmegaConf.select(config, key)
    if not is_whole(value) or value < low or (high is not None and value > high):
        bound = f"{low} or more" if high is None else f"{low} to {high}"
        raise InputError(f"{key}={value} is not usable; it is a whole number, {bound}")
