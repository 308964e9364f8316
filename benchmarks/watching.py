"""Lightning callbacks that watch a few steps of `train.py`, otherwise as it is, and write down what a GPU did."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from simclr.runs.results import write_json

LONG_COPY = 50.0  # microseconds


class _Steps(Callback):
    """first: the step that is the first to be watched. steps: how many are. file: where it is written."""

    def __init__(self, first: int, steps: int, file: str) -> None:
        self.first, self.steps, self.file = first, steps, Path(file)

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.first:
            self.begin()
        elif trainer.global_step == self.first + self.steps:
            write_json(self.file, self.end())
            trainer.should_stop = True

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> dict[str, Any]:
        raise NotImplementedError


class Profiled(_Steps):
    """Kernels, copies and their times, a step, by torch's profiler."""

    def begin(self) -> None:
        torch.cuda.synchronize()
        self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True)
        self.profiler.start()

    def end(self) -> dict[str, Any]:
        torch.cuda.synchronize()
        self.profiler.stop()
        done = [event for event in self.profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        copies = [event for event in done if event.name.startswith("Memcpy")]
        spans = sorted((event.time_range.start, event.time_range.end) for event in done)
        busy, until = 0.0, spans[0][0]
        for start, stop in spans:  # those of several streams may overlap
            busy += max(0.0, stop - max(start, until))
            until = max(until, stop)
        longest = Counter[str]()
        for event in done:
            longest[event.name] += event.time_range.elapsed_us()
        return {
            "launches_a_step": (len(done) - len(copies)) / self.steps,
            "copies_a_step": len(copies) / self.steps,
            "copies_over_50_us": dict(Counter(c.name for c in copies if c.time_range.elapsed_us() > LONG_COPY)),
            "busy_share": busy / (until - spans[0][0]),
            "ms_a_step": (until - spans[0][0]) / self.steps / 1000,
            "longest_ms_a_step": {name: us / self.steps / 1000 for name, us in longest.most_common(15)},
        }


class Waits(_Steps):
    """Where the host waits for the GPU, by CUDA's own warnings: the innermost lines of this project and Lightning."""

    def begin(self) -> None:
        self.found: Counter[str] = Counter()
        self.show = warnings.showwarning
        warnings.showwarning = self.seen
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def seen(self, message: Warning | str, *arguments: Any, **others: Any) -> None:
        if "synchronizing" in str(message):
            places = [
                f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
                for frame in traceback.extract_stack()
                if "simclr" in frame.filename or "lightning" in frame.filename
            ]
            self.found[" < ".join(reversed(places[-3:]))] += 1

    def end(self) -> dict[str, Any]:
        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = self.show
        return {"a_step": {place: count / self.steps for place, count in self.found.most_common()}}
