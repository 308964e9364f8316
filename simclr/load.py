"""A run's encoder for a program of one's own, with the preprocessing that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simclr.evaluation.preprocess import Preprocess
    from simclr.models.backbone import Encoder


def load(run: str | Path, part: str = "backbone") -> tuple[Encoder, Preprocess]:
    """The encoder of a run, in eval mode on the CPU, and what makes its input of an image.

        encoder, preprocess = simclr.load("outputs/simclr-modified-slim-seed0-HASH")
        features = encoder(preprocess("photo.jpg")[None])  # float32 [1, encoder.num_features]

    run: a run's directory, which means its newest checkpoint, or the path of a checkpoint. part: or "target_backbone",
    the slow copy that BYOL and MoCo v3 keep. The encoder takes float32 [B, 3, H, W] and keeps its gradients, so it can
    be trained on. Nothing that a checkpoint names is built or run unless it is a part of this project.
    Raises ValueError, whose message is one line, where there is no such checkpoint or part.
    """
    # Imported here, so that a command which imports the package does not wait for torch.
    from simclr.evaluation.preprocess import Preprocess
    from simclr.runs.assemble import reassemble, shown_as, stored_size
    from simclr.runs.checkpoint import locate

    (_, checkpoint), _, _ = locate(str(run), None)
    encoder = reassemble(checkpoint, part=part)["backbone"].eval()
    return encoder, Preprocess(stored_size(checkpoint), shown_as(checkpoint))
