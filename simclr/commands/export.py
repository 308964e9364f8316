"""Write a run's encoder in the form that others load. `python -m simclr.export --help` shows commands and keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.commands.exported import CARD, described, new_file, new_folder, told_by, write_card
from simclr.errors import InputError
from simclr.runs.configs import CONFIGS

log = logging.getLogger(__name__)

# The files of a folder that open_clip loads: these two are its names; the tokenizer is in the format of tokenizers.
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json")
TIMM = ("config.json", "model.safetensors")  # and of a folder that timm loads
ONNX = ("image.onnx", "text.onnx", "tokenizer.json")  # of both towers


def export(config: DictConfig) -> None:
    """Write what `format` asks for of one checkpoint, and say how it is loaded."""
    formats = {
        "torchvision": export_part,
        "safetensors": export_part,
        "timm": export_timm,
        "onnx": export_onnx,
        "torch_export": export_program,
        "open_clip": export_towers,
    }
    if config.format not in formats:
        raise InputError(f"format={config.format} is not known; choose one of {', '.join(formats)}")
    quiet_libraries()
    formats[config.format](config)


def export_towers(config: DictConfig) -> None:
    """Write the image and the text tower of a CLIP run into a folder that open_clip loads by itself."""
    from safetensors.torch import save_file

    from simclr.models.open_clip import open_clip_config, open_clip_weights
    from simclr.runs.assemble import shown_as
    from simclr.runs.checkpoint import locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place
    from simclr.system.files import replacing

    (source, checkpoint), run_dir, _ = locate(config.run, config.ckpt)
    parts = both_towers(config, checkpoint)
    text = parts["text"]
    try:
        about = open_clip_config(upgraded(checkpoint["config"])["backbone"], text, shown_as(checkpoint))
        weights = open_clip_weights(parts["backbone"], parts["head"], text, checkpoint["state_dict"]["logit_scale"])
    except ValueError as error:
        raise InputError(f"format=open_clip is not for this run: {error}") from error
    folder = new_folder(config.output, results_place(run_dir, None) / "open_clip", OPEN_CLIP)
    config_json, weights_file, tokenizer = (folder / name for name in OPEN_CLIP)
    with replacing(config_json) as unfinished:
        unfinished.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with replacing(weights_file) as unfinished:
        save_file(weights, unfinished)
    with replacing(tokenizer) as unfinished:
        unfinished.write_text(text.learned, encoding="utf-8")
    log.info("Both towers, step %d of %s: %s", checkpoint["global_step"], run_dir, folder)
    loads = f"model, _, preprocess = open_clip.create_model_and_transforms({f'local-dir:{folder}'!r})"
    log.info("Load them with:\n    %s", loads)
    write_card(folder / CARD, config, source, checkpoint, run_dir, f"import open_clip\n\n{loads}")


def export_onnx(config: DictConfig) -> None:
    """Write one part of a checkpoint as an ONNX file, or of a CLIP run both towers into a folder."""
    from simclr.models import onnx
    from simclr.models.image_tower import ImageTower
    from simclr.runs.assemble import reassemble, shown_as
    from simclr.runs.checkpoint import locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place
    from simclr.system.files import replacing

    onnx.check_installed()
    (source, checkpoint), run_dir, moment = locate(config.run, config.ckpt)
    plain = shown_as(checkpoint)
    about = {name: json.dumps(value) for name, value in described(config, source, checkpoint, run_dir).items()}
    if "text" not in upgraded(checkpoint["config"])["method"]:
        backbone = reassemble(checkpoint, part=config.part)["backbone"]
        path = new_file(config, run_dir, moment, ".onnx", onnx.is_ours)
        with replacing(path) as unfinished:
            onnx.write_image_tower(ImageTower(backbone, None, plain), unfinished, about)
        log.info("%s, step %d of %s: %s", config.part, checkpoint["global_step"], run_dir, path)
        loads = (
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            'features, = session.run(None, {"images": images})  '
            f"# float32 [N, 3, {plain.size}, {plain.size}], RGB from 0 to 1",
        )
        log.info("Run it with:\n    %s", "\n    ".join(loads))
        write_card(
            path.with_suffix(".md"), config, source, checkpoint, run_dir, "\n".join(("import onnxruntime\n", *loads))
        )
        return
    parts = both_towers(config, checkpoint)
    folder = new_folder(config.output, results_place(run_dir, None) / "onnx", ONNX)
    image, text, tokenizer = (folder / name for name in ONNX)
    with replacing(image) as unfinished:
        tower = ImageTower(parts["backbone"], parts["head"], plain)
        onnx.write_image_tower(tower, unfinished, about)
    with replacing(text) as unfinished:
        onnx.write_text_tower(parts["text"], unfinished, about)
    with replacing(tokenizer) as unfinished:
        unfinished.write_text(parts["text"].learned, encoding="utf-8")
    log.info("Both towers, step %d of %s: %s", checkpoint["global_step"], run_dir, folder)
    takes = (
        f"image.onnx: images float32 [N, 3, {plain.size}, {plain.size}], RGB from 0 to 1; text.onnx: tokens int64 [N, "
        f"{parts['text'].context}]."
    )
    log.info(takes)
    write_card(folder / CARD, config, source, checkpoint, run_dir, f"# onnxruntime; {takes}")


def export_program(config: DictConfig) -> None:
    """Write one part of a checkpoint as a program of torch.export, which needs none of this project's code."""
    from simclr.models import program
    from simclr.models.image_tower import ImageTower
    from simclr.runs.assemble import reassemble, shown_as
    from simclr.runs.checkpoint import locate
    from simclr.system.files import replacing

    (source, checkpoint), run_dir, moment = locate(config.run, config.ckpt)
    plain = shown_as(checkpoint)
    backbone = reassemble(checkpoint, part=config.part)["backbone"]
    path = new_file(config, run_dir, moment, ".pt2", program.is_ours)
    about = described(config, source, checkpoint, run_dir)
    with replacing(path) as unfinished:
        program.write(ImageTower(backbone, None, plain), unfinished, json.dumps(about))
    log.info("%s, step %d of %s: %s", config.part, about["step"], run_dir, path)
    loads = (
        f"encoder = torch.export.load({str(path)!r}).module()",
        f"features, = encoder(images)  # float32 [N, 3, {plain.size}, {plain.size}], RGB from 0 to 1",
    )
    log.info("Load it with:\n    %s", "\n    ".join(loads))
    write_card(path.with_suffix(".md"), config, source, checkpoint, run_dir, "import torch\n\n" + "\n".join(loads))


def export_timm(config: DictConfig) -> None:
    """Write one part of a checkpoint as a folder that timm makes a model of by itself."""
    from safetensors.torch import save_file

    from simclr.models.timm_folder import timm_config
    from simclr.runs.assemble import reassemble, shown_as
    from simclr.runs.checkpoint import locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place
    from simclr.system.files import replacing

    (source, checkpoint), run_dir, moment = locate(config.run, config.ckpt)
    backbone = reassemble(checkpoint, part=config.part)["backbone"]
    try:
        about = timm_config(upgraded(checkpoint["config"])["backbone"], backbone.num_features, shown_as(checkpoint))
    except ValueError as error:
        raise InputError(f"format=timm is not for this run: {error}") from error
    name = f"timm_{config.part}_{moment}" if moment else f"timm_{config.part}"
    folder = new_folder(config.output, results_place(run_dir, None) / name, TIMM)
    with replacing(folder / TIMM[0]) as unfinished:
        unfinished.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / TIMM[1]) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, unfinished)
    log.info("%s, step %d of %s: %s", config.part, checkpoint["global_step"], run_dir, folder)
    loads = f"encoder = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
    log.info("Load it with:\n    %s", loads)
    write_card(folder / CARD, config, source, checkpoint, run_dir, f"import timm\n\n{loads}")


def both_towers(config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Backbone, head and text tower of a CLIP run. Raises InputError for another run, or part=."""
    from simclr.runs.assemble import reassemble

    if config.part != "backbone":
        raise InputError(f"part={config.part} is not for both towers; leave it out")
    return reassemble(checkpoint, ["backbone", "head", "text"])


def export_part(config: DictConfig) -> None:
    """Write one part of one checkpoint as safetensors, and say how it is loaded."""
    from simclr.runs.assemble import reassemble
    from simclr.runs.checkpoint import EXPORTED, export_backbone, locate

    (source, checkpoint), run_dir, moment = locate(config.run, config.ckpt)
    backbone = reassemble(checkpoint, part=config.part)["backbone"]
    about = described(config, source, checkpoint, run_dir)

    def ours(path: Path) -> bool:
        # What training wrote at the end of the run has no note of its own, and holds the same.
        return told_by(path) is not None or path.resolve() == (run_dir / "backbone.safetensors").resolve()

    path = new_file(config, run_dir, moment, ".safetensors", ours)
    export_backbone(backbone, path, {EXPORTED: json.dumps(about)})
    log.info("%s, step %d of %s: %s", config.part, about["step"], run_dir, path)
    loads = (
        f"weights = safetensors.torch.load_file({str(path)!r})",
        "missing, unexpected = network.load_state_dict(weights, strict=False)  # only the classifier is missing",
    )
    log.info("Load it with:\n    %s", "\n    ".join(loads))
    imports = "import safetensors.torch\n\nnetwork = ...  # of torchvision or timm, as its name says\n"
    write_card(path.with_suffix(".md"), config, source, checkpoint, run_dir, imports + "\n".join(loads))


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="export")
def command(config: DictConfig) -> None:
    with clear_errors("close other programs"):
        export(config)


def main() -> None:
    run_command(command, "export")
