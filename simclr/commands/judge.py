"""One evaluation, from a configuration of linear_eval.py to the numbers in a run's directory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter

from simclr.augment.plain import Plain
from simclr.checks import is_finite
from simclr.commands.app import quiet_libraries
from simclr.data.checks import in_both, leak_words, warn_of_doubts
from simclr.errors import InputError
from simclr.evaluation.protocol import Protocol, Subject
from simclr.runs.assemble import reassemble, shown_as
from simclr.runs.build import build
from simclr.runs.checkpoint import locate, of_a_run
from simclr.runs.directory import evaluation_events
from simclr.runs.events import sorted_last
from simclr.runs.identity import as_dict
from simclr.runs.images import open_images
from simclr.runs.place import results_place
from simclr.runs.questions import result_name
from simclr.runs.results import provenance, write_json
from simclr.runs.weights import others_backbone
from simclr.system import distributed
from simclr.system.precision import check_gpus, choose_accelerator

log = logging.getLogger(__name__)


def judge(config: DictConfig) -> float | None:
    """Judge one checkpoint by the chosen protocol; returns the protocol's first number, None but on the first rank."""
    quiet_libraries()
    if not isinstance(config.untrained, bool):
        raise InputError(f"untrained={config.untrained} is not usable; choose true or false")
    if "protocol" not in config:
        raise InputError("there is no protocol; choose one with protocol=")
    if config.layer not in ("features", "head"):
        raise InputError(f"layer={config.layer} is not known; choose features or head")
    trained = not config.untrained
    protocol: Protocol = build(config.protocol)
    find = _of_others if "backbone" in config else _of_a_run
    path, checkpoint, run_dir, judged, parts, plain, who = find(config, protocol)
    several = config.output is not None and HydraConfig.get().mode == RunMode.MULTIRUN
    place = results_place(run_dir, Path(str(config.output)) / run_dir.resolve().name if several else config.output)
    if protocol.name == "transfer" and "_target_" not in config.data:
        raise InputError("protocol=transfer needs other images; choose them with data=")
    accelerator = choose_accelerator(str(config.accelerator))
    check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]) if distributed.world_size() > 1 else 1, accelerator)
    device = torch.device(accelerator)
    (_, train, val), data, own = open_images(config, checkpoint, path)
    protocol.check(train, val)
    assert val is not None, "Protocol.check"
    leaked = in_both(train, val)
    warn_of_doubts(train, val)
    if plain.scales(val.size):
        log.info("The encoder learned from views of %d pixels; images of %d are scaled to that.", plain.size, val.size)
    # What a head takes in are pooled features.
    encoder = parts["backbone"] if config.layer == "head" else protocol.read_from(parts["backbone"])
    subject = Subject(
        encoder=encoder.to(device),
        head=parts["head"].to(device) if config.layer == "head" or "head" in protocol.parts else None,
        text=parts["text"].to(device) if "text" in protocol.parts else None,
        train=train.first_of_shuffle(config.limit_images),
        val=val,
        device=device,
        cache=place / "features",
        plain=plain,
    )
    for split in protocol.reads:
        _ = subject.features_of[split]  # every process has its share in it
    if distributed.rank() > 0:
        return None

    counts = f"{len(subject.train):,} training and {len(val):,} validation images"
    what = config.layer if config.part == "backbone" else f"{config.part}, {config.layer}"
    log.info("%s, %s, %s: %s", run_dir, who, what, counts)
    numbers, words, lines = protocol.judge(subject)
    for line in lines:
        log.info(line)
    if config.layer == "head":
        words = {name: f"of the projection head's output, in place of features: {text}" for name, text in words.items()}
    words = {name: f"{text}{plain.words(val.size)}" for name, text in words.items()}
    if leaked:
        words = {name: f"{text}; {leak_words(leaked, len(val))}" for name, text in words.items()}
    result: dict[str, Any] = numbers | {
        "protocol": words,
        "part": config.part,
        "layer": config.layer,
        "limit_images": config.limit_images,
        "train_images": len(subject.train),
        "val_images": len(val),
        "val_images_in_train": leaked,
        "data": data,
        "images": {"train": len(subject.train), "val": len(val), "val_in_train": leaked},
        "train_images_key": subject.train.key,
        "val_images_key": val.key,
        "checkpoint": str(path) if trained else None,
        **provenance(device),
    }
    name = result_name(
        f"{protocol.name}_eval{protocol.suffix()}",
        other_data=None if own and protocol.name != "transfer" else data,
        limit_images=config.limit_images,
        part=config.part,
        layer=config.layer,
        checkpoint=judged if trained or not of_a_run(path) else "",
        trained=trained,
    )
    write_json(place / f"{name}.json", result)
    if trained:
        show(place, name, numbers, checkpoint["global_step"])
    return next(iter(numbers.values()))


class Judged(NamedTuple):
    """Whom a command judges: its file, what that holds, where the results go, what their names say, what it is made of.

    who: in words.
    """

    path: Path
    checkpoint: dict[str, Any]
    folder: Path
    moment: str
    parts: dict[str, Any]
    plain: Plain
    who: str


def _of_a_run(config: DictConfig, protocol: Protocol) -> Judged:
    """A checkpoint of this project, which says itself what it is."""
    for key, value in config.augmentation.items():
        if value is not None:
            raise InputError(
                f"augmentation.{key} is for weights of others, with backbone=; a checkpoint of this project says how "
                "its backbone was shown images"
            )
    (path, checkpoint), folder, moment = locate(config.run, config.ckpt)
    if protocol.parts and (config.layer, config.part) != ("features", "backbone"):
        raise InputError(f"{protocol.name} evaluation compares what the towers' heads give; leave layer= and part= out")
    wanted = {"backbone", *protocol.parts, *(["head"] if config.layer == "head" else [])}
    parts = reassemble(checkpoint, wanted, config.part, trained=not config.untrained)
    who = "untrained" if config.untrained else f"step {checkpoint['global_step']}"
    return Judged(path, checkpoint, folder, moment, parts, shown_as(checkpoint), who)


def _of_others(config: DictConfig, protocol: Protocol) -> Judged:
    """A state dict, in the network that the command chose for it, shown images as the command says."""
    if config.ckpt is None or config.run is not None:
        raise InputError("backbone= is for weights of others; give their file with ckpt=FILE, and leave run= out")
    if "_target_" not in config.data:
        raise InputError("weights of others do not say which images they are judged on; choose them with data=")
    if protocol.parts:
        raise InputError(f"{protocol.name} evaluation needs a run of method=clip; leave backbone= out")
    for key, usual in (("untrained", False), ("layer", "features")):
        if config[key] != usual:
            raise InputError(f"{key}={config[key]} needs a checkpoint of this project; leave it out with backbone=")
    path, choice = Path(str(config.ckpt)).expanduser(), HydraConfig.get().runtime.choices["backbone"]
    encoder, about = others_backbone(config.backbone, path, config.part)
    noted: dict[str, Any] = {"size": about.get("image_size"), "mean": about.get("mean"), "std": about.get("std")}
    asked = {key: value for key, value in as_dict(config.augmentation).items() if value is not None}
    shown: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (noted | asked).items()
    }
    try:
        plain = Plain(**shown)
    except ValueError as error:
        raise InputError(f"augmentation.{error}") from error
    content = {"config": {}, "state_dict": {}, "global_step": 0}
    return Judged(path, content, path.parent, path.stem, {"backbone": encoder}, plain, f"weights of others, {choice}")


def show(place: Path, name: str, numbers: dict[str, Any], step: int) -> None:
    """Show a result's numbers in TensorBoard, under name/key at `step`, in place of what it showed before.

    They have a folder of their own: readers that follow one file at a time would take a newer one beside the training's
    for its end, and never come back to it.
    """
    before = evaluation_events(place, name)
    folder = place / "evaluation"
    with sorted_last(folder), SummaryWriter(str(folder), filename_suffix=f".{name}") as events:
        for key, value in numbers.items():
            if is_finite(value):
                events.add_scalar(f"{name}/{key}", value, step)
    for path in before:
        path.unlink(missing_ok=True)


def protocol_config(protocol: str) -> DictConfig:
    """linear_eval.py's configuration with this choice of protocol."""
    return compose("linear_eval", [f"protocol={protocol}"])
