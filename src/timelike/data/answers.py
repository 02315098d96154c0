"""What a network is to find of each event, or of each of its steps: classes, labels, numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from timelike.config import DataConfig
    from timelike.data.scope import Scope
    from timelike.data.sources import Source
    from timelike.data.steps import Steps

__all__ = ["answered_steps", "answers_of", "filled"]

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


def answers_of(
    scope: Scope, source: Source, data: DataConfig, steps: Steps, rows: Rows | None, offsets: Rows
) -> dict[str, Array]:
    """Give labels or targets of the events of a scope, by their field of `timelike.Sequences`.

    Parameters
    ----------
    scope : Scope
        What the names stand for.
    source : Source
        Where the events are from.
    data : DataConfig
    steps : Steps
        All steps of the events.
    rows : array [N] or None, and offsets : array [B+1]
        Those that are kept, in the order in which they are read.

    Returns
    -------
    dict of str to array
        ``labels`` [B] or ``targets`` [B, K], or with ``per: step`` ``step_labels`` [N] or ``step_targets``
        [N, K]. Of these, a step whose ``horizon`` lies behind the last step that is kept has none.

    Raises
    ------
    DataError
        If something cannot be computed, an event has no class or more than one, a step has more than one, or
        a number is not finite (of a step, NaN stands for none).
    """
    given, key = next(
        (given, key)
        for key in ("labels", "classes", "multilabel", "targets")
        if (given := getattr(data, key))
    )
    if key == "classes":
        return {"labels": np.full(scope.n_events, source.label)}
    per_step = data.per == "step"
    columns = []
    for name, text in given.items():
        where = f"data.{key}.{name}"
        if per_step:
            column = _of_steps(scope, steps, text, where, condition=key != "targets")
        elif key != "targets":
            column = scope.condition(text, where)
        else:
            column = scope.per_event(text, where).astype(np.float64)
        if key == "targets":
            _check_finite(scope, steps if per_step else None, text, where, column)
        columns.append(column)
    if key != "labels":
        found = np.stack(columns, axis=1).astype(np.float64)
        if not per_step:
            return {"targets": found}
        return {"step_targets": _later(found, rows, offsets, data.horizon, np.nan)}
    held = np.stack(columns, axis=1)
    label: Array = np.argmax(held, axis=1)
    count = held.sum(axis=1)
    bad = count > 1 if per_step else count != 1
    if bad.any():
        i, names = int(np.argmax(bad)), list(given)
        which = " and ".join(f"'{names[c]}'" for c in np.flatnonzero(held[i]))
        said = f"the labels {which} all hold" if which else "none of the labels holds"
        at = scope.step(i, steps.offsets) if per_step else f"event {scope.entry(i)}"
        raise scope.error(
            "data.labels", f"{at}: {said}; {'one at most' if per_step else 'exactly one'} is needed"
        )
    if not per_step:
        return {"labels": label}
    return {"step_labels": _later(np.where(count == 1, label, -1), rows, offsets, data.horizon, -1)}


def answered_steps(given: Array) -> npt.NDArray[np.bool_]:
    """Tell which steps have an answer.

    Parameters
    ----------
    given : array [N] of int64, or [N, K] of float64
        Labels or targets of steps, as in `timelike.Sequences`.

    Returns
    -------
    array [N] of bool
        Of several targets all need to be there.

    Examples
    --------
    >>> answered_steps(np.array([1, -1, 0]))
    array([ True, False,  True])
    >>> answered_steps(np.array([[1.0, 2.0], [np.nan, 2.0]]))
    array([ True, False])
    """
    return np.asarray(given >= 0 if given.ndim == 1 else ~np.isnan(given).any(axis=1))


def filled(given: Array, answered: npt.NDArray[np.bool_]) -> Array:
    """Put 0 where steps have no answer.

    Parameters
    ----------
    given : array [N] or [N, K]
        As of `answered_steps`.
    answered : array [N] of bool

    Examples
    --------
    >>> filled(np.array([1, -1, 0]), np.array([True, False, True]))
    array([1, 0, 0])
    """
    return np.where(answered if given.ndim == 1 else answered[:, None], given, 0)


def _of_steps(scope: Scope, steps: Steps, text: str, key: str, *, condition: bool) -> Array:
    """Compute a condition or a number of each step; what is of events counts for all their steps."""
    column = scope.evaluate(text, key)
    if column.offsets is not None:
        scope.check_lengths(key, steps.first, steps.offsets, text, column)
    values = column.along(steps.offsets)
    if condition and values.dtype != bool:
        raise scope.error(key, f"'{text}' is {values.dtype}, not a condition; compare it, as in {text} != 0")
    n = int(steps.offsets[-1])
    return np.broadcast_to(values, n) if condition else np.broadcast_to(values, n).astype(np.float64)


def _check_finite(scope: Scope, steps: Steps | None, text: str, key: str, column: Array) -> None:
    bad = ~np.isfinite(column) if steps is None else np.isinf(column)
    if bad.any():
        i = int(np.argmax(bad))
        at = f"event {scope.entry(i)}" if steps is None else scope.step(i, steps.offsets)
        raise scope.error(key, f"{at}: the target '{text}' is {column[i]}")


def _later(values: Array, rows: Rows | None, offsets: Rows, horizon: int, none: float) -> Array:
    """Give of each kept row what stands so many steps later in its event."""
    kept = values if rows is None else values[rows]
    if not horizon:
        return kept
    here = np.arange(len(kept))
    ends = np.repeat(offsets[1:], np.diff(offsets))
    there = here + horizon < ends
    later = np.full_like(kept, none)
    later[there] = kept[here[there] + horizon]
    return later
