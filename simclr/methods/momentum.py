"""Target networks: slow copies of what learns, which give it something to agree with."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from simclr.checks import is_finite
from simclr.methods.base import Method


def cosine_momentum(start: float, progress: float) -> float:
    """τ = 1 - (1 - τ_start)·(cos(πk/K) + 1)/2 (Grill et al. 2020, section 3.3); progress: k/K, from 0 to 1.

    A start of 0 stays 0 all along: without a moving average, as in the paper's ablation (table 5a, its note).
    """
    if start == 0:
        return 0.0
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class MomentumMethod(Method):
    """A method with a target: copies of backbone and head that follow them, and get no gradient.

    momentum: τ, from here to 1 over the run by the cosine rule; 0: the target is the online network all along.
    After every optimiser step that was taken each parameter θ' of the target becomes τ·θ' + (1 - τ)·θ. Batch norm's
    running statistics are of the target's own forward passes, in training mode, as in the papers' code.
    """

    def __init__(self, momentum: float, **base: Any) -> None:
        super().__init__(**base)
        if not is_finite(momentum) or not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum} is not usable; it is a number from 0 to 1")
        self.target_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)
        self.momentum = momentum

    def parts(self) -> Mapping[str, nn.Module]:
        return {**super().parts(), "target_backbone": self.target_backbone, "target_head": self.target_head}

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] of one view [B, 3, H, W] by the target."""
        return self.target_head(self.target_backbone(images.contiguous(memory_format=torch.channels_last)))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        online: list[Tensor] = [*self.backbone.parameters(), *self.head.parameters()]
        target: list[Tensor] = [*self.target_backbone.parameters(), *self.target_head.parameters()]
        torch._foreach_lerp_(target, online, 1 - cosine_momentum(self.momentum, progress))
