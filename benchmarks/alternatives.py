"""The programs that this project is timed against: plain loops over a DataLoader with workers, stock network and Adam.

reference: this project's torchvision engine, one image at a time. lightly: lightly's transform, head and loss, called
as its documentation does. Images are handed to both already decoded, in memory.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from benchmarks.turns import Pace, Player
from simclr.augment import reference
from simclr.augment.recipe import Recipe
from simclr.data.files.decode import cores
from simclr.data.store import ImageStore
from simclr.losses import info_nce
from simclr.models.heads import ProjectionHead
from simclr.runs.build import build
from simclr.runs.compose import compose_config

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]
Parts = tuple[Dataset, nn.Module, LossOf]


class ReferenceViews(Dataset):
    """Two views of whole batches, in a worker, by torchvision's operations on bytes."""

    def __init__(self, store: ImageStore, recipe: Recipe) -> None:
        self.store, self.recipe = store, recipe
        self.random = torch.Generator()

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        images = self.store.gather(torch.tensor(indices).numpy())
        count, height, width, _ = images.shape
        draws = [self.recipe.draw(count, height, width, self.random) for _ in range(2)]
        return [reference.augment(images, draw, self.recipe) for draw in draws]


class LightlyViews(Dataset):
    """Two views of one image, by lightly's transform on PIL images."""

    def __init__(self, store: ImageStore, transform: Callable[[Image.Image], Any]) -> None:
        self.store, self.transform = store, transform

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.store.gather(slice(index, index + 1))[0].numpy()))


def reference_parts(store: ImageStore, recipe: Recipe, temperature: float) -> Parts:

    def loss_of(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        embeddings = network(torch.cat([first, second]))  # in one batch, as this project's method does
        return info_nce(embeddings.unflatten(0, (2, len(first))), temperature).loss

    return ReferenceViews(store, recipe), ProjectionHead(512, 256, 128), loss_of


def lightly_parts(store: ImageStore, recipe: Recipe, temperature: float) -> Parts:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    criterion = NTXentLoss(temperature)

    def loss_of(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        return criterion(network(first), network(second))  # view by view, as lightly's examples do

    low, high = recipe.blur_sigma
    transform = SimCLRTransform(
        input_size=recipe.size, cj_strength=1.0, gaussian_blur=1.0, sigmas=(low, high), normalize=None
    )
    return LightlyViews(store, transform), SimCLRProjectionHead(512, 256, 128), loss_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["reference", "lightly"])
    parser.add_argument("pipe", type=int)
    parser.add_argument("precision", choices=["16", "bf16", "32"])
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    config: Any = compose_config(*options.overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = build(config.data).load().train
    parts = reference_parts if options.name == "reference" else lightly_parts
    views, head, loss_of = parts(store, build(config.augmentation).views[0], config.temperature)
    backbone = resnet18(weights=None)
    backbone.fc = nn.Identity()
    network = nn.Sequential(backbone, nn.Flatten(), head).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optimizer.lr)
    whole_batches = options.name == "reference"
    loader = loader_of(views, config.batch_size, device, (lambda two: two) if whole_batches else None)
    train(Player(options.pipe, device), network, loss_of, optimizer, loader, device, options.precision)


def loader_of(
    views: Dataset, batch_size: int, device: torch.device, collate: Callable[[Any], Any] | None = None
) -> DataLoader:
    """Shuffled batches, made by a worker for each core."""
    return DataLoader(
        views,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=cores(),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
        collate_fn=collate,
    )


def train(
    player: Pace,
    network: nn.Module,
    loss_of: LossOf,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    device: torch.device,
    precision: str,
) -> None:
    dtype = {"16": torch.float16, "bf16": torch.bfloat16, "32": None}[precision]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16")
    if not player.wait():
        return
    while True:
        for first, second in loader:
            first, second = first.to(device, non_blocking=True), second.to(device, non_blocking=True)
            player.stage("wait for data")
            with torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext():
                loss = loss_of(network, first, second)
            player.stage("forward")
            scaler.scale(loss).backward()
            player.stage("backward")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            player.stage("optimiser")
            if not player.step_done():
                return


if __name__ == "__main__":
    main()
