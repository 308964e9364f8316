"""Projection heads: from features to the embeddings that the loss compares."""

from torch import nn

from simclr.checks import is_whole

MAX_FEATURES = 2**15  # of a layer; the weights between two such layers take 4 GB


class ProjectionHead(nn.Sequential):
    """The MLP g(·) of SimCLR (Chen et al. 2020, section 2.1): Linear, ReLU, Linear.

    Features [B, in_features] to embeddings [B, out_features], not normalised (the loss does that). It is thrown away
    after pre-training; evaluation reads the features before it. Raises ValueError for a size out of range.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, value in sizes.items():
            if not is_whole(value) or not 1 <= value <= MAX_FEATURES:
                raise ValueError(f"{name}={value} is not usable; it is a whole number from 1 to {MAX_FEATURES}")
        super().__init__(
            nn.Linear(in_features, hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features),
        )
        self.out_features = out_features
