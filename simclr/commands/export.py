"""Write a run's encoder in the form that others load. `python -m simclr.export --help` shows commands and keys."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.errors import InputError
from simclr.runs.compose import CONFIGS

log = logging.getLogger(__name__)

# The files of a folder that open_clip loads: these two are its names; the tokenizer is in the format of tokenizers.
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json")


def export(config: DictConfig) -> None:
    """Write what `format` asks for of one checkpoint, and say how it is loaded."""
    formats = {"torchvision": export_part, "open_clip": export_towers}
    if config.format not in formats:
        raise InputError(f"format={config.format} is not known; choose {' or '.join(formats)}")
    quiet_libraries()
    formats[config.format](config)


def export_towers(config: DictConfig) -> None:
    """Write the image and the text tower of a CLIP run into a folder that open_clip loads by itself."""
    from safetensors.torch import save_file

    from simclr.models.open_clip import open_clip_config, open_clip_weights
    from simclr.runs.assemble import reassemble, shown_as
    from simclr.runs.checkpoint import locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place
    from simclr.system.files import replacing

    if config.part != "backbone":
        raise InputError(f"part={config.part} is not for format=open_clip, which takes both towers; leave it out")
    (_, checkpoint), run_dir, _ = locate(config.run, config.ckpt)
    parts = reassemble(checkpoint, ["backbone", "head", "text"], text=True)
    text = parts["text"]
    try:
        about = open_clip_config(upgraded(checkpoint["config"])["backbone"], text, shown_as(checkpoint))
        weights = open_clip_weights(parts["backbone"], parts["head"], text, checkpoint["state_dict"]["logit_scale"])
    except ValueError as error:
        raise InputError(f"format=open_clip is not for this run: {error}") from error
    folder = (
        results_place(run_dir, None) / "open_clip" if config.output is None else Path(str(config.output)).expanduser()
    )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output={folder} is a file; format=open_clip writes a folder, so give the name of one")
    strange = [path.name for path in folder.glob("*") if path.name not in OPEN_CLIP]
    if strange:
        raise InputError(
            f"output={folder} holds other files, {sorted(strange)[0]} first; give a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config_json, weights_file, tokenizer = (folder / name for name in OPEN_CLIP)
    with replacing(config_json) as unfinished:
        unfinished.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with replacing(weights_file) as unfinished:
        save_file(weights, unfinished)
    with replacing(tokenizer) as unfinished:
        unfinished.write_text(text.learned, encoding="utf-8")
    log.info("Both towers, step %d of %s: %s", checkpoint["global_step"], run_dir, folder)
    log.info(
        "Load them with:\n    model, _, preprocess = open_clip.create_model_and_transforms(%r)", f"local-dir:{folder}"
    )


def export_part(config: DictConfig) -> None:
    """Write one part of one checkpoint as safetensors, and say how it is loaded."""
    from simclr.runs.assemble import reassemble
    from simclr.runs.checkpoint import EXPORTED, export_backbone, locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place

    (source, checkpoint), run_dir, moment = locate(config.run, config.ckpt)
    backbone = reassemble(checkpoint, ["backbone"], config.part)["backbone"]
    settings = upgraded(checkpoint["config"])
    augmentation = settings.get("augmentation") or {}
    about = {
        "part": config.part,
        "backbone": settings["backbone"],
        "image_size": augmentation.get("size"),
        "mean": augmentation.get("mean"),
        "std": augmentation.get("std"),
        "run": run_dir.resolve().name,
        "checkpoint": source.name,
        "step": checkpoint["global_step"],
    }
    if config.output is None:
        # Weights on the way, or of a bare checkpoint, never take the place of the encoder that a run has ended with.
        name = f"{config.part}_{moment}" if moment else config.part
        path = results_place(run_dir, None) / f"{name}.safetensors"
    else:
        path = Path(str(config.output)).expanduser()
    if path.is_dir():
        raise InputError(f"output={path} is a folder; give the path of a file, such as {path / 'encoder.safetensors'}")
    # What training wrote at the end of the run has no note of its own, and holds the same.
    if path.exists() and _about(path) is None and path.resolve() != (run_dir / "backbone.safetensors").resolve():
        raise InputError(
            f"output={path} exists, and was not written by this command; choose another path, or remove it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(backbone, path, {EXPORTED: json.dumps(about)})
    log.info("%s, step %d of %s: %s", config.part, about["step"], run_dir, path)
    log.info(
        "Load it with:\n"
        "    weights = safetensors.torch.load_file(%r)\n"
        "    missing, unexpected = network.load_state_dict(weights, strict=False)  # only the classifier is missing",
        str(path),
    )


def _about(path: Path) -> dict[str, Any] | None:
    """What this command noted in a file that it has written; None for any other file."""
    from safetensors import SafetensorError, safe_open

    from simclr.runs.checkpoint import EXPORTED

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[EXPORTED])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="export")
def command(config: DictConfig) -> None:
    with clear_errors("close other programs"):
        export(config)


def main() -> None:
    run_command(command, "export")
