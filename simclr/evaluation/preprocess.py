"""From an image in a file or in memory to what an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from simclr.augment.plain import Plain
from simclr.data.files.metadata import upright
from simclr.data.files.pixels import decode, square


@dataclass(frozen=True)
class Preprocess:
    """An image as a run's encoder was shown its own: turned upright, scaled and centre-cropped to size, normalised.

    size: pixels that the run's store kept images at. plain: how these were shown to the encoder.
    """

    size: int
    plain: Plain

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """An image, or the path of its file, to float32 [3, S, S]. Raises what Pillow raises for no image."""
        if isinstance(image, Image.Image):
            pixels = square(upright(image)[0].convert("RGB"), self.size)
        else:
            pixels = decode(Path(image).expanduser().read_bytes(), self.size).pixels
        return self.plain(torch.from_numpy(pixels.copy())[None])[0].contiguous()
