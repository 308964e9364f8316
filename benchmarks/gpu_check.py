"""What has to be seen on a GPU before it is believed there: all of it in one call of a few minutes.

python -m benchmarks.gpu_check --out FOLDER [--minutes 9] [--only agreement,training] [KEY=VALUE ...]

The checks run one after the other, the most important first, each in a process of its own: what one finds is printed
and written to FOLDER/NAME.json at once, and none that fails, or takes too long, keeps the others from running. Exit
status 1 where one has failed. What needs a GPU says so on another machine. KEY=VALUE are overrides as for train.py;
without them the images are procedural shapes, so that nothing has to be brought along.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.gpu_parts import CHECKS, DEFAULTS
from benchmarks.measure import machine
from simclr.runs.results import write_json
from simclr.system.precision import choose_accelerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--minutes", type=float, default=9, help="for all of them (9)")
    parser.add_argument("--only", default=",".join(CHECKS), help=f"of {', '.join(CHECKS)}; all")
    options, overrides = parser.parse_known_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(CHECKS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    print(machine(torch.device(choose_accelerator("auto"))), flush=True)
    failed = [name for name in chosen if not check(name, options.out / f"{name}.json", end, overrides or DEFAULTS)]
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} have ended; see {options.out}", flush=True)
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} failed")


def check(name: str, file: Path, end: float, overrides: list[str]) -> bool:
    """Run one check; whether it has ended. Where it has not, its file says why."""
    began = time.monotonic()
    print(f"\n== {name}: {(CHECKS[name].__doc__ or '').splitlines()[0]}", flush=True)
    file.unlink(missing_ok=True)
    left = end - began
    if left <= 0:
        why = "there was no time left"
    else:
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(file.absolute()), *overrides]
        process = subprocess.Popen(command, start_new_session=True)  # a group, to be ended with all that it started
        try:
            why = f"it ended with status {process.wait(left)}"
        except subprocess.TimeoutExpired:
            why = f"it was not over after {left:.0f} s, when the time was"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if file.exists():
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
        return "failed" not in json.loads(file.read_text(encoding="utf-8"))
    print(f"failed: {why}", flush=True)
    write_json(file, {"failed": why})
    return False


if __name__ == "__main__":
    main()
