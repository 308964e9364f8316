"""Accuracy against minutes of training: the budget recipe, the study's recipe and lightly's SimCLR example, in turn.

python -m benchmarks.time_to_accuracy --out FOLDER [--moments 1,3,10,30] [--only budget,lightly] [KEY=VALUE ...]

KEY=VALUE are overrides as for train.py, of the data above all: data.root=..., data=shapes. Each program trains alone,
on the same images and cores, until the last moment or the end of its recipe; its clock runs from its first step on and
stands still while weights are kept. Then all weights are judged by one probe (linear_eval.py, protocol=linear). What
FOLDER holds already is not done again, so that programs may get moments of their own: one call for each, with --only.
FOLDER/figures.json and FOLDER/time_to_accuracy.svg are of everything there. It needs three extras:
pip install -e ".[bench,report,timm]".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from benchmarks.measure import machine
from simclr.report import palette
from simclr.runs.results import provenance, write_json

ROOT = Path(__file__).parents[1]
RECIPES = {
    "budget": ["experiment=budget_30m"],
    "short": ["experiment=budget_30m", "epochs=3", "scheduler.warmup_epochs=0.3"],
    "study": ["experiment=study"],
}
LIGHTLY = "lightly"
PROGRAMS = {
    "budget": "this project, experiment=budget_30m",
    "short": "the same recipe, made for 3 epochs",
    "study": "this project, experiment=study",
    LIGHTLY: "lightly's SimCLR example",
}
NUMBERS = ("top1", "top1_low", "top1_high", "knn_top1", "held_out_top1")
# What lightly's transform normalises by; this project's recipes that are run here leave values in [0, 1].
NORMALISED = ["augmentation.mean=[0.485,0.456,0.406]", "augmentation.std=[0.229,0.224,0.225]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, figures and what is known already")
    parser.add_argument("--moments", default="1,3,10,30", help="minutes at which weights are judged (1,3,10,30)")
    parser.add_argument("--only", default=",".join(PROGRAMS), help=f"of {', '.join(PROGRAMS)}; all")
    options, overrides = parser.parse_known_args()
    minutes = [float(moment) for moment in options.moments.split(",")]
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PROGRAMS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    print(machine(device()))
    for name in chosen:
        folder = (options.out / name).absolute()
        train(name, folder, minutes, overrides)
        for moment in kept(folder):
            accuracy = judged(name, folder, moment, overrides)
            print(f"{name}: {moment['minutes']:.1f} min, {said(accuracy)}", flush=True)
    report(options.out)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(name: str, folder: Path, minutes: list[float], overrides: list[str]) -> None:
    """Train one program, unless that has been done; its weights are in `folder` then."""
    if (folder / "moments.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    listed = ",".join(f"{moment:g}" for moment in minutes)
    if name == LIGHTLY:
        command = ["-m", "benchmarks.lightly_example", str(folder), f"[{listed}]", *overrides]
    else:
        command = [
            "train.py",
            *RECIPES[name],
            *overrides,
            f"output_root={folder}",
            "callbacks.online_knn=null",
            "+callbacks.moments._target_=benchmarks.moments.AtMoments",
            f"+callbacks.moments.minutes=[{listed}]",
            f"+callbacks.moments.folder={folder}",
        ]
    write_json(folder / "program.json", {"overrides": [*RECIPES.get(name, []), *overrides], **provenance(device())})
    call(command, folder / "train.log")


def kept(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "moments.json").read_text(encoding="utf-8"))["moments"]


def judged(name: str, folder: Path, moment: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """What the linear protocol says of the weights of one moment."""
    weights = folder / moment["file"]
    results = folder / weights.stem
    if (known := known_of(folder, moment)) is None:
        data = [override for override in overrides if override.partition("=")[0].split(".")[0] == "data"]
        if not any(override.startswith("data=") for override in data):
            data = ["data=tiny_imagenet", *data]
        shown = NORMALISED if name == LIGHTLY else []
        command = [f"ckpt={weights}", "backbone=resnet18", f"output={results}", *data, *shown]
        call(["linear_eval.py", *command], folder / "evaluate.log")
        known = known_of(folder, moment)
        assert known is not None
    return known


def known_of(folder: Path, moment: dict[str, Any]) -> dict[str, Any] | None:
    """What has been found of the weights of one moment; None where they have not been judged."""
    for file in (folder / moment["file"]).with_suffix("").glob("linear_eval*.json"):
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    return None


def call(command: list[str], log: Path) -> None:
    """Run a program of this project; what it says is shown where it fails."""
    with log.open("w", encoding="utf-8") as said_by_it:
        status = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=said_by_it, stderr=said_by_it).returncode
    if status:
        print(*log.read_text(encoding="utf-8").splitlines()[-5:], sep="\n  ", file=sys.stderr)
        raise SystemExit(f"error: {command} ended with status {status}; see {log}")


def said(accuracy: dict[str, Any]) -> str:
    low, high = accuracy["top1_low"], accuracy["top1_high"]
    return f"linear top-1 {accuracy['top1']:.2f} % ({low:.2f} to {high:.2f}), k-NN {accuracy['knn_top1']:.2f} %"


def report(out: Path) -> None:
    """Write and draw what has been judged in `out`, and say when each program has what lightly has at its end."""
    found: dict[str, Any] = {}
    for name in PROGRAMS:
        if (out / name / "moments.json").exists():
            figures = json.loads((out / name / "program.json").read_text(encoding="utf-8"))
            figures["moments"] = []
            for moment in kept(out / name):
                accuracy = known_of(out / name, moment)
                if accuracy is not None:
                    numbers = {key: accuracy[key] for key in NUMBERS}
                    figures["moments"].append({"minutes": moment["minutes"], "steps": moment["steps"]} | numbers)
            if figures["moments"]:
                found[name] = figures
    write_json(out / "figures.json", {"programs": found})
    draw(found, out / "time_to_accuracy.svg")
    if LIGHTLY in found:
        last = found[LIGHTLY]["moments"][-1]
        print(f"\n{PROGRAMS[LIGHTLY]} has {last['top1']:.2f} % after {last['minutes']:.1f} minutes. As much have:")
        for name, figures in found.items():
            there = [moment["minutes"] for moment in figures["moments"] if moment["top1"] >= last["top1"]]
            print(f"  {PROGRAMS[name]}: " + (f"at {there[0]:.1f} minutes" if there else "not by its last moment"))


def draw(programs: dict[str, Any], path: Path) -> None:
    with matplotlib.rc_context(palette.STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for index, (name, figures) in enumerate(programs.items()):
            minutes, low, top1, high = (
                [moment[key] for moment in figures["moments"]] for key in ("minutes", "top1_low", "top1", "top1_high")
            )
            axes.plot(minutes, top1, label=PROGRAMS[name], **palette.symbol(index))
            axes.fill_between(minutes, low, high, alpha=0.2, color=palette.symbol(index)["color"], linewidth=0)
        axes.set(xlabel="minutes of training", ylabel="linear top-1, %", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        palette.save(figure, path)


if __name__ == "__main__":
    main()
