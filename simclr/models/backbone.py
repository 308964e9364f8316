"""Image encoders: torchvision's networks without their classifier, under torchvision's own state-dict keys."""

from typing import cast

from torch import nn
from torchvision.models import ResNet, resnet18

from simclr.errors import InputError


class Encoder(nn.Module):
    """The interface every backbone has: pictures [B, 3, H, W] in, features [B, num_features] out."""

    num_features: int


def resnet18_encoder(stem: str) -> Encoder:
    """ResNet-18 (He et al. 2016) up to its global average pool: float [B, 3, H, W] to features [B, 512].

    stem: "standard" is torchvision's 7×7 stride-2 convolution; "small" is 3×3 stride 1 for small pictures. Both keep
    the max-pool that follows. State-dict keys are torchvision's without `fc.*`, so weights move both ways with
    `load_state_dict(..., strict=False)` (only `conv1.weight` differs in shape under the small stem).
    Raises InputError for another stem.
    """
    network: ResNet = resnet18(weights=None)
    num_features = network.fc.in_features
    network.fc = nn.Identity()
    if stem == "small":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    elif stem != "standard":
        raise InputError(f"backbone.stem={stem} is not known; choose standard or small")
    network.num_features = num_features
    return cast(Encoder, network)
