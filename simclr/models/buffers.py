"""What a network keeps beside its weights, batch norm's running statistics above all: remembered, and put back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def remember_buffers(network: nn.Module) -> Callable[[], None]:
    """Call what this returns to give every buffer of `network` the value that it has now."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]

    def put_back() -> None:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)

    return put_back
