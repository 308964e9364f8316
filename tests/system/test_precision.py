"""What the `precision` key becomes on each kind of machine."""

import pytest
import torch

from simclr.errors import InputError
from simclr.system import precision


@pytest.mark.parametrize(
    ("asked", "accelerator", "matrix_units", "chosen"),
    [
        ("auto", "cuda", False, "16"),
        ("auto", "cpu", False, "32"),
        ("auto", "cpu", True, "bf16"),
        ("auto", "mps", False, "32"),
        ("16", "cuda", False, "16"),
        ("16", "cpu", False, "32"),
        ("16", "cpu", True, "bf16"),
        ("bf16", "cpu", False, "bf16"),
        ("32", "cuda", False, "32"),
    ],
)
def test_choice(monkeypatch, asked, accelerator, matrix_units, chosen):
    monkeypatch.setattr(precision, "cpu_has_bf16_matrix_units", lambda: matrix_units)
    monkeypatch.setattr(precision, "cpu_has_bf16_arithmetic", lambda: matrix_units)
    choice, notice = precision.choose_precision(asked, accelerator)
    assert choice == chosen
    assert (notice is not None) == (asked not in ("auto", chosen))


def test_a_cpu_with_bf16_arithmetic_but_no_matrix_units_is_told_of_the_faster_choice(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16_matrix_units", lambda: False)
    monkeypatch.setattr(precision, "cpu_has_bf16_arithmetic", lambda: True)
    choice, notice = precision.choose_precision("auto", "cpu")
    assert choice == "32"
    assert "precision=bf16" in notice
    assert precision.choose_precision("32", "cpu") == ("32", None)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="precision=64 is not known; choose auto, 16, bf16 or 32"):
        precision.choose_precision("64", "cpu")


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert precision.choose_accelerator("gpu") in ("cuda", "mps")
    else:
        with pytest.raises(InputError, match="no GPU is visible"):
            precision.choose_accelerator("gpu")
