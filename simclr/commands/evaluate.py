"""Judge what a run has learned. `python linear_eval.py --help` shows commands, protocols and keys."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, run_command
from simclr.runs.configs import CONFIGS
from simclr.system.shell import settle


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="linear_eval")
def command(config: DictConfig) -> float | None:
    with clear_errors("use a smaller limit_images"):
        settle()
        # Imported here, not above: showing a configuration must not wait for torch.
        from simclr.commands.judge import judge
        from simclr.system import distributed

        with distributed.joined():
            return judge(config)
    return None


def main() -> None:
    run_command(command, "linear_eval")
