"""Features of any number of images in one file, with their names: NumPy's, or a table. Memory holds one batch."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import Tensor

from simclr.errors import InputError
from simclr.system.files import replacing

ABOUT = "simclr.embed"  # in the schema of a table, to tell it from others
Batches = Iterator[tuple[list[str], Tensor]]  # names, and features [B, F] of each


def write_npz(path: Path, batches: Batches) -> tuple[int, int]:
    """Write "names" and "features", float32 [N, F], into a file of NumPy's; returns the features' shape.

    Features go through a file beside it.
    """
    names: list[str] = []
    width = 0
    with tempfile.TemporaryFile(dir=path.parent) as rows:
        for own, features in batches:
            rows.write(features.numpy().astype("<f4").tobytes())
            names += own
            width = features.shape[1]
        rows.seek(0)
        with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as npz:
            with npz.open("features.npy", "w", force_zip64=True) as file:
                about = {"descr": "<f4", "fortran_order": False, "shape": (len(names), width)}
                np.lib.format.write_array_header_1_0(file, about)
                shutil.copyfileobj(rows, file, 2**20)
            with npz.open("names.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(names))
    return len(names), width


def is_npz(path: Path) -> bool:
    """Whether a file is one that `write_npz` has written."""
    return zipfile.is_zipfile(path) and zipfile.ZipFile(path).namelist() == ["features.npy", "names.npy"]


def write_parquet(path: Path, batches: Batches) -> tuple[int, int]:
    """Write a table with a row for each image: "name", and "features", a list of F float32; returns [N, F].

    Raises InputError where there is no pyarrow.
    """
    if not find_spec("pyarrow"):
        raise InputError('a .parquet file needs pyarrow, not installed here; pip install -e ".[parquet]"')
    import pyarrow
    from pyarrow import parquet

    count = width = 0
    writer: parquet.ParquetWriter | None = None
    with ExitStack() as stack:
        unfinished = stack.enter_context(replacing(path))
        for names, features in batches:
            if writer is None:
                width = features.shape[1]
                fields = [("name", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32(), width))]
                schema = pyarrow.schema(fields, metadata={ABOUT: path.name})
                writer = stack.enter_context(parquet.ParquetWriter(unfinished, schema))
            values = pyarrow.array(features.numpy().ravel(), pyarrow.float32())
            rows = pyarrow.FixedSizeListArray.from_arrays(values, width)
            writer.write_table(pyarrow.table({"name": names, "features": rows}, schema=schema))
            count += len(names)
    return count, width


def is_parquet(path: Path) -> bool:
    """Whether a file is one that `write_parquet` has written."""
    from pyarrow import parquet

    try:
        return ABOUT.encode() in (parquet.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False
