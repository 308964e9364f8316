"""Kill real runs at random moments, let each go on with the same command, and count those that end as if never killed.

python -m benchmarks.kill_test [--kills 20] [--seed 0] [--json FILE] [KEY=VALUE ...]

Every second run gets SIGTERM instead of SIGKILL. What has to be equal to a run that nobody touched, bit for bit:
weights, batch-norm statistics, optimiser, schedule and loss scaler in the last checkpoint, the exported encoder, and
the curves, without a step twice or missing. The overrides are train.py's; by default it is a run of seconds on
procedural images.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import machine
from simclr.commands.app import quiet_libraries
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint, newest_checkpoint
from simclr.runs.results import provenance, write_json
from simclr.system.precision import choose_accelerator

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
# About a hundred steps, a checkpoint every third of a second, k-NN between epochs.
RUN_OF_SECONDS = (
    "data=shapes",
    "data.train_count=512",
    "data.val_count=64",
    "data.size=32",
    "batch_size=16",
    "epochs=3",
    "callbacks.online_knn.every_n_epochs=1",
    "checkpoint_minutes=0.005",
)
CLOCKS = ("system/", "train/images_per_second")  # curves of the machine, which no two runs share


class Outcome(NamedTuple):
    """What a finished run leaves that a kill must not change."""

    state: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    export: bytes


def start(folder: Path, overrides: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TRAIN), f"output_root={folder}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"error: a run failed:\n{said}")


def run_directory(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def outcome(folder: Path) -> Outcome:
    run_dir = run_directory(folder)
    checkpoint = load_checkpoint(last_checkpoint(run_dir))
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return Outcome(
        {key: checkpoint.get(key) for key in ("state_dict", "optimizer_states", "lr_schedulers", "MixedPrecision")},
        {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if not tag.startswith(CLOCKS)
        },
        (run_dir / "backbone.safetensors").read_bytes(),
    )


def equal(one: Any, other: Any) -> bool:
    """Equality of nested containers, to the last bit of their tensors."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def saved_step(folder: Path) -> int | None:
    """The step that a killed run will go on from; None where it has to start anew."""
    newest = newest_checkpoint(run_directory(folder)) if folder.exists() and any(folder.iterdir()) else None
    return None if newest is None else newest.content["global_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, choices=range(1, 21), help="runs to kill, 20 at most (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options, given = parser.parse_known_args()
    overrides = [*RUN_OF_SECONDS, *given]
    quiet_libraries()
    device = torch.device(choose_accelerator("auto"))
    print(machine(device), *overrides, "\n")

    moments = random.Random(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        finish(start(Path(folder, "whole"), overrides))
        duration = time.monotonic() - began
        whole = outcome(Path(folder, "whole"))
        print("| killed after, s | by | goes on from step | as if never killed |", "|---|---|---|---|", sep="\n")
        while len(rows) < options.kills:
            own = Path(folder, str(moments.random()))
            how = (signal.SIGKILL, signal.SIGTERM)[len(rows) % 2]
            process = start(own, overrides)
            moment = moments.uniform(0, duration)
            time.sleep(moment)
            process.send_signal(how)
            said, _ = process.communicate()
            if process.returncode == 0:
                continue  # it was over before
            # Before Python listens to it, SIGTERM kills as SIGKILL does.
            if process.returncode not in (-how, 75 if how == signal.SIGTERM else -how):
                raise SystemExit(f"error: after {how.name} a run ended with {process.returncode}:\n{said}")
            step = saved_step(own)
            finish(start(own, overrides))
            identical = equal(outcome(own), whole)
            rows.append({"seconds": moment, "signal": how.name, "step": step, "identical": identical})
            print(f"| {moment:.1f} | {how.name} | {step} | {'yes' if identical else 'NO'} |", flush=True)
    count = [row["identical"] for row in rows].count(True)
    print(f"\n{count} of {options.kills} ended as if never killed.")
    if options.json:
        write_json(options.json, {"overrides": overrides, "kills": rows, "identical": count} | provenance(device))
    if count < options.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
