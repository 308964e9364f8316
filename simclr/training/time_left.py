"""How long a run will still take: as its steps have taken so far, with what is measured between them."""

from __future__ import annotations

import time

SETTLED = 10  # steps, of which the first are slow


class TimeLeft:
    """Told of every step that is done; counts none of a run before it was stopped."""

    def __init__(self) -> None:
        self.began: tuple[int, float] | None = None
        self.seen = 0

    def step_done(self, step: int) -> None:
        """step: of the run, from 1 on."""
        self.seen += 1
        if self.seen == SETTLED:
            self.began = step, time.monotonic()

    def seconds(self, step: int, total: int) -> float | None:
        """From the end of `step` of `total` on; None until that can be told."""
        if self.began is None or step <= self.began[0]:
            return None
        first, then = self.began
        return (time.monotonic() - then) / (step - first) * max(0, total - step)


def spoken(seconds: float) -> str:
    """A time in words: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
