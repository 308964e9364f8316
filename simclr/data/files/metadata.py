"""What an image file says beside its pixels: a hint where it can be read, and never in the pixels' way."""

from __future__ import annotations

import re
import struct
import warnings
import zlib

from PIL import ExifTags, Image

TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of TIFF that describe: texts, resolution, XMP. From 2**15 on they are private: EXIF, ICC, GPS, a maker's own.
TIFF_TEXTS = {
    *(269, 270, 271, 272, 282, 283, 285, 286, 287, 296, 297, 305, 306, 315, 316, 333, 337, 700),
    *range(2**15, 2**16),
}


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """A decoded image turned as its metadata say, or as it lies where they cannot be read; and whether they could."""
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            # Read anew: a JPEG's own have failed, without a word, when it was opened, and then seem to be empty.
            Image.Exif().load(image.info.get("exif", b""))
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        turn = TURNS.get(orientation)
        legible = turn is not None or orientation in (0, 1) or (orientation is None and not doubts)
    except Exception:  # Pillow has no one kind for what may be wrong here
        return image, False
    return (image if turn is None else image.transpose(turn)), legible


def without_metadata(data: bytes, orientation: bool) -> bytes:
    """An image's file without what says nothing of its pixels' values; other formats than the four below as they are.

    orientation: whether to keep where it is said how the image is to be turned.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data, orientation)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, orientation)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data, orientation)
    if data[4:8] == b"ftyp":  # AVIF, which says how to turn it beside its EXIF: that becomes an item of no known type
        return re.sub(rb"(infe(?:\x02[\s\S]{7}|\x03[\s\S]{9}))Exif", rb"\1none", data)
    return data


def _png(data: bytes, orientation: bool) -> bytes:
    kept, position = [data[:8]], 8
    while position + 12 <= len(data):
        kind, end = (
            data[position + 4 : position + 8],
            position + 12 + int.from_bytes(data[position : position + 4], "big"),
        )
        if end > len(data):
            break
        whole = zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if not kind[0] & 0x20 or (orientation and kind == b"eXIf" and whole):  # a capital letter: part of the image
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _jpeg(data: bytes, orientation: bool) -> bytes:
    kept, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        kind, end = data[position + 1], position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if kind == 0xFF:  # a filling byte
            position += 1
            continue
        if kind == 0xDA or not 0xC0 <= kind <= 0xFE:  # the pixels begin
            break
        content = data[position + 4 : end]
        needed = (
            not (0xE0 <= kind <= 0xEF or kind == 0xFE)
            or (kind == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)  # these two say which colours
            or (kind == 0xEE and content.startswith(b"Adobe") and len(content) >= 12)
            or (kind == 0xE1 and content.startswith(b"Exif\0\0") and orientation)
        )
        if needed:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _tiff(data: bytes, orientation: bool) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    result = bytearray(data)
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(f"{order}H", data, entry)
            if tag in TIFF_TEXTS or (tag == ExifTags.Base.Orientation and not orientation):
                struct.pack_into("H", result, entry + 2, 0)  # of no type, which readers pass over
    except struct.error:
        pass  # cut short, which Pillow will say
    return bytes(result)
