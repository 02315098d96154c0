"""Parquet files, read by pyarrow: one row per event, steps in list columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from timelike.data.table import Column, Table, column_from_awkward, reading
from timelike.errors import DataError, require

__all__ = ["open_parquet"]


@contextmanager
def open_parquet(path: Path, treename: str | None) -> Iterator[Table]:
    """Open a Parquet file.

    A column is called by its name; a column of lists (variable or fixed size) is per step.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    treename : str, optional
        Not possible here: a Parquet file is one table.

    Yields
    ------
    Table

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    ak = require("awkward", "data")
    parquet = require("pyarrow.parquet", "data")
    if treename is not None:
        raise DataError(f"{path}: a Parquet file is one table; treename '{treename}' has no meaning there")
    with reading(path, "Parquet"):
        file = parquet.ParquetFile(path)
    with file:
        names = tuple(file.schema_arrow.names)

        def fetch(name: str) -> Column:
            with reading(f"column '{name}'", "Parquet"):
                # Chosen again by name: `columns` takes a dot for a way into a structure.
                table = file.read(columns=[name])
                array = ak.from_arrow(table[name].combine_chunks())
            return column_from_awkward(array, f"column '{name}'")

        cursors: dict[str, _Cursor] = {}

        def fetch_part(name: str, start: int, stop: int) -> Column:
            with reading(f"column '{name}'", "Parquet"):
                cursor = cursors.get(name)
                if cursor is None or cursor.position > start:
                    cursor = cursors[name] = _Cursor(file, name)
                array = ak.from_arrow(cursor.take(start, stop))
            return column_from_awkward(array, f"column '{name}'", first=start)

        yield Table(str(path), names, file.metadata.num_rows, fetch, fetch_part=fetch_part)


class _Cursor:
    """Reads a column from front to back, in pieces of any size.

    A row group may hold a million rows: of it no more is unpacked at a time than is asked for. Row groups
    of which nothing is asked for are passed over.
    """

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name
        about = file.metadata
        rows = (about.row_group(k).num_rows for k in range(about.num_row_groups))
        self._groups = [0, *accumulate(rows)]  # where they begin
        self._batches: Iterator[Any] | None = None
        self._left: Any = None
        self.position = 0

    def take(self, start: int, stop: int) -> Any:
        """Give the rows from one, at or behind the last that was given, to before another."""
        pa = require("pyarrow", "data")
        group = bisect_right(self._groups, start) - 1
        if self._batches is None or self._groups[group] > self.position:
            left = range(group, self._file.metadata.num_row_groups)
            self._batches = self._file.iter_batches(
                max(stop - start, 1), row_groups=list(left), columns=[self._name]
            )
            self._left, self.position = None, self._groups[group]
        pieces: list[Any] = []
        while self.position < stop:
            if self._left is None or not len(self._left):
                self._left = next(self._batches)[self._name]
            n = min((start if self.position < start else stop) - self.position, len(self._left))
            if self.position >= start:
                pieces.append(self._left[:n])
            self._left, self.position = self._left[n:], self.position + n
        return pa.concat_arrays(pieces)
