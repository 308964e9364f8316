"""What the benchmarks share: alternating timings, and the machine in words."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from simclr.results import device_name


def machine(device: torch.device) -> str:
    """Device, threads and versions, for the head of a table."""
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{device_name(device)}{cuda}, torch {torch.__version__}, Python {platform.python_version()}"


def finished(device: torch.device) -> float:
    """The time, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def alternate(tasks: Sequence[Callable[[], object]], seconds: float, device: torch.device) -> list[float]:
    """Median seconds of each task, run in turn, so that what else happens on the machine meets all of them alike.

    Each runs once to warm up, then in at least three rounds, until `seconds` for each are spent.
    """
    for task in tasks:
        task()
    times: list[list[float]] = [[] for _ in tasks]
    until = time.perf_counter() + seconds * len(tasks)
    while len(times[0]) < 3 or time.perf_counter() < until:
        for task, own in zip(tasks, times, strict=True):
            start = finished(device)
            task()
            own.append(finished(device) - start)
    return [statistics.median(own) for own in times]
