"""Decoding in several processes, whatever ends them; images of more than 8 bits; images with nothing to see."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from simclr.data.contrast import little_contrast
from simclr.data.files.archive import FolderArchive
from simclr.data.files.decode import BATCH, Decoder
from simclr.data.folder import ImageFolder
from simclr.data.shapes import Shapes
from simclr.data.store import ImageStore
from simclr.errors import InputError
from tests.conftest import REPOSITORY, environment, image_bytes, write_folder
from tests.data.test_hostile_images import png, saved

pytestmark = pytest.mark.usefixtures("no_hang")

COUNT = 5 * BATCH  # enough for several processes


def source_with_a_pipe(folder: Path) -> FolderArchive:
    """Images among which there is a pipe, where a process that decodes waits until somebody writes into it."""
    image = image_bytes(np.full((16, 16, 3), 77, np.uint8))
    write_folder(folder, {f"{i:04}.png": image for i in range(COUNT) if i != BATCH})
    os.mkfifo(folder / f"{BATCH:04}.png")
    return FolderArchive(folder, {".png"})


def wait_for_reader(folder: Path) -> int:
    """Returns when a process waits at the pipe: its other end."""
    while True:
        try:
            return os.open(folder / f"{BATCH:04}.png", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)


def workers(of: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(of).children() if "pickle.load" in " ".join(child.cmdline())]


def test_order_is_that_of_the_names_and_bad_ones_are_counted(tmp_path):
    images = {f"{i}.png": image_bytes(np.full((16, 16, 3), i % 256, np.uint8)) for i in range(COUNT)}
    names = list(images)
    archive = FolderArchive(write_folder(tmp_path, images), {".png"})
    pixels = np.concatenate(list(Decoder(archive, 16).batches(names, "")))
    assert pixels[:, 3, 3, 1].tolist() == [i % 256 for i in range(COUNT)]
    bad = [2 * BATCH + 5, 3 * BATCH, COUNT - 1]
    write_folder(tmp_path, {names[i]: b"no image" for i in bad})
    decoder = Decoder(archive, 16)
    pixels = np.concatenate(list(decoder.batches(names, "")))
    assert pixels[:, 3, 3, 1].tolist() == [i % 256 for i in range(COUNT) if i not in bad]
    assert list(decoder.broken) == [names[i] for i in bad]
    assert not workers(os.getpid())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look into")
def test_a_process_that_dies_ends_the_decoding_and_none_needs_shared_memory(tmp_path):
    archive, shared = source_with_a_pipe(tmp_path), []

    def kill() -> None:
        end = wait_for_reader(tmp_path)
        for worker in workers(os.getpid()):
            files = [str(link.readlink()) for link in Path(f"/proc/{worker.pid}/fd").iterdir()]
            shared.append("/dev/shm" in Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8") + " ".join(files))
            worker.kill()
        os.close(end)

    thread = threading.Thread(target=kill)
    thread.start()
    names = [f"{i:04}.png" for i in range(COUNT)]
    with pytest.raises(InputError, match=r"was killed by SIGKILL, at one of \d+\.png to \d+\.png in .*memory"):
        list(Decoder(archive, 16).batches(names, ""))
    thread.join()
    assert shared
    assert not any(shared)
    assert not workers(os.getpid())


def test_where_no_process_can_be_started_this_one_decodes(tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(COUNT)]
    write_folder(tmp_path, dict.fromkeys(names, image_bytes(np.full((16, 16, 3), 77, np.uint8))))
    archive = FolderArchive(tmp_path, {".png"})
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert sum(map(len, Decoder(archive, 16).batches(names, ""))) == COUNT


DECODE = """
import signal, sys
from pathlib import Path
from simclr.data.files.archive import FolderArchive
from simclr.data.files.decode import Decoder
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(75))
names = sys.argv[2:]
list(Decoder(FolderArchive(Path(sys.argv[1]), {".png"}), 16).batches(names, ""))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_with_the_command(tmp_path, number):
    """A signal to the whole group, as Ctrl-C sends it, is the command's to answer; SIGKILL hits the command alone."""
    source_with_a_pipe(tmp_path)
    names = [f"{i:04}.png" for i in range(COUNT)]
    process = subprocess.Popen(
        [sys.executable, "-c", DECODE, str(tmp_path), *names],
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    end = wait_for_reader(tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    if number == signal.SIGKILL:
        process.kill()
        os.close(end)
    else:
        os.killpg(process.pid, number)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    assert process.stderr is not None
    assert process.stderr.read() == ""


def load(folder: Path, bits: int = 16) -> np.ndarray:
    return ImageFolder(str(folder), 16, 0.1, bits=bits).load().train.pixels


def deep(bits: int) -> np.ndarray:
    """256 grays from black to white, in the lower `bits` of 16."""
    return (np.arange(256).reshape(16, 16) * (2**bits - 1) // 255).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_bits_in_use_are_scaled_from_black_to_white(tmp_path, bits):
    gray = deep(bits)
    write_folder(
        tmp_path / "p",
        {
            "1.png": saved(Image.fromarray(gray), "PNG"),
            "2.tif": saved(Image.fromarray(gray), "TIFF"),
            "3.tif": saved(Image.fromarray(gray.astype(">u2")), "TIFF"),
            "4.png": image_bytes(np.arange(256, dtype=np.uint8).reshape(16, 16)),  # 8 bits: not concerned
        },
    )
    pixels = load(tmp_path / "p", bits).astype(int)
    wanted = np.arange(256).reshape(16, 16)
    assert np.abs(pixels - wanted[..., None]).max() <= 1
    assert np.array_equal(load(tmp_path / "p", 16)[0, ..., 0], gray >> 8)  # another value is another store
    assert np.array_equal(load(tmp_path / "p", bits), pixels)


def test_what_lies_above_the_bits_is_white_and_said(tmp_path, caplog):
    gray = deep(12)
    gray[0, :4] = (4096, 20_000, 65_535, 0)
    write_folder(tmp_path / "p", {"1.png": saved(Image.fromarray(gray), "PNG")})
    assert load(tmp_path / "p", 12)[0, 0, :4, 0].tolist() == [255, 255, 255, 0]
    assert "use numbers up to 65,535; those above 4,095 are white, with data.bits=12" in caplog.text


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return found


def test_bits_that_are_not_in_use_are_said_with_the_key_that_scales(tmp_path, caplog):
    """The largest number of all images counts, those of the validation included."""
    files = {f"train/a/{i}.tif": saved(Image.fromarray(deep(12) // 2), "TIFF") for i in range(3)}
    files |= {"val/a/1.png": saved(Image.fromarray(deep(12)), "PNG"), "val/a/2.png": image_bytes(np.eye(16) > 0)}
    write_folder(tmp_path / "p", files)
    load(tmp_path / "p")
    decoded, *_ = messages(caplog)
    assert "16-bit images use numbers up to 4,095 alone" in decoded
    assert "6.2% of white or darker; data.bits=12 scales them" in decoded
    load(tmp_path / "p", 12)
    assert not messages(caplog)
    write_folder(tmp_path / "p", {"train/a/1.tif": saved(Image.fromarray(deep(16)), "TIFF")})
    load(tmp_path / "p")
    assert not [message for message in messages(caplog) if "16-bit" in message]


def test_images_with_nothing_to_see_are_said_at_every_start(tmp_path, caplog):
    colour = b"".join(
        b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in deep(12)
    )  # Pillow says no bits of it
    write_folder(tmp_path / "p", {f"{i}.png": png(16, 16, 16, 2, colour) for i in range(4)})
    for _ in range(2):
        load(tmp_path / "p")
        (said,) = messages(caplog)
        assert "Nearly all training images are nearly black" in said
        assert "15 of 255" in said
        assert "data.bits" in said


def store_of(pixels: np.ndarray) -> ImageStore:
    gray = pixels.clip(0, 255).astype(np.uint8)
    return ImageStore.of(np.repeat(gray[..., None], 3, axis=-1), key="")


def test_what_counts_as_nothing_to_see():
    random = np.random.default_rng(0)
    shape = (200, 32, 32)
    noise = random.random(shape)
    level = random.integers(0, 256, (200, 1, 1))
    for name, pixels in {
        "nearly black": 15 * noise,
        "nearly white": 240 + 15 * noise,
        "nearly of one colour each": level + 4 * noise,
    }.items():
        remark = little_contrast(store_of(pixels))
        assert remark is not None
        assert name in remark
        stray = pixels.copy()
        stray[:, 0, 0] = 255  # a hot pixel of the camera in each, and one sound image, are not enough
        stray[7] = 255 * noise[7]
        assert little_contrast(store_of(stray)) is not None
    digits = np.zeros(shape)
    digits[:, 8:24, 14:18] = 255
    spots = 3 * noise  # a few bright spots, and fields without any
    spots[::3, 5:8, 20:23] = 120
    night = 12 * random.exponential(size=shape)
    paper = 255 - digits
    for sound in (digits, spots, night, paper, 255 * noise):
        assert little_contrast(store_of(sound)) is None
    assert little_contrast(Shapes(100, 10, 32, seed=0).load().train) is None
