"""Find images by a sentence or by an image. `python -m simclr.search --help` shows commands and keys."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from simclr.commands.app import clear_errors, quiet_libraries, run_command
from simclr.errors import InputError
from simclr.runs.build import check_number
from simclr.runs.configs import CONFIGS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from simclr.commands.encoder import OpenedEncoder
    from simclr.evaluation.collection import Collection
    from simclr.figures.contact_sheet import Hit

log = logging.getLogger(__name__)

SHOWN = 192  # pixels of an image on the page
NAMED = 5  # hits that the terminal shows, too


def search(config: DictConfig) -> None:
    """Write a page of the images nearest to the query, and name the first few."""
    from simclr.figures.contact_sheet import MADE_BY, contact_sheet
    from simclr.runs.checkpoint import locate
    from simclr.runs.place import file_to_write, results_place
    from simclr.system.files import replacing

    quiet_libraries()
    check_number(config, "count", 1, 1000)
    if config.query is None or not str(config.query).strip():
        raise InputError('say what to look for: python -m simclr.search run=RUN_DIR "two dogs on grass" FOLDER')
    asked = str(config.query)
    last, run_dir, moment = locate(config.run, config.ckpt)
    sentence = not _is_image(asked)
    encoder = _opened(config, last.content, sentence)
    place = results_place(run_dir, None)

    def ours(path: Path) -> bool:
        return MADE_BY.encode() in path.read_bytes()[:500]

    path = file_to_write(config.output, lambda: place / f"search_{_slug(asked)}.html", ours, "found.html")
    query: str | np.ndarray
    if sentence:
        query, title = asked, asked
        target = encoder.parts["text"].embed([asked])[0].detach()  # type: ignore[operator]
    else:
        query, title = _decoded(asked, SHOWN), Path(asked).name
        target = _features(encoder, asked)
    hits, counted = _found(config, last, encoder, place, target, encoder.parts.get("head"))
    step = f"step {last.content['global_step']}" + (f" ({moment})" if moment else "")
    note = f"The nearest {len(hits):,} of {counted}, by {run_dir.resolve().name}, {step}. Numbers are cosines."
    with replacing(path) as unfinished:
        unfinished.write_text(contact_sheet(query, title, note, hits), encoding="utf-8")
    for hit in hits[:NAMED]:
        log.info("%.3f  %s", hit.similarity, hit.name)
    log.info("%s%d in all: %s", "... " if len(hits) > NAMED else "", len(hits), path)


def _opened(config: DictConfig, checkpoint: dict[str, Any], sentence: bool) -> OpenedEncoder:
    """The encoder, and where the query is a sentence what compares images with it."""
    from simclr.commands.encoder import open_encoder
    from simclr.runs.identity import upgraded

    if sentence and "text" not in upgraded(checkpoint["config"])["method"]:
        raise InputError(
            f"query={config.query} is no image, and this run reads no sentences (see method=clip); give the path of an "
            "image"
        )
    wanted = ["backbone", "head", "text"] if sentence else ["backbone"]
    return open_encoder(checkpoint, wanted, str(config.accelerator))


def _found(
    config: DictConfig, last: Any, encoder: OpenedEncoder, place: Path, target: torch.Tensor, head: nn.Module | None
) -> tuple[list[Hit], str]:
    """The hits, and what was searched in words: the images given, or the run's own."""
    from simclr.data.files.archive import FolderArchive, path_of
    from simclr.data.files.decode import MAX_BYTES
    from simclr.data.files.pixels import decode, image_endings
    from simclr.data.files.shards import open_archive_or_shards
    from simclr.evaluation.collection import Collection, collect
    from simclr.evaluation.features import extract_with_cache
    from simclr.figures.contact_sheet import Hit
    from simclr.runs.images import open_images

    features = place / "features"
    if config.images is not None:
        archive = open_archive_or_shards(path_of("images", config.images), image_endings(), "images")
        images = collect(encoder.backbone, archive, encoder.size, encoder.plain, encoder.device, features)
        hits = []
        for index, similarity in _nearest(images, target, config.count, head):
            name = images.names[index]
            link = (archive.path / name).as_uri() if isinstance(archive, FolderArchive) else None
            hits.append(Hit(decode(archive.read(name, MAX_BYTES), SHOWN).pixels, name, similarity, link))
        return hits, f"{len(images.names):,} images of {archive.path}"
    splits, *_ = open_images(config, last.content, last.path)
    store = splits.val or splits.train
    which = "validation" if store is splits.val else "training"
    title = f"Features of {which} images"
    known = extract_with_cache(encoder.backbone, store, encoder.device, features, title, encoder.plain)
    images = Collection([f"{which} image {index}" for index in range(len(store))], known)
    hits = [
        Hit(store.gather(slice(index, index + 1))[0].numpy(), images.names[index], similarity, None)
        for index, similarity in _nearest(images, target, config.count, head)
    ]
    return hits, f"{len(store):,} {which} images"


def _nearest(images: Collection, target: torch.Tensor, count: int, head: nn.Module | None) -> list[tuple[int, float]]:
    from simclr.evaluation.protocol import check_features

    check_features(images.features, target[None])
    return images.nearest(target, count, head)


def _is_image(asked: str) -> bool:
    """Whether a query is the path of an image. Raises InputError for one that is not there."""
    from simclr.data.files.contents import ending
    from simclr.data.files.pixels import image_endings

    try:
        there = Path(asked).expanduser().is_file()
    except OSError:  # too long for a path
        return False
    if not there and ending(asked) in image_endings() and " " not in asked:
        raise InputError(f"query={asked} does not exist; give the path of an image, or a sentence")
    return there


def _decoded(asked: str, size: int) -> np.ndarray:
    from simclr.data.files.pixels import decode

    try:
        return decode(Path(asked).expanduser().read_bytes(), size).pixels
    except Exception as error:  # Pillow has no one kind for what is wrong with a file
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(f"query={asked} cannot be decoded ({reason}); give another image") from error


def _features(encoder: OpenedEncoder, asked: str) -> torch.Tensor:
    import torch

    pixels = torch.from_numpy(_decoded(asked, encoder.size)[None].copy()).to(encoder.device)
    with torch.no_grad():
        return encoder.backbone(encoder.plain(pixels))[0]


def _slug(asked: str) -> str:
    """A query as a part of a file's name."""
    return re.sub(r"\W+", "-", asked).strip("-")[:60] or "query"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="search")
def command(config: DictConfig) -> None:
    with clear_errors("search fewer images"):
        search(config)


def main() -> None:
    run_command(command, "search", words=("query", "images"))
