"""Projection heads: from features to the embeddings that the loss compares."""

from torch import nn

from simclr.checks import is_whole
from simclr.models.whitening import BatchWhitening

MAX_FEATURES = 2**15  # of a layer; the weights between two such layers take 4 GB
MAX_LAYERS = 16


class ProjectionHead(nn.Sequential):
    """The MLP g(·) of SimCLR (Chen et al. 2020, section 2.1): Linear, ReLU, Linear.

    Features [B, in_features] to embeddings [B, out_features], not normalised (the loss does that). It is thrown away
    after pre-training; evaluation reads the features before it. Raises ValueError for a size out of range.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        super().__init__(
            nn.Linear(in_features, hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features),
        )
        self.out_features = out_features


class BatchNormHead(nn.Sequential):
    """An MLP with batch norm, as most methods after SimCLR project and predict: BYOL, SimSiam, Barlow Twins, VICReg.

    Linear, batch norm and ReLU `hidden_layers` times, then Linear. Features [B, in_features] to embeddings
    [B, out_features], not normalised.

    norm_output: batch norm after the last layer, too: null for none, "affine" with scale and shift that are learned,
    "plain" without, "whitened" for batch whitening. A linear layer has no bias where one of them follows, which would
    take it out again.
    Raises ValueError for a size out of range and another norm_output.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        hidden_layers: int = 1,
        norm_output: str | None = None,
    ) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        if not is_whole(hidden_layers) or not 1 <= hidden_layers <= MAX_LAYERS:
            raise ValueError(f"hidden_layers={hidden_layers} is not usable; write a whole number, 1 to {MAX_LAYERS}")
        if norm_output not in (None, "affine", "plain", "whitened"):
            raise ValueError(f"norm_output={norm_output} is not known; choose affine, plain, whitened or null")
        layers: list[nn.Module] = []
        for layer in range(hidden_layers):
            width = in_features if layer == 0 else hidden_features
            layers += [nn.Linear(width, hidden_features, bias=False), nn.BatchNorm1d(hidden_features), nn.ReLU(True)]
        layers.append(nn.Linear(hidden_features, out_features, bias=norm_output is None))
        if norm_output == "whitened":
            layers.append(BatchWhitening(out_features))
        elif norm_output is not None:
            layers.append(nn.BatchNorm1d(out_features, affine=norm_output == "affine"))
        super().__init__(*layers)
        self.out_features = out_features


class LinearHead(nn.Linear):
    """A projection without bias, as CLIP's towers end in (Radford et al. 2021, section 2.3).

    Features [B, in_features] to embeddings [B, out_features], not normalised. Raises ValueError for a size out of
    range.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        super().__init__(in_features, out_features, bias=False)


class NoHead(nn.Identity):
    """A head that changes nothing: the loss compares the features themselves."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.out_features = in_features


def check_sizes(**sizes: int) -> None:
    """Raise ValueError, naming the first, where one is no width of a layer."""
    for name, value in sizes.items():
        if not is_whole(value) or not 1 <= value <= MAX_FEATURES:
            raise ValueError(f"{name}={value} is not usable; it is a whole number from 1 to {MAX_FEATURES}")
