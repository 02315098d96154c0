"""Arithmetic of offsets: where the rows of each sequence of a ragged batch are, and where they come from.

Offsets `[B+1]` of `B` sequences: sequence b has the rows ``offsets[b]:offsets[b + 1]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import _core
from timelike.errors import DataError, require

__all__ = ["check_same_lengths", "copied", "cuts", "flattened", "gather", "integers", "offsets_of"]


def offsets_of(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Give the offsets ``[B+1]`` of sequences of these lengths ``[B]``.

    Examples
    --------
    >>> offsets_of([3, 0, 1])
    array([0, 3, 3, 4])
    """
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def gather(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the row numbers of pieces of rows, one piece after another, and the pieces' offsets.

    Parameters
    ----------
    starts, lengths : array [B] of integers
        Piece b is the rows ``starts[b]`` to ``starts[b] + lengths[b] - 1``.

    Returns
    -------
    rows : array [N]
    offsets : array [B+1]

    Examples
    --------
    >>> gather(np.array([5, 0]), np.array([2, 3]))
    (array([5, 6, 0, 1, 2]), array([0, 2, 5]))
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets


def copied(
    arrays: Sequence[npt.NDArray[Any]],
    which: npt.NDArray[np.int64] | int,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Copy pieces of rows, one after another.

    What ``np.concatenate(arrays)[rows]`` gives with the rows of `gather`: each piece at once.

    Parameters
    ----------
    arrays : sequence of array [rows, ...]
        Of one type, and of one shape but for their number of rows.
    which : array [B] of int64, or int
        The array that each piece is of.
    starts, lengths : array [B] of int64
        Piece b is the rows ``starts[b]`` to ``starts[b] + lengths[b] - 1`` of its array.
    out : array [N, ...], optional
        Where they go; of the same type, contiguous.

    Returns
    -------
    array [N, ...]

    Raises
    ------
    IndexError
        If a piece is not within its array.
    ValueError
        If the arrays do not fit together, or `out` does not fit what is copied.

    Examples
    --------
    >>> rows = [np.array([5, 6, 7]), np.array([8, 9])]
    >>> copied(rows, np.array([1, 0]), starts=np.array([1, 0]), lengths=np.array([1, 2]))
    array([9, 5, 6])
    """
    arrays = [np.ascontiguousarray(array) for array in arrays]
    first, shape = arrays[0], (int(lengths.sum()), *arrays[0].shape[1:])
    if any(array.dtype != first.dtype or array.shape[1:] != shape[1:] for array in arrays):
        raise ValueError("arrays of different types, or whose rows have different shapes")
    # The copy itself trusts these numbers.
    rows = np.array([len(array) for array in arrays])[which]
    if np.any((starts < 0) | (lengths < 0) | (starts + lengths > rows)):
        raise IndexError("a piece that is not within its array")
    if out is None:
        out = np.empty(shape, first.dtype)
    elif out.shape != shape or out.dtype != first.dtype:
        raise ValueError(f"out: {out.dtype} {out.shape}, expected {first.dtype} {shape}")
    row = first.itemsize * int(np.prod(first.shape[1:]))
    pieces = np.array([_core.address(array) for array in arrays])[which] + starts * row
    sizes = lengths * row
    _core.copy_pieces(_core.address(pieces), _core.address(sizes), len(sizes), _core.address(out))
    return out


def cuts(offsets: npt.NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Cut sequences into runs of at most so many rows, of at least one sequence.

    Examples
    --------
    >>> list(cuts(np.array([0, 3, 4, 9]), 4))
    [(0, 2), (2, 3)]
    """
    start, end = 0, len(offsets) - 1
    while start < end:
        stop = int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1
        stop = min(max(stop, start + 1), start + rows, end)
        yield start, stop
        start = stop


def check_same_lengths(
    first: str,
    lengths: npt.ArrayLike,
    second: str,
    others: npt.ArrayLike,
    *,
    where: str = "",
    entries: npt.NDArray[np.int64] | None = None,
) -> None:
    """Raise if two jagged columns have different lengths in an event.

    Parameters
    ----------
    first, second : str
        Names of the columns.
    lengths, others : array [B]
        Their numbers of steps in each event.
    where : str
        Put at the head of the message.
    entries : array [B], optional
        Index of each event in its file, where that is not its index here.

    Raises
    ------
    DataError
        Naming the event's index, the columns and both lengths.
    """
    mine, theirs = np.asarray(lengths), np.asarray(others)
    if np.array_equal(mine, theirs):
        return
    head = f"{where}: " if where else ""
    if len(mine) != len(theirs):
        raise DataError(f"{head}'{first}' has {len(mine)} events, '{second}' has {len(theirs)}")
    b = int(np.argmax(mine != theirs))
    event = b if entries is None else entries[b]
    raise DataError(f"{head}event {event}: '{first}' has {mine[b]} steps, '{second}' has {theirs[b]}")


def integers(name: str, array: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Give an array of integers as int64, refusing anything else.

    Raises
    ------
    DataError
        If the numbers are not integers or do not fit in int64; the message begins with `name`.
    """
    numbers = np.asarray(array)
    if numbers.size == 0 and numbers.dtype == np.float64:  # an empty list
        return numbers.astype(np.int64)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise DataError(f"{name} are {numbers.dtype}; integers are needed")
    if numbers.dtype == np.uint64 and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name} reach {numbers.max()}, which does not fit in int64")
    return numbers.astype(np.int64, copy=False)


def flattened(
    array: Any, what: str, *, first: int = 0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """Give the numbers of an awkward array, one after another, and where those of each event are.

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
    values : array [B] or [N]
    offsets : array [B+1], or None
        None for one number per event.

    Raises
    ------
    DataError
        If the array holds something else, or a value is missing.

    Examples
    --------
    >>> import awkward as ak
    >>> flattened(ak.Array([[1.0, 2.0], [], [3.0]]), "column 'pt'")
    (array([1., 2., 3.]), array([0, 2, 2, 3]))
    """
    ak = require("awkward", "data")
    kind = str(array.type.content)
    if "string" in kind or "bytes" in kind:
        raise DataError(f"{what} holds strings; numbers are needed")
    if ak.fields(array):
        raise DataError(
            f"{what} holds records of {', '.join(map(repr, ak.fields(array)[:10]))}; name one of them"
        )
    if array.ndim > 2:
        raise DataError(f"{what} holds lists of lists ({kind}); one number per event or per step is needed")
    missing = np.asarray(ak.is_none(array))
    if missing.any():
        raise DataError(f"{what}: event {first + int(np.argmax(missing))} has no value")
    if array.ndim == 1:
        return np.asarray(ak.to_numpy(array, allow_missing=False)), None
    offsets = offsets_of(ak.to_numpy(ak.num(array, axis=1), allow_missing=False))
    flat = ak.flatten(array, axis=1)
    missing = np.asarray(ak.is_none(flat))
    if missing.any():
        row = int(np.argmax(missing))
        event = int(np.searchsorted(offsets, row, side="right")) - 1
        raise DataError(f"{what}: event {first + event}, step {row - int(offsets[event])} has no value")
    return np.asarray(ak.to_numpy(flat, allow_missing=False)), offsets
