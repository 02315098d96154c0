"""HDF5 files, read by h5py.

`treename` names the group that is the table; without it, it is the file's root, or the only group there is at
the root. A column is called by its path below that group, with dots: ``jet_pt``, ``tracks.d0``. Columns are

- datasets ``[B]`` of numbers (per event), ``[B, K]`` (K steps for every event), or ``[B]`` of variable-length
  arrays (per step; h5py reads these event by event, the next two much faster);
- the datasets ``[N]`` of a group that has a dataset `offsets` ``[B+1]`` (per step);
- the fields of a compound dataset ``[B]`` (per event) or ``[B, T]`` (per step; with a field `valid` of bool,
  only the steps where it is true), the layout that flavour tagging uses;
- `values` and `offsets`, or `X` with `mask` or `lengths`, and `names`, as in an .npz file: see
  `timelike.data.numpy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.data.numpy import Columns, columns_of_arrays
from timelike.data.table import Column, Table, located, reading
from timelike.errors import DataError, nearest, require
from timelike.ragged import offsets_of
from timelike.sequences import Sequences

__all__ = ["open_hdf5"]

Array = npt.NDArray[Any]


@contextmanager
def open_hdf5(path: Path, treename: str | None) -> Iterator[Table]:
    """Open a group of an HDF5 file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    treename : str, optional
        Path of the group in the file.

    Yields
    ------
    Table

    Raises
    ------
    DataError
        If the file cannot be read, or has no such group.
    """
    h5py = require("h5py", "data")
    with reading(path, "HDF5"):
        file = h5py.File(path, "r")
    with file:
        with reading(path, "HDF5"):
            name = _chosen(path, file, treename)
            group = file[name]
        where = str(path) if name == "/" else f"{path}: group '{name}'"
        with located(where):
            with reading("the datasets", "HDF5"):
                columns = _columns(group)
            if not columns:
                raise DataError("holds no datasets")
            n_events = next(iter(columns.values()))().n_events

        yield Table(where, tuple(columns), n_events, lambda name: columns[name](), "dataset")


def _chosen(path: Path, file: Any, treename: str | None) -> str:
    """Give the path of the group that is asked for, or of the only one, or of the root."""
    h5py = require("h5py", "data")
    groups: list[str] = []
    file.visititems(lambda name, item: groups.append(name) if isinstance(item, h5py.Group) else None)
    if treename is not None:
        wanted = treename.strip("/")
        if wanted not in groups:
            what = f"'{treename}' is a dataset, not a group" if wanted in file else f"no group '{treename}'"
            raise DataError(f"{path}: {what}; {nearest(wanted, groups)}")
        return wanted
    top = [name for name in groups if "/" not in name]
    return top[0] if len(file) == len(top) == 1 else "/"


def _columns(group: Any) -> Columns:
    """Give the columns of a group and the groups in it."""
    h5py = require("h5py", "data")
    columns: Columns = {}
    arrays: dict[str, Callable[[], Array]] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            inner = _ragged_columns(item) if _is_ragged(item) else _columns(item)
            columns.update({f"{name}.{key}": column for key, column in inner.items()})
        elif not isinstance(item, h5py.Dataset):
            continue
        elif item.dtype.names is not None:
            columns.update({f"{name}.{key}": column for key, column in _compound_columns(item).items()})
        elif h5py.check_vlen_dtype(item.dtype) is not None and h5py.check_string_dtype(item.dtype) is None:
            columns[name] = partial(_variable_lengths, item)
        else:
            arrays[name] = partial(_read, item)
    return {**columns_of_arrays(arrays), **columns}


def _read(dataset: Any) -> Array:
    h5py = require("h5py", "data")
    with reading(f"dataset '{dataset.name}'", "HDF5"):
        text = h5py.check_string_dtype(dataset.dtype) is not None
        array: Array = np.asarray(dataset.asstr()[...], dtype=np.str_) if text else dataset[...]
    return array


def _is_ragged(group: Any) -> bool:
    return "offsets" in group and "values" not in group


def _ragged_columns(group: Any) -> Columns:
    """Give the columns of a group of datasets [N] that share their offsets."""
    offsets = cache(lambda: _read(group["offsets"]))

    def read(name: str) -> Column:
        values = _read(group[name])
        if values.ndim != 1:
            raise DataError(
                f"'{group.name}/{name}' has shape {values.shape}; [steps of all events] is needed"
            )
        with located(f"'{group.name}/{name}'"):
            # The checks of offsets are those of Sequences.
            checked = Sequences(np.empty((len(values), 0), dtype=np.float32), offsets())
        return Column(values, checked.offsets)

    return {name: partial(read, name) for name in group if name != "offsets"}


def _compound_columns(dataset: Any) -> Columns:
    """Give the columns of a dataset [B] or [B, T] of compound type."""

    def field(name: str) -> Array:
        with reading(f"field '{name}' of dataset '{dataset.name}'", "HDF5"):
            array: Array = dataset.fields(name)[...]
        return array

    def read(name: str) -> Column:
        return Column.of_rows(field(name))

    names = dataset.dtype.names
    if dataset.ndim not in (1, 2):
        raise DataError(f"'{dataset.name}' has shape {dataset.shape}; [events] or [events, steps] is needed")
    if dataset.ndim == 1 or "valid" not in names:
        return {name: partial(read, name) for name in names}
    valid = cache(lambda: field("valid").astype(bool))

    def read_valid(name: str) -> Column:
        return Column(field(name)[valid()], offsets_of(valid().sum(axis=1)))

    return {name: partial(read_valid, name) for name in names if name != "valid"}


def _variable_lengths(dataset: Any) -> Column:
    if dataset.ndim != 1:
        raise DataError(f"'{dataset.name}' has shape {dataset.shape}; [events] is needed")
    with reading(f"dataset '{dataset.name}'", "HDF5"):
        arrays = dataset[...]
    if len(arrays) == 0:
        return Column(np.empty(0, dtype=np.float32), np.zeros(1, dtype=np.int64))
    return Column(np.concatenate(arrays), offsets_of([len(a) for a in arrays]))
