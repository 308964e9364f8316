"""Which checkpoints of a run show it on its way: none yet, the kept ones, the last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from simclr.runs.checkpoint import Loaded


class Stage(NamedTuple):
    """A moment of a run: its name for a person, and the file of its weights, None before training."""

    title: str
    path: Path | None


def stages(last: Loaded, count: int) -> list[Stage]:
    """`count` moments, 2 or more, of the run up to `last`: untrained, kept epochs evenly spread between, `last` itself.

    There are fewer where the run has kept fewer. Nothing but `last` has been opened.
    """
    epochs, within = finished_epochs(last.content)
    end = 0 if epochs is None else epochs + within
    kept = _kept_epochs(last.path.parent, end)
    between = [Stage(f"epoch {epoch}", kept[epoch]) for epoch in _spread(sorted(kept), end, count - 2)]
    if epochs is None:
        title = f"step {last.content['global_step']:,}"
    else:
        title = f"within epoch {epochs + 1}" if within else f"epoch {epochs}"
    return [Stage("untrained", None), *between, Stage(title, last.path)]


def finished_epochs(checkpoint: dict[str, Any]) -> tuple[int | None, bool]:
    """How many epochs a checkpoint has behind it, None where it does not say, and whether it is within another."""
    try:
        if "loops" not in checkpoint:  # the weights of an epoch's end, kept for evaluation
            return int(checkpoint["epoch"]), False
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        return int(progress["processed"]), progress["started"] > progress["processed"]
    except (KeyError, TypeError, ValueError):
        return None, False


def _kept_epochs(folder: Path, end: int) -> dict[int, Path]:
    """The epochs before `end` whose weights are kept in `folder` as epoch-NNN.ckpt."""
    found = ((re.fullmatch(r"epoch-(\d{3,})\.ckpt", path.name), path) for path in folder.glob("epoch-*.ckpt"))
    return {int(match[1]): path for match, path in found if match and int(match[1]) < end}


def _spread(epochs: list[int], end: int, count: int) -> list[int]:
    """`count` of `epochs`, or all where there are no more, in order and evenly spread between 0 and `end`."""
    left, chosen = list(epochs), []
    for place in range(1, min(count, len(epochs)) + 1):
        nearest = min(left, key=lambda epoch: abs(epoch - end * place / (count + 1)))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen)
