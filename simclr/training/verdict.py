"""What makes one doubt that a finished run has learned anything: said at its end, before somebody judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simclr.methods.base import Method


def doubts(method: Method | type[Method], metrics: Mapping[str, Any], alarms: list[str]) -> list[str]:
    """Reasons in words, none for a run that has learned. metrics: of metrics.json; alarms: what has collapsed.

    A short run may have a bad number by chance: one that is 0 counts where k-NN is no better than before training. So
    do embeddings that have collapsed, which are thrown away: features that have are a doubt whatever k-NN says.
    """
    found = [f"the {alarm} have collapsed" for alarm in alarms]
    knn, untrained = metrics.get("val/knn_top1"), metrics.get("val/knn_top1_untrained")
    before = ""
    if knn is not None and untrained is not None:  # a run that begins from another's checkpoint has no such figure
        if knn > untrained:
            return [doubt for doubt, alarm in zip(found, alarms, strict=True) if "features" in alarm]
        before = f", and k-NN top-1 {knn:.2f} % (untrained encoder: {untrained:.2f} %)"
    for name, scalar in method.scalars.items():
        if scalar.higher_is_better and metrics.get(f"train/{name}") == 0:
            found.append(f"{scalar.words} is 0 {scalar.unit}{before}")
    return found
