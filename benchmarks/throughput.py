"""Images per second of pre-training, side by side: this project, a torchvision pipeline, and lightly.

python -m benchmarks.throughput [--rounds 5] [--json FILE] [KEY=VALUE ...]

KEY=VALUE are overrides as for train.py (data=shapes, batch_size=128, precision=bf16, compile=true, ...); all three
programs train on the same images, at the same batch size and in the same precision. Each is a process of its own.
They take turns, so the ratios, taken within each round, do not depend on what else the machine does meanwhile. lightly
needs the extra: pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, matrix_product_peak
from benchmarks.turns import STAGES, Command, Turn, give, pre_training, taking_turns
from simclr.data.files.decode import cores
from simclr.runs.build import build
from simclr.runs.compose import compose_config
from simclr.runs.results import provenance, write_json
from simclr.runs.weights import backbone_factory
from simclr.system.precision import choose_accelerator, choose_precision

OURS, REFERENCE, LIGHTLY = "this project", "reference", "lightly"
DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program (5)")
    parser.add_argument("--steps", type=int, default=6, help="steps that count in each turn (6)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options, overrides = parser.parse_known_args()
    config: Any = compose_config(*overrides)
    accelerator = choose_accelerator(config.trainer.accelerator)
    device = torch.device(accelerator)
    precision, _ = choose_precision(str(config.precision), accelerator)
    print(machine(device))
    print(f"batch {config.batch_size}, {config.data.size}×{config.data.size}, precision={precision};", *overrides, "\n")

    peak = 0.0
    operations = operations_of_a_step(config)
    # Workers have two batches each ready when a turn begins; these are not to count.
    turn = Turn(warm=2 * cores(), steps=options.steps, split=3)
    turns: dict[str, list[Turn]] = {}
    with taking_turns(programs(overrides, precision)) as players:
        for number in range(options.rounds):
            peak = max(peak, matrix_product_peak(DTYPES[precision], device))
            for name, player in players.items():
                turns.setdefault(name, []).append(give(player, turn))
            speeds = {name: config.batch_size * turn.steps / taken[-1].seconds for name, taken in turns.items()}
            ratios = [f"{speeds[OURS] / speed:.2f}× {name}" for name, speed in speeds.items() if name != OURS]
            shown = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
            print(f"round {number + 1}: images/s: {shown}; this project is {', '.join(ratios)}", flush=True)

    report = {name: summary(taken, turns[OURS], config.batch_size, operations, peak) for name, taken in turns.items()}
    show(report, peak)
    if options.json:
        what = {"overrides": overrides, "precision": precision, "matrix_product_peak_gflops": peak / 1e9}
        write_json(options.json, {"programs": report} | what | provenance(device))


def programs(overrides: list[str], precision: str) -> dict[str, Command]:
    """The commands to time, by name."""
    alternatives = [REFERENCE, LIGHTLY]
    if importlib.util.find_spec("lightly") is None:
        print('lightly is not installed and is left out: pip install -e ".[bench]"')
        alternatives.remove(LIGHTLY)
    program = [sys.executable, "-m", "benchmarks.alternatives"]

    def alternative(name: str) -> Command:
        return lambda pipe, folder: [*program, name, str(pipe), precision, *overrides]

    return {OURS: pre_training(overrides)} | {name: alternative(name) for name in alternatives}


def operations_of_a_step(config: Any) -> float:
    """Floating-point operations that forward and backward of one step need, counted on this project's network.

    Where a convolution is computed by pixels, the padding that torch's convolution multiplies does not count.
    """
    views = 8
    backbone = backbone_factory(config.backbone)()
    network = torch.nn.Sequential(backbone, build(config.head, in_features=backbone.num_features))
    images = torch.rand(views, 3, config.data.size, config.data.size)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return counter.get_total_flops() / views * 2 * config.batch_size


def summary(own: list[Turn], ours: list[Turn], batch_size: int, operations: float, peak: float) -> dict[str, Any]:
    """Speed (median over turns), how many times as fast this project was in the same round, and where time went."""
    stages = {name: 1000 * statistics.median(turn.stages.get(name, 0.0) for turn in own) for name in STAGES}
    ratios = [turn.seconds / our_turn.seconds for turn, our_turn in zip(own, ours, strict=True)]
    last = own[-1].memory
    return {
        "images_per_second": batch_size * statistics.median(turn.steps / turn.seconds for turn in own),
        "times_as_fast_is_this_project": {"median": statistics.median(ratios), "by_round": ratios},
        "stages_ms": stages,
        "share_of_peak": operations / ((stages["forward"] + stages["backward"]) / 1000) / peak,
        "memory_gb": last,
    }


def show(report: dict[str, Any], peak: float) -> None:
    print(f"\nMatrix-product peak measured here: {peak / 1e9:.0f} GFLOP/s\n")
    heads = ["images/s", "ratio (min-max)", *(f"{name}, ms" for name in STAGES), "of peak", "memory, GB"]
    print("| program | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for name, figures in report.items():
        ratios = figures["times_as_fast_is_this_project"]
        low, high = min(ratios["by_round"]), max(ratios["by_round"])
        cells = [f"{figures['images_per_second']:.1f}", f"{ratios['median']:.2f} ({low:.2f}-{high:.2f})"]
        total = sum(figures["stages_ms"].values())
        cells += [f"{ms:.0f} ({100 * ms / total:.1f} %)" for ms in figures["stages_ms"].values()]
        cells += [f"{100 * figures['share_of_peak']:.0f} %"]
        cells += [", ".join(f"{gb:.2f} {what}" for what, gb in figures["memory_gb"].items())]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
