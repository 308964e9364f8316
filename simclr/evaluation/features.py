"""Features of un-augmented images under a frozen encoder, extracted once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from simclr.augment.plain import Plain
from simclr.data.store import ImageStore
from simclr.system import distributed
from simclr.system.files import replacing
from simclr.system.transfer import sent

BATCH = 256
AS_STORED = Plain()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; on leaving, every submodule is back in the mode it was in.

    What compile=true has compiled for training runs as it was written: compiling it anew for every number of images
    that evaluation shows it would take minutes. On a GPU convolutions keep float32's 24 bits, of which torch's default
    (TF32) leaves 11: features are what a CPU makes of them.
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for submodule, training in modes:
            submodule.training = training


def are_finite(*features: Tensor) -> bool:
    """Whether all features [N, F] can be compared: no NaN, no infinity, none so large that an image's length is."""
    return all(bool(x.norm(dim=1).isfinite().all()) for x in features)


def extract(
    encoder: nn.Module,
    store: ImageStore,
    device: torch.device | str,
    progress: Callable[[int], None] | None = None,
    prepare: Callable[[Tensor, slice], Tensor] = AS_STORED,
) -> Tensor:
    """Features of every image of `store`, in order: float32 [N, F] on `device`. Several processes share the work.

    encoder: images float [B, 3, H, W] to features [B, F]; it is used in eval mode, in float32, and not one
    of its tensors changes. progress: called with the number of images just done.
    prepare: makes the network's input of images uint8 [B, H, W, 3], on `device`, given which rows of the store they
    are: a Plain, or an augmentation.
    """
    own, features = distributed.shard(len(store)), []
    if own.start == own.stop:  # there are fewer images than processes; any one will do, it is not counted
        own = slice(0, 1)
    with frozen(encoder):
        for start in range(own.start, own.stop, BATCH):
            rows = slice(start, min(start + BATCH, own.stop))
            images = sent(store.gather(rows), device)
            features.append(encoder(prepare(images, rows)))
            if progress is not None:
                progress(len(images))
    return distributed.gather_shards(torch.cat(features), len(store))


def extract_with_cache(
    encoder: nn.Module,
    store: ImageStore,
    device: torch.device,
    folder: Path,
    title: str,
    plain: Plain = AS_STORED,
) -> Tensor:
    """`extract` under a progress bar, kept in `folder` under a name made of the weights and the images.

    Other weights, other images or another way to show them have another name, so what is read back is never stale. A
    file that cannot be read is made again. Several processes share the extraction; what was kept, the first alone
    reads and returns.
    """
    path = folder / f"{_digest(encoder, store, plain)}.safetensors"
    features = torch.empty(0)
    if distributed.rank() == 0 and path.exists():
        with suppress(SafetensorError, KeyError, OSError):
            features = load_file(path)["features"].to(device)
    if distributed.from_first(len(features) == len(store)):
        return features
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    own = distributed.shard(len(store))
    with Progress(*columns, disable=distributed.rank() > 0) as bar:
        task = bar.add_task(title, total=own.stop - own.start)
        features = extract(encoder, store, device, lambda count: bar.advance(task, count), plain)
    if distributed.rank() == 0:
        with replacing(path) as unfinished:
            unfinished.write_bytes(save({"features": features.cpu()}))
    return features


def _digest(encoder: nn.Module, store: ImageStore, plain: Plain) -> str:
    digest = hashlib.sha256(store.key.encode())
    if plain.changes(store.size):
        digest.update(repr(plain).encode())
    update_with_weights(digest, encoder)
    return digest.hexdigest()[:24]


def update_with_weights(digest: hashlib._Hash, encoder: nn.Module) -> None:
    """Let a digest depend on every tensor of an encoder."""
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
