"""From the CPU's memory to a GPU's."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on a device; a CUDA device fetches it while the host goes on, from memory that stays in place."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
