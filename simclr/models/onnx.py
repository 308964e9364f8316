"""Networks as ONNX files, which run without PyTorch: in onnxruntime, in a browser, on a telephone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr.errors import InputError, first_line
from simclr.models.image_tower import ImageTower
from simclr.models.text import TextTransformer

NEEDED = ("onnx", "onnxscript")


class TextTower(nn.Module):
    """Tokens int64 [N, context] to embeddings [N, D] of length 1."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.text = text

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.text(tokens), dim=1)


def write_image_tower(tower: ImageTower, path: Path, about: Mapping[str, str]) -> None:
    """Write an image tower for any number of images, of the size that it has learned, as input "images".

    Outputs: "features", and "embeddings" where it has a head. about: metadata of the file. Raises InputError for a
    network that ONNX has no words for.
    """
    assert tower.size is not None, "a run has one"
    example = torch.zeros(2, 3, tower.size, tower.size)
    outputs = ["features", *(["embeddings"] if tower.head is not None else [])]
    _write(tower, example, "images", outputs, path, about)


def write_text_tower(text: TextTransformer, path: Path, about: Mapping[str, str]) -> None:
    """Write a text tower for any number of sentences: input "tokens", output "embeddings"."""
    _write(TextTower(text), text.tokens(["a", "b"]).ids, "tokens", ["embeddings"], path, about)


def is_ours(path: Path) -> bool:
    """Whether a file is one that `write_image_tower` has written."""
    import onnx

    try:
        content = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf has its own kinds for what is none
        return False
    return "part" in {entry.key for entry in content.metadata_props}


def check_installed() -> None:
    """Raise InputError for a package that is needed and not there."""
    if not all(map(find_spec, NEEDED)):
        raise InputError(f'format=onnx needs {" and ".join(NEEDED)}, not installed here; pip install -e ".[onnx]"')


def _write(
    network: nn.Module, example: Tensor, reads: str, gives: list[str], path: Path, about: Mapping[str, str]
) -> None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the exporter deprecates in itself
            program = torch.onnx.export(
                network.eval().cpu(),
                (example,),
                input_names=[reads],
                output_names=gives,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise InputError(f"this network cannot be written as ONNX ({reason}); choose another format=") from error
    assert program is not None
    program.model.metadata_props.update(about)
    program.save(path)
