"""How the cost of pre-training grows with one key: train.py with each of its values, taking turns.

python -m benchmarks.scale batch_size=64,128,256,512 [--rounds 3] [--json FILE] [KEY=VALUE ...]
python -m benchmarks.scale data.size=32,64,96,128 data=shapes data.train_count=2000
python -m benchmarks.scale limit_images=20000,50000,100000

The first key with several values is varied; the rest are overrides as for train.py.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from benchmarks.measure import machine
from benchmarks.turns import STAGES, Turn, give, pre_training, taking_turns
from simclr.runs.compose import compose_config
from simclr.runs.results import provenance, write_json
from simclr.system.precision import choose_accelerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each value (3)")
    parser.add_argument("--steps", type=int, default=5, help="steps that count in each turn (5)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (2)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options, overrides = parser.parse_known_args()
    varied = next((one for one in overrides if "," in one and "[" not in one), None)
    if varied is None:
        parser.error("name a key with several values: KEY=A,B,...")
    overrides.remove(varied)
    key, values = varied.split("=")
    each = {value: [f"{key}={value}", *overrides] for value in values.split(",")}
    device = torch.device(choose_accelerator(compose_config(*overrides).trainer.accelerator))
    print(machine(device), *overrides, "\n")

    turns: dict[str, list[Turn]] = {value: [] for value in each}
    with taking_turns({value: pre_training(own) for value, own in each.items()}) as players:
        for _ in range(options.rounds):
            for value, player in players.items():
                turns[value].append(give(player, Turn(options.warm, options.steps, split=options.warm)))

    print(f"| {key} | ms an image | images/s | " + " | ".join(f"{name}, ms" for name in STAGES) + " | memory, GB |")
    print("|---" * (4 + len(STAGES)) + "|")
    report = {}
    for value, own in turns.items():
        batch = compose_config(*each[value]).batch_size
        seconds = statistics.median(turn.seconds / turn.steps for turn in own) / batch
        stages = {name: 1000 * statistics.median(turn.stages[name] for turn in own) / batch for name in STAGES}
        memory = own[-1].memory
        report[value] = {"ms_an_image": 1000 * seconds, "stages_ms_an_image": stages, "memory_gb": memory}
        cells = [f"{1000 * seconds:.3f}", f"{1 / seconds:.1f}", *(f"{stages[name]:.3f}" for name in STAGES)]
        print(f"| {value} | " + " | ".join(cells) + " | " + ", ".join(f"{v:.2f} {k}" for k, v in memory.items()) + " |")
    if options.json:
        write_json(options.json, {"key": key, "overrides": overrides, "values": report} | provenance(device))


if __name__ == "__main__":
    main()
