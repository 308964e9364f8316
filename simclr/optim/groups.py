"""Groups of parameters that an optimiser treats in different ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def all_alike(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """One group of all that learn."""
    return [{"params": [parameter for parameter in parameters if parameter.requires_grad]}]


def norms_and_biases_undecayed(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Two groups of those that learn: matrices and kernels, then norms and biases, which get no weight decay.

    As large-batch recipes have it (You et al. 2017; SimCLR's appendix B.1 follows them). Norms and biases are the
    parameters of one dimension.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in learning if parameter.ndim > 1]},
        {"params": [parameter for parameter in learning if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
