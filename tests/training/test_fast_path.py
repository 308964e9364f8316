"""Speed buys nothing that changes results: training on every fast path against training the plain way."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from simclr.augment import batched, reference
from simclr.data.batch import Batch
from simclr.data.shapes import Shapes
from simclr.losses import info_nce
from simclr.methods.simclr import SimCLR
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import ProjectionHead
from simclr.optim.schedules import cosine
from simclr.system.transfer import fetched
from simclr.training.datamodule import PretrainingData
from tests.augment.test_engines import RECIPE
from tests.conftest import two_views

STEPS, BIN = 60, 10
# Every operation takes part, and views stay alike enough for the loss to fall within so few steps.
GENTLE = replace(RECIPE, size=32, crop_scale=(0.5, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def loss_curve(fast: bool, seed: int) -> Tensor:
    """STEPS steps from the weights and draws of `seed`: the loss, averaged over every BIN of them.

    Fast is what train.py does. Plain is torchvision's operations, one image at a time, its network with the channels
    outermost, and Adam tensor by tensor.
    """
    torch.manual_seed(seed)
    backbone = resnet18_encoder("standard")
    head = ProjectionHead(512, 256, 128)
    data = PretrainingData(
        source=Shapes(STEPS * 8, 10, 32, seed=0),
        augmentation=two_views(GENTLE),
        batch_size=16,
        seed=seed,
        augment=batched.augment if fast else reference.augment,
    )
    data.setup()
    method = SimCLR(
        backbone=lambda: backbone,
        head=lambda in_features: head,
        optimizer=torch.optim.Adam,
        scheduler=cosine,
        temperature=0.2,
    )
    plain = resnet18(weights=None)
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(backbone.state_dict())

    def loss_of(views: Tensor) -> Tensor:
        embeddings = head(plain(views.flatten(0, 1).contiguous()))
        return info_nce(embeddings.unflatten(0, views.shape[:2]), temperature=0.2).loss

    network = method if fast else torch.nn.ModuleList([plain, head])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fast)
    loader = data.train_dataloader()
    losses: list[float] = []
    while len(losses) < STEPS:
        for images in loader:
            assert isinstance(images, Batch)
            batch = data.on_after_batch_transfer(images, 0)
            loss = method.compute(batch)["loss"] if fast else loss_of(torch.stack(batch.images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses).view(-1, BIN).mean(dim=1)


@pytest.mark.slow
def test_the_loss_curve_is_that_of_the_plain_path_within_the_noise_between_runs():
    plain, fast = (torch.stack([loss_curve(path, seed) for seed in range(4)]) for path in (False, True))
    noise = plain.std(dim=0).mean()  # between seeds, of one bin
    assert plain[:, -1].mean() < plain[:, 0].mean() - 2 * noise  # it does learn, so there is something to differ in
    difference = (fast - plain).mean(dim=0)
    assert difference[0].abs() <= noise / 4  # before rounding has driven equal runs apart
    assert difference.abs().mean() <= noise
    assert difference.mean().abs() <= noise  # three standard errors of what so many pairs of runs give


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu():
    """CUDA itself reports every wait: augmentation, forward, backward and optimiser of a step have none."""
    torch.manual_seed(0)
    data = PretrainingData(Shapes(64, 10, 32, seed=0), two_views(replace(RECIPE, size=32)), batch_size=32, seed=0)
    data.setup()
    backbone, head = resnet18_encoder("standard"), ProjectionHead(512, 256, 128)
    method = SimCLR(
        backbone=lambda: backbone,
        head=lambda in_features: head,
        optimizer=torch.optim.Adam,
        scheduler=cosine,
        temperature=0.07,
    ).cuda()
    optimizer = torch.optim.Adam(method.parameters(), fused=True)
    batch = next(iter(data.train_dataloader()))
    batch = batch._replace(images=batch.images.cuda())

    def step() -> None:
        with torch.autocast("cuda", torch.float16):
            loss = method.compute(data.on_after_batch_transfer(batch, 0))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first one loads kernels
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_what_is_fetched_is_what_it_was_then():
    there = torch.full((3,), 7.0, device="cuda")
    arrived = fetched(there)
    there.zero_()
    assert arrived().tolist() == [7.0, 7.0, 7.0]
