"""Run by torchrun in two processes: batch norm by the kernels that torch has for GPUs alone, written out for CPUs.

python -m tests.models.gpu_batch_norm
"""

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm

from simclr.models.batch_norm import NormaliseOnGPU
from simclr.system import distributed

EPS, MOMENTUM = 1e-5, 0.1
KERNELS = torch.library.Library("aten", "IMPL")


def of_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))


def over(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, dim=over(x), correction=0)
    return mean, (var + eps).rsqrt()


def gather(
    x: Tensor,
    means: Tensor,
    inverses: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    share = (counts / counts.sum()).unsqueeze(1)
    mean = (share * means).sum(0)
    var = (share * (inverses**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (var + eps).rsqrt()


def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, _: float) -> Tensor:
    normal = (x - of_channels(mean, x)) * of_channels(inverse, x)
    return normal if weight is None or bias is None else normal * of_channels(weight, x) + of_channels(bias, x)


def reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor | None, *asked: bool
) -> tuple[Tensor | None, ...]:
    total, product = gradient.sum(over(x)), (gradient * (x - of_channels(mean, x))).sum(over(x))
    of_weight, of_bias = product * inverse, total
    return total, product, of_weight if asked[1] else torch.empty(0), of_bias if asked[2] else torch.empty(0)


def gradient_of_x(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    total: Tensor,
    product: Tensor,
    counts: Tensor,
) -> Tensor:
    along = (x - of_channels(mean, x)) * of_channels(inverse**2 * product / counts.sum(), x)
    scale = inverse if weight is None else inverse * weight
    return (gradient - of_channels(total / counts.sum(), x) - along) * of_channels(scale, x)


KERNELS.impl("batch_norm_stats", stats, "CPU")
KERNELS.impl("batch_norm_gather_stats_with_counts", gather, "CPU")
KERNELS.impl("batch_norm_elemt", normalise, "CPU")
KERNELS.impl("batch_norm_backward_reduce", reduce, "CPU")
KERNELS.impl("batch_norm_backward_elemt", gradient_of_x, "CPU")


def check(shape: tuple[int, ...], layout: torch.memory_format, scaled: bool) -> None:
    """Ours against torch's own function to the bit, and against batch norm of both processes' images at once."""
    random = torch.Generator().manual_seed(0)
    whole, upstream = (torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(2))
    weight, bias = torch.randn(2, shape[1], dtype=torch.float64, generator=random)
    part = distributed.shard(shape[0])

    def results(function: str) -> list[Any]:
        part_of = slice(None) if function == "whole" else part
        x = whole[part_of].clone(memory_format=layout).requires_grad_()
        learning = [values.clone().requires_grad_() for values in (weight, bias)] if scaled else []
        scale, shift = learning or (None, None)
        mean, var = torch.zeros(shape[1], dtype=torch.float64), torch.ones(shape[1], dtype=torch.float64)
        if function == "ours":
            norm = SimpleNamespace(running_mean=mean, running_var=var, momentum=MOMENTUM, eps=EPS)
            y = NormaliseOnGPU.apply(x, scale, shift, norm)
        elif function == "torch's":
            y = SyncBatchNorm.apply(x, scale, shift, mean, var, EPS, MOMENTUM, dist.group.WORLD, dist.get_world_size())
        else:
            y = F.batch_norm(x, mean, var, scale, shift, training=True, momentum=MOMENTUM, eps=EPS)
        y.backward(upstream[part_of])
        gradients: list[Any] = [tensor.grad for tensor in (x, *learning)]
        if function == "whole":
            return [y.detach()[part], gradients[0][part], mean, var, *gradients[1:]]
        for gradient in gradients[1:]:  # those of the weights are summed by whoever wraps the network
            dist.all_reduce(gradient)
        return [y.detach(), gradients[0], mean, var, *gradients[1:]]

    ours = results("ours")
    for mine, theirs, expected in zip(ours, results("torch's"), results("whole"), strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    if layout == torch.channels_last:
        assert ours[0].is_contiguous(memory_format=layout)


if __name__ == "__main__":
    with distributed.joined():
        assert distributed.world_size() == 2
        check((6, 5, 4, 3), torch.contiguous_format, scaled=True)
        check((6, 5, 4, 3), torch.channels_last, scaled=True)
        check((6, 5, 4, 3), torch.channels_last, scaled=False)
        check((6, 5), torch.contiguous_format, scaled=True)
