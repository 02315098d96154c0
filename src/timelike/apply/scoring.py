"""What is needed of a model, and the columns that it makes of events.

Sizes: `B` events, `N` steps that the network reads, `S` steps that the events have, `C` numbers per score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.apply.parts import Part, write_part
from timelike.apply.pieces import Events, Piece, PieceReader
from timelike.config import DataConfig, SequenceConfig
from timelike.data.sources import tree_of
from timelike.data.table import Column, located
from timelike.data.write import Columns
from timelike.errors import ConfigError
from timelike.scorer import load
from timelike.sequences import Sequences

__all__ = ["PieceScorer", "Scoring", "columns_of", "scoring_of"]


@dataclass(frozen=True, eq=False)
class Scoring:
    """What is needed of a model.

    Attributes
    ----------
    data : DataConfig
    sequence : SequenceConfig
    dtype : dtype
        That the variables are read as.
    names : tuple of C str
        Of the columns of scores.
    score : callable
        Gives what the model says of sequences [B, C], or with ``data.per: step`` [N, C].
    """

    data: DataConfig
    sequence: SequenceConfig
    dtype: np.dtype[Any]
    names: tuple[str, ...]
    score: Callable[[Sequences], npt.NDArray[np.float64]]


def scoring_of(path: Path, *, out_of_fold: bool) -> Scoring:
    """Load a model for scoring.

    Parameters
    ----------
    path : pathlib.Path
        The model file.
    out_of_fold : bool
        Whether events are scored by the network of an ensemble that has not seen their fold.

    Raises
    ------
    ConfigError
        If `out_of_fold` is asked of one network, or an observer has the name of another column.
    ModelFileError
        If the model cannot be read.
    """
    model = load(path)
    data = DataConfig.from_header(model.data, path)
    kind = "predicted" if data.targets else "score"
    names = tuple(f"{kind}_{name}" for name in model.output_names)
    for name in data.observers:
        if name in ("event_number", *names):
            raise ConfigError(f"the observer {name!r} has the name of a column that is written")

    def score(sequences: Sequences) -> npt.NDArray[np.float64]:
        return model.predict(sequences, out_of_fold=out_of_fold)

    nothing = np.empty(0, np.int64)
    observers = dict.fromkeys(data.observers, nothing)
    values = np.empty((0, len(model.variables)), model.dtype)
    score(Sequences(values, np.zeros(1, int), model.variables, events=nothing, observers=observers))
    return Scoring(data, SequenceConfig.from_header(model.sequence, path), model.dtype, names, score)


def columns_of(scoring: Scoring, read: Events) -> Columns:
    """Score events, and give the columns of the table.

    With ``data.per: step`` there is a number for each step that an event has in its file, in the file's
    order; NaN for steps that the network does not read, as they are cut off by `sequence`.
    """
    events = read.sequences
    assert events.events is not None
    scores = scoring.score(events)
    columns: dict[str, npt.NDArray[Any] | Column] = {"event_number": events.events}
    if scoring.data.per == "step":
        of_all = scores
        if read.rows is not None:
            of_all = np.full((int(read.offsets[-1]), len(scoring.names)), np.nan)
            of_all[read.rows] = scores
        columns |= {name: Column(of_all[:, c], read.offsets) for c, name in enumerate(scoring.names)}
    else:
        columns |= {name: scores[:, c] for c, name in enumerate(scoring.names)}
    return columns | dict(events.observers)


class PieceScorer:
    """Reads pieces, scores them and writes their parts.

    Attributes
    ----------
    path : pathlib.Path
        The model file.
    options : dict
        What beside the model and the pieces changes the columns.
    data : DataConfig
        What is read.
    """

    def __init__(self, path: Path, options: dict[str, Any], scoring: Scoring) -> None:
        self.path, self.options, self._scoring = path, options, scoring
        selection = scoring.data.selection if options["select"] else None
        changes = {"treename": options["treename"], "selection": selection}
        self.data = scoring.data.model_copy(update=changes)
        self._reader = PieceReader(self.data, scoring.sequence, scoring.dtype)

    @classmethod
    def of(
        cls, path: Path, *, treename: str | None, files: Sequence[Path], select: bool, out_of_fold: bool
    ) -> PieceScorer:
        """Make one for a model file and files of events; `treename` None is for that of the training."""
        scoring = scoring_of(path, out_of_fold=out_of_fold)
        chosen = tree_of(scoring.data, files, treename)
        return cls(path, {"treename": chosen, "select": select, "out_of_fold": out_of_fold}, scoring)

    @property
    def setup(self) -> dict[str, Any]:
        """What another process makes the same of, by `again`, as JSON can hold it."""
        return {"path": str(self.path), "options": self.options}

    @classmethod
    def again(cls, setup: dict[str, Any]) -> PieceScorer:
        """Make what another has told in its `setup`."""
        path, options = Path(setup["path"]), setup["options"]
        return cls(path, options, scoring_of(path, out_of_fold=options["out_of_fold"]))

    def __enter__(self) -> PieceScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def score(self, piece: Piece, path: Path) -> Part:
        """Read and score a piece, and write its part.

        Raises
        ------
        ConfigError
            If it cannot be written there.
        DataError
            If the file does not hold what is needed.
        """
        read = self._reader.read(piece)
        with located(str(piece)):
            columns = columns_of(self._scoring, read)
        return write_part(path, columns, n_rows=read.sequences.n_rows, variables=read.sequences.names)
