"""Several processes that train as one: who this one is, and what they exchange. On one process all of it is identity.

Every process works on its part of a batch. What the processes exchange comes back in the order of their ranks.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from simclr.system.shell import started_by_torchrun

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes that torchrun has started, if it has; leave them at the end.

    CPU tensors are exchanged by gloo and GPU tensors by NCCL. Of what the processes log, which is the same, the first
    one's is shown. Where this process fails, it just ends: torchrun sees that and stops the others, which may wait for
    it.
    """
    if not started_by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # the end of torchrun's agent, too, is the end of all
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        # After a restart torchrun's own store still holds the addresses of the processes that have ended.
        own, everyone = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=agent_store(), rank=own, world_size=everyone)
    else:
        dist.init_process_group(backend)
    if rank() > 0:
        logging.disable(logging.WARNING)
    yield
    dist.destroy_process_group()


def agent_store(timeout: timedelta = timedelta(minutes=5)) -> dist.Store:
    """The key-value store that torchrun's agent keeps, the part of it for this start of its processes.

    On one machine alone: of several, each counts the restarts that it has caused itself.
    """
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    return dist.PrefixStore("start " + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape [...], stacked: [world size, ...].

    The gradient of a process's own part is the sum of what all processes compute for it. So where each of W processes
    takes the mean loss of its own anchors against everybody's candidates, and the gradients of the weights are averaged
    afterwards, as DistributedDataParallel does, they are those of one process with the whole batch.
    """
    if world_size() == 1:
        return tensor[None]
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank()]


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes, element by element, without gradient."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in some process. Does not wait for a GPU."""
    if world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes)


def from_first(value: Any) -> Any:
    """What the process of rank 0 has, on all of them; anything that pickle takes."""
    if world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def shard(count: int) -> slice:
    """Which of `count` things this process works on: consecutive ones, as many as others have, or fewer at the end."""
    each = -(-count // world_size())
    return slice(min(rank() * each, count), min((rank() + 1) * each, count))


def gather_shards(own: Tensor, count: int) -> Tensor:
    """The rows [count, ...] of which each process has its shard(count), in order, without gradient."""
    if world_size() == 1:
        return own
    padded = own.new_zeros(-(-count // world_size()), *own.shape[1:])
    padded[: len(own)] = own
    return gather(padded.detach()).flatten(0, 1)[:count]
