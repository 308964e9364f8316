"""How an optimiser's state lies in memory."""

from __future__ import annotations

import torch
from torch.optim import Optimizer


def lay_state_out_as_parameters(optimizer: Optimizer) -> None:
    """Let what the optimiser keeps for each parameter lie in memory as the parameter does.

    Kernels lie with the channels innermost on a GPU and outermost on a CPU, and a checkpoint of one may go on on the
    other. torch's fused Adam takes parameter and state for the same order of numbers: on a CPU it would, without a
    word, pair each weight with another one's moments.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
