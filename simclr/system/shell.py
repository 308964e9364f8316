"""What lies in the environment of a command and would change what it computes unsaid: undone, refused, or recorded.

Nothing here imports torch or Lightning, which read some of it the moment they are imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from simclr.errors import InputError

# What torchrun tells each of its processes. A shell may hold one or another of them from elsewhere, and no run then.
TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How those who start several processes tell each which it is. Lightning takes a process with a rank other than 0 for
# one that leaves logging and writing to another.
PLACES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK"),
)
# Where starters other than torchrun say how many processes they have started, this one among them.
COUNTS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
}
# With which Hydra would look for the configurations of another program than the one that runs.
OTHER_MODULE = ("HYDRA_MAIN_MODULE", "FB_PAR_MAIN_MODULE", "FB_XAR_MAIN_MODULE")
# Prefixes of what decides how torch and the libraries below it compute: the number of threads, instruction sets,
# TensorFloat-32, algorithms, how GPUs are chosen and talk to each other. (TORCHELASTIC_ names one start of a run.)
ARITHMETIC = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "DNNL_", "ONEDNN_", "ATEN_"),
    *("TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "NVIDIA_TF32", "CUDA_", "CUBLAS_", "CUDNN_", "NCCL_", "GLOO_"),
)

AT_THE_START = dict(os.environ)  # before torch and others leave their own notes in it


def started_by_torchrun() -> bool:
    """Whether this process is one of those that torchrun, or launch.py, has started."""
    return all(name in os.environ for name in TORCHRUN)


def keep_own_configs() -> None:
    """Let Hydra, which is to start yet, find the configurations of this program, whatever the shell says."""
    for name in OTHER_MODULE:
        os.environ.pop(name, None)


def settle() -> str | None:
    """Make this process what it is: one of several that torchrun has started, or the first of one.

    Returns what is to be said of variables that were passed over, None where there were none. Raises InputError where
    another program has started several, each of which would do the same work again.
    """
    if started_by_torchrun():
        return None
    for name, starter in COUNTS.items():
        if os.environ.get(name, "1") != "1":
            raise InputError(
                f"{starter} has started {os.environ[name]} processes ({name}), and each would do the whole work; start "
                "one, with trainer=ddp where several are to train on one machine, or torchrun on every machine"
            )
    found = [name for name in PLACES if os.environ.pop(name, None) is not None]
    return f"Passed over, since torchrun has not started this process: {', '.join(found)}." if found else None


def arithmetic(environment: Mapping[str, str] = AT_THE_START) -> dict[str, str]:
    """The variables of an environment that may change how numbers are computed, or how fast."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(ARITHMETIC)}
