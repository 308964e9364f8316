"""From the `precision` key to what the hardware can do well."""

import torch

from simclr.errors import InputError

LIGHTNING_PRECISION = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true"}


def choose_accelerator(requested: str, key: str = "accelerator") -> str:
    """The accelerator for `requested` ("auto", "cpu", "gpu", "cuda", "mps"), as Lightning would choose it.

    key: what the command calls it. Raises InputError for any other name, and for one that this machine has not.
    """
    if requested not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise InputError(f"{key}={requested} is not known; choose auto, gpu or cpu")
    visible = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = next((name for name, there in visible.items() if there), None)
    if requested in ("gpu", "cuda", "mps") and not visible.get(requested, found):
        raise InputError(f"{key}={requested}, but no such GPU is visible; use {key}=auto or cpu")
    return (found or "cpu") if requested in ("auto", "gpu") else requested


def check_gpus(processes: int, accelerator: str) -> None:
    """Raise InputError where this machine has GPUs, and fewer than the processes on it that are to use one each."""
    gpus = torch.cuda.device_count() if accelerator == "cuda" else 0
    if 0 < gpus < processes:
        raise InputError(
            f"{processes} processes were asked for, and this machine has {gpus} GPUs; use that many or fewer"
        )


def cpu_instructions() -> set[str]:
    """Sets of instructions that this CPU has, by torch's names; of an older torch those for bfloat16 alone."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    asked = {"amx_bf16": torch.cpu._is_amx_tile_supported, "avx512_bf16": torch.cpu._is_avx512_bf16_supported}
    return {name for name, there in asked.items() if there()}


def cpu_has_bf16_matrix_units() -> bool:
    """True where bfloat16 products run on matrix units (AMX)."""
    return "amx_bf16" in cpu_instructions()


def cpu_has_bf16_arithmetic() -> bool:
    """True where bfloat16 products have instructions of their own (AVX512-BF16), matrix units or not."""
    return "avx512_bf16" in cpu_instructions()


def gpu_has_bf16_arithmetic(device: torch.device) -> bool:
    """True for a CUDA device with instructions for bfloat16 (Ampere and later); earlier ones only emulate it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def check_precision(requested: str) -> None:
    """Raise InputError unless this is the name of a precision."""
    if requested not in ("auto", *LIGHTNING_PRECISION):
        raise InputError(f"precision={requested} is not known; choose auto, 16, bf16 or 32")


def choose_precision(requested: str, accelerator: str, before: str | None = None) -> tuple[str, str | None]:
    """The precision to use ("16", "bf16" or "32"), and what is to be said of the choice, None where there is nothing.

    requested: "auto", "16", "bf16" or "32". "auto" takes what is fastest: 16 on CUDA, bf16 on a CPU with instructions
    for it (AMX or AVX512-BF16), else 32. On a CPU "16" becomes what "auto" gives there: half-precision convolutions
    take minutes each on a CPU. before: what a run that goes on began with on this accelerator, which "auto" keeps.
    Raises InputError for any other name.
    """
    check_precision(requested)
    best, why = _fastest(accelerator)
    if requested == "auto" and before is not None:
        return before, f"precision=auto stays {before}, as this run began." if before != best else None
    if requested == "auto":
        return best, f"precision=auto is {best} here ({why})."
    if requested == "16" and accelerator == "cpu":
        return best, f"precision=16 needs a GPU; this run is on the CPU and uses precision={best} instead."
    return requested, None


def earlier_choice(accelerator: str) -> str:
    """What "auto" was in the versions whose checkpoints do not tell: they took bf16 on matrix units alone."""
    if accelerator == "cpu":
        return "bf16" if cpu_has_bf16_matrix_units() else "32"
    return _fastest(accelerator)[0]


def _fastest(accelerator: str) -> tuple[str, str]:
    """The fastest precision on this accelerator, and why in a word."""
    if accelerator == "cuda":
        return "16", "GPU"
    if accelerator == "cpu" and cpu_has_bf16_matrix_units():
        return "bf16", "AMX"
    if accelerator == "cpu" and cpu_has_bf16_arithmetic():
        return "bf16", "AVX512-BF16"
    return "32", "portable"
