"""What the figures of a run are drawn of: its encoder at several moments, and the images that it has learned from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from simclr.augment.plain import Plain
from simclr.data.store import ImageStore, Splits
from simclr.evaluation import knn
from simclr.evaluation.features import extract_with_cache
from simclr.evaluation.protocol import Subject as Judged
from simclr.evaluation.protocol import check_features
from simclr.evaluation.retrieval import Pairs
from simclr.figures.stages import stages
from simclr.report.palette import save
from simclr.runs.assemble import own_part, reassemble
from simclr.runs.build import build
from simclr.runs.checkpoint import Loaded, load_checkpoint

log = logging.getLogger(__name__)


@dataclass
class Subject:
    """The run that is drawn: its name, the folder to write to, its last checkpoint, and the images.

    splits: all of them. bank: the training images that neighbours are looked for among. names: of the classes.
    plain: how the encoder is shown images.
    """

    name: str
    place: Path
    last: Loaded
    splits: Splits
    bank: ImageStore
    val: ImageStore | None
    names: list[str]
    device: torch.device
    plain: Plain

    @property
    def labelled(self) -> bool:
        """Whether there are labelled validation images, and training images of the same classes."""
        return self.val is not None and self.val.labels is not None and self.bank.labels is not None

    def encoder(self, path: Path | None) -> nn.Module:
        """As its weights at `path` make it, or untrained where that is None."""
        checkpoint = self.last.content if path is None or path == self.last.path else load_checkpoint(path)
        return reassemble(checkpoint, trained=path is not None)["backbone"].to(self.device)

    def features(self, encoder: nn.Module, store: ImageStore, title: str) -> torch.Tensor:
        """Float32 [N, F] of the images of `store`, kept where linear_eval.py keeps them, too."""
        features = extract_with_cache(encoder, store, self.device, self.place / "features", title, self.plain)
        check_features(features)
        return features


def top1(subject: Subject, bank: torch.Tensor, queries: torch.Tensor, settings: dict[str, Any]) -> float:
    """k-NN accuracy (per cent) on the validation images, of the features given."""
    assert subject.val is not None
    assert subject.val.labels is not None
    assert subject.bank.labels is not None
    known = torch.from_numpy(subject.bank.labels).to(subject.device)
    predicted = knn.knn_predict(bank, known, queries, len(subject.names), **settings["knn"]).cpu()
    return 100 * (predicted == torch.from_numpy(subject.val.labels)).float().mean().item()


def latent_space(subject: Subject, settings: dict[str, Any], path: Path) -> bool:
    """Write the map of the validation images at several moments; False where there are no labels to colour it by."""
    import openTSNE

    from simclr.figures import latent_space as drawing

    if not subject.labelled:
        log.warning("%s is left out: it needs labelled training and validation images; choose some with data=", path)
        return False
    val, own = subject.val, settings["latent_space"]
    assert val is not None
    assert val.labels is not None
    chosen = drawing.choose_classes(own["classes"], val.classes, subject.names)
    points = drawing.choose_points(val.labels, chosen, own["points"], settings["seed"])
    panels: list[drawing.Panel] = []
    for title, weights in stages(subject.last, own["panels"]):
        encoder = subject.encoder(weights)
        bank = subject.features(encoder, subject.bank, f"{title}: features of training images")
        queries = subject.features(encoder, val, f"{title}: features of validation images")
        accuracy = top1(subject, bank, queries, settings)
        columns = (TextColumn(f"{title}: t-SNE of {len(points):,} images"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns) as bar:
            task = bar.add_task("", total=drawing.EARLY + drawing.LATE)
            layout = drawing.layout(
                queries[points],
                panels[-1].layout if panels else None,
                own["perplexity"],
                settings["seed"],
                partial(bar.advance, task),
            )
        panels.append(drawing.Panel(title, layout, accuracy))
        log.info("%s: k-NN top-1 %.2f %%", title, accuracy)
    note = (
        f"{len(points):,} of {len(val):,} validation images; t-SNE of their features (openTSNE "
        f"{openTSNE.__version__}, perplexity {own['perplexity']:g}, cosine), each panel started from the one before. "
        f"Top-1 on all {len(val):,}: {knn.protocol(len(subject.bank), **settings['knn'])}"
        f"{subject.plain.words(val.size)}."
    )
    save(drawing.draw(f"{subject.name}: latent space", panels, val.labels[points], chosen, subject.names, note), path)
    log.info("Wrote %s", path)
    return True


def neighbours(subject: Subject, settings: dict[str, Any], path: Path) -> bool:
    """Write the sheet of nearest neighbours. Where there are no validation images, training images are asked about
    and left out of those that are searched."""

    from simclr.figures import neighbours as drawing

    own, bank = settings["neighbours"], subject.bank
    queries = bank if subject.val is None else subject.val
    picked = drawing.choose_queries(queries.labels, len(queries), own["queries"], settings["seed"])
    encoder = subject.encoder(subject.last.path)
    known = subject.features(encoder, bank, "Features of training images")
    note = f"nearest by cosine of {len(bank):,} training images to "
    if subject.val is None:
        asked, rest = known[picked], np.setdiff1d(np.arange(len(bank)), picked)
        if len(rest) == 0:
            log.warning("%s is left out: there are no images to search; use a smaller neighbours.queries", path)
            return False
        bank, known = bank.select(rest), known[rest]
        note += f"{len(picked)} of them"
    else:
        features = subject.features(encoder, subject.val, "Features of validation images")
        asked = features[picked]
        note += f"{len(picked)} validation images"
        if subject.labelled:
            note += f", k-NN top-1 {top1(subject, known, features, settings):.1f} %"
    similarities, places = (found.cpu().numpy() for found in drawing.nearest(asked, known, own["count"]))
    images = queries.gather(picked).numpy()
    rows = [
        drawing.Row(
            images[row],
            None if queries.labels is None else int(queries.labels[picked[row]]),
            bank.gather(found).numpy(),
            None if bank.labels is None else bank.labels[found],
            similarities[row],
        )
        for row, found in enumerate(places)
    ]
    save(drawing.draw(f"{subject.name}: nearest neighbours", note, rows, subject.names), path)
    log.info("Wrote %s", path)
    return True


def retrieval(subject: Subject, settings: dict[str, Any], path: Path) -> bool:
    """Write the sheet of sentences and images that find each other; False where there are none, or no text tower."""
    from simclr.figures import retrieval as drawing

    content, val = subject.last.content, subject.val
    if "text._extra_state" not in content["state_dict"]:
        log.info("%s is left out: the run has no text tower.", path)
        return False
    if val is None or "captions" not in val.columns:
        log.warning("%s is left out: it needs validation images with captions; choose some with data=", path)
        return False
    own = settings["retrieval"]
    parts = reassemble(content, ["backbone", "head", "text"])
    judged = Judged(
        parts["backbone"],
        parts["head"],
        val,
        val,
        subject.device,
        subject.place / "features",
        subject.plain,
        parts["text"],
    )
    for part in ("backbone", "head", "text"):
        parts[part].to(subject.device)
    pairs = Pairs.of(val)
    images = F.normalize(judged.features_of["val"], dim=1)
    similarity = (images @ judged.sentences(pairs.sentences).T).cpu()
    belongs = torch.zeros_like(similarity, dtype=torch.bool)
    belongs[pairs.image, pairs.sentence] = True
    random = np.random.default_rng(settings["seed"])
    asked = random.permutation(len(val))[: 2 * own["queries"]].tolist()
    to_images, to_sentences = [], []
    for image in asked[::2]:
        sentence = int(random.choice(belongs[image].nonzero()[:, 0]))
        found = drawing.nearest(similarity[:, sentence], own["count"])
        pixels = val.gather(np.array(found)).numpy()
        to_images.append(drawing.Images(pairs.sentences[sentence], pixels, belongs[found, sentence].tolist()))
    for image in asked[1::2]:
        found = drawing.nearest(similarity[image], own["count"])
        texts, pixels = [pairs.sentences[i] for i in found], val.gather(np.array([image])).numpy()[0]
        to_sentences.append(drawing.Sentences(pixels, texts, belongs[image, found].tolist()))
    note = (
        f"{len(val):,} validation images and their {len(pairs.sentences):,} sentences, nearest first by cosine; asked "
        "about at random.\nBlue and ✓: they belong together"
    )
    save(drawing.draw(f"{subject.name}: retrieval", note, to_images, to_sentences), path)
    log.info("Wrote %s", path)
    return True


def augmented_pairs(subject: Subject, settings: dict[str, Any], path: Path) -> bool:
    """Write the sheet of images and the views that the run's first step saw of them."""
    from simclr.figures import pairs as drawing

    run = subject.last.content["config"]
    augmentation = build(own_part(run, "augmentation"))
    count = min(settings["augmented_pairs"]["images"], run["batch_size"])
    batch = drawing.first_batch(
        subject.splits, augmentation, run["batch_size"], run["seed"], run["limit_images"], count
    )
    save(drawing.draw(f"{subject.name}: views of the first step", batch, augmentation.at(0)), path)
    log.info("Wrote %s", path)
    return True
