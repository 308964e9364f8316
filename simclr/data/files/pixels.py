"""From one compressed image file to uint8 pixels."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from simclr.data.files.metadata import upright, without_metadata
from simclr.errors import InputError

MAX_PIXELS = 2**26  # of one image, which takes a quarter of a GB when it is decoded
BITS = 16  # of an image with 16 bits a channel, which are all in use unless data.bits says otherwise
# Pillow reads more, but goes by contents and not by name: PostScript, called x.jpg, would run Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can read."""
    Image.init()
    return tuple(format for format in FORMATS if format in Image.OPEN)


@cache
def image_endings() -> frozenset[str]:
    """The endings, such as ".jpg", of the files that are decoded."""
    return frozenset(ending for ending, format in Image.registered_extensions().items() if format in formats())


class Decoded(NamedTuple):
    """An image, uint8 [size, size, 3], and what is to be said of its file."""

    pixels: np.ndarray
    largest: int  # the largest number of an image with 16 bits a channel; 0 of others
    legible: bool  # whether its metadata could be read


def decode(data: bytes, size: int, bits: int = BITS) -> Decoded:
    """One compressed image as uint8 [size, size, 3].

    An image of another size is scaled so that its shorter side fits, then its centre is kept. Grayscale, palette and
    CMYK images become RGB; transparency is ignored, as torchvision's ImageFolder does, so the colours that it hid
    show; of gray with 16 bits the lower `bits` are in use, of which the upper 8 are kept, and what is larger is white;
    colours of 16 bits keep their upper 8; floats are taken from [0, 1]; of an animation the first image is used.
    Metadata are a hint: an image whose orientation cannot be read is used as it lies.
    Raises InputError for more than MAX_PIXELS, before they are decoded, and for numbers that have no white; OSError or
    another of Pillow's many exceptions for data that is not a whole image in one of FORMATS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image is used or refused; Pillow's remarks on its metadata help nobody
        image, as_it_is = _opened(data)
        turned, legible = upright(image)
        bytes_, largest = _as_bytes(turned, image.format, bits)
        rgb = bytes_.convert("RGB")
    return Decoded(square(rgb, size), largest, as_it_is and legible)


def square(rgb: Image.Image, size: int) -> np.ndarray:
    """An RGB image as uint8 [size, size, 3]: its shorter side scaled to fit, its centre kept."""
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _opened(data: bytes) -> tuple[Image.Image, bool]:
    """The image, its pixels decoded, and whether Pillow took its metadata; where it does not, it is spared them."""
    try:
        return _loaded(data), True
    except InputError:
        raise
    except Exception:
        for orientation in (True, False):
            bare = without_metadata(data, orientation)
            if bare != data:
                with suppress(Exception):
                    return _loaded(bare), False
        raise


def _loaded(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
    except Image.DecompressionBombError as error:
        raise InputError(f"more than {MAX_PIXELS:,} pixels") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
    image.load()
    return image


def _as_bytes(image: Image.Image, format: str | None, bits: int) -> tuple[Image.Image, int]:
    """An image of 16-bit or float gray as one of 8 bits, which Pillow's own conversion would clip; others as is.

    With it the largest of the 16-bit numbers, 0 of other images.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        numbers = np.asarray(image)
        return Image.fromarray((numbers >> (bits - 8)).clip(0, 255).astype(np.uint8)), int(numbers.max())
    if image.mode == "F":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 1:  # false of NaN, too
            return Image.fromarray((255 * values).round().astype(np.uint8)), 0
    if image.mode in ("I", "F"):
        raise InputError("its numbers do not say which is white; save it with 8 bits a channel")
    return image, 0
