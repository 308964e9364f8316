"""Judge what a run has learned. `python linear_eval.py --help` shows commands, protocols and keys."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from simclr.cli import clear_errors, run_command
from simclr.shell import settle


@hydra.main(version_base="1.3", config_path="configs", config_name="linear_eval")
def main(config: DictConfig) -> float | None:
    with clear_errors("use a smaller limit_images"):
        settle()
        # Imported here, not above: showing a configuration must not wait for torch.
        from simclr import distributed
        from simclr.judge import judge

        with distributed.joined():
            return judge(config)
    return None


if __name__ == "__main__":
    run_command(main, "linear_eval")
