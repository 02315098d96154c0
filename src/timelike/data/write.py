"""Tables written to ROOT, Parquet, HDF5 or NumPy files: one row per event, in pieces of any number.

`write_table` writes what is in memory, `write_pieces` what comes piece by piece and need never be there as a
whole. A column has a number per event, or a number for each step of each event; all of the latter have the
same steps. How steps are written, so that `timelike.data.read` and other readers take them as they are:

=========  ====================================================================================
ROOT       a branch per column, all counted by the branch ``n_steps``
Parquet    columns of lists
HDF5       `values` ``[N, K]``, `offsets` ``[B+1]`` and `names` ``[K]``, all other columns beside them
NumPy      the same arrays in an .npz file
=========  ====================================================================================
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from timelike.data.table import Column
from timelike.errors import ConfigError, DataError, require
from timelike.files import replacing

__all__ = ["Columns", "check_table_path", "write_pieces", "write_table"]

Array = npt.NDArray[Any]
Columns = Mapping[str, Array | Column]

COUNTER = "n_steps"  # in ROOT files, the branch that says how many steps an event has
STEPS = ("values", "offsets", "names")  # in HDF5 and NumPy files
_HDF5_CHUNK = 16_384  # rows


class _Writer(Protocol):
    """Writes checked pieces, each with the columns and types of the first."""

    def extend(self, piece: _Checked) -> None: ...

    def finish(self) -> None: ...


class _Checked:
    """A piece: columns per event, and columns per step with the steps of each event."""

    def __init__(self, columns: Columns, path: Path) -> None:
        if not columns:
            raise DataError(f"cannot write {path}: no columns")
        self.events: dict[str, Array] = {}
        self.steps: dict[str, Array] = {}
        self.offsets: Array | None = None
        first, n = next(iter(columns)), None
        for name, column in columns.items():
            jagged = isinstance(column, Column)
            array = np.ascontiguousarray(column.values if isinstance(column, Column) else column)
            if array.ndim != 1 or array.dtype.kind not in "biuf":
                what = f"column '{name}' is {array.dtype} of shape {array.shape}"
                raise DataError(
                    f"cannot write {path}: {what}; one number per {'step' if jagged else 'event'} is needed"
                )
            rows = column.n_events if isinstance(column, Column) else len(array)
            n = rows if n is None else n
            if rows != n:
                raise DataError(f"cannot write {path}: '{first}' has {n} rows, '{name}' has {rows}")
            (self.steps if jagged else self.events)[name] = array
            if isinstance(column, Column):
                assert column.offsets is not None
                if self.offsets is not None and not np.array_equal(self.offsets, column.offsets):
                    raise DataError(f"cannot write {path}: '{name}' has other steps than the columns before")
                self.offsets = column.offsets
        self.n_events = n or 0

    @property
    def types(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Types of the columns by their names: of events, and of steps."""
        return tuple({n: a.dtype for n, a in of.items()} for of in (self.events, self.steps))  # type: ignore[return-value]


def check_table_path(path: Path) -> None:
    """Refuse a path that `write_table` could not write, before the work of making the table.

    Raises
    ------
    ConfigError
        If the suffix is of no format that is written, or a file cannot be written there.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(f"cannot write {path}: the suffix '{path.suffix}' is none of {', '.join(_WRITERS)}")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")


def write_table(path: Path | str, columns: Columns, treename: str = "scores") -> None:
    """Write columns of numbers to a file, whole or not at all.

    Parameters
    ----------
    path : path
        The file; its suffix decides the format: .root (a TTree), .parquet, .pq, .h5, .hdf5, .npz. A file
        that is there is replaced.
    columns : mapping of str to array [B] or Column
        Integers, floating-point numbers or bool: per event, or per step.
    treename : str
        Name of the tree, in a ROOT file.

    Raises
    ------
    ConfigError
        If the file cannot be written there.
    DataError
        If the columns do not fit together, hold something else, or the format has no such names.
    """
    write_pieces(path, [columns], treename)


def write_pieces(path: Path | str, pieces: Iterable[Columns], treename: str = "scores") -> None:
    """Write a table that comes in pieces, one behind the other, whole or not at all.

    Parameters
    ----------
    path, treename : as for `write_table`
    pieces : iterable of mappings
        One or more, each with the columns and types of the first.

    Raises
    ------
    ConfigError, DataError
        As `write_table`; and if a piece has other columns or types than the first.
    """
    path = Path(path)
    check_table_path(path)
    checked = (_Checked(piece, path) for piece in pieces)
    first = next(checked, None)
    if first is None:
        raise DataError(f"cannot write {path}: no columns")
    with replacing(path) as part, _WRITERS[path.suffix.lower()](path, part, first, treename) as writer:
        writer.extend(first)
        for piece in checked:
            if piece.types != first.types:
                raise DataError(
                    f"cannot write {path}: a piece has the columns {piece.types}, the first has {first.types}"
                )
            writer.extend(piece)
        writer.finish()


@contextmanager
def _root(path: Path, part: Path, first: _Checked, treename: str) -> Iterator[_Writer]:
    uproot = require("uproot", "data")
    with uproot.recreate(part) as file:
        yield _Root(file, first, treename)


class _Root:
    """A TTree, a basket of each branch for each piece."""

    def __init__(self, file: Any, first: _Checked, treename: str) -> None:
        events, steps = first.types
        types: dict[str, Any] = dict(events)
        if steps:
            ak = require("awkward", "data")
            # Columns that share their counter are one record to uproot; without a name of its own it leaves
            # their names as they are.
            record = ak.types.RecordType(
                [ak.types.NumpyType(dtype.name) for dtype in steps.values()], list(steps)
            )
            types[""] = ak.types.ListType(record)
        self._tree = file.mktree(
            treename, types, counter_name=lambda _: COUNTER, field_name=lambda _, inner: inner
        )

    def extend(self, piece: _Checked) -> None:
        columns: dict[str, Any] = dict(piece.events)
        if piece.offsets is not None:
            columns[""] = _lists(piece)
        self._tree.extend(columns)

    def finish(self) -> None:
        """All is written."""


def _lists(piece: _Checked) -> Any:
    """Make an awkward array of records of steps."""
    ak = require("awkward", "data")
    contents = [ak.contents.NumpyArray(values) for values in piece.steps.values()]
    record = ak.contents.RecordArray(contents, list(piece.steps))
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(piece.offsets), record))


@contextmanager
def _parquet(path: Path, part: Path, first: _Checked, treename: str) -> Iterator[_Writer]:
    with ExitStack() as stack:
        yield _Parquet(stack, part)


class _Parquet:
    """A row group for each piece."""

    def __init__(self, stack: ExitStack, part: Path) -> None:
        self._stack, self._part = stack, part
        self._writer: Any = None

    def extend(self, piece: _Checked) -> None:
        pa, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
        arrays = {name: pa.array(values) for name, values in piece.events.items()}
        for name, values in piece.steps.items():
            offsets = pa.array(piece.offsets)
            arrays[name] = pa.LargeListArray.from_arrays(offsets, pa.array(values, from_pandas=False))
        table = pa.table(arrays)
        if self._writer is None:
            self._writer = self._stack.enter_context(parquet.ParquetWriter(self._part, table.schema))
        self._writer.write_table(table)

    def finish(self) -> None:
        self._stack.close()


@contextmanager
def _hdf5(path: Path, part: Path, first: _Checked, treename: str) -> Iterator[_Writer]:
    _check_names(path, first, "/")
    h5py = require("h5py", "data")
    with h5py.File(part, "w") as file:
        yield _Hdf5(file, first)


class _Hdf5:
    """Datasets at the root of the file that grow with each piece."""

    def __init__(self, file: Any, first: _Checked) -> None:
        self._file = file
        events, steps = first.types
        for name, dtype in events.items():
            self._make(name, (), dtype)
        if steps:
            self._make("values", (len(steps),), np.result_type(*steps.values()))
            self._make("offsets", (), np.dtype(np.int64))
            self._append("offsets", np.zeros(1, np.int64))
            file["names"] = list(steps)
        self._n_rows = 0

    def _make(self, name: str, inner: tuple[int, ...], dtype: Any) -> None:
        self._file.create_dataset(
            name, (0, *inner), dtype, maxshape=(None, *inner), chunks=(_HDF5_CHUNK, *inner)
        )

    def _append(self, name: str, array: Array) -> None:
        dataset, n = self._file[name], len(self._file[name])
        dataset.resize(n + len(array), axis=0)
        dataset[n:] = array

    def extend(self, piece: _Checked) -> None:
        for name, array in piece.events.items():
            self._append(name, array)
        if piece.offsets is not None:
            self._append("values", np.stack(list(piece.steps.values()), axis=1))
            self._append("offsets", self._n_rows + piece.offsets[1:])
            self._n_rows += int(piece.offsets[-1])

    def finish(self) -> None:
        """All is written."""


@contextmanager
def _npz(path: Path, part: Path, first: _Checked, treename: str) -> Iterator[_Writer]:
    _check_names(path, first, "")
    with ExitStack() as stack:
        yield _Npz(stack, part, first)


class _Npz:
    """Arrays in an uncompressed .npz.

    Their lengths stand before their numbers, so that these wait in temporary files.
    """

    def __init__(self, stack: ExitStack, part: Path, first: _Checked) -> None:
        events, steps = first.types
        types = events | (
            {"values": np.result_type(*steps.values()), "offsets": np.dtype(np.int64)} if steps else {}
        )
        self._part, self._types, self._steps = part, types, list(steps)
        self._files = {}
        for name in types:
            self._files[name] = stack.enter_context(tempfile.TemporaryFile(dir=part.parent))  # noqa: SIM115
        self._n_rows = 0
        if steps:
            self._files["offsets"].write(np.zeros(1, np.int64).tobytes())

    def extend(self, piece: _Checked) -> None:
        for name, array in piece.events.items():
            self._files[name].write(array.data)
        if piece.offsets is not None:
            values = np.stack(list(piece.steps.values()), axis=1)
            self._files["values"].write(np.ascontiguousarray(values).data)
            self._files["offsets"].write((self._n_rows + piece.offsets[1:]).data)
            self._n_rows += int(piece.offsets[-1])

    def finish(self) -> None:
        with zipfile.ZipFile(self._part, "w") as archive:
            for name, dtype in self._types.items():
                file = self._files[name]
                n = file.tell() // dtype.itemsize
                shape = (
                    (n // len(self._steps), len(self._steps)) if name == "values" and self._steps else (n,)
                )
                about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, about)
                    shutil.copyfileobj(file, entry, 1 << 20)
            if self._steps:
                with archive.open("names.npy", "w") as entry:
                    np.lib.format.write_array(entry, np.array(self._steps), allow_pickle=False)


def _check_names(path: Path, first: _Checked, forbidden: str) -> None:
    """Refuse names that the format has no place for."""
    for name in first.events:
        if forbidden and forbidden in name:
            raise DataError(
                f"cannot write {path}: column '{name}': HDF5 takes no '{forbidden}' in a name; "
                "possible: .root, .parquet, .npz"
            )
        if first.steps and name in STEPS:
            raise DataError(
                f"cannot write {path}: column '{name}': the steps are written under that name; "
                "possible: .root, .parquet"
            )


_WRITERS = {
    ".root": _root,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".npz": _npz,
}
