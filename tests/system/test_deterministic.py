"""What a GPU needs to repeat itself changes no bit on a CPU."""

import pytest
import torch

from tests.conftest import TINY_RUN, Run, only_run, weights


@pytest.mark.slow
def test_asking_for_determinism_gives_the_same_bits_on_a_cpu(run: Run, finished, tmp_path):
    run("train.py", *TINY_RUN, "trainer.deterministic=true")
    ours, usual = weights(only_run(tmp_path / "outputs")), weights(only_run(finished / "outputs"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in usual.items())
    assert only_run(tmp_path / "outputs").name != only_run(finished / "outputs").name  # on a GPU it is another run
