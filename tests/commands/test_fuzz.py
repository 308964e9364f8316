"""Sound files with random bytes changed, cut out and put in: a good result or one clear error, and nothing else."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from simclr.data.files.archive import FolderArchive, said_of_broken
from simclr.data.files.decode import Decoder
from simclr.data.files.packed import ZipArchive
from simclr.data.store import Splits
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.errors import InputError
from tests.conftest import tiny_imagenet_files, write_folder

pytestmark = pytest.mark.usefixtures("no_hang")


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """One to four changes: bits flipped, bytes overwritten, stretches cut out, doubled or added, the end gone."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        start = int(random.integers(len(data) + 1))
        stretch = slice(start, start + int(random.integers(1, 40)))
        change = random.integers(6)
        if change == 0:
            for position in random.integers(len(data), size=3) if data else ():
                data[position] ^= 1 << random.integers(8)
        elif change == 1:
            data[stretch] = random.bytes(len(data[stretch]))
        elif change == 2:
            data[stretch] = bytes(random.choice([0, 255]) for _ in data[stretch])
        elif change == 3:
            del data[stretch]
        elif change == 4:
            data[start:start] = data[stretch] or random.bytes(8)
        else:
            del data[max(start, 8) :]
    return bytes(data)


def images() -> dict[str, bytes]:
    """A small image in every format and mode that has a decoder of its own."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "png": (noise, {"exif": exif}),
        "palette.png": (noise.quantize(8), {"transparency": 0}),
        "deep.png": (Image.fromarray(np.arange(200, dtype=np.uint16).reshape(10, 20) * 300), {}),
        "apng.png": (noise, {"save_all": True, "append_images": [noise.rotate(180)]}),
        "jpeg": (noise, {"exif": exif}),
        "cmyk.jpeg": (noise.convert("CMYK"), {}),
        "progressive.jpeg": (noise, {"progressive": True}),
        "gif": (noise, {"save_all": True, "append_images": [noise.rotate(180)]}),
        "webp": (noise, {"exif": exif}),
        "bmp": (noise, {}),
        "tiff": (noise, {"compression": "tiff_lzw"}),
        "float.tiff": (Image.fromarray(np.random.default_rng(0).random((9, 9), np.float32)), {}),
        "jp2": (noise, {}),
        "ppm": (noise, {}),
        "avif": (noise, {"exif": exif}),
    }
    Image.init()
    made = {}
    for name, (image, options) in kinds.items():
        format = {"jp2": "JPEG2000"}.get(name, name.rsplit(".")[-1].upper())
        if format in Image.SAVE:
            file = io.BytesIO()
            image.save(file, format, **options)
            made[name] = file.getvalue()
    return made


PICTURES = images()


@pytest.mark.parametrize("name", PICTURES)
def test_damaged_images(tmp_path, name):
    archive = FolderArchive(tmp_path, {".image"})
    path = tmp_path / "a.image"
    path.write_bytes(PICTURES[name])
    assert next(Decoder(archive, 16).batches([path.name], "")).shape == (1, 16, 16, 3)
    random = np.random.default_rng(1)
    refused = []
    for _ in range(60):
        path.write_bytes(damaged(PICTURES[name], random))
        decoder = Decoder(archive, 16)
        (batch,) = decoder.batches([path.name], "")
        if decoder.broken:
            refused.append(said_of_broken(archive, decoder.broken, 1))
        assert batch.shape == (1 - len(decoder.broken), 16, 16, 3)
        assert batch.dtype == np.uint8
    assert len(refused) > 5
    for message in refused:
        assert message.startswith(f"a.image in {tmp_path} cannot be decoded (")
        assert message.isprintable()


def zip_bytes(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in tiny_imagenet_files().items():
            if not name.endswith("JPEG"):
                archive.writestr(f"tiny-imagenet-200/{name}", content)
        archive.writestr("tiny-imagenet-200/train/n01/images/n01_1.JPEG", PICTURES["jpeg"])
    return file.getvalue()


def read_all(path: Path) -> None:
    archive = ZipArchive(path)
    for name in archive.names():
        archive.read(name, 2**20)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zips(tmp_path, method):
    content, random = zip_bytes(method), np.random.default_rng(2)
    directory = content.index(b"PK\x01\x02")
    path = tmp_path / "t.zip"
    path.write_bytes(content)
    read_all(path)
    refused = []
    for i in range(300):
        # Half of the changes fall on the table of contents, where zipfile's own parser works.
        half = damaged(content[directory:], random)
        path.write_bytes(content[:directory] + half if i % 2 else damaged(content, random))
        try:
            read_all(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all("t.zip" in message and message.isprintable() for message in refused)


def check(images: Splits) -> None:
    _, train, val = images
    assert val is not None
    for store in (train, val):
        assert store.labels is not None
        assert store.boxes is not None
        assert len(store) == len(store.labels) == len(store.boxes) > 0
        assert 0 <= store.labels.min() <= store.labels.max() < len(store.classes)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(["wnids.txt", "val/val_annotations.txt", "train/n03/n03_boxes.txt"]), st.data())
def test_damaged_listings(tmp_path, name, data):
    files = tiny_imagenet_files()
    if data.draw(st.booleans()):
        files[name] = damaged(files[name], np.random.default_rng(data.draw(st.integers(0, 10**6))))
    else:
        files[name] = data.draw(
            st.binary(max_size=200) | st.text("n0123vla_.JPEG\t\n -٣\x0b\u2028", max_size=200).map(str.encode)
        )
    write_folder(tmp_path / "t", files)
    try:
        images = TinyImageNet(str(tmp_path / "t"), 64, str(tmp_path / "store")).load()
    except InputError as error:
        message = str(error)
    else:
        check(images)
        return
    assert message.startswith(str(tmp_path))
    assert message.isprintable()
