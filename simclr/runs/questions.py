"""Which question a result answers: what its file is called for it, and which results of several runs compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simclr.runs.identity import digest


def result_name(
    protocol: str,
    *,
    other_data: Mapping[str, Any] | None,
    limit_images: int | None,
    part: str,
    layer: str,
    checkpoint: str,
    trained: bool,
) -> str:
    """A result's file name less its ending: the plain PROTOCOL_eval is the whole answer on the run's own images.

    protocol: with whatever its settings add to it, as in "finetune_eval_labels-0.1". other_data: the result's `data`,
    None for the run's own. part: of the method, as "target_backbone". checkpoint: the name of the one that was judged,
    "" for a run's last.
    """
    words = [protocol]
    if other_data is not None:
        root = other_data["root"]
        place = [] if root is None else [Path(root).name or "root"]
        words.append("-".join([other_data["choice"], *place, digest(other_data["key"])]))
    if limit_images is not None:
        words.append(f"limit-{limit_images}")
    if part != "backbone":
        words.append(part)
    if layer != "features":
        words.append(layer)
    if checkpoint:
        words.append(checkpoint)
    return "_".join(words if trained else [*words, "untrained"])


def incomparable(results: Mapping[str, Mapping[str, Any]], own: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of results in files of one name, by run, those that do not compare with most others, and what sets them apart.

    own: each run's metrics, which say what its own images are; results on these compare whatever the data set is, since
    it belongs to what a run computes. Earlier versions wrote partial answers, and those on other images, under the
    plain name.
    """
    asked = {run: _question(result, own.get(run, {})) for run, result in results.items()}
    if not asked:
        return {}
    counts = Counter(asked.values())
    usual = max(counts, key=lambda question: (counts[question], question[0] is None, question[1] == "its own"))
    return {
        run: f"limit_images={question[0]}, where most have {usual[0]}"
        if question[0] != usual[0]
        else f"images of {question[1]}, where most were judged on {usual[1]}"
        for run, question in asked.items()
        if question != usual
    }


def _question(result: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[int | None, str]:
    """The limit on images to fit on, and which images: "its own", or keys."""
    judged, own = result.get("val_images_key"), metrics.get("val_images_key")
    images = "its own" if judged is None or judged == own else f"key {judged}"
    return result.get("limit_images"), images
