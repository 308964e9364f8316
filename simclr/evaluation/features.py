"""Features of un-augmented pictures under a frozen encoder, extracted once and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simclr.data.store import ImageStore

BATCH = 256


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; on leaving, every submodule is back in the mode it was in."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, training in modes:
            submodule.training = training


def extract(
    encoder: nn.Module, store: ImageStore, device: torch.device | str, progress: Callable[[int], None] | None = None
) -> Tensor:
    """Features of every picture of `store`, in order: float32 [N, F] on `device`.

    encoder: pictures float [B, 3, H, W] in [0, 1] to features [B, F]; it is used in eval mode, in float32, and not one
    of its tensors changes. progress: called with the number of pictures just done.
    """
    features = []
    with frozen(encoder):
        for start in range(0, len(store), BATCH):
            pictures = store.gather(slice(start, start + BATCH)).to(device)
            # Stored pictures have their channels innermost; permute alone hands them over in that layout.
            features.append(encoder(pictures.permute(0, 3, 1, 2).float() / 255))
            if progress is not None:
                progress(len(pictures))
    return torch.cat(features)


def extract_with_cache(encoder: nn.Module, store: ImageStore, device: torch.device, folder: Path, title: str) -> Tensor:
    """`extract` under a progress bar, kept in `folder` under a name made of the weights and the pictures.

    Other weights or other pictures have another name, so what is read back is never stale. A file that cannot be read
    is made again.
    """
    path = folder / f"{_digest(encoder, store)}.safetensors"
    if path.exists():
        try:
            return load_file(path)["features"].to(device)
        except (SafetensorError, KeyError):
            path.unlink()
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=len(store))
        features = extract(encoder, store, device, lambda count: bar.advance(task, count))
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file({"features": features.cpu()}, unfinished)
    unfinished.replace(path)
    return features


def _digest(encoder: nn.Module, store: ImageStore) -> str:
    digest = hashlib.sha256(store.key.encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
