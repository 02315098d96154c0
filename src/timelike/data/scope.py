"""What the names in expressions stand for: the columns of a table, new variables, constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.data.expressions import CONSTANTS, Expression
from timelike.data.table import Column, Table, located
from timelike.errors import DataError, nearest
from timelike.ragged import check_same_lengths

__all__ = ["Scope"]

Array = npt.NDArray[Any]
Entries = npt.NDArray[np.int64]


class Scope:
    """Names of one table, for all of its events or some. A column is read when it is first asked for.

    Parameters
    ----------
    table : Table
        The open table.
    new_variables : mapping of str to str
        Expressions by name; one may use others.
    entries : array [B], optional
        Indices of the events in the table; all of them when not given.

    Raises
    ------
    DataError
        If a new variable has the name of a column.
    """

    def __init__(
        self, table: Table, new_variables: Mapping[str, str], entries: Entries | None = None
    ) -> None:
        self.table = table
        self.new_variables = new_variables
        self.entries = entries
        self._columns: dict[str, Column] = {}
        self._open: list[str] = []  # new variables being evaluated, each for the sake of the one before
        for name in new_variables:
            if name in table.names:
                raise DataError(f"{table.where}: data.new_variables: '{name}' is already a {table.noun}")

    @property
    def n_events(self) -> int:
        """Number of events."""
        return self.table.n_events if self.entries is None else len(self.entries)

    def restricted(self, keep: npt.NDArray[np.bool_]) -> Scope:
        """Give the scope of the events of these that are kept."""
        entries = np.flatnonzero(keep) if self.entries is None else self.entries[keep]
        scope = Scope(self.table, self.new_variables, entries)
        # What has been read is not read again.
        kept = np.flatnonzero(keep)
        scope._columns = {name: column.take(kept) for name, column in self._columns.items()}
        return scope

    def entry(self, event: int) -> int:
        """Give the index in the file of an event of this scope."""
        return self.table.first + (event if self.entries is None else int(self.entries[event]))

    @property
    def numbers(self) -> Entries | None:
        """Indices of the events in the file; None where they are those of the scope."""
        if not self.table.first:
            return self.entries
        return self.table.first + (np.arange(self.n_events) if self.entries is None else self.entries)

    def step(self, row: int, offsets: Entries) -> str:
        """Name the event and the step of a row of columns with these offsets."""
        event = int(np.searchsorted(offsets, row, side="right")) - 1
        return f"event {self.entry(event)}, step {row - int(offsets[event])}"

    def check_lengths(self, key: str, first: str, offsets: Entries, second: str, column: Column) -> None:
        """Refuse a column that has not the same number of steps as the first in each event."""
        assert column.offsets is not None
        where = f"{self.table.where}: {key}"
        lengths = np.diff(offsets), np.diff(column.offsets)
        check_same_lengths(first, lengths[0], second, lengths[1], where=where, entries=self.numbers)

    def error(self, key: str, message: str) -> DataError:
        """Make an error that names the table and the place in the config."""
        return DataError(f"{self.table.where}: {key}: {message}")

    # Columns

    def evaluate(self, text: str, key: str) -> Column:
        """Compute a column.

        Parameters
        ----------
        text : str
            The name of a column or new variable, whatever characters it has, or an expression.
        key : str
            Where in the config it stands, for messages.

        Returns
        -------
        Column
            In the type of the file where it is but a name; in float64, int64 or bool where it is more.

        Raises
        ------
        DataError
            If a name does not exist or the expression cannot be computed.
        """
        with located(f"{self.table.where}: {key}"):
            return self._column(text)

    def _column(self, text: str) -> Column:
        if text in self._columns or text in self.table.names or text in self.new_variables:
            return self._lookup(text)
        return Expression.parse(text).evaluate(self._lookup, entries=self.numbers)

    def _lookup(self, name: str) -> Column:
        if name not in self._columns:
            self._columns[name] = self._found(name)
        return self._columns[name]

    def _found(self, name: str) -> Column:
        if name in self.new_variables:
            if name in self._open:
                raise DataError(f"new variables need each other: {' -> '.join([*self._open, name])}")
            self._open.append(name)
            with located(f"new variable '{name}'"):
                column = Expression.parse(self.new_variables[name]).evaluate(
                    self._lookup, entries=self.numbers
                )
            self._open.pop()
            return column
        if name in self.table.names:
            column = self.table.read(name)
            return column if self.entries is None else column.take(self.entries)
        if name in CONSTANTS:
            return Column(np.asarray(CONSTANTS[name]))
        raise DataError(
            f"no {self.table.noun} '{name}'; {nearest(name, (*self.table.names, *self.new_variables))}"
        )

    def per_event(self, text: str, key: str) -> Array:
        """Compute numbers ``[B]``, one per event.

        Raises
        ------
        DataError
            If there is one per step, or it cannot be computed.
        """
        column = self.evaluate(text, key)
        if column.offsets is not None:
            raise self.error(
                key, f"'{text}' has a value per step; one per event is needed, as of num, sum, max, any, all"
            )
        return column.values if column.values.ndim else np.full(self.n_events, column.values)

    def condition(self, text: str, key: str) -> npt.NDArray[np.bool_]:
        """Compute a condition ``[B]`` on events.

        Raises
        ------
        DataError
            If it is not a condition, or not on events, or cannot be computed.
        """
        values = self.per_event(text, key)
        if values.dtype != bool:
            raise self.error(
                key, f"'{text}' is {values.dtype}, not a condition; compare it, as in {text} != 0"
            )
        return values

    def per_step(self, text: str, key: str) -> Column:
        """Compute numbers per step.

        Raises
        ------
        DataError
            If there is one per event, or it cannot be computed.
        """
        column = self.evaluate(text, key)
        if column.offsets is None:
            raise self.error(key, f"'{text}' has one value per event; one per step is needed")
        return column
