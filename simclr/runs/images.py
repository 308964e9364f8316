"""Which images a run has learned from, and is judged on: known by their content keys, wherever they lie."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from simclr.data.files.download import no_downloads
from simclr.data.store import ImageStore, Splits
from simclr.errors import InputError
from simclr.runs.assemble import own_part
from simclr.runs.build import build
from simclr.runs.checkpoint import TRAIN_IMAGES, VAL_IMAGES, newest_checkpoint
from simclr.runs.configs import option_of
from simclr.runs.identity import absolute, escaped
from simclr.system.files import replacing

log = logging.getLogger(__name__)


class Images(NamedTuple):
    """Keys: of the images that are trained on, and of those held out, None where there are none or it is not known."""

    train: str
    val: str | None

    @classmethod
    def of(cls, pretrain: ImageStore, val: ImageStore | None) -> Images:
        return cls(pretrain.key, None if val is None else val.key)

    @classmethod
    def told_by(cls, content: Mapping[str, Any]) -> Images | None:
        """As a checkpoint, metrics.json or images.json tells them; None where it does not."""
        return cls(content[TRAIN_IMAGES], content.get(VAL_IMAGES)) if TRAIN_IMAGES in content else None


def remember_images(run_dir: Path, images: Images) -> None:
    """Write the keys into a run's directory, before its first step."""
    with replacing(run_dir / "images.json") as unfinished:
        content = {TRAIN_IMAGES: images.train, VAL_IMAGES: images.val}
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def known_images(run_dir: Path) -> Images | None:
    """The images of a run; None where it has none yet, or its version did not keep their keys."""
    for name in ("images.json", "metrics.json"):
        path = run_dir / name
        told = Images.told_by(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
        if told is not None:
            return told
    newest = newest_checkpoint(run_dir)
    return None if newest is None else Images.told_by(newest.content)


def images_there(config: Mapping[str, Any]) -> Images | None:
    """The images that a plain configuration names, as they are now; None where they cannot be opened.

    Nothing is downloaded for it.
    """
    limit = config.get("limit_images")
    try:
        with no_downloads():
            images = build(OmegaConf.create({"data": escaped(config["data"])}).data).load()
        learned_from = images.pretrain.first_of_shuffle(limit)
    except InputError:
        return None
    return Images.of(learned_from, images.val)


def check_same_images(run_dir: Path, now: Images, root: object) -> None:
    """Raise InputError where a run that was begun on other images would go on with those at data.root=`root`."""
    then = known_images(run_dir)
    if then is not None and then.train != now.train:
        raise InputError(
            f"{run_dir} was trained on other images (key {then.train}) than those at data.root={root} now (key "
            f"{now.train}); restore them, start over with resume=never, or keep both runs with name=NAME"
        )


def check_finished(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError where a finished run has seen other images than the configuration names; gone ones are said."""
    root = config["data"].get("root")
    if root is None:
        return  # they are made on the spot, as the configuration says
    now = images_there(config)
    if now is None:
        log.info("Its images cannot be opened at data.root=%s any more.", root)
    else:
        check_same_images(run_dir, now, root)


def open_images(config: DictConfig, checkpoint: Mapping[str, Any], path: Path) -> tuple[Splits, dict[str, Any], bool]:
    """The images to judge a checkpoint on, what a result says of them, and whether they are those of its run.

    config: the command's. Its `data` is another choice; else the run's own are opened, where they were or, moved, at
    its `data.root`. path: of the checkpoint. Raises InputError where the run's own are gone or have changed.
    """
    chosen = "_target_" in config.data
    source = OmegaConf.create({"data": config.data if chosen else own_part(checkpoint["config"], "data")}).data
    for key in ("root", "store"):
        value = config.data._get_node(key)._value()
        if value is not None:
            source[key] = value
        elif chosen:
            source.pop(key, None)  # linear_eval.yaml has it for every choice
    root = None if OmegaConf.is_missing(source, "root") else source.get("root")
    then = Images.told_by(checkpoint)
    if not chosen and root is not None:
        _check_place(str(root), moved=config.data.root is not None, known=then is not None, path=path)
    with nullcontext() if chosen else no_downloads():
        images = build(source).load()
    limit = checkpoint["config"].get("limit_images")
    now = Images.of(images.pretrain.first_of_shuffle(limit), images.val)
    if then is None:
        log.warning("%s does not tell which images it was trained on.", path)
    elif not chosen:
        for what, its, found in zip(("training", "validation"), then, now, strict=True):
            if its not in (None, found):
                place = "" if root is None else f" at data.root={root}"
                raise InputError(
                    f"the {what} images{place} (key {found}) are not those of {path} (key {its}); "
                    "restore them, say where they are with data.root=PATH, or judge it on these with data=CHOICE"
                )
    told = {
        "choice": HydraConfig.get().runtime.choices["data"] if chosen else option_of("data", source._target_),
        "root": None if root is None else absolute(root),
        "size": source.get("size"),
        "key": {"train": images.train.key, "val": None if images.val is None else images.val.key},
    }
    same = then is not None and then.train == now.train and then.val in (None, now.val)
    return images, told, same or not chosen


def _check_place(root: str, moved: bool, known: bool, path: Path) -> None:
    """Raise InputError where a run's own images are not at `root`, or where it cannot be told which place that is."""
    where = "say where they are with data.root=PATH"
    if "://" in root:
        return
    if not Path(absolute(root)).exists():
        raise InputError(f"the images of {path} are not at {root} any more; {where}")
    # Earlier versions kept relative paths. One that leads to images of the right key is no guess.
    if not (moved or known or Path(root).is_absolute()):
        raise InputError(f"{path} says of its images that they are in {root}, and not below which folder; {where}")
