"""A command's arguments before Hydra reads them: paths from home, `none` in its usual spellings, quotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from simclr.errors import InputError
from simclr.runs.configs import CONFIGS

OVERRIDE = re.compile(r"([+~]{0,2}[A-Za-z_][\w./@:\-]*)=(.*)", re.DOTALL)
# Flags of Hydra's that the next argument belongs to.
WITH_VALUE = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn"}
NOTHING = ("null", "none", "false", "")  # in any case: what people write for no logger, no callbacks


def prepared(arguments: list[str], config_name: str) -> list[str]:
    """The arguments as Hydra is to read them. Raises InputError for one that it cannot read, with one that it can."""
    return [_prepared(argument, config_name) for argument in arguments]


def named(arguments: list[str], keys: Sequence[str]) -> list[str]:
    """The arguments with a key for each that has none, in the order of `keys`. Raises InputError for too many."""
    waiting, found, before = list(keys), [], ""
    for argument in arguments:
        if argument.startswith("-") or before in WITH_VALUE or OVERRIDE.fullmatch(argument):
            found.append(argument)
        elif waiting:
            found.append(f"{waiting.pop(0)}={for_hydra(argument)}")
        else:
            raise InputError(f"{argument} is one argument too many; write a sentence in quotes, as in 'two dogs'")
        before = argument
    return found


def quoted(key: str, value: str) -> str:
    """`key=value` as it can be pasted into a shell, so that Hydra reads this very value."""
    return shlex.quote(f"{key}={for_hydra(value)}")


def for_hydra(value: str) -> str:
    """A text as Hydra's grammar has to have it written: as it is where that will do, else in double quotes."""
    if _reads_as(value) == value and "${" not in value:
        return value
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    literal = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), literal)
    return f'"{literal}"'


def _prepared(argument: str, config_name: str) -> str:
    found = OVERRIDE.fullmatch(argument)
    if found is None:
        return argument
    key, value = found.groups()
    if value.lower() in NOTHING and (CONFIGS / key / "none.yaml").exists():
        return f"{key}=none"
    value = re.sub(r"(^|(?<=,))~(?=/|$)", lambda _: str(Path.home()), value)  # bash expands it in no argument like this
    try:
        OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        raise InputError(
            f"{argument} has characters that Hydra reads as something else; write it like this: {quoted(key, value)}"
        ) from None
    for name in re.findall(r"(?<!\\)\$\{([A-Za-z_]\w*)", value):
        if name not in _names(config_name) and not OmegaConf.has_resolver(name):
            raise InputError(
                f"{argument} refers to {name}, which is no key; if ${{{name}}} is meant as it stands, write it like "
                f"this: {quoted(key, value)}"
            )
    return f"{key}={value}"


def _names(config_name: str) -> set[str]:
    """The keys at the top of a command's configuration, and the groups."""
    config = OmegaConf.load(CONFIGS / f"{config_name}.yaml")
    return {*map(str, config), *(path.name for path in CONFIGS.iterdir() if path.is_dir()), "oc"}


def _reads_as(value: str) -> object:
    """What Hydra takes for the value of `key=value`; None where it is no text, several, or cannot be read."""
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None
    return None if override.is_sweep_override() else override.value()


def program(script: str) -> str:
    """How a person calls a command: `python train.py` in a checkout, by its own name where it has been installed."""
    if (CONFIGS.parent / script).exists():
        return f"python {script}"
    return {"train.py": "simclr-train", "linear_eval.py": "simclr-eval"}[script]
