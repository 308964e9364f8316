"""What makes one doubt that a finished run has learned anything: said at its end, before somebody judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simclr.methods.base import Method


def doubts(method: Method | type[Method], metrics: Mapping[str, Any], alarms: list[str]) -> list[str]:
    """Reasons in words, none for a run that has learned. metrics: of metrics.json; alarms: what has collapsed."""
    found = [f"the {alarm} have collapsed" for alarm in alarms]
    for name, scalar in method.scalars.items():
        if scalar.higher_is_better and metrics.get(f"train/{name}") == 0:
            found.append(f"{scalar.words} is 0 {scalar.unit}".rstrip())
    knn, untrained = metrics.get("val/knn_top1"), metrics.get("val/knn_top1_untrained")
    if knn is not None and untrained is not None and knn <= untrained:
        found.append(f"k-NN top-1 is {knn:.2f} %, and the untrained encoder's is {untrained:.2f} %")
    return found
