"""What the process does with freed memory, as the kernel counts it."""

import subprocess
import sys

import pytest

TENSORS_OF_64_MB = """
import resource, sys
import torch
from simclr.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(12):  # until the heap has room for one beside what lies in between
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_pages_of_freed_tensors_are_used_again():
    def page_faults(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", TENSORS_OF_64_MB, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert page_faults("keep") < page_faults("as it is") / 10
