"""A card for an encoder that leaves the laboratory: what it is, what it learned from, how well, and what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from simclr.checks import is_finite

MARK = "<!-- written by python -m simclr.export -->"
PER_CENT = ("top1", "top5")
UNKNOWN_LICENCE = "This project does not know under which terms the images may be used; whoever passes this on says so."


def model_card(about: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path, loads: str) -> str:
    """The card in Markdown, with the metadata that Hugging Face's hub reads.

    about: what the file says of itself. config: the run's, in today's shape. loads: how the file is loaded, in Python.
    """
    metrics = _read(run_dir / "metrics.json")
    method, data = _module_says(config["method"]), _source(config["data"])
    network = _network(config["backbone"])
    blocks = [
        "---\nlibrary_name: simclr-lab\npipeline_tag: image-feature-extraction\ntags: [self-supervised]\n---",
        MARK,
        f"# {about['run']}",
        f"An image encoder, {network}, pre-trained on {data['name']}. It makes features of images, for classifiers, "
        "search and whatever else is built on them.",
        f"**Method.** {method}",
        "## Use",
        f"```python\n{loads}\n```",
        f"Images are RGB from 0 to 1, {about['image_size']} × {about['image_size']} pixels{_normalised(about)}. Others "
        "are scaled to that: the shorter side fits, and the centre is kept.",
        "## What it scores",
        *_scores(run_dir, about),
        "## How it was trained",
        _table(["setting", "value"], _recipe(about, config, metrics)),
        "## Data",
        data["licence"],
        "## What it is for, and what not",
        "For research, teaching and prototypes on images like those that it has learned from: their size, their "
        "subjects, their cameras. What it does on others is not known until it is measured there "
        "(`python linear_eval.py run=RUN_DIR protocol=transfer data=...`). It has seen no label unless its method says "
        "so; it repeats what its images had too much or too little of, and nothing was done about that. Do not let it "
        "decide about people.",
    ]
    return "\n\n".join(blocks) + "\n"


def is_ours(path: Path) -> bool:
    """Whether a file is a card that this project wrote, and may write again."""
    try:
        return MARK in path.read_text(encoding="utf-8")[:500]
    except (OSError, UnicodeDecodeError):
        return False


def _module_says(part: Mapping[str, Any]) -> str:
    """The first line of the file that a method of this project lives in; the method's name where it is none."""
    target = str(part["_target_"])
    if not target.startswith("simclr.methods."):
        return target
    return (import_module(target.rpartition(".")[0]).__doc__ or target).splitlines()[0]


def _source(data: Mapping[str, Any]) -> dict[str, str]:
    """What a person calls the images, and the terms that they come under."""
    module, _, name = str(data["_target_"]).rpartition(".")
    source = getattr(import_module(module), name, None) if module.startswith("simclr.data.") else None
    return {
        "name": getattr(source, "name", None) or "images of its maker's own",
        "licence": getattr(source, "licence", UNKNOWN_LICENCE),
    }


def _network(backbone: Mapping[str, Any]) -> str:
    name = backbone.get("name") or str(backbone["_target_"]).rpartition(".")[2].removesuffix("_encoder")
    return f"{name} with a {backbone['stem']} stem" if "stem" in backbone else str(name)


def _normalised(about: Mapping[str, Any]) -> str:
    if about.get("mean") is None:
        return ", not normalised"
    mean, std = (", ".join(f"{value:g}" for value in about[key]) for key in ("mean", "std"))
    return f", normalised by mean ({mean}) and standard deviation ({std})"


def _scores(run_dir: Path, about: Mapping[str, Any]) -> list[str]:
    """Every evaluation of this very encoder, its first number with the interval, and the protocol in words.

    The same network before training, where it was judged, stands beside them.
    """
    rows, words = [], []
    for path in sorted(run_dir.glob("*_eval*.json")):
        found = _read(path)
        judged = "untrained" in path.stem or Path(str(found.get("checkpoint"))).name == about["checkpoint"]
        if (found.get("part"), found.get("layer")) != (about["part"], "features") or not judged:
            continue
        key = next(iter(found))
        unit = " %" if key.endswith(PER_CENT) or key.endswith(("_r1", "_r5", "_r10")) else ""
        low, high = found.get(f"{key}_low"), found.get(f"{key}_high")
        between = f"{low:.4g} to {high:.4g}{unit}" if is_finite(low) and is_finite(high) else "–"
        rows.append([path.stem, key, f"{found[key]:.4g}{unit}", between, f"{found['val_images']:,}"])
        words += [f"- **{path.stem}**: {text}" for text in list(found["protocol"].values())[:1]]
    if not rows:
        return ["Nothing yet: `python linear_eval.py run=RUN_DIR` judges it, and an export after that says how well."]
    return [_table(["evaluation", "number", "value", "95 % interval", "images"], rows), "\n".join(words)]


def _recipe(about: Mapping[str, Any], config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    augmentation, optimizer = config["augmentation"], config["optimizer"]
    views = augmentation["views"] if isinstance(augmentation["views"], int) else len(augmentation["views"])
    yield ["images a step", f"{config['batch_size']}, {views} {'view' if views == 1 else 'views'} of each"]
    yield ["steps", f"{about['step']:,}"]
    if "images_seen" in metrics:
        yield ["images seen", f"{metrics['images_seen']:,}"]
    shown = ("crop_scale", "solarize_p", "brightness", "contrast", "saturation", "hue", "grayscale_p", "blur_p")
    yield ["views", ", ".join(f"{key} {augmentation[key]}" for key in shown if key in augmentation)]
    yield ["optimiser", f"{str(optimizer['_target_']).rpartition('.')[2]}, rate {optimizer['lr']:g}"]
    for key in ("temperature", "seed", "precision"):
        if key in config and (key != "temperature" or "temperature" in config["method"]):
            yield [key, str(config[key])]
    for key, name in (("train_images_key", "contents of the images"), ("device", "device"), ("git_commit", "commit")):
        if metrics.get(key):
            yield [name, f"`{metrics[key]}`"]
    if is_finite(metrics.get("wall_seconds")):
        yield ["time", f"{metrics['wall_seconds'] / 60:.0f} minutes"]


def _table(head: list[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
