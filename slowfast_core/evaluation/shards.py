"""Rows of an unfinished evaluation on disk, so that an evaluation that was killed continues where it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from slowfast_core.data.manifest import DAMAGED
from slowfast_core.evaluation.predictions import SECONDS, table_of
from slowfast_core.files import whole_file

SHARD_ROWS = 256  # most rows of a file
SHARD_SECONDS = 20.0  # most work that is lost in a kill


class Shards:
    """Appends rows to a folder, in files named by their first row. Each file is written whole or not at all.

    As a context manager, it writes the last rows at the end, also after an error.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """Open the folder and keep its complete files up to the first gap."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._schema = pa.schema([*schema, *((name, pa.float64()) for name in SECONDS)])
        self._rows = list[Mapping[str, Any]]()
        self._written = time.monotonic()
        self._tables = list[pa.Table]()
        self.finished = 0
        for path in sorted(folder.glob("[0-9]*.parquet")):
            table = self._read(path)
            if path == self._next() and table is not None:
                self._add(table)
            else:
                path.unlink()

    def append(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= SHARD_ROWS or time.monotonic() - self._written >= SHARD_SECONDS:
            self._write()

    def table(self) -> pa.Table:
        """All written rows, with the columns of the schema and SECONDS."""
        return pa.concat_tables([self._schema.empty_table(), *self._tables])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._write()

    def _write(self) -> None:
        if self._rows:
            table = table_of(self._rows, self._schema)
            with whole_file(self._next()) as temporary:
                pq.write_table(table, temporary)
            self._rows.clear()
            self._add(table)
        self._written = time.monotonic()

    def _read(self, path: Path) -> pa.Table | None:
        try:
            table = pq.read_table(path)
        except DAMAGED:
            return None
        return table if table.schema.equals(self._schema) else None

    def _add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self.finished += len(table)

    def _next(self) -> Path:
        return self._folder / f"{self.finished:09d}.parquet"
