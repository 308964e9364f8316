"""Images whose metadata are broken and whose pixels are whole: the pixels are what counts."""

import io
import re
import struct
import tracemalloc
import zlib
from functools import partial
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, TiffImagePlugin, features

from simclr.data.files.pixels import decode
from simclr.data.folder import ImageFolder
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("no_hang")

SIZE = 16
# Smooth, so that lossy formats keep it, and unlike itself however it is turned.
RAMP = np.arange(SIZE) * 15
PIXELS = np.stack([np.add.outer(RAMP, RAMP) // 2, np.add.outer(RAMP, 0 * RAMP), np.full((SIZE, SIZE), 90)], axis=-1)
PICTURE = Image.fromarray(PIXELS.astype(np.uint8))
SIDEWAYS = 6  # the orientation of an image that is to be turned by a quarter to the right
MEGABYTES = b"x" * 3_000_000


def saved(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, format, **options)
    return file.getvalue()


def as_it_lies(format: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(saved(format))).convert("RGB"))


def turned(pixels: np.ndarray) -> np.ndarray:
    return np.rot90(pixels, -1)


def exif(orientation: object = SIDEWAYS, kind: int = 3, more: bytes = b"") -> bytes:
    """A block of EXIF with an orientation of this value and TIFF type, put together by hand."""
    value = struct.pack(">HH", orientation, 0) if isinstance(orientation, int) else orientation
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHI4sI", 1, 0x112, kind, 1, value, 0) + more


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(*chunks: bytes, last: bool = False) -> bytes:
    """PICTURE with further chunks, before its pixels or after them."""
    content = saved("PNG")
    at = len(content) - 12 if last else 33
    return content[:at] + b"".join(chunks) + content[at:]


def jpeg(marker: int, *contents: bytes) -> bytes:
    content = saved("JPEG")
    segments = (bytes([0xFF, marker]) + struct.pack(">H", len(one) + 2) + one for one in contents)
    return content[:2] + b"".join(segments) + content[2:]


def tiff(tag: int, value: object, kind: int) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[tag] = kind
    tags[tag] = value
    return saved("TIFF", tiffinfo=tags)


def tiff_that_points_nowhere(tag: int, compression: str | None) -> bytes:
    """A TIFF one of whose descriptive tags says that its text begins far behind the end of the file."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[tag] = 2
    tags[tag] = "a text of some length"
    content = saved("TIFF", tiffinfo=tags, compression=compression)
    at = content.index(struct.pack("<HH", tag, 2)) + 8
    return content[:at] + b"\0\0\0\x70" + content[at + 4 :]


def inflating(kind: bytes, head: bytes) -> bytes:
    return png(png_chunk(kind, head + zlib.compress(MEGABYTES)))


BAD_EXIF = {
    "garbage": b"garbage, not EXIF",
    "cut short": b"MM\0*\0\0\0\x08\0\x05\x01",
    "an offset beyond the end": b"MM\0*\xff\xff\xff\xff",
    "of another version": b"II+\0\x08\0\0\0",
    "a text for orientation": exif(b"abcd", 2),
    "a fraction by zero": exif(b"\0\0\0\x1a", 5, bytes([0, 0, 0, 6, 0, 0, 0, 0])),
    "an orientation of 99": exif(99),
}
BROKEN = {
    **{f"PNG, EXIF {name}": ("PNG", partial(png, png_chunk(b"eXIf", bad))) for name, bad in BAD_EXIF.items()},
    **{f"JPEG, EXIF {name}": ("JPEG", partial(jpeg, 0xE1, b"Exif\0\0" + bad)) for name, bad in BAD_EXIF.items()},
    **{
        f"WebP, EXIF {name}": ("WEBP", partial(saved, "WEBP", exif=b"Exif\0\0" + bad)) for name, bad in BAD_EXIF.items()
    },
    "PNG, EXIF behind the pixels": ("PNG", partial(png, png_chunk(b"eXIf", b"garbage"), last=True)),
    "PNG, a checksum of EXIF": ("PNG", partial(png, png_chunk(b"eXIf", exif(), crc=7))),
    "PNG, a checksum of a text": ("PNG", partial(png, png_chunk(b"tEXt", b"a\0b", crc=7))),
    "PNG, a long compressed comment": ("PNG", partial(inflating, b"zTXt", b"k\0\0")),
    "PNG, a long comment in Unicode": ("PNG", partial(inflating, b"iTXt", b"k\0\1\0\0\0")),
    "PNG, a long profile": ("PNG", partial(inflating, b"iCCP", b"k\0\0")),
    "PNG, a hundred comments": ("PNG", partial(png, *[png_chunk(b"tEXt", b"k\0" + MEGABYTES[: 10**6])] * 100)),
    "PNG, a profile of no method": ("PNG", partial(png, png_chunk(b"iCCP", b"k\0\7nonsense"))),
    **{
        f"PNG, {kind.decode()} too short": ("PNG", partial(png, png_chunk(kind, b"")))
        for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL", b"fdAT", b"tRNS", b"iCCP")
    },
    **{
        f"PNG, {kind.decode()} too short, behind the pixels": ("PNG", partial(png, png_chunk(kind, b""), last=True))
        for kind in (b"gAMA", b"pHYs", b"acTL", b"fdAT", b"tRNS")
    },
    "JPEG, JFIF too short": ("JPEG", partial(jpeg, 0xE0, b"JFIF\0")),
    "JPEG, a profile too short": ("JPEG", partial(jpeg, 0xE2, b"ICC_PROFILE\0")),
    "JPEG, Adobe too short": ("JPEG", partial(jpeg, 0xEE, b"Adobe")),
    "JPEG, Photoshop cut short": ("JPEG", partial(jpeg, 0xED, b"Photoshop 3.0\0008BIM\x03\xed")),
    **{
        f"TIFF, tag {tag}, {compression}": ("TIFF", partial(tiff_that_points_nowhere, tag, compression))
        for tag in (269, 270)
        for compression in (None, "tiff_lzw")
    },
    "TIFF, a text for orientation": ("TIFF", partial(tiff, 274, "abc", 2)),
    "TIFF, an orientation of 99": ("TIFF", partial(tiff, 274, 99, 3)),
}
SOUND = {
    "PNG, a long plain comment": ("PNG", partial(png, png_chunk(b"tEXt", b"k\0" + MEGABYTES))),
    "JPEG, many long comments": ("JPEG", partial(jpeg, 0xFE, *[MEGABYTES[:65_000]] * 50)),
    "JPEG, a long profile": ("JPEG", partial(saved, "JPEG", icc_profile=MEGABYTES)),
    "JPEG, images beside it that are not there": ("JPEG", partial(jpeg, 0xE2, b"MPF\0garbage")),
    "WebP, a long profile": ("WEBP", partial(saved, "WEBP", icc_profile=MEGABYTES)),
    "TIFF, a long profile": ("TIFF", partial(saved, "TIFF", icc_profile=MEGABYTES)),
    **{
        f"TIFF, tag {tag}, {compression}": ("TIFF", partial(tiff_that_points_nowhere, tag, compression))
        for tag in (305, 33432)  # which stand behind the orientation
        for compression in (None, "tiff_lzw")
    },
    "an orientation of 0": ("PNG", partial(png, png_chunk(b"eXIf", exif(0)))),
}


@pytest.mark.parametrize("case", [*BROKEN, *SOUND])
def test_pixels_do_not_depend_on_what_stands_beside_them(case):
    format, make = (BROKEN | SOUND)[case]
    decoded = decode(make(), SIZE)
    assert np.array_equal(decoded.pixels, as_it_lies(format))
    if case == "PNG, cHRM too short" and int(PIL.__version__.split(".")[0]) < 13:
        return  # Pillow 12 (the last for Python 3.10) passes over it without a word
    assert decoded.legible == (case in SOUND)


# EXIF without an orientation, which Pillow would take out and write elsewhere in an AVIF.
DESCRIPTION = b"Exif\0\0" + exif(more=b"Canon\0" * 30).replace(b"\x01\x12", b"\x01\x0f", 1)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_with_broken_exif():
    content = saved("AVIF", exif=DESCRIPTION)
    assert decode(content, SIZE).legible
    decoded = decode(content.replace(DESCRIPTION[6:20], b"garbage, indeed"[:14]), SIZE)
    assert np.array_equal(decoded.pixels, as_it_lies("AVIF"))
    assert not decoded.legible


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_sound_orientation_is_followed(format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = saved(format, **({"tiffinfo": {274: SIDEWAYS}} if format == "TIFF" else {"exif": b"Exif\0\0" + exif()}))
    decoded = decode(content, SIZE)
    assert np.array_equal(decoded.pixels, turned(as_it_lies(format)))
    assert decoded.legible


def test_a_sound_orientation_is_followed_whatever_else_is_broken():
    long = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES))
    for content in (
        png(png_chunk(b"eXIf", exif()), long),
        png(png_chunk(b"pHYs", b""), png_chunk(b"eXIf", exif())),
        png(png_chunk(b"eXIf", exif(more=b"\xff" * 7)[:-7])),
    ):
        assert np.array_equal(decode(content, SIZE).pixels, turned(as_it_lies("PNG")))
    for content in (jpeg(0xE1, b"Exif\0\0" + exif()), jpeg(0xE1, b"Exif\0\0" + exif(), b"Exif\0\0" + b"\xff" * 9)):
        profile = b"\xff\xe2\0\x0eICC_PROFILE\0"
        decoded = decode(content[:2] + profile + content[2:], SIZE)
        assert np.array_equal(decoded.pixels, turned(as_it_lies("JPEG")))


def test_a_comment_that_inflates_takes_no_memory():
    """A gigabyte of zeros in a megabyte, as text, as profile and as XMP."""
    bomb = zlib.compress(bytes(2**30), 1)
    kinds = ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"))
    for kind, head in kinds:
        content = png(png_chunk(kind, head + bomb))
        tracemalloc.start()
        assert np.array_equal(decode(content, SIZE).pixels, as_it_lies("PNG"))
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()


def test_broken_pixels_are_still_refused():
    """What is left out to get at the pixels does not pardon them, and the error is about the file as it is."""
    content = png(png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES)))
    with pytest.raises(ValueError, match="too large"):
        decode(content[:-40], SIZE)
    truncated = jpeg(0xE1, b"Exif\0\0garbage")[:-300]
    with pytest.raises(OSError, match=r"(?i)truncated"):
        decode(truncated, SIZE)


TURNED = b"Exif\0\0" + exif(more=b"Canon\0" * 30)


def with_payload(format: str) -> bytes:
    if format == "TIFF":
        return saved("TIFF", description="a description " * 9, software="a program", icc_profile=b"profile" * 30)
    options = (
        {"comment": b"comment " * 20}
        if format == "GIF"
        else {"exif": DESCRIPTION if format == "AVIF" else TURNED, "icc_profile": b"profile" * 30}
    )
    return saved(format, **options)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF"])
def test_any_damage_beside_the_pixels(format):
    """Bytes of metadata are changed at random, 200 times: always the pixels, in one of the eight ways to turn them."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = with_payload(format)
    spots = [
        i
        for pattern in (rb"MM\0\*[\s\S]{%d}" % (len(TURNED) - 10), rb"(?:profile){30}", rb"(?:comment ){20}")
        for found in re.finditer(pattern, content)
        for i in range(*found.span())
    ]
    if format == "TIFF":  # the entries of descriptive tags: type, count, and where the value is
        (directory,) = struct.unpack_from("<I", content, 4)
        for entry in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", content, directory)[0], 12):
            if struct.unpack_from("<H", content, entry)[0] in (270, 274, 305, 34675):
                spots += range(entry + 2, entry + 12)
    assert len(spots) > 50
    base = decode(saved(format), SIZE).pixels
    ways = [np.rot90(one, k) for one in (base, base[:, ::-1]) for k in range(4)]
    random = np.random.default_rng(3)
    for _ in range(200):
        damaged = bytearray(content)
        for i in random.choice(spots, size=random.integers(1, 8)):
            damaged[i] = random.integers(256)
        pixels = decode(bytes(damaged), SIZE).pixels
        assert any(np.array_equal(pixels, way) for way in ways)


def test_images_used_as_they_lie_are_counted(tmp_path, caplog):
    files = {f"{i}.png": png() for i in range(4)}
    files |= {f"bad-{i}.png": png(png_chunk(b"eXIf", b"garbage")) for i in range(2)}
    write_folder(tmp_path / "p", files | {"bad-2.jpg": jpeg(0xE1, b"Exif\0\0garbage")})
    images = ImageFolder(str(tmp_path / "p"), SIZE, 0.1).load()
    assert len(images.train) == 7
    (said,) = (record.getMessage() for record in caplog.records if "metadata" in record.getMessage())
    assert "3 of them, bad-0.png first" in said
    assert "as they lie" in said
