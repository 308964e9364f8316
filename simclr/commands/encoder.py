"""An encoder and what belongs to it, from a checkpoint: how it is shown images that are none of its run's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn

    from simclr.augment.plain import Plain


class OpenedEncoder(NamedTuple):
    """parts: by name, "backbone" among them, in eval mode on `device`.

    size: pixels that images are decoded at, as for the run's store; plain: how these are shown to the backbone.
    """

    parts: dict[str, nn.Module]
    size: int
    plain: Plain
    device: torch.device

    @property
    def backbone(self) -> nn.Module:
        return self.parts["backbone"]


def open_encoder(
    checkpoint: Mapping[str, Any], wanted: list[str], accelerator: str, part: str = "backbone"
) -> OpenedEncoder:
    """The `wanted` parts of a checkpoint, on an accelerator. part: which of its backbones.

    Raises InputError for one that it lacks.
    """
    import torch

    from simclr.runs.assemble import reassemble, shown_as, stored_size
    from simclr.system.precision import choose_accelerator

    parts = reassemble(checkpoint, wanted, part)
    device, plain = torch.device(choose_accelerator(accelerator)), shown_as(checkpoint)
    for module in parts.values():
        module.to(device).eval()
    return OpenedEncoder(parts, stored_size(checkpoint), plain, device)
