"""The checks of gpu_check, each a process of its own: python -m benchmarks.gpu_parts NAME FILE [KEY=VALUE ...]."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import alternate, finished
from benchmarks.probe import drawn
from benchmarks.turns import Turn, give, pre_training, taking_turns
from simclr.augment import batched
from simclr.data.batch import Views
from simclr.evaluation.knn import knn_predict
from simclr.evaluation.linear import linear_evaluation
from simclr.losses import info_nce
from simclr.methods.base import Method
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from simclr.runs.results import provenance, write_json
from simclr.system.precision import choose_accelerator

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = ["data=shapes", "data.train_count=25600", "data.val_count=2000", "epochs=12"]
COMPARED = 64  # images of the step that is computed on both devices
PROBED = 100_000  # images, at most, that probes are fitted on
VARIANTS = (
    ["trainer.benchmark=true"],
    *(["batch_size=1024"], ["backbone.stem=small"], ["precision=bf16"], ["compile=true"]),
)
WATCHED = {"first": 20, "steps": 20}

Figures = dict[str, Any]


class Setting(NamedTuple):
    overrides: list[str]
    config: Any
    device: torch.device


class NeedsGPU(Exception):
    """This machine has none."""


def agreement(setting: Setting) -> Figures:
    """Augmentation, InfoNCE and one step, on the device against the CPU."""
    source, augmentation, method = assemble(setting.config)
    store = source.load().train
    images = store.gather(slice(COMPARED))
    _, height, width, _ = images.shape
    random = torch.Generator().manual_seed(0)
    views, apart = [], []
    for recipe in augmentation.views:
        draws = recipe.draw(len(images), height, width, random)
        views.append(batched.augment(images, draws, recipe))
        there = batched.augment(images.to(setting.device), draws, recipe).cpu()
        apart.append((there - views[-1]).abs().max().item())

    embeddings = torch.randn(2, 256, 128, generator=random)
    exact = info_nce(embeddings.double(), 0.07).loss
    losses = {
        "float32": info_nce(embeddings.to(setting.device), 0.07).loss,
        "TF32 allowed": with_tf32(lambda: info_nce(embeddings.to(setting.device), 0.07).loss),
        "half": info_nce(embeddings.to(setting.device, half(setting.device)), 0.07).loss,
    }
    method.prepare(store.columns)
    loss, gradient = a_step(copy.deepcopy(method).double(), [view.double() for view in views])
    steps = {}
    on_device = [view.to(setting.device) for view in views]
    for name, dtype, tf32 in (("float32", None, False), ("TF32", None, True), ("half", half(setting.device), True)):
        torch.backends.cudnn.allow_tf32 = tf32
        own = copy.deepcopy(method).to(setting.device)
        context = torch.autocast(setting.device.type, dtype) if dtype else nullcontext()
        its_loss, its = a_step(own, on_device, context)
        steps[name] = {
            "loss": its_loss - loss,
            "gradient": ((its - gradient).norm() / gradient.norm()).item(),
            "cosine": torch.cosine_similarity(its, gradient, dim=0).item(),
        }
    return {
        "views_largest_difference": max(apart),
        "info_nce_relative_error": {name: abs(own.item() / exact.item() - 1) for name, own in losses.items()},
        "step_against_float64_on_the_cpu": steps,
    }


def half(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def with_tf32(compute: Callable[[], Tensor]) -> Tensor:
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return compute()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def a_step(method: Method, views: list[Tensor], context: Any = None) -> tuple[float, Tensor]:
    """Loss, and all gradients in one vector, float64 on the CPU."""
    with context or nullcontext():
        loss = method.train().compute(Views(views, {}))["loss"]
    loss.backward()
    gradients = [p.grad.flatten().double().cpu() for p in method.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def training(setting: Setting) -> Figures:
    """train.py as it is: images a second while it trains and by the clock, memory, steps that overflowed."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "train.py", *setting.overrides, f"output_root={folder}"], cwd=ROOT, check=True)
        metrics = json.loads(next(Path(folder).glob("*/metrics.json")).read_text(encoding="utf-8"))
    told = ["images_per_second", "images_per_second_by_the_clock", "images_seen", "wall_seconds", "precision"]
    told += ["train/loss", "val/knn_top1", "system/memory_gb", "system/gpu_memory_gb", "train/overflow_steps"]
    return {name: metrics[name] for name in told if name in metrics}


def step(setting: Setting) -> Figures:
    """A step's parts in milliseconds, and a step of two images, which is what the host alone needs."""
    small = [*setting.overrides, "batch_size=2"]
    programs = {"step": pre_training(setting.overrides), "host": pre_training(small)}
    with taking_turns(programs) as players:
        turns = {name: give(player, Turn(warm=10, steps=20, split=10)) for name, player in players.items()}
    whole = turns["step"]
    return {
        "images_per_second": setting.config.batch_size * whole.steps / whole.seconds,
        "ms_a_step": 1000 * whole.seconds / whole.steps,
        "ms_with_a_wait_after_each_part": {name: 1000 * seconds for name, seconds in whole.stages.items()},
        "host_ms_a_step": 1000 * turns["host"].seconds / turns["host"].steps,
        "memory_gb": whole.memory,
    }


def tests(setting: Setting) -> Figures:
    """pytest -m gpu"""
    need_gpu(setting)
    done = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider"], cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"pytest ended with status {done.returncode}")
    return {"passed": True}


def profiler(setting: Setting) -> Figures:
    """What the GPU did in twenty steps: launches, copies, the share of the time that it was busy."""
    return watched(setting, "Profiled")


def waits(setting: Setting) -> Figures:
    """Every place in the real loop at which the host waits for the GPU."""
    return watched(setting, "Waits")


def watched(setting: Setting, callback: str) -> Figures:
    need_gpu(setting)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "watched.json")
        options = [f"+callbacks.watched.{key}={value}" for key, value in WATCHED.items()]
        watch = [f"+callbacks.watched._target_=benchmarks.watching.{callback}", f"+callbacks.watched.file={file}"]
        quiet = ["callbacks.online_knn=null", f"output_root={folder}"]
        subprocess.run([sys.executable, "train.py", *setting.overrides, *quiet, *watch, *options], cwd=ROOT, check=True)
        figures: Figures = json.loads(file.read_text(encoding="utf-8"))
        return figures


def resume(setting: Setting) -> Figures:
    """Runs killed and resumed, with algorithms that are the same every time and with the fastest ones."""
    figures = {}
    for deterministic in ("true", "false"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "kills.json")
            command = ["benchmarks.kill_test", "--kills", "2", "--json", str(file)]
            subprocess.run([sys.executable, "-m", *command, f"trainer.deterministic={deterministic}"], cwd=ROOT)
            kills = json.loads(file.read_text(encoding="utf-8"))
        figures[f"deterministic={deterministic}"] = {"kills": len(kills["kills"]), "as_if_never": kills["identical"]}
    return figures


def probes(setting: Setting) -> Figures:
    """The linear and the k-NN protocol on 512 features of 200 classes, on the device against the CPU."""
    images = min(PROBED, 4 * setting.config.data.get("train_count", PROBED))
    features, labels = drawn(images + images // 10, 512, 200)
    grid = list(compose_config(command="linear_eval").protocol.l2_grid)
    found: dict[str, Any] = {}
    for device in dict.fromkeys((setting.device, torch.device("cpu"))):
        there, known = features.to(device), labels.to(device)
        train, val = (there[:images], known[:images]), (there[images:], known[images:])
        start = finished(device)
        linear = linear_evaluation(*train, *val, 200, grid)
        between = finished(device)
        nearest = knn_predict(*train, val[0], 200, k=20, temperature=0.07)
        found[device.type] = {
            "linear_seconds": between - start,
            "knn_seconds": finished(device) - between,
            "linear_top1": 100 * linear.top1.float().mean().item(),
            "l2": linear.l2,
            "knn_top1": 100 * (nearest == val[1]).float().mean().item(),
        }
    return {"images": images} | found


def variants(setting: Setting) -> Figures:
    """Images a second of other settings, each beside the usual one."""
    figures: Figures = {}
    for variant in VARIANTS:
        programs = {"usual": pre_training(setting.overrides), "other": pre_training([*setting.overrides, *variant])}
        try:
            with taking_turns(programs) as players:
                turns = {name: give(player, Turn(warm=10, steps=20, split=1)) for name, player in players.items()}
        except (SystemExit, EOFError) as error:
            figures[" ".join(variant)] = {"failed": str(error)}
            continue
        batches = {"usual": setting.config.batch_size, "other": compose_config(*setting.overrides, *variant).batch_size}
        figures[" ".join(variant)] = {
            name: batches[name] * turn.steps / turn.seconds for name, turn in turns.items()
        } | {"memory_gb": turns["other"].memory}
        print(f"{' '.join(variant)}: {json.dumps(figures[' '.join(variant)])}", flush=True)
    return figures


def graphs(setting: Setting) -> Figures:
    """Backbone and head, forward and backward in half precision: launched one by one, and as CUDA graphs."""
    need_gpu(setting)
    _, augmentation, method = assemble(setting.config)
    size = augmentation.views[0].size
    images = torch.rand(2 * setting.config.batch_size, 3, size, size, device=setting.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def seconds(network: Callable[..., Any]) -> float:
        def once() -> None:
            with torch.autocast("cuda", torch.float16, cache_enabled=False):
                network(images).float().square().sum().backward()

        return alternate([once], 3, setting.device)[0]

    network = nn.Sequential(method.backbone, method.head).to(setting.device).train()
    figures = {"one_by_one_ms": 1000 * seconds(network)}
    with torch.autocast("cuda", torch.float16, cache_enabled=False):
        graphed = torch.cuda.make_graphed_callables(network, (images,))
    return figures | {"graphs_ms": 1000 * seconds(graphed)}


CHECKS: dict[str, Callable[[Setting], Figures]] = {
    check.__name__: check
    for check in (agreement, training, step, tests, profiler, waits, resume, probes, variants, graphs)
}


def need_gpu(setting: Setting) -> None:
    if setting.device.type != "cuda":
        raise NeedsGPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    device = torch.device(choose_accelerator("auto"))
    setting = Setting(options.overrides, compose_config(*options.overrides), device)
    began = time.monotonic()
    try:
        figures = CHECKS[options.name](setting)
    except NeedsGPU:
        figures = {"left_out": "it needs a GPU"}
    figures |= {"seconds": time.monotonic() - began, "overrides": options.overrides}
    print(json.dumps(figures, indent=1), flush=True)
    write_json(options.file, figures | provenance(device))


if __name__ == "__main__":
    main()
