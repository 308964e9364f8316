"""Two processes with half a batch each compute what one does with all of it, whatever the method."""

import subprocess
import sys

import pytest
import torch

from tests.conftest import REPOSITORY, environment
from tests.methods.as_one import CASES

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, dict[str, torch.Tensor]]]:
    """What as_one.py computes in one process and in two."""
    found = {}
    for processes, starter in ((1, (sys.executable, "-m")), (2, TORCHRUN)):
        file = tmp_path_factory.mktemp("as_one") / f"{processes}.pt"
        program = [*starter, "tests.methods.as_one", str(file)]
        done = subprocess.run(program, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found[processes] = torch.load(file, weights_only=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_two_processes_compute_what_one_does(results, method):
    """float64: the loss, every gradient, and what parameters, targets and statistics are after a step."""
    two, one = (results[processes][method] for processes in (2, 1))
    assert two.keys() == one.keys()
    assert any(name.startswith("gradient of backbone") for name in one)
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
