"""From a command line to a configuration.

Composing a configuration must not import torch, so nothing here does at import time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simclr.checks import is_whole
from simclr.runs.configs import CONFIGS
from simclr.runs.identity import absolute
from simclr.runs.naming import choices, run_name, unless
from simclr.system.files import digest_of


def _by_mode(single: str, sweep: str, *, _root_: DictConfig) -> str:
    """`single` in one run, `sweep` in a job of -m. Hydra's own node is there while it composes, and gone in the job."""
    mode = _root_.hydra.mode if "hydra" in _root_ else HydraConfig.get().mode if HydraConfig.initialized() else None
    return sweep if mode == RunMode.MULTIRUN else single


OmegaConf.register_new_resolver("choice", lambda group, *, _root_: choices(_root_)[group], replace=True)
OmegaConf.register_new_resolver("unless", unless, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("by_mode", _by_mode, replace=True)
OmegaConf.register_new_resolver("half", lambda size: size // 2 if is_whole(size) else size, replace=True)
OmegaConf.register_new_resolver("digest_of", lambda path: path and digest_of(Path(absolute(path))), replace=True)
OmegaConf.register_new_resolver("from_home", os.path.expanduser, replace=True)  # what a shell does with ~


def compose_config(*overrides: str, command: str = "train") -> DictConfig:
    """The configuration that `python train.py OVERRIDES...` would train, with every reference in it followed.

    For notebooks and scripts. command: "train", "linear_eval", "visualize", "search", "embed" or "export". Raises
    Hydra's own exceptions for overrides that are not understood.
    """
    prefer_own_configs()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(command, list(overrides), return_hydra_config=True)
    values = {key: value for key, value in config.items() if key != "hydra"}  # while Hydra's node can be referred to
    return OmegaConf.create(
        {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in values.items()
        }
    )


def prefer_own_configs() -> None:
    """Let a file in configs/hydra stand for itself where a plugin has registered a choice of the same name.

    Hydra would merge the two with a warning. Ours are whole, so that they compose without the plugin, too.
    """
    Plugins.instance()  # imports the plugins, which register their choices
    registered: dict[str, Any] = ConfigStore.instance().repo["hydra"]
    for path in CONFIGS.glob("hydra/*/*.yaml"):
        registered.get(path.parent.name, {}).pop(path.name, None)
