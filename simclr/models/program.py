"""Networks as programs of torch.export: loaded and run by PyTorch alone, without the code that made them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from simclr.errors import InputError, first_line
from simclr.models.image_tower import ImageTower

ABOUT = "simclr.json"  # what the file says of itself


def write(tower: ImageTower, path: Path, about: str) -> None:
    """Write an image tower for any number of images, of the size that it has learned. about: JSON, kept with it.

    Raises InputError for a network that does other things with other images, which a program cannot.
    """
    assert tower.size is not None, "a run has one"
    example = torch.zeros(2, 3, tower.size, tower.size)
    try:
        with torch.no_grad():
            program = torch.export.export(
                tower.eval().cpu(), (example,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
            )
    except Exception as error:  # torch has many kinds
        raise InputError(
            f"this network cannot be written as a program ({first_line(error)}); choose another format="
        ) from error
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={ABOUT: about})


def is_ours(path: Path) -> bool:
    """Whether a file is one that `write` has written."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/{ABOUT}") for name in archive.namelist())
