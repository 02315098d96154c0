"""Pieces of files: which entries they are, and reading them one after another.

ROOT and Parquet files are read in parts; of an HDF5 or NumPy file the whole is a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.reading import Chain
from timelike.data.scope import Scope
from timelike.data.sources import Source, has_known_suffix, open_table, sources_of
from timelike.data.steps import Steps
from timelike.data.streaming import cut
from timelike.data.table import Table
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import DataConfig, SequenceConfig

__all__ = ["Events", "Piece", "PieceReader", "planned"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Entries of a file that are read and scored at once.

    Attributes
    ----------
    file : str
    start, stop : int
        Its entries.
    whole : bool
        Whether these are all, of a file that is not read in parts.
    first_event : int
        Running number of the file's first entry.
    """

    file: str
    start: int
    stop: int
    whole: bool
    first_event: int

    def __str__(self) -> str:
        return self.file if self.whole else f"{self.file}, entries {self.start} to {self.stop - 1}"


@dataclass(frozen=True, eq=False)
class Events:
    """The events of a piece, and which of their steps they keep.

    Attributes
    ----------
    sequences : Sequences
        N steps, as the network reads them.
    rows : array [N] or None
        Which of all steps of the events they are; None for all, in their order.
    offsets : array [B+1]
        Of all steps of the events.
    """

    sequences: Sequences
    rows: Rows | None
    offsets: Rows


@dataclass(frozen=True)
class _Chain(Chain):
    """Takes note of the steps that are kept."""

    kept: list[tuple[Rows | None, Rows]] = field(default_factory=list)

    def values(self, scope: Scope, steps: Steps, rows: Rows | None, n_rows: int) -> npt.NDArray[Any]:
        self.kept[:] = [(rows, steps.offsets)]
        return super().values(scope, steps, rows, n_rows)


def _opened(data: DataConfig, source: Source, file: Path) -> Any:
    # Files may be of another format than those of the training: then the suffix tells.
    return open_table(file, None if has_known_suffix(file) else data.format, source.treename)


def planned(data: DataConfig, files: Sequence[Path], size: int) -> tuple[Piece, ...]:
    """Cut files into pieces, in their order.

    Parameters
    ----------
    data : DataConfig
        What is read, with the tree and the selection that are asked for.
    files : sequence of Path
        Globs allowed.
    size : int
        Entries of a piece at most, where files are read in parts.

    Raises
    ------
    DataError
        If a file is not found or cannot be opened.
    """
    (source,) = sources_of(data, files=files, base=Path(), labelled=False)
    found, n = [], 0
    for file in source.files:
        with _opened(data, source, file) as table:
            whole = table.fetch_part is None
            runs = [(0, table.n_events)] if whole else cut(table.n_events, table.units(), size)
            found += [Piece(str(file), start, stop, whole, n) for start, stop in runs if start < stop]
            n += table.n_events
    return tuple(found)


class PieceReader:
    """Reads pieces; the file of the last one stays open.

    Parameters
    ----------
    data : DataConfig
        What is read, with the tree and the selection that are asked for.
    sequence : SequenceConfig
    dtype : dtype
        Of the values.
    """

    def __init__(self, data: DataConfig, sequence: SequenceConfig, dtype: np.dtype[Any]) -> None:
        self._data = data
        self._chain = _Chain(data, sequence, dtype, labelled=False)
        self._stack = ExitStack()
        self._open: tuple[str, Source, Table] | None = None

    def close(self) -> None:
        """Close the file that is open."""
        self._stack.close()

    def read(self, piece: Piece) -> Events:
        """Read the events of a piece that the selection keeps.

        Raises
        ------
        DataError
            If the file does not hold what is needed; the message names it.
        """
        source, table = self._table(piece)
        part = replace(table, fetch_part=None) if piece.whole else table.part(piece.start, piece.stop)
        scope = self._chain.selected(part, source)
        sequences = self._chain.events_of(scope, source, piece.first_event + piece.start, weighted=False)
        ((rows, offsets),) = self._chain.kept
        return Events(sequences, rows, offsets)

    def _table(self, piece: Piece) -> tuple[Source, Table]:
        if self._open is None or self._open[0] != piece.file:
            self._stack.close()
            (source,) = sources_of(self._data, files=[Path(piece.file)], base=Path(), labelled=False)
            table = self._stack.enter_context(_opened(self._data, source, Path(piece.file)))
            self._open = piece.file, source, table
        return self._open[1:]
