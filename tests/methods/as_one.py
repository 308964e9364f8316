"""Run by torchrun in two processes, and alone: a step of every method, and with timm, on one batch in float64.

python -m tests.methods.as_one FILE
"""

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr.data.batch import Views
from simclr.methods.base import Method
from simclr.models.batch_norm import synchronise_batch_norm
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from simclr.system import distributed
from tests.methods.test_every_method import KNOWN, METHODS

IMAGES = 8
WIDTHS = {"head.hidden_features": 32, "head.out_features": 16, "method.predictor.hidden_features": 32}
CASES = {name: (f"method={name}",) for name in METHODS} | {
    "timm": ("backbone=timm", "backbone.name=test_efficientnet"),  # batch norm with an activation in it
    "same captions": ("method=clip", "method.same_caption=positive"),
}


class _Loss(nn.Module):
    """What DistributedDataParallel wraps: its forward is the loss."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: list[Tensor], columns: dict[str, Tensor]) -> Tensor:
        return self.method.compute(Views(images, columns))["loss"]


def step(*choices: str) -> dict[str, Tensor]:
    """Loss, gradients, and after plain gradient descent and what follows it, all parameters and buffers."""
    config = compose_config(*choices)
    narrow = [f"{key}={width}" for key, width in WIDTHS.items() if OmegaConf.select(config, key) is not None]
    assembly = assemble(compose_config(*choices, "data=shapes", "data.size=32", *narrow))
    method = assembly.method
    method.prepare(KNOWN)
    synchronise_batch_norm(method).double()
    network: nn.Module = _Loss(method)
    if distributed.world_size() > 1:
        network = DistributedDataParallel(network)
    random = torch.Generator().manual_seed(0)
    part = distributed.shard(IMAGES)
    views = [
        torch.rand(IMAGES, 3, r.size, r.size, generator=random).double()[part] for r in assembly.augmentation.views
    ]
    columns = {"labels": torch.arange(IMAGES) % 3, "captions": torch.arange(IMAGES) % 4}
    loss = network(views, {name: column[part] for name, column in columns.items()})
    loss.backward()
    learning = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in learning.items() if p.grad is not None}
    assert len(gradients) == len(learning)
    torch.optim.SGD(learning.values(), lr=1e-3).step()
    method.after_step(0.5)
    return {"loss": distributed.mean(loss)} | gradients | method.state_dict()


if __name__ == "__main__":
    with distributed.joined():
        results = {name: step(*choices) for name, choices in CASES.items()}
        if distributed.rank() == 0:
            torch.save(results, Path(sys.argv[1]))
