"""What the `precision` key becomes on each kind of machine."""

from pathlib import Path

import pytest
import torch

from simclr.errors import InputError
from simclr.system import precision


@pytest.mark.parametrize(
    ("asked", "accelerator", "instructions", "chosen", "said"),
    [
        ("auto", "cuda", (), "16", "GPU"),
        ("auto", "cpu", (), "32", "portable"),
        ("auto", "cpu", ("amx_bf16",), "bf16", "AMX"),
        ("auto", "cpu", ("avx512_bf16",), "bf16", "AVX512-BF16"),
        ("auto", "cpu", ("amx_bf16", "avx512_bf16"), "bf16", "AMX"),
        ("auto", "mps", ("avx512_bf16",), "32", "portable"),
        ("16", "cuda", (), "16", None),
        ("16", "cpu", (), "32", "precision=16 needs a GPU"),
        ("16", "cpu", ("avx512_bf16",), "bf16", "precision=16 needs a GPU"),
        ("bf16", "cpu", (), "bf16", None),
        ("32", "cpu", ("amx_bf16",), "32", None),
    ],
)
def test_choice(monkeypatch, asked, accelerator, instructions, chosen, said):
    monkeypatch.setattr(precision, "cpu_instructions", lambda: set(instructions))
    choice, notice = precision.choose_precision(asked, accelerator)
    assert choice == chosen
    assert notice is None if said is None else said in notice


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_what_torch_says_of_the_cpu_is_what_the_system_says(name):
    there = name in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert (name in precision.cpu_instructions()) == there
    if there:
        assert precision.choose_precision("auto", "cpu")[0] == "bf16"


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="precision=64 is not known; choose auto, 16, bf16 or 32"):
        precision.choose_precision("64", "cpu")


def test_an_accelerator_that_is_not_there_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("gpu", "cuda", "mps"):
        with pytest.raises(InputError, match=f"accelerator={name}, but no such GPU is visible"):
            precision.choose_accelerator(name)
    with pytest.raises(InputError, match=r"use trainer\.accelerator=auto or cpu"):
        precision.choose_accelerator("gpu", "trainer.accelerator")
    with pytest.raises(InputError, match="accelerator=tpu is not known; choose auto, gpu or cpu"):
        precision.choose_accelerator("tpu")
    assert precision.choose_accelerator("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [precision.choose_accelerator(name) for name in ("auto", "gpu", "cpu")] == ["mps", "mps", "cpu"]


def test_processes_need_a_gpu_each_where_there_are_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    precision.check_gpus(2, "cuda")
    precision.check_gpus(3, "cpu")
    with pytest.raises(InputError, match="3 processes were asked for, and this machine has 2 GPUs"):
        precision.check_gpus(3, "cuda")
