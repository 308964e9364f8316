"""Batch norm that several processes share."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, environment


@pytest.mark.slow
def test_on_gpus_it_is_torchs_without_its_questions():
    """The program holds it against torch's SyncBatchNorm and against batch norm of all images in one process."""
    starter = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, "-m", *starter, "-m", "tests.models.gpu_batch_norm"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
