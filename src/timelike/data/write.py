"""Tables written to ROOT or Parquet: one row per event."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, DataError, require
from timelike.files import replacing

__all__ = ["check_table_path", "write_table"]

_SUFFIXES = (".root", ".parquet")


def check_table_path(path: Path) -> None:
    """Refuse a path that `write_table` could not write, before the work of making the table.

    Raises
    ------
    ConfigError
        If the suffix is neither .root nor .parquet, or a file cannot be written there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"cannot write {path}: the suffix '{path.suffix}' is neither .root nor .parquet")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")


def write_table(path: Path | str, columns: Mapping[str, npt.NDArray[Any]], treename: str = "scores") -> None:
    """Write columns of numbers to a ROOT file (as TTree) or a Parquet file, whole or not at all.

    Parameters
    ----------
    path : path
        The file; its suffix, .root or .parquet, decides the format. A file that is there is replaced.
    columns : mapping of str to array [B]
        Integers, floating-point numbers or bool.
    treename : str
        Name of the tree, in a ROOT file.

    Raises
    ------
    ConfigError
        If the file cannot be written there.
    DataError
        If the columns have different lengths, or hold something else.
    """
    path = Path(path)
    check_table_path(path)
    if not columns:
        raise DataError(f"cannot write {path}: no columns")
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            what = f"column '{name}' is {array.dtype} of shape {array.shape}"
            raise DataError(f"cannot write {path}: {what}; one number per event is needed")
        if len(array) != len(arrays[first]):
            raise DataError(
                f"cannot write {path}: '{first}' has {len(arrays[first])} rows, '{name}' has {len(array)}"
            )
    with replacing(path) as part:
        if path.suffix.lower() == ".root":
            _write_root(part, arrays, treename)
        else:
            _write_parquet(part, arrays)


def _write_root(part: Path, arrays: Mapping[str, npt.NDArray[Any]], treename: str) -> None:
    uproot = require("uproot", "data")
    with uproot.recreate(part) as file:
        tree = file.mktree(treename, {name: array.dtype for name, array in arrays.items()})
        tree.extend(dict(arrays))


def _write_parquet(part: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    pyarrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    parquet.write_table(pyarrow.table({name: pyarrow.array(array) for name, array in arrays.items()}), part)
