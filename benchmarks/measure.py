"""What the benchmarks share: timings that alternate, and the machine in words."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from simclr.runs.results import device_name


def machine(device: torch.device) -> str:
    """Device and versions, for the head of a table."""
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    return f"{device_name(device)}{cuda}, torch {torch.__version__}, Python {platform.python_version()}"


def finished(device: torch.device) -> float:
    """The time, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def of_process(entry: str, pid: int) -> float:
    """An entry of a process's status, such as VmRSS, in GB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return float(dict(line.split(":", 1) for line in status.splitlines())[entry].split()[0]) / 1e6


def peak_memory(pid: int | None = None) -> float:
    """The most memory that a process, by default this one, has held so far, in GB.

    getrusage would not do: what it calls the peak counts the memory of the program that started this one, too.
    """
    return of_process("VmHWM", os.getpid() if pid is None else pid)


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


def matrix_product_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of the fastest large product that torch does here.

    On a CPU torch's matrix products and its convolutions come from different libraries, so the peak is that of the
    better: large square products, and a 3×3 convolution of 256 channels without padding, which is a product too.
    """
    with torch.no_grad():
        tasks: list[tuple[float, Callable[[], object]]] = []
        for size in (1024, 2048, 4096):
            left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            tasks.append((2 * size**3, partial(torch.mm, left, right)))
        for side in (6, 10, 18):
            images = torch.randn(128, side, side, 256, device=device).to(dtype).permute(0, 3, 1, 2)
            kernel = torch.randn(256, 256, 3, 3, device=device).to(dtype)
            operations = 2 * 128 * (side - 2) ** 2 * 256 * 256 * 9
            tasks.append((operations, partial(torch.conv2d, images, kernel)))
        return max(operations / min(alternate([task], 0.3, device)) for operations, task in tasks)
