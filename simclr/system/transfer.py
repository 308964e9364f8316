"""Between the CPU's memory and a GPU's."""

from collections.abc import Callable

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on a device; a CUDA device fetches it while the host goes on, from memory that stays in place."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to bring a tensor to the CPU; what is returned waits until it is there, and gives it.

    On CUDA the host goes on meanwhile, and does not wait for what it has asked the device for since.
    """
    if tensor.device.type != "cuda":
        here = tensor.cpu()
        return lambda: here
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()

    def wait() -> Tensor:
        arrival.synchronize()
        return here

    return wait
