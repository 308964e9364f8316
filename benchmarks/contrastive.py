"""Time and memory of InfoNCE against the batch, all logits at once and in chunks: forward, backward, nothing else.

python -m benchmarks.contrastive [--batches 256,1024,4096,8192] [--json FILE]

Each figure comes from a process of its own, since a process does not give back the memory of its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.measure import alternate, finished, machine, peak_memory
from simclr.losses import CHUNK_LOGITS, info_nce
from simclr.runs.results import provenance, write_json
from simclr.system.memory import keep_freed_memory
from simclr.system.precision import choose_accelerator

FEATURES = 128  # the recipe's embeddings
# Every block is given back when it is freed; left alone, glibc keeps some, and the peak depends on luck.
EXACT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
WAYS = {"all at once": 2**62, "in chunks": CHUNK_LOGITS}


def cost(batch: int, chunk_logits: int, device: torch.device) -> dict[str, float]:
    """Seconds, and GB beyond what was there before (the GPU's, or this process's)."""
    embeddings = torch.randn(2, batch, FEATURES, device=device, requires_grad=True)

    def step() -> None:
        info_nce(embeddings, 0.07, chunk_logits).loss.backward()

    info_nce(embeddings[:, :8], 0.07).loss.backward()  # loads what torch loads once
    before = memory(device)
    step()
    finished(device)
    grown = memory(device) - before
    keep_freed_memory()  # as train.py does
    return {"seconds": alternate([step], 1.0, device)[0], "gb": grown}


def memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="256,1024,4096,8192", help="images, of two views each")
    parser.add_argument("--one", nargs=2, type=int, metavar=("BATCH", "CHUNK"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    device = torch.device(choose_accelerator("auto"))
    if options.one:
        batch, chunk_logits = options.one
        print(json.dumps(cost(batch, chunk_logits, device)))
        return
    print(machine(device), "\n")
    print("| batch | " + " | ".join(f"{way}, ms | GB" for way in WAYS) + " |")
    print("|---" * (1 + 2 * len(WAYS)) + "|")
    report: dict[str, dict[str, dict[str, float]]] = {}
    for batch in options.batches.split(","):
        for way, chunk in WAYS.items():
            one = [sys.executable, "-m", "benchmarks.contrastive", "--one", batch, str(chunk)]
            done = subprocess.run(one, env=EXACT, check=True, capture_output=True, text=True)
            report.setdefault(batch, {})[way] = json.loads(done.stdout)
        cells = " | ".join(f"{1000 * cell['seconds']:.0f} | {cell['gb']:.2f}" for cell in report[batch].values())
        print(f"| {batch} | {cells} |", flush=True)
    if options.json:
        write_json(options.json, {"batches": report} | provenance(device))


if __name__ == "__main__":
    main()
