"""Draw what a run has learned. `python -m simclr.visualize --help` shows commands and keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.errors import InputError
from simclr.runs.build import check_number
from simclr.runs.configs import CONFIGS
from simclr.runs.identity import as_dict

if TYPE_CHECKING:
    from simclr.commands.drawings import Subject


def visualize(config: DictConfig) -> None:
    """Draw the chosen figures of one run; one that its images do not allow is left out, which is said."""
    from simclr.commands import drawings
    from simclr.figures.figure import check_installed

    quiet_libraries()
    logging.getLogger("openTSNE").setLevel(logging.WARNING)
    settings = as_dict(config)
    drawers = {name: getattr(drawings, name) for name in ("latent_space", "neighbours", "augmented_pairs", "retrieval")}
    chosen = settings["figures"]
    if not isinstance(chosen, list) or not chosen or not all(name in drawers for name in map(str, chosen)):
        raise InputError(f"figures={chosen} is not usable; write a list of some of {', '.join(drawers)}")
    check_installed("matplotlib", *(["openTSNE"] if "latent_space" in chosen else []))
    check_settings(config)
    subject = open_subject(config)
    folder, written = subject.place / "figures", 0
    for name in dict.fromkeys(chosen):
        path = folder / f"{name}.png"
        written += drawers[name](subject, settings, path)
    if not written:
        raise InputError("nothing could be drawn; see above")


def check_settings(config: DictConfig) -> None:
    """Raise InputError for a number out of its range, before anything takes time."""
    from simclr.checks import MAX_SEED, is_finite
    from simclr.evaluation import knn

    check_number(config, "seed", 0, MAX_SEED)
    for key, low, high in (
        ("latent_space.panels", 2, 12),
        ("latent_space.points", 10, 100_000),
        ("neighbours.queries", 1, 50),
        ("neighbours.count", 1, 30),
        ("augmented_pairs.images", 1, 50),
        ("retrieval.queries", 1, 25),
        ("retrieval.count", 1, 10),
    ):
        check_number(config, key, low, high)
    perplexity = config.latent_space.perplexity
    if not is_finite(perplexity) or not 2 <= perplexity <= 1000:
        raise InputError(f"latent_space.perplexity={perplexity} is not usable; it lies between 2 and 1000 (usual: 30)")
    knn.check_settings(**config.knn)


def open_subject(config: DictConfig) -> Subject:
    """The run's last checkpoint, and its images or those that data= names."""
    import torch

    from simclr.commands.drawings import Subject
    from simclr.data.checks import warn_of_doubts
    from simclr.data.words import display_names
    from simclr.runs.assemble import shown_as
    from simclr.runs.checkpoint import locate
    from simclr.runs.images import open_images
    from simclr.runs.place import results_place
    from simclr.system.precision import choose_accelerator

    last, run_dir, _ = locate(config.run, config.ckpt)
    splits, told, _ = open_images(config, last.content, last.path)
    _, train, val = splits
    bank = train.first_of_shuffle(config.limit_images)
    if val is not None and val.classes != train.classes:
        raise InputError("training and validation images have other classes, so they cannot be compared; see data=")
    warn_of_doubts(bank, val)
    words, root = (None if path is None else Path(str(path)).expanduser() for path in (config.words, told["root"]))
    names = display_names(train.classes, words, root)
    name = run_dir.resolve().name
    place = results_place(run_dir, config.output)
    device, plain = torch.device(choose_accelerator(str(config.accelerator))), shown_as(last.content)
    return Subject(name, place, last, splits, bank, val, names, device, plain)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="visualize")
def command(config: DictConfig) -> None:
    with clear_errors("use a smaller limit_images"):
        visualize(config)


def main() -> None:
    run_command(command, "visualize")
