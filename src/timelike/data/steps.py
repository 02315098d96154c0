"""The variables of every step, in the two ways in which files hold them.

- `variables`: a column for each variable, with a number for each step of each event;
- `steps`: a column for each step, with a number for each variable (TMVA's ``vars_time0`` to ``vars_time9``).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from timelike.data.scope import Scope
from timelike.data.sources import natural_order
from timelike.data.table import Column
from timelike.errors import nearest
from timelike.ragged import offsets_of

if TYPE_CHECKING:
    from timelike.config import DataConfig

__all__ = ["Steps", "steps_of"]


@dataclass(frozen=True)
class Steps:
    """The variables of every step.

    Parameters
    ----------
    key : str
        Where in the config they are asked for.
    columns : mapping of str to Column
        The D variables by name: per step, or the same for all steps of an event.
    offsets : array [B+1]
        Where the steps of each event are.
    first : str
        A variable that has these steps, for messages.
    """

    key: str
    columns: Mapping[str, Column]
    offsets: npt.NDArray[np.int64]
    first: str


def steps_of(scope: Scope, data: DataConfig) -> Steps:
    """Give the steps of the events of a scope.

    Parameters
    ----------
    scope : Scope
        What the names stand for.
    data : DataConfig
        Which variables, or which branches as steps.

    Raises
    ------
    DataError
        If a column cannot be made, or columns have different numbers of steps.
    """
    if data.steps is not None:
        return _a_column_per_step(scope, data.steps)
    assert data.variables is not None
    return _a_column_per_variable(scope, data.variables)


def _a_column_per_variable(scope: Scope, variables: Sequence[str]) -> Steps:
    key = "data.variables"
    columns = {text: scope.evaluate(text, key) for text in variables}
    first, offsets = "", None
    for text, column in columns.items():
        if offsets is None:
            first, offsets = text, column.offsets
        elif column.offsets is not None:
            scope.check_lengths(key, first, offsets, text, column)
    if offsets is None:
        raise scope.error(key, "none of the variables has steps; each is one value per event")
    return Steps(key, columns, offsets, first)


def _a_column_per_step(scope: Scope, patterns: Sequence[str]) -> Steps:
    key = "data.steps"
    names = _expanded(scope, key, patterns)
    columns = [_with_entries(scope.evaluate(name, key), scope.n_events) for name in names]
    offsets = columns[0].offsets
    assert offsets is not None
    for name, column in zip(names[1:], columns[1:], strict=True):
        scope.check_lengths(key, names[0], offsets, name, column)
    widths = np.diff(offsets)
    n, width = len(widths), int(widths[0]) if len(widths) else 0
    if np.any(widths != width):
        b = int(np.argmax(widths != width))
        raise scope.error(
            key,
            f"'{names[0]}' has {width} entries in event {scope.entry(0)} and {widths[b]} in event "
            f"{scope.entry(b)}; each entry is a variable",
        )
    if n and not width:
        raise scope.error(key, f"'{names[0]}' has no entries; each entry is a variable")
    rows = np.stack([column.values.reshape(n, width) for column in columns], axis=1).reshape(
        -1, width
    )  # [B T, D]
    steps = offsets_of(np.full(n, len(names)))
    return Steps(key, {f"x{d}": Column(rows[:, d], steps) for d in range(width)}, steps, "x0")


def _with_entries(column: Column, n_events: int) -> Column:
    """Take one number per event as one entry."""
    if column.offsets is not None:
        return column
    return Column.of_rows(np.broadcast_to(column.values, n_events)[:, None])


def _expanded(scope: Scope, key: str, patterns: Sequence[str]) -> list[str]:
    """Give the columns that names and globs stand for, those of a glob in natural order."""
    names: list[str] = []
    for pattern in patterns:
        if pattern in scope.table.names or not any(c in pattern for c in "*?["):
            names.append(pattern)
            continue
        matching = [name for name in scope.table.names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise scope.error(
                key, f"no {scope.table.noun} matches '{pattern}'; {nearest(pattern, scope.table.names)}"
            )
        names.extend(natural_order(matching))
    return names
