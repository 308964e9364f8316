"""Image encoders: torchvision's networks without their classifier, under torchvision's own state-dict keys."""

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models import efficientnet_b0
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr.errors import InputError, first_line
from simclr.models.small_maps import use_small_maps


class Encoder(nn.Module):
    """The interface every backbone has: images [B, 3, H, W] in, features [B, num_features] out.

    The maps that these are means of: see maps.py.
    """

    num_features: int


class ResNetEncoder(ResNet):
    """torchvision's ResNet up to its global average pool."""

    def __init__(self, block: type[BasicBlock | Bottleneck], layers: list[int]) -> None:
        super().__init__(block, layers)
        self.num_features = 512 * block.expansion
        self.fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.avgpool(self.maps(images)[-1]).flatten(1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Of the four stages, finest first: float [B, C, h, w] each."""
        x = self.bn1(self.conv1(images))
        x = self.relu(self.maxpool(x))  # torchvision's order costs four times the ReLU; value and gradient are the same
        found = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            found.append(x)
        return found


def resnet18_encoder(stem: str, small_maps: bool = True) -> Encoder:
    """ResNet-18 (He et al. 2016) up to its global average pool: float [B, 3, H, W] to features [B, 512].

    stem: "standard" is torchvision's 7×7 stride-2 convolution; "small" is 3×3 stride 1 for small images. Both keep
    the max-pool that follows. State-dict keys are torchvision's without `fc.*`, so weights move both ways with
    `load_state_dict(..., strict=False)` (only `conv1.weight` differs in shape under the small stem).
    small_maps: compute convolutions on maps of a few pixels as matrix products where that is faster (small_maps.py).
    Raises ValueError for another stem, and for a small_maps that is neither true nor false.
    """
    return _resnet(BasicBlock, [2, 2, 2, 2], stem, small_maps)


def resnet34_encoder(stem: str, small_maps: bool = True) -> Encoder:
    """ResNet-34 up to its pooled features [B, 512]; the rest is as in `resnet18_encoder`."""
    return _resnet(BasicBlock, [3, 4, 6, 3], stem, small_maps)


def resnet50_encoder(stem: str, small_maps: bool = True) -> Encoder:
    """ResNet-50 up to its pooled features [B, 2048]; the rest is as in `resnet18_encoder`."""
    return _resnet(Bottleneck, [3, 4, 6, 3], stem, small_maps)


def _resnet(block: type[BasicBlock | Bottleneck], layers: list[int], stem: str, small_maps: bool) -> Encoder:
    if not isinstance(small_maps, bool):
        raise ValueError(f"small_maps={small_maps} is not usable; choose true or false")
    _check_stem(stem)
    network = ResNetEncoder(block, layers)
    if stem == "small":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small_maps:
        use_small_maps(network)
    return cast(Encoder, network)


class EfficientNetEncoder(nn.Module):
    """torchvision's EfficientNet-B0 (Tan & Le 2019) up to its pooled features: float [B, 3, H, W] to [B, 1280].

    stem: "standard" is torchvision's 3×3 stride-2 convolution; "small" is the same at stride 1, for small images.
    State-dict keys are torchvision's without `classifier.*`. Stochastic depth is off: it guards against overfitting,
    which no short pre-training does, and without it several processes compute what one does.
    Raises ValueError for another stem.
    """

    num_features = 1280

    def __init__(self, stem: str) -> None:
        _check_stem(stem)
        super().__init__()
        self.features = efficientnet_b0(stochastic_depth_prob=0.0).features
        if stem == "small":
            self.features[0][0].stride = (1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean(dim=(2, 3))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The last one of each resolution, finest first: float [B, C, h, w] each."""
        found = [images]
        for block in self.features:
            x = block(found[-1])
            if x.shape[-1] == found[-1].shape[-1]:
                found.pop()
            found.append(x)
        return found[1:]


def _check_stem(stem: str) -> None:
    if stem not in ("standard", "small"):
        raise ValueError(f"stem={stem} is not known; choose standard or small")


def compile_in_place(network: nn.Module, device: str) -> None:
    """Let torch.compile rewrite the network's forward and backward; its modules, weights and their names stay.

    Raises ValueError where torch.compile cannot work on this machine for `device` ("cpu", "cuda", ...).
    """
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds, most of them private to torch
        reason = first_line(error)
        raise InputError(
            f"compile=true, but torch.compile does not work on this machine ({reason}); install a C++ compiler, or use "
            "compile=false"
        ) from error
    network.compile()
