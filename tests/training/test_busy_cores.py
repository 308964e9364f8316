"""What is said while a run trains and other programs take its cores."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simclr.training.busy_cores import BusyCores
from tests.system.test_threads import busy, usable


def train_for(callback: Any, seconds: float) -> None:
    module, until = SimpleNamespace(device=torch.device("cpu")), time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
        callback.on_train_batch_end(None, module)


@pytest.mark.skipif(usable() < 2, reason="one thread waits for no other")
def test_programs_that_take_the_cores_are_said_once_with_what_they_cost(caplog):
    threads = torch.get_num_threads()
    try:
        with caplog.at_level(logging.WARNING), busy(usable()):
            torch.set_num_threads(1)  # which has a core of its own, or would not gain by waiting for one
            callback = BusyCores(16, seconds=0.3)
            train_for(callback, 0.5)
            assert not caplog.records
            torch.set_num_threads(usable())
            train_for(callback, 1.5)
    finally:
        torch.set_num_threads(threads)
    (warning,) = caplog.messages
    assert f"the {usable()} threads of this run wait for each other" in warning
    assert "images/s, after " in warning
    assert "threads=1 " in warning
