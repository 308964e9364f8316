"""Runs as train.py's for test_shared_sweeps.py, to the claim, the marks and the account; nothing is learned in them.

With HOLD in the environment a run takes until there is a file `release` in the working directory.
"""

import json
import os
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, run_command
from simclr.runs import sweep
from simclr.runs.directory import claimed
from simclr.system.signals import Stop


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> float | None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    with clear_errors(""), Stop(config.requeue_exit_code), claimed(run_dir, config):
        finished = run_dir / "metrics.json"
        if not finished.exists() or (config.resume == "never" and str(run_dir) not in sweep.theirs):
            with (run_dir / "trained_by").open("a", encoding="utf-8") as file:
                file.write(os.environ["NAME"] + "\n")
            while "HOLD" in os.environ and not Path("release").exists():
                time.sleep(0.01)
            time.sleep(0.2)
            finished.write_text(json.dumps({"val/knn_top1": config.seed}), encoding="utf-8")
        else:
            sweep.found_finished.add(str(run_dir))
        return float(config.seed)
    return None


if __name__ == "__main__":
    run_command(main, "train")
