"""NumPy files, .npz and .npy, and the two ways in which arrays hold steps.

An .npz file is a set of named arrays; each is a column (`y`, `weights`, `events`, anything), except those
that hold the steps in one of two ways:

- ragged: `values` ``[N, D]`` and `offsets` ``[B+1]``;
- padded: `X` ``[B, T, D]`` and either `mask` ``[B, T]`` of bool or `lengths` ``[B]``; with neither, every
  step is real.

The D variables of either are called by the array `names` ``[D]`` where there is one, else x0, x1, ...

An .npy file is either a structured array ``[B]``, each field of it being a column, or the padded
``[B, T, D]`` without anything beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.data.table import Column, Table, located, reading
from timelike.errors import DataError
from timelike.sequences import Sequences

__all__ = ["columns_of_arrays", "open_numpy"]

Array = npt.NDArray[Any]
Columns = dict[str, Callable[[], Column]]


@contextmanager
def open_numpy(path: Path, treename: str | None) -> Iterator[Table]:
    """Open an .npz or .npy file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    treename : str, optional
        Not possible here: a NumPy file is one table.

    Yields
    ------
    Table

    Raises
    ------
    DataError
        If the file cannot be read, needs pickle, or its arrays do not fit together.
    """
    if treename is not None:
        raise DataError(f"{path}: a NumPy file is one table; treename '{treename}' has no meaning there")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with stream:  # ours, because np.load leaves a file that it cannot read open
        with reading(path, "NumPy"):
            loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield _table(path, _arrays_of(path, loaded))
            return

        def load(name: str) -> Array:
            with reading(f"array '{name}'", "NumPy"):
                array: Array = loaded[name]
            return array

        yield _table(path, {name: partial(load, name) for name in loaded.files})


def _arrays_of(path: Path, array: Array) -> dict[str, Callable[[], Array]]:
    """Take a structured array as one array per field, a padded one as `X`."""
    if array.dtype.names is not None:
        return {name: partial(np.asarray, array[name]) for name in array.dtype.names}
    if array.ndim == 3:
        return {"X": partial(np.asarray, array)}
    raise DataError(
        f"{path}: holds an array of shape {array.shape}; a structured array [events] or "
        "a padded one [events, steps, variables] is needed"
    )


def _table(path: Path, arrays: Mapping[str, Callable[[], Array]]) -> Table:
    with located(str(path)):
        columns = columns_of_arrays(arrays)
        if not columns:
            raise DataError("holds no arrays")
        n_events = next(iter(columns.values()))().n_events

    return Table(str(path), tuple(columns), n_events, lambda name: columns[name](), "array")


def columns_of_arrays(arrays: Mapping[str, Callable[[], Array]]) -> Columns:
    """Give the columns of a set of named arrays, the steps being held ragged or padded.

    Parameters
    ----------
    arrays : mapping of str to callable
        Each reads its array.

    Returns
    -------
    dict of str to callable
        Each reads its column.

    Raises
    ------
    DataError
        If the arrays do not fit together; those that belong to a column, when it is read.
    """
    left = dict(arrays)
    columns: Columns = {}
    if "values" in left and "offsets" in left:
        steps = _ragged(left.pop("values"), left.pop("offsets"))
    elif "X" in left:
        steps = _padded(left.pop("X"), left.pop("mask", None), left.pop("lengths", None))
    else:
        steps = None
    if steps is not None:
        names = [str(n) for n in left.pop("names")()] if "names" in left else None
        read = cache(lambda: steps(names))
        for d, name in enumerate(read().names):
            columns[name] = partial(_variable, read, d)
    for name, array in left.items():
        if name in columns:
            raise DataError(f"'{name}' is both an array and a variable of the steps")
        columns[name] = partial(_plain, name, array)
    return columns


def _variable(read: Callable[[], Sequences], d: int) -> Column:
    return Column(read().values[:, d], read().offsets)


def _ragged(
    values: Callable[[], Array], offsets: Callable[[], Array]
) -> Callable[[list[str] | None], Sequences]:
    def read(names: list[str] | None) -> Sequences:
        rows = values()
        rows = rows[:, None] if rows.ndim == 1 else rows
        return Sequences(_floating("values", rows), offsets(), tuple(names or ()))

    return read


def _padded(
    padded: Callable[[], Array], mask: Callable[[], Array] | None, lengths: Callable[[], Array] | None
) -> Callable[[list[str] | None], Sequences]:
    def read(names: list[str] | None) -> Sequences:
        array = _floating("X", padded())
        if mask is None and lengths is None:
            real = np.ones(array.shape[:2], dtype=bool)
            return Sequences.from_padded(array, real, names=tuple(names or ()))
        return Sequences.from_padded(
            array,
            None if mask is None else mask(),
            lengths=None if lengths is None else lengths(),
            names=tuple(names or ()),
        )

    return read


def _floating(name: str, array: Array) -> Array:
    """Give an array as float32 or float64 of the machine's byte order; integers become float64."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"'{name}' holds {array.dtype}; numbers are needed")
    return array.astype(
        np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64, copy=False
    )


def _plain(name: str, read: Callable[[], Array]) -> Column:
    array = read()
    if array.ndim not in (1, 2):
        raise DataError(f"'{name}' has shape {array.shape}; [events] or [events, steps] is needed")
    return Column.of_rows(array)
