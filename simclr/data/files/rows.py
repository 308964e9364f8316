"""Images that are cells of a table: Parquet and Arrow files, as Hugging Face's data sets and most labs' have them."""

from __future__ import annotations

import json
from bisect import bisect_right
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from simclr.data.files.archive import Damaged, FolderArchive
from simclr.data.files.contents import PassedOver, ending, shown
from simclr.errors import InputError, first_line

ENDINGS = frozenset({".parquet", ".arrow"})
USUAL = (
    "image",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
    "bytes",
)  # of several columns of bytes, the image's
BATCH = 64  # rows that are read together, as many as are decoded together


class Rows:
    """The cells of one column as an archive: "train-00000-of-00001.parquet#17" is the image of row 17, from 0 on.

    path: a file, or the folder of several. column: what holds the images, encoded, as bytes or as a struct of bytes and
    path; None for the only such column, or the one that is called as is usual. Of a Parquet file memory holds a batch
    of rows; an Arrow file is mapped. Raises InputError for files that are no tables, or have no such column.
    """

    remedy = "write that row anew"

    def __init__(self, path: Path, column: str | None = None) -> None:
        if not find_spec("pyarrow"):
            raise InputError('data=parquet needs pyarrow, not installed here; pip install -e ".[parquet]"')
        self.path, self.passed_over = path, PassedOver()
        self._folder = FolderArchive(path if path.is_dir() else path.parent, ENDINGS)
        self._open: dict[str, _Table] = {}
        files = self.files()
        if not files:
            raise InputError(f"{shown(path)} holds no tables (files that end in {' or '.join(sorted(ENDINGS))})")
        self.column = _image_column(self.table(files[0]).schema, column, f"{shown(path)}")
        for file in files:
            if self.column not in self.table(file).schema.names:
                raise InputError(f"{shown(file)} in {shown(path)} has no column {shown(self.column)}; take it out")

    def files(self) -> list[str]:
        """The tables, by their paths below the folder."""
        names = self._folder.names()
        self.passed_over = self._folder.passed_over
        if self.path.is_dir():
            return names
        self.passed_over = PassedOver()
        return [self.path.name]

    def table(self, file: str) -> _Table:
        """One file, opened where it is first asked for."""
        if file not in self._open:
            self._open[file] = _opened(self._folder.path / file)
        return self._open[file]

    def names(self) -> list[str]:
        return [f"{file}#{row}" for file in self.files() for row in range(self.table(file).rows)]

    def read(self, name: str, limit: int) -> bytes:
        file, _, row = name.rpartition("#")
        try:
            cell = self.table(file).cell(self.column, int(row))
        except (OSError, ValueError) as error:  # pyarrow's own are of these kinds
            raise Damaged(self, name, f"cannot be read ({first_line(error)})") from error
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None:
            where = f", and names {cell['path']}" if isinstance(cell, dict) and cell.get("path") else ""
            raise Damaged(self, name, f"has no image{where}")
        if len(data) > limit:
            raise Damaged(self, name, f"is longer than {limit:,} bytes")
        return data

    def fingerprint(self) -> str:
        if self.path.is_dir():
            return f"tables {self._folder.fingerprint()} {self.column}"
        status = self.path.stat()
        return f"table {status.st_size} {status.st_mtime_ns} {self.column}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


class _Table:
    """schema: pyarrow's. rows: how many."""

    schema: Any
    rows: int

    def cell(self, column: str, row: int) -> Any:
        raise NotImplementedError

    def values(self, column: str) -> list[Any]:
        """A whole column of small values, such as labels."""
        raise NotImplementedError

    def class_names(self, column: str) -> list[str] | None:
        """What whole numbers stand for, where the schema tells it as Hugging Face's does."""
        try:
            about = json.loads((self.schema.metadata or {})[b"huggingface"])
            names = about["info"]["features"][column]["names"]
        except (KeyError, ValueError, TypeError):
            return None
        return [str(name) for name in names] if isinstance(names, list) else None


class _Parquet(_Table):
    def __init__(self, path: Path) -> None:
        from pyarrow.parquet import ParquetFile

        self.file = ParquetFile(path, memory_map=True)
        about = self.file.metadata
        self.schema, self.rows = self.file.schema_arrow, about.num_rows
        self.starts = [0, *accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups))]
        self.at: tuple[int, str] | None = None  # the row group and the column that are being read
        self.first = self.end = 0  # of the batch that is held

    def cell(self, column: str, row: int) -> Any:
        at = bisect_right(self.starts, row) - 1, column
        if at != self.at or row < self.first:
            self.batches = self.file.iter_batches(BATCH, row_groups=[at[0]], columns=[column])
            self.at, self.first, self.end = at, self.starts[at[0]], self.starts[at[0]]
        while row >= self.end:
            self.batch = next(self.batches).column(0)
            self.first, self.end = self.end, self.end + len(self.batch)
        return self.batch[row - self.first].as_py()

    def values(self, column: str) -> list[Any]:
        return self.file.read(columns=[column]).column(0).to_pylist()


class _Arrow(_Table):
    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import ipc

        source = pyarrow.memory_map(str(path))
        whole = source.read(6) == b"ARROW1"
        source.seek(0)
        self.table = (ipc.open_file if whole else ipc.open_stream)(source).read_all()
        self.schema, self.rows = self.table.schema, self.table.num_rows

    def cell(self, column: str, row: int) -> Any:
        return self.table.column(column)[row].as_py()

    def values(self, column: str) -> list[Any]:
        return self.table.column(column).to_pylist()


def _opened(path: Path) -> _Table:
    try:
        return _Parquet(path) if ending(path.name) == ".parquet" else _Arrow(path)
    except (OSError, ValueError) as error:
        kind = "Parquet" if ending(path.name) == ".parquet" else "an Arrow table"
        raise InputError(f"{shown(path)} cannot be read as {kind} ({first_line(error)}); fetch it again") from error


def _image_column(schema: Any, asked: str | None, where: str) -> str:
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)

    found = [field.name for field in schema if holds_bytes(field.type)]
    if asked is not None:
        found = [name for name in found if name == asked]
    usual = [name for name in USUAL if name in found]
    if len(found) == 1 or usual:
        return usual[0] if usual and len(found) > 1 else found[0]
    has = f"several columns of bytes ({', '.join(found)})" if found else "no column of encoded images"
    if asked is not None:
        has = f"no column of encoded images called {shown(asked)}"
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise InputError(f"{where} has {has}; name it with data.image_column= (it has {shown(columns)})")
