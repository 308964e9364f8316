"""Projection heads: from features to the embeddings that the loss compares."""

from torch import nn


class ProjectionHead(nn.Sequential):
    """The MLP g(·) of SimCLR (Chen et al. 2020, section 2.1): Linear, ReLU, Linear.

    Features [B, in_features] to embeddings [B, out_features], not normalised (the loss does that). It is thrown away
    after pre-training; evaluation reads the features before it.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__(
            nn.Linear(in_features, hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features),
        )
