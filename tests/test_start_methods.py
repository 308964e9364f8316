"""Decoding in workers, however the platform starts them."""

import multiprocessing
import threading

import numpy as np
import pytest
import torch

from simclr.data import decode
from simclr.data.archive import FolderArchive
from tests.conftest import picture_bytes

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name == decode.START_METHOD else pytest.mark.slow)  # others import torch anew
        for name in multiprocessing.get_all_start_methods()
    ],
)
def test_workers_decode_the_same_bytes_however_they_start(tmp_path, monkeypatch, method):
    """Also in a process that computes on several threads, which a fork does not take along."""
    monkeypatch.setattr(decode, "START_METHOD", method)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        (tmp_path / f"{number:03}.png").write_bytes(picture_bytes(picture))
    archive = FolderArchive(tmp_path, {".png"})

    over = threading.Event()
    busy = threading.Thread(
        target=lambda: [torch.rand(300, 300) @ torch.rand(300, 300) for _ in iter(over.is_set, True)]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    busy.start()
    try:
        decoded = np.concatenate(list(decode.decoded_batches(archive, archive.names(), 16, "test")))
    finally:
        over.set()
        busy.join()
        torch.set_num_threads(threads)
    assert np.array_equal(decoded, pixels)
