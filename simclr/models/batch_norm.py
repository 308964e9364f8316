"""Batch norm over the whole batch where several processes share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.errors import InputError

WITH_ACTIVATION = "timm.layers.norm_act.BatchNormAct2d"


def synchronise_batch_norm(network: nn.Module, device_type: str) -> nn.Module:
    """`network` with every batch norm taking its statistics over all processes; the weights and their names stay.

    On a GPU that is torch's SyncBatchNorm, which there is none of for CPUs, and elsewhere the one below. timm's batch
    norm with an activation behind it is a class of its own. Raises InputError for any other kind of batch norm.
    """
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    of_timm = {kind for kind in kinds if f"{kind.__module__}.{kind.__name__}" == WITH_ACTIVATION}
    for kind in kinds - of_timm - {nn.BatchNorm1d, nn.BatchNorm2d}:
        raise InputError(
            f"the backbone's {kind.__name__} cannot take its statistics over several processes; train in one, without "
            "trainer=ddp"
        )
    if device_type == "cuda":
        if of_timm:
            from timm.layers import convert_sync_batchnorm

            return convert_sync_batchnorm(network)
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
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
        output, mean, var = _Normalise.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = input.numel() // input.shape[1] * dist.get_world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return output


class SynchronisedBatchNormAct(SynchronisedBatchNorm):
    """The same, then dropout and an activation, as in timm's EfficientNets."""

    def forward(self, input: Tensor) -> Tensor:
        drop, activation = self.get_submodule("drop"), self.get_submodule("act")
        return activation(drop(super().forward(input)))


class _Normalise(torch.autograd.Function):
    """(Ioffe & Szegedy 2015, algorithm 1, and the gradients of section 3), its sums taken over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        over = [0, *range(2, x.ndim)]
        statistics_type = torch.promote_types(x.dtype, torch.float32)
        var, mean = torch.var_mean(x.to(statistics_type), dim=over, correction=0)
        # Deviations from the own mean, then of the means: a sum of squares would lose the digits of a small variance.
        parts = torch.stack([mean, var])
        everyone = [torch.empty_like(parts) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, parts)
        means, variances = torch.stack(everyone).unbind(1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.over = eps, over
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
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
