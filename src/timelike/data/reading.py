"""The way from files to sequences: open, select, derive, check, order, truncate.

Each file goes the whole way by itself: only the columns that are needed are in memory, of one file at a
time, and a message can name the file and the event's index in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.answers import answers_of
from timelike.data.order import step_order
from timelike.data.scope import Scope
from timelike.data.sources import Source, has_known_suffix, open_table, sources_of
from timelike.data.steps import Steps, steps_of
from timelike.data.table import Table, located
from timelike.errors import DataError
from timelike.ragged import integers
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import DataConfig, SequenceConfig

__all__ = ["Chain", "check_classes", "read"]

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


def read(
    data: DataConfig,
    sequence: SequenceConfig,
    *,
    files: Sequence[Path] | None = None,
    base: Path = Path(),
    labelled: bool = True,
    dtype: npt.DTypeLike = np.float32,
) -> Sequences:
    """Read the events of files as sequences.

    Parameters
    ----------
    data : DataConfig
        What is read: section `data` of a config.
    sequence : SequenceConfig
        In which order the steps come, and how many: section `sequence` of a config.
    files : sequence of Path, optional
        Files in place of those of the config, relative to the current folder.
    base : pathlib.Path
        What the files of the config are relative to.
    labelled : bool
        Whether classes (or targets) and weights are read; without them, files need not have what they are
        made from, and files given by `files` are read without the trees and selections of single classes.
    dtype : dtype
        Type of the values, float32 or float64. A branch is given as it is in the file; derived variables are
        computed in float64; both are then turned into this type.

    Returns
    -------
    Sequences
        The selected events in the order of the files (of the first class, then of the next, where each has
        its own), with event numbers and observers, labels and weights. Without `data.event_number`, events
        are numbered as they are read, those that the selection drops included. Events without steps stay.

    Raises
    ------
    DataError
        If a file cannot be read or does not hold what is needed; the message names the file, the place in the
        config, and the event by its index in the file.
    """
    chain = Chain(data, sequence, np.dtype(dtype), labelled)
    sources = sources_of(data, files=files, base=base, labelled=labelled)
    weighted = any(source.weights for source in sources)
    parts: list[Sequences] = []
    n_entries = 0
    for source in sources:
        for file in source.files:
            # A model may be given files of another format than it was trained on: then the suffix tells.
            kind = None if files is not None and has_known_suffix(file) else data.format
            with open_table(file, kind, source.treename) as table:
                scope = chain.selected(table, source)
                part = chain.events_of(scope, source, n_entries, weighted=weighted)
                n_entries += table.n_events
            if len(part) and parts and part.names != parts[0].names:
                widths = part.n_variables, parts[0].n_variables
                raise DataError(
                    f"{file}: data.steps: a step has {widths[0]} entries, before it had {widths[1]}"
                )
            if len(part):
                parts.append(part)
    names = [str(file) for source in sources for file in source.files]
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more files"
    with located(where):
        if n_entries == 0:
            raise DataError("no events")
        if not parts:
            raise DataError(f"the selection keeps none of {n_entries} events")
        events = Sequences.concatenate(parts)
        if events.n_rows == 0:
            raise DataError(f"none of {len(events)} events has a step")
        if labelled and events.labels is not None:
            counts = np.bincount(events.labels, minlength=len(data.class_names))
            weighing = None
            if events.weights is not None:
                weighing = np.bincount(events.labels, events.weights != 0, minlength=len(counts))
            check_classes(data.class_names, counts, weighing)
    return events


def check_classes(names: Sequence[str], counts: Array, weighing: Array | None) -> None:
    """Refuse classes that cannot be learned from.

    Parameters
    ----------
    names : sequence of C str
    counts : array [C]
        Events of each class.
    weighing : array [C], optional
        Those whose weight is not 0, where events have weights.

    Raises
    ------
    DataError
        If a class has no events, or none with a weight.
    """
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            there = ", ".join(f"{c} of '{n}'" for n, c in zip(names, counts, strict=True) if c)
            raise DataError(f"class '{name}' has no events; there are {there}")
    if weighing is not None:
        if not weighing.any():
            raise DataError("the weights of all events are 0")
        for name, count in zip(names, weighing, strict=True):
            if not count:
                raise DataError(f"the weights of all events of class '{name}' are 0")


@dataclass(frozen=True)
class Chain:
    """What is done to every table."""

    data: DataConfig
    sequence: SequenceConfig
    dtype: np.dtype[Any]
    labelled: bool

    def selected(self, table: Table, source: Source) -> Scope:
        """Choose the events of a table."""
        scope = Scope(table, self.data.new_variables)
        for key, text in source.selections:
            scope = scope.restricted(scope.condition(text, key))
        return scope

    def events_of(self, scope: Scope, source: Source, first_event: int, *, weighted: bool) -> Sequences:
        """Take chosen events the rest of the way; `first_event` is the number of the table's first entry."""
        steps = steps_of(scope, self.data)
        rows, offsets = step_order(steps.offsets, self.sequence, self.sort_key(scope, steps))
        return Sequences(
            self.values(scope, steps, rows, int(offsets[-1])),
            offsets,
            tuple(steps.columns),
            weights=self.weights(scope, source) if weighted else None,
            events=self.event_numbers(scope, first_event),
            observers={text: scope.per_event(text, "data.observers") for text in self.data.observers},
            **answers_of(scope, source, self.data, steps, rows, offsets) if self.labelled else {},
        )

    def sort_key(self, scope: Scope, steps: Steps) -> Array | None:
        """Compute what the steps of an event are sorted by."""
        text, key = self.sequence.sort_by, "sequence.sort_by"
        if text is None:
            return None
        if self.data.steps is not None:
            raise scope.error(key, "steps that are a branch each (data.steps) cannot be sorted")
        column = scope.per_step(text, key)
        scope.check_lengths(key, steps.first, steps.offsets, text, column)
        if column.values.dtype.kind == "f" and np.isnan(column.values).any():
            row = int(np.argmax(np.isnan(column.values)))
            raise scope.error(key, f"{scope.step(row, steps.offsets)}: '{text}' is nan")
        return column.values

    def values(self, scope: Scope, steps: Steps, rows: Rows | None, n_rows: int) -> Array:
        """Gather the values ``[n_rows, D]`` of the rows that are kept, and check that they are numbers."""
        values = np.empty((n_rows, len(steps.columns)), dtype=self.dtype)
        for d, (name, column) in enumerate(steps.columns.items()):
            exact = column.along(steps.offsets)
            exact = (
                np.broadcast_to(exact, n_rows) if exact.ndim == 0 else exact if rows is None else exact[rows]
            )
            with np.errstate(over="ignore"):
                values[:, d] = exact
            if self.labelled and exact.dtype != self.dtype and n_rows:
                self.check_resolution(scope, steps.key, name, exact)
            finite = np.isfinite(values[:, d])
            if name in self.data.missing:
                finite |= np.isnan(values[:, d])
            if not finite.all():
                i = int(np.argmin(finite))
                row = i if rows is None else int(rows[i])
                why = f", beyond the range of {self.dtype}" if np.isfinite(exact[i]) else ""
                raise scope.error(
                    steps.key, f"{scope.step(row, steps.offsets)}: variable '{name}' is {exact[i]}{why}"
                )
        return values

    def check_resolution(self, scope: Scope, key: str, name: str, exact: Array) -> None:
        """Refuse a variable whose spread is lost in the rounding of its offset, like that of a time stamp."""
        with np.errstate(over="ignore", invalid="ignore"):
            self.refuse_unresolved(
                scope.table.where, key, name, np.abs(exact).max(), float(np.std(exact, dtype=np.float64))
            )

    def refuse_unresolved(self, where: str, key: str, name: str, largest: Any, spread: float) -> None:
        """Raise if values of this size and standard deviation are not resolved in the type they become."""
        with np.errstate(over="ignore", invalid="ignore"):
            rounding = float(np.spacing(largest.astype(self.dtype))) / 12**0.5  # standard deviation
        if 1e-12 * largest < spread < 100 * rounding:  # below: a constant, but for rounding in float64
            raise DataError(
                f"{where}: {key}: variable '{name}': values up to {largest:.6g} that spread by "
                f"{spread:.2g} are not resolved in {self.dtype}: subtract a constant in an expression, "
                "or set training.dtype: float64"
            )

    # Events

    def weights(self, scope: Scope, source: Source) -> Array:
        """Give the event weights ``[B]``: 1 where only other sources have them."""
        if source.weights is None:
            return np.ones(scope.n_events)
        key, text = source.weights
        weights: Array = scope.per_event(text, key).astype(np.float64)
        if not np.isfinite(weights).all():
            b = int(np.argmin(np.isfinite(weights)))
            raise scope.error(key, f"event {scope.entry(b)}: the weight '{text}' is {weights[b]}")
        return weights

    def event_numbers(self, scope: Scope, first_event: int) -> Array:
        """Give the event numbers ``[B]``."""
        if self.data.event_number is None:
            return first_event + (np.arange(scope.n_events) if scope.entries is None else scope.entries)
        key, text = "data.event_number", self.data.event_number
        numbers = scope.per_event(text, key)
        with located(f"{scope.table.where}: {key}"):
            return integers(f"numbers of '{text}'", numbers)
