"""lightly's SimCLR example, settings and all, on the images of train.py's configuration; for time_to_accuracy.

What its documentation prints for CIFAR-10: SimCLRTransform without blur, ResNet-18, a head of 512 and 128, NT-Xent at
its default temperature (0.5), SGD at 0.06 without momentum, batches of 256, float32. Only the size of the views is the
data set's, and there is a worker for each core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.alternatives import LightlyViews, loader_of, train
from benchmarks.moments import Moments
from simclr.runs.build import build
from simclr.runs.compose import compose_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the weights")
    parser.add_argument("minutes", type=json.loads, help="list of minutes at which to keep them")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    config: Any = compose_config(*options.overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = build(config.data).load().train
    views = LightlyViews(store, SimCLRTransform(input_size=config.data.size, gaussian_blur=0.0))
    backbone = resnet18(weights=None)
    backbone.fc = nn.Identity()
    network = nn.Sequential(backbone, nn.Flatten(), SimCLRProjectionHead(512, 512, 128)).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.06)
    criterion = NTXentLoss()
    loader = loader_of(views, config.batch_size, device)

    def loss_of(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        return criterion(network(first), network(second))

    moments = Moments(options.minutes, options.folder, backbone)
    train(moments, network, loss_of, optimizer, loader, device, "32")
    moments.ended()


if __name__ == "__main__":
    main()
