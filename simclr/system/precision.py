"""From the `precision` key to what the hardware can do well."""

import torch

from simclr.errors import InputError

LIGHTNING_PRECISION = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true"}


def choose_accelerator(requested: str) -> str:
    """The accelerator that Lightning will use for `requested` ("auto", "cpu", "gpu", "cuda", "mps")."""
    if requested in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        if requested == "gpu":
            raise InputError("trainer.accelerator=gpu, but no GPU is visible; use trainer.accelerator=auto or cpu")
        return "cpu"
    return requested


def cpu_has_bf16_matrix_units() -> bool:
    """True where bfloat16 products run on matrix units (AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def cpu_has_bf16_arithmetic() -> bool:
    """True where bfloat16 products have instructions of their own (AVX512-BF16), matrix units or not."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def choose_precision(requested: str, accelerator: str) -> tuple[str, str | None]:
    """The precision to use ("16", "bf16" or "32"), and a notice where it is not the one asked for, or not the fastest.

    requested: "auto", "16", "bf16" or "32". "auto" is 16 on CUDA, bf16 on a CPU with bf16 matrix units, else 32.
    On a CPU "16" becomes what "auto" gives there: half-precision convolutions take minutes each on a CPU.
    Raises InputError for any other name.
    """
    if requested not in ("auto", *LIGHTNING_PRECISION):
        raise InputError(f"precision={requested} is not known; choose auto, 16, bf16 or 32")
    best = "16" if accelerator == "cuda" else "32"
    if accelerator == "cpu" and cpu_has_bf16_matrix_units():
        best = "bf16"
    if requested == "auto":
        hint = None
        if accelerator == "cpu" and best == "32" and cpu_has_bf16_arithmetic():
            hint = "precision=auto is 32 on this CPU, which also computes in bf16: precision=bf16 would train faster."
        return best, hint
    if requested == "16" and accelerator == "cpu":
        return best, f"precision=16 needs a GPU; this run is on the CPU and uses precision={best} instead."
    return requested, None
