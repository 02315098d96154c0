"""Applying a model to files of events: scores beside event numbers and observers, one row per event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import data
from timelike.data.sources import find_files, tree_of
from timelike.data.write import check_table_path, write_table
from timelike.errors import ConfigError
from timelike.model import Model, load_model, predict

__all__ = ["Application", "apply"]


@dataclass(frozen=True, eq=False)
class Application:
    """What an application gives."""

    output: Path
    columns: dict[str, npt.NDArray[Any]]  # as written


def apply(
    model: Model | str | Path,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    treename: str | None = None,
    select: bool = False,
    out_of_fold: bool = False,
) -> Application:
    """Compute the scores of all events of files and write them as a table.

    Parameters
    ----------
    model : Model or path
        A model or its file.
    files : sequence of paths
        Files of events, globs allowed, of the same layout as those of the training; labels and weights are
        not needed. Branches are found by name, so their order is free.
    output : path
        The table: ``.root`` or ``.parquet``. It has the columns ``event_number``, ``score_<class>`` for each
        class or ``predicted_<target>`` for each target, and the observers; one row per event, in input order.
    treename : str, optional
        The tree to read, where it is not the one of the training.
    select : bool
        Keep only events that pass the training's selection. By default every event has its row, so that the
        table can stand beside the input as it is.
    out_of_fold : bool
        With the ensemble of a cross validation, score each event by the network that has not seen its fold;
        see `timelike.model.predict`.

    Returns
    -------
    Application
        The table and where it is.

    Raises
    ------
    ConfigError
        If the output has another suffix, is one of the input files or cannot be written.
    DataError
        If a variable is missing or a file does not hold what it should.
    ModelFileError
        If the model cannot be read.
    """
    output = Path(output)
    check_table_path(output)
    if not files:
        raise ConfigError("no input files")
    model = model if isinstance(model, Model) else load_model(model)
    paths = [Path(name) for name in files]
    treename = tree_of(model.data, paths, treename)
    how = {"treename": treename, "selection": model.data.selection if select else None}
    _check_not_an_input(output, paths)
    events = data.read(
        model.data.model_copy(update=how),
        model.sequence,
        files=paths,
        labelled=False,
        dtype=model.dtype,
    )
    scores = predict(model, events, out_of_fold=out_of_fold)
    numbers = np.arange(len(events)) if events.events is None else events.events
    columns = {"event_number": numbers}
    kind = "predicted" if model.data.targets else "score"
    columns |= {f"{kind}_{name}": scores[:, index] for index, name in enumerate(model.class_names)}
    for name, observer in events.observers.items():
        if name in columns:
            raise ConfigError(f"{output}: the observer {name!r} has the name of a column of scores")
        columns[name] = observer
    write_table(output, columns)
    return Application(output, columns)


def _check_not_an_input(output: Path, paths: Sequence[Path]) -> None:
    """Refuse to replace a file of events by its scores: the events would be lost."""
    for file in find_files(paths, Path()):
        if output.exists() and output.samefile(file):
            raise ConfigError(f"cannot write {output}: it is an input file; give the table another name")
