"""Where the configuration files lie."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

_HERE = Path(__file__).resolve()
# Beside the package in a checkout, within it where it has been installed.
CONFIGS = next(path for path in (_HERE.parents[2] / "configs", _HERE.parents[1] / "configs") if path.is_dir())


def option_of(group: str, target: str) -> str:
    """The option of a configuration group whose `_target_` that is; the target itself where there is none."""
    options = sorted((CONFIGS / group).glob("*.yaml"))
    return next((path.stem for path in options if OmegaConf.select(OmegaConf.load(path), "_target_") == target), target)
