"""Parquet files, read by pyarrow: one row per event, steps in list columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

        yield Table(str(path), names, file.metadata.num_rows, fetch)
