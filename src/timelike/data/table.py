"""What every format is read as: a table of named columns, with an entry per event.

A column has one number per event, or one per step of each event. Sizes: `B` events, `N` steps of all
of them. A branch of fixed-size arrays is a column whose events all have the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, TimelikeError, nearest
from timelike.ragged import flattened, gather

__all__ = ["Column", "Table", "column_from_awkward", "located", "reading"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Column:
    """Numbers of events, or of the steps of events.

    Parameters
    ----------
    values : array [B], [N] or []
        One number per event, per step, or one for all.
    offsets : array [B+1] of int64, optional
        Where the numbers are per step: event b has ``values[offsets[b]:offsets[b + 1]]``.
    """

    values: Array
    offsets: npt.NDArray[np.int64] | None = None

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.values if self.offsets is None else self.offsets[1:])

    def take(self, entries: npt.NDArray[np.int64]) -> Column:
        """Give the column of these events."""
        if self.offsets is None:
            return Column(self.values[entries])
        rows, offsets = gather(self.offsets[:-1][entries], np.diff(self.offsets)[entries])
        return Column(self.values[rows], offsets)

    def along(self, offsets: npt.NDArray[np.int64] | None) -> Array:
        """Give the numbers per step of events with these offsets, those per event being repeated."""
        if offsets is None or self.offsets is not None or self.values.ndim == 0:
            return self.values
        return np.repeat(self.values, np.diff(offsets))

    @classmethod
    def of_rows(cls, array: Array) -> Column:
        """Make a column of an array ``[B]`` or ``[B, K]``, the latter being K steps for every event."""
        if array.ndim == 1:
            return cls(array)
        n, k = array.shape
        return cls(array.reshape(-1), np.arange(n + 1, dtype=np.int64) * k)


@dataclass(frozen=True, eq=False)
class Table:
    """An open file, or the part of it that holds events.

    Parameters
    ----------
    where : str
        What error messages call it.
    names : tuple of str
        Names of its columns.
    n_events : int
        Number of its entries.
    fetch : callable
        Reads one column, which exists.
    noun : str
        What the format calls a column.
    fetch_part : callable, optional
        Reads a column's entries from one to before another, without the rest; None where the format cannot.
    units : callable
        Gives the entries at which the pieces begin that the file is written in: to read a part of one costs
        as much as to read it whole. Empty where that does not matter.
    first : int
        The number in the file of the table's first entry.
    """

    where: str
    names: tuple[str, ...]
    n_events: int
    fetch: Callable[[str], Column]
    noun: str = "column"
    fetch_part: Callable[[str, int, int], Column] | None = None
    units: Callable[[], Sequence[int]] = tuple
    first: int = 0

    def part(self, start: int, stop: int) -> Table:
        """Give the table of the entries from `start` to before `stop`.

        Raises
        ------
        DataError
            If files of this format are not read in parts.
        """
        fetch = self.fetch_part
        if fetch is None:
            raise DataError(
                f"{self.where}: data.stream: files of this format are not read in parts; "
                "possible: ROOT and Parquet"
            )
        return replace(
            self,
            n_events=stop - start,
            fetch=lambda name: fetch(name, start, stop),
            fetch_part=None,
            first=self.first + start,
        )

    def read(self, name: str) -> Column:
        """Read one column.

        Raises
        ------
        DataError
            If there is no such column, or it does not hold numbers, one per event or one per step. The
            message does not say in which file: whoever reads puts `where` before it.
        """
        if name not in self.names:
            raise DataError(f"no {self.noun} '{name}'; {nearest(name, self.names)}")
        column = self.fetch(name)
        dtype = column.values.dtype
        if dtype.kind not in "biuf":
            held = "strings" if dtype.kind in "OSUT" else str(dtype)
            raise DataError(f"{self.noun} '{name}' holds {held}; numbers are needed")
        if column.n_events != self.n_events:
            raise DataError(
                f"{self.noun} '{name}' has {column.n_events} entries, the table has {self.n_events}"
            )
        # HDF5 and NumPy files keep the byte order of their writer.
        return Column(column.values.astype(dtype.newbyteorder("="), copy=False), column.offsets)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put a place at the head of the message of a `DataError` from the block."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


@contextmanager
def reading(what: object, kind: str) -> Iterator[None]:
    """Turn whatever a library raises over a file that it cannot read into a `DataError` that names the file.

    The libraries were not made for damaged files: depending on the byte, one and the same damage ends in
    an OSError, a struct.error, an IndexError, a NotImplementedError and so on. Hence `Exception`, and
    nothing but calls of the library in the block.

    Parameters
    ----------
    what : path or str
        What is being read.
    kind : str
        As what.
    """
    try:
        yield
    except TimelikeError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        raise DataError(
            f"{what}: cannot be read as {kind}; damaged, truncated or of another format? "
            f"({type(error).__name__}: {lines[0][:160]})"
        ) from error


def column_from_awkward(array: Any, what: str, *, first: int = 0) -> Column:
    """Make a column of an awkward array.

    Parameters
    ----------
    array : awkward.Array
        ``B * number``, ``B * var * number`` or ``B * K * number``, optional types allowed where
        nothing is missing.
    what : str
        What error messages call it.
    first : int
        What they call its first event.

    Returns
    -------
    Column

    Raises
    ------
    DataError
        If the array holds something else, or a value is missing.
    """
    return Column(*flattened(array, what, first=first))
