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


def export(config: DictConfig) -> None:
    """Write one part of one checkpoint as safetensors, and say how it is loaded."""
    from simclr.runs.assemble import reassemble
    from simclr.runs.checkpoint import EXPORTED, export_backbone, locate
    from simclr.runs.identity import upgraded
    from simclr.runs.place import results_place

    quiet_libraries()
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
