"""Images that are broken, huge or unusual: decoded as they should be, or one clear error that names the file."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.data.files.pixels import decode, image_endings
from simclr.data.folder import ImageFolder
from simclr.errors import InputError
from tests.conftest import image_bytes, write_folder

pytestmark = pytest.mark.usefixtures("no_hang")


def load_image(tmp_path: Path, name: str, content: bytes, size: int = 16) -> np.ndarray:
    write_folder(tmp_path / "p", {name: content})
    return ImageFolder(str(tmp_path / "p"), size, 0.1).load().train.pixels[0]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file, put together by hand: `rows` are filter bytes and pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = RAMP.astype(np.uint16) * 257  # the same grays, of 65535


@pytest.mark.parametrize("side", [8193, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    """Each is a sound image of one bit a pixel; 12,000 is where Pillow only warns, and 8193 where it does not."""
    row = bytes(1 + (side + 7) // 8)
    bomb = png(side, side, 1, 0, row * (side if side < 60_000 else 1))
    with pytest.raises(InputError, match=r"big\.png in .* cannot be decoded \(.*more than 67,108,864"):
        load_image(tmp_path, "big.png", bomb)


def test_pixels_are_not_decoded_to_be_counted():
    bomb = png(9000, 9000, 8, 2, bytes(1000))  # nearly all of it is missing, which only decoding finds out
    tracemalloc.start()
    with pytest.raises(InputError, match="9000 × 9000 pixels"):
        decode(bomb, 16)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, 30, 0.5, 0.95])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_an_image_that_is_cut_short_is_named(tmp_path, format, cut):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), format)
    part = whole[: int(cut * len(whole)) if isinstance(cut, float) else cut]
    with pytest.raises(InputError, match=r"cut\.jpg in .* cannot be decoded .*replace or remove what is broken"):
        load_image(tmp_path, "cut.jpg", part)


@pytest.mark.parametrize("content", [b"", b"a letter, not an image\n" * 50, bytes(1000), b"P6 3 3 255 x"])
def test_what_is_no_image_is_named(tmp_path, content):
    with pytest.raises(InputError, match=r"letter\.jpg in .* cannot be decoded"):
        load_image(tmp_path, "letter.jpg", content)


def test_postscript_called_jpg_does_not_run_an_interpreter(tmp_path, monkeypatch):
    interpreter = tmp_path / "bin" / "gs"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{interpreter.parent}:{os.environ['PATH']}")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(InputError, match=r"x\.jpg in .* cannot be decoded"):
        load_image(tmp_path, "x.jpg", postscript)
    assert not (tmp_path / "ran").exists()
    assert ".eps" not in image_endings()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gray.png", saved(Image.fromarray(DEEP), "PNG")),
        ("gray.tif", saved(Image.fromarray(DEEP), "TIFF")),
        ("gray.pgm", b"P5 16 16 65535 " + DEEP.astype(">u2").tobytes()),
        ("colour.png", png(16, 16, 16, 2, b"".join(b"\0" + np.repeat(r, 3).astype(">u2").tobytes() for r in DEEP))),
        ("alpha.png", png(16, 16, 16, 4, b"".join(b"\0" + np.repeat(r, 2).astype(">u2").tobytes() for r in DEEP))),
        ("float.tif", saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF")),
    ],
)
def test_sixteen_bits_and_floats_are_scaled_and_not_clipped(tmp_path, name, content):
    pixels = load_image(tmp_path, name, content)
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "values",
    [np.full((16, 16), 3.5, np.float32), np.full((16, 16), np.nan, np.float32), np.full((16, 16), 9, np.int32)],
)
def test_numbers_without_a_white_are_refused(tmp_path, values):
    with pytest.raises(InputError, match=r"f\.tif in .*do not say which is white; save it with 8 bits"):
        load_image(tmp_path, "f.tif", saved(Image.fromarray(values), "TIFF"))


def test_transparency_is_ignored(tmp_path):
    """Half of each image is transparent; its colour, red or mid-gray, is what shows."""
    alpha = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 8, axis=1).repeat(16, axis=0))
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    transparent = red.copy()
    transparent.putalpha(alpha)
    assert (load_image(tmp_path / "1", "rgba.png", saved(transparent, "PNG")) == (200, 30, 40)).all()
    gray = Image.merge("LA", (Image.new("L", (16, 16), 90), alpha))
    assert (load_image(tmp_path / "2", "la.png", saved(gray, "PNG")) == 90).all()
    palette = red.quantize(2)
    assert (load_image(tmp_path / "3", "p.png", saved(palette, "PNG", transparency=0)) == (200, 30, 40)).all()
    assert (load_image(tmp_path / "4", "plain.gif", saved(palette, "GIF")) == (200, 30, 40)).all()


@pytest.mark.parametrize(("format", "ending"), [("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")])
def test_of_an_animation_the_first_image_is_used(tmp_path, format, ending):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("#204060", "white", "black")]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (load_image(tmp_path, f"a.{ending}", content) == (0x20, 0x40, 0x60)).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1), (7, 5), (65_000, 2)])
def test_tiny_and_extreme_shapes(tmp_path, width, height):
    pixels = np.full((height, width, 3), (10, 130, 250), np.uint8)
    assert (load_image(tmp_path, "x.png", image_bytes(pixels), size=32) == (10, 130, 250)).all()


def test_cmyk_becomes_rgb(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # no red
    pixels = load_image(tmp_path, "c.tif", saved(cmyk, "TIFF"))
    assert (pixels == (0, 255, 255)).all()
