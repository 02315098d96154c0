"""Applying a model: plan the pieces, score those that are not there yet, put the table together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timelike.apply.parts import Part, Parts, file_digest, piece_key, read_part
from timelike.apply.pieces import Piece, planned
from timelike.apply.scoring import PieceScorer
from timelike.apply.workers import Workers
from timelike.data.sources import check_not_an_input, find_files
from timelike.data.table import Column, located
from timelike.data.write import Columns, check_table_path, write_pieces
from timelike.errors import ConfigError, DataError, ModelFileError, TimelikeError
from timelike.ragged import offsets_of

if TYPE_CHECKING:
    from timelike.model import Model

__all__ = ["PIECE", "Application", "apply"]

PIECE = 10_000
"""Entries that are read and scored at once, where nothing else is said."""

_AT_ONCE = 100_000  # events that are written at once: larger baskets and row groups are read faster


@dataclass(frozen=True)
class Application:
    """What an application gives.

    Attributes
    ----------
    output : pathlib.Path
        The table.
    columns : tuple of str
        Of the table.
    n_events : int
        Its rows.
    n_pieces, n_resumed : int
        Pieces of the files, and how many of them were there from an interrupted run.
    """

    output: Path
    columns: tuple[str, ...]
    n_events: int
    n_pieces: int
    n_resumed: int


def apply(
    model: Model | str | Path,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    treename: str | None = None,
    select: bool = False,
    out_of_fold: bool = False,
    processes: int = 1,
    piece: int = PIECE,
) -> Application:
    """Compute the scores of all events of files and write them as a table.

    Files of any size go through a bounded memory, piece by piece. Finished pieces wait in the folder
    ``<output>.parts`` until all are there; a run that was interrupted goes on from them when it is called
    again with the same model, files and options. Scores depend neither on pieces nor on processes.

    Parameters
    ----------
    model : Model or path
        A model or its file.
    files : sequence of paths
        Files of events, globs allowed, of the same layout as those of the training; labels and weights are
        not needed. Branches are found by name, so their order is free.
    output : path
        The table: ``.root``, ``.parquet``, ``.h5`` or ``.npz``; see `timelike.data.write`. It has the columns
        ``event_number``, ``score_<class>`` for each class or label or ``predicted_<target>`` for each target
        (``predicted_<target>_q<share>`` for its quantiles), and the observers; one row per event, in input
        order. Of a model that scores steps these columns have a number for each step that an event has in
        its file, in the file's order, and NaN for steps that the network does not read.
    treename : str, optional
        The tree to read, where it is not the one of the training.
    select : bool
        Keep only events that pass the training's selection. By default every event has its row, so that the
        table can stand beside the input as it is.
    out_of_fold : bool
        With the ensemble of a cross validation, score each event by the network that has not seen its fold;
        see `timelike.model.predict`.
    processes : int
        How many share the pieces. With 1 all is done in this process.
    piece : int
        Entries that are read and scored at once, at most; of HDF5 and NumPy files always the whole file.

    Returns
    -------
    Application
        Where the table is, and what it has.

    Raises
    ------
    ConfigError
        If the output has another suffix, is one of the input files or cannot be written.
    DataError
        If a variable is missing or a file does not hold what it should.
    ModelFileError
        If the model cannot be read.
    WorkerError
        If a process is killed.
    """
    output = Path(output)
    check_table_path(output)
    for name, given in {"processes": processes, "piece": piece}.items():
        if given < 1:
            raise ConfigError(f"{name}: given {given}; it must be 1 or more")
    if not files:
        raise ConfigError("no input files")
    paths = [Path(name) for name in files]
    if isinstance(model, str | Path) and not Path(model).is_file():
        raise ModelFileError(f"{model}: no such file")
    found = find_files(paths, Path())
    check_not_an_input(output, found)
    where = str(found[0]) if len(found) == 1 else f"{found[0]} and {len(found) - 1} more files"
    with Parts.opened(output) as parts:
        how = {"select": select, "out_of_fold": out_of_fold}
        with PieceScorer.of(_file_of(model, parts), treename=treename, files=paths, **how) as scorer:
            run = _Run(scorer, parts, planned(scorer.data, paths, piece))
            n_resumed = run.resume()
            try:
                run.score(processes)
            except (TimelikeError, KeyboardInterrupt) as error:
                if run.done:
                    error.args = (f"{error}{': ' if str(error) else ''}{run.left_behind()}",)
                raise
            try:
                with located(where):
                    run.check()
            except DataError:
                parts.remove()  # there is nothing to go on with
                raise
        write_pieces(output, run.table())
        parts.remove()
    return Application(output, tuple(run.types), run.n_events, len(run.pieces), n_resumed)


def _file_of(model: Model | str | Path, parts: Parts) -> Path:
    """Give the file of a model; other processes know a model by its file."""
    if isinstance(model, str | Path):
        return Path(model)
    from timelike.model import save_model

    save_model(model, parts.model)
    return parts.model


class _Run:
    """The pieces of a run, and those of their parts that are there.

    Attributes
    ----------
    pieces : tuple of Piece
        In the order of the table.
    done : dict of Piece to Part
    """

    def __init__(self, scorer: PieceScorer, parts: Parts, pieces: tuple[Piece, ...]) -> None:
        self.pieces = pieces
        self.done: dict[Piece, Part] = {}
        self._scorer, self._parts = scorer, parts
        belongs_to = {"model": file_digest(scorer.path), **scorer.options}
        self._paths = {piece: parts.path(piece_key(piece, belongs_to)) for piece in pieces}

    def resume(self) -> int:
        """Take the parts that an interrupted run has left, remove those of other runs, and count them."""
        self._parts.keep(self._paths.values())
        for piece, path in self._paths.items():
            if path.exists():
                self.done[piece] = read_part(path)[0]
        return len(self.done)

    def score(self, processes: int) -> None:
        """Score the pieces that are left."""
        left = [piece for piece in self.pieces if piece not in self.done]
        if processes == 1 or len(left) <= 1:
            for piece in left:
                self.done[piece] = self._scorer.score(piece, self._paths[piece])
            return
        with Workers(min(processes, len(left)), self._scorer.setup) as workers:
            workers.score(left, self._paths.__getitem__, self.done.__setitem__)

    def check(self) -> None:
        """Refuse what is no table: no events at all, or files that do not go together."""
        if not self.pieces:
            raise DataError("no events")
        if not self.n_events:
            n_entries = sum(piece.stop - piece.start for piece in self.pieces)
            raise DataError(f"the selection keeps none of {n_entries} events")
        if not any(part.n_rows for part in self.done.values()):
            raise DataError(f"none of {self.n_events} events has a step")
        first: Part | None = None
        for piece in self.pieces:
            part = self.done[piece]
            if not part.n_events:
                continue
            first = first or part
            if part.variables != first.variables:
                widths = len(part.variables), len(first.variables)
                raise DataError(
                    f"{piece}: data.steps: a step has {widths[0]} entries, before it had {widths[1]}"
                )

    @property
    def n_events(self) -> int:
        """Rows of the table."""
        return sum(part.n_events for part in self.done.values())

    @property
    def types(self) -> dict[str, np.dtype[Any]]:
        """Types of the columns: those that hold the numbers of all files."""
        parts = [part for part in self.done.values() if part.n_events]
        return {
            name: np.result_type(*{np.dtype(part.types[name]) for part in parts}) for name in parts[0].types
        }

    def left_behind(self) -> str:
        """Say what is there."""
        return (
            f"{len(self.done)} of {len(self.pieces)} pieces are finished, in {self._parts.folder}; "
            "the same command goes on from them"
        )

    def table(self) -> Iterator[Columns]:
        """Read the parts in their order, and join them to what is written at once."""
        types, joined, n = self.types, [], 0
        for piece in self.pieces:
            if not self.done[piece].n_events:
                continue
            _, columns = read_part(self._paths[piece])
            joined.append(columns)
            n += self.done[piece].n_events
            if n >= _AT_ONCE:
                yield _joined(joined, types)
                joined, n = [], 0
        if joined:
            yield _joined(joined, types)


def _joined(parts: Sequence[Columns], types: Mapping[str, np.dtype[Any]]) -> Columns:
    """Put the columns of parts one behind the other."""
    found: dict[str, Any] = {}
    for name, dtype in types.items():
        columns = [part[name] for part in parts]
        lengths = [
            np.diff(column.offsets)
            for column in columns
            if isinstance(column, Column) and column.offsets is not None
        ]
        arrays = [column.values if isinstance(column, Column) else column for column in columns]
        values = np.concatenate(arrays).astype(dtype, copy=False)
        found[name] = Column(values, offsets_of(np.concatenate(lengths))) if lengths else values
    return found
