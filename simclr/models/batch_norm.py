"""Batch norm over the whole batch where several processes share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.errors import InputError

WITH_ACTIVATION = "timm.layers.norm_act.BatchNormAct2d"


def synchronise_batch_norm(network: nn.Module) -> nn.Module:
    """`network` with every batch norm taking its statistics over all processes; the weights and their names stay.

    torch's SyncBatchNorm is for GPUs alone, and there has the host wait three times a layer for processes that may have
    no images. timm's batch norm with an activation behind it is a class of its own. Raises InputError for any other
    kind of batch norm.
    """
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    of_timm = {kind for kind in kinds if f"{kind.__module__}.{kind.__name__}" == WITH_ACTIVATION}
    for kind in kinds - of_timm - {nn.BatchNorm1d, nn.BatchNorm2d}:
        raise InputError(
            f"the backbone's {kind.__name__} cannot take its statistics over several processes; train in one, without "
            "trainer=ddp"
        )
    for module in network.modules():
        if type(module) in of_timm:
            module.__class__ = SynchronisedBatchNormAct  # same weights, another forward
        elif type(module) in kinds:
            module.__class__ = SynchronisedBatchNorm
    return network


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of images [B, C, H, W] or features [B, C], each process having as many.

    Statistics and gradients are those of one process with the batches of all. Running statistics are equal in all.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 4)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        return (NormaliseOnGPU if input.is_cuda else Normalise).apply(input, self.weight, self.bias, self)


class SynchronisedBatchNormAct(SynchronisedBatchNorm):
    """The same, then dropout and an activation, as in timm's EfficientNets."""

    def forward(self, input: Tensor) -> Tensor:
        drop, activation = self.get_submodule("drop"), self.get_submodule("act")
        return activation(drop(super().forward(input)))


def _of_everyone(own: Tensor) -> Tensor:
    """`own` of every process, [processes, *own.shape]."""
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    return torch.stack(everyone)


class Normalise(torch.autograd.Function):
    """(Ioffe & Szegedy 2015, algorithm 1, and the gradients of section 3), its sums taken over all processes.

    norm: whose running statistics are moved on in place, by its momentum, and whose eps it is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Any) -> Tensor:
        over = [0, *range(2, x.ndim)]
        statistics_type = torch.promote_types(x.dtype, torch.float32)
        var, mean = torch.var_mean(x.to(statistics_type), dim=over, correction=0)
        # Deviations from the own mean, then of the means: a sum of squares would lose the digits of a small variance.
        means, variances = _of_everyone(torch.stack([mean, var])).unbind(1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.over = norm.eps, over
        count = x.numel() // x.shape[1] * dist.get_world_size()
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=norm.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        gradient = gradients[0].to(mean.dtype)

        def channels(values: Tensor) -> Tensor:
            return values.view(1, -1, *[1] * (x.ndim - 2))

        inverse = (var + ctx.eps).rsqrt()
        normal = (x - channels(mean)) * channels(inverse)
        own = torch.stack([gradient.sum(ctx.over), (gradient * normal).sum(ctx.over)])
        total = own.clone()
        dist.all_reduce(total)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean_gradient, mean_product = total / count
        inner = gradient - channels(mean_gradient) - normal * channels(mean_product)
        if weight is None:  # without scale and shift
            return (inner * channels(inverse)).to(x.dtype), None, None, None
        own = own.to(weight.dtype)  # of this process alone: those of the weights are averaged with all others
        return (inner * channels(inverse * weight)).to(x.dtype), own[1], own[0], None


class NormaliseOnGPU(torch.autograd.Function):
    """The same by the kernels that torch has for it on GPUs, as its SyncBatchNorm calls them, and without a wait.

    Its own asks the device which processes have images at all, and every process here has as many.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Any) -> Tensor:
        x = _dense(x)
        means, inverses = _of_everyone(torch.stack(torch.batch_norm_stats(x, norm.eps))).unbind(1)
        counts = torch.full_like(means[:, 0], x.numel() // x.shape[1])
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            x, means, inverses, norm.running_mean, norm.running_var, norm.momentum, norm.eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, norm.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, counts = ctx.saved_tensors
        gradient = _dense(gradients[0])
        own, own_product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse, weight, *ctx.needs_input_grad[:3]
        )
        total = torch.stack([own, own_product])
        dist.all_reduce(total)
        of_x = torch.batch_norm_backward_elemt(gradient, x, mean, inverse, weight, total[0], total[1], counts)
        needed = zip((of_x, of_weight, of_bias), ctx.needs_input_grad, strict=False)
        return *(values if needs else None for values, needs in needed), None


def _dense(x: Tensor) -> Tensor:
    """`x` in one of the two layouts that the kernels take, its own where it has one."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
