"""Folds of a cross validation: which of k an event belongs to, and the split in which one is for test.

- by an expression of the event number, such as ``event_number % folds``: an event stays in its fold whatever
  else is read, and events of the same number stay together. It is what TMVA writes as
  ``int([eventID]) % int([NumFolds])``. The observers of the config may stand in it, too.
- without one, each class is shuffled by itself and dealt out, or all events where they have no classes.

Of the events that are not for test, those for validation are drawn with the seed: by their numbers where the
folds are by numbers, so that they stay what they are, too; else as exactly so many of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from timelike.data.expressions import Expression
from timelike.data.table import Column
from timelike.errors import ConfigError, DataError, nearest
from timelike.ragged import integers
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import FoldsConfig


__all__ = ["check_expression", "fold_numbers", "split_by_folds"]

Integers = npt.NDArray[np.int64]


class Folds(Protocol):
    """How many folds there are, and by which expression: a `timelike.config.FoldsConfig`, or like it."""

    @property
    def number(self) -> int: ...
    @property
    def by(self) -> str | None: ...


def check_expression(by: str, observers: Sequence[str] = ()) -> tuple[str, ...]:
    """Check the expression of folds before any events are there.

    Parameters
    ----------
    by : str
        The expression.
    observers : sequence of str
        Names that it may use beside ``event_number`` and ``folds``.

    Returns
    -------
    tuple of str
        The names in it.

    Raises
    ------
    ConfigError
        If it is none, or uses another name.

    Examples
    --------
    >>> check_expression("event_number % folds")
    ('event_number', 'folds')
    """
    if "[" in by:
        raise ConfigError(
            f"folds by {by!r}: TMVA's int([eventID]) % int([NumFolds]) is written event_number % folds"
        )
    try:
        names = Expression.parse(by).names
    except DataError as error:
        raise ConfigError(f"folds by {error}") from None
    known = ("event_number", "folds", *observers)
    for name in names:
        if name not in known:
            raise ConfigError(f"folds by {by!r}: no '{name}'; {nearest(name, known)}")
    if not set(names) - {"folds"}:
        raise ConfigError(f"folds by {by!r}: the same for all events; event_number is missing in it")
    return names


def fold_numbers(sequences: Sequences, folds: Folds, *, seed: int = 0) -> Integers:
    """Give the fold of each event.

    Parameters
    ----------
    sequences : Sequences
        With event numbers and observers where the expression needs them, else with labels.
    folds : Folds
        How many there are, and by which expression.
    seed : int
        Of the shuffle, where there is no expression.

    Returns
    -------
    array [B]
        Numbers from 0 to k - 1.

    Raises
    ------
    ConfigError
        If the expression cannot be used.
    DataError
        If there are no event numbers, or the expression gives something else than a fold.

    Examples
    --------
    >>> from timelike.config import FoldsConfig
    >>> s = Sequences(np.zeros((0, 1)), np.zeros(6, int), events=[10, 11, 12, 13, 14])
    >>> list(map(int, fold_numbers(s, FoldsConfig(number=3, by="event_number % folds"))))
    [1, 2, 0, 1, 2]
    """
    if folds.by is None:
        return _dealt(_classes(sequences), folds.number, seed)
    check_expression(folds.by, tuple(sequences.observers))

    def column(name: str) -> Column:
        if name == "folds":
            return Column(np.asarray(folds.number))
        if name in sequences.observers:
            return Column(sequences.observers[name])
        if sequences.events is None:
            raise DataError(f"folds by {folds.by!r}: the events have no numbers")
        return Column(sequences.events)

    computed = Expression.parse(folds.by).evaluate(column).values
    if (
        computed.dtype.kind == "f"
        and np.all(computed == np.floor(computed))
        and np.all(abs(computed) < 2**53)
    ):
        computed = computed.astype(np.int64)  # as floor(event_number / 10) % folds gives them
    numbers = integers(f"folds by {folds.by!r}", computed)
    bad = np.flatnonzero((numbers < 0) | (numbers >= folds.number))
    if len(bad):
        which = "" if sequences.events is None else f" {sequences.events[bad[0]]}"
        raise DataError(
            f"folds by {folds.by!r}: event{which} is in fold {numbers[bad[0]]}; "
            f"the folds are 0..{folds.number - 1} ({len(bad)} such events)"
        )
    return numbers


def split_by_folds(
    sequences: Sequences, folds: FoldsConfig, *, seed: int = 0, class_names: Sequence[str] = ()
) -> dict[str, Integers]:
    """Share out events: one fold for test, of the others a share for validation.

    Parameters
    ----------
    sequences : Sequences
    folds : FoldsConfig
    seed : int
        Of what is drawn.
    class_names : sequence of str
        Names of the classes, for messages.

    Returns
    -------
    dict of str to array
        Indices of the sequences in "train", "validation" and "test", ascending; each is in one.

    Raises
    ------
    ConfigError, DataError
        As `fold_numbers`; and if there is no event of a class for one of the three, naming fold and class.
    """
    labels = _classes(sequences)
    numbers = fold_numbers(sequences, folds, seed=seed)
    test = numbers == folds.test
    if folds.by is not None and sequences.events is not None:
        chosen = _uniform(sequences.events, seed, folds.test) < folds.validation
    else:
        chosen = np.zeros(len(labels), dtype=bool)
        rng = np.random.default_rng([seed, folds.test])
        for label in np.unique(labels):
            others = rng.permutation(np.flatnonzero((labels == label) & ~test))
            chosen[others[: max(1, int(np.rint(folds.validation * len(others))))]] = True
    parts = {"train": ~test & ~chosen, "validation": ~test & chosen, "test": test}
    for part, mask in parts.items():
        for label in np.unique(labels):
            if not (mask & (labels == label)).any():
                name = f" of class '{class_names[label]}'" if class_names else f" of class {label}"
                raise DataError(
                    f"fold {folds.test} of {folds.number}: no event"
                    f"{name if sequences.labels is not None else ''} for {part}, "
                    f"of the {np.sum(labels == label)} there are"
                )
    return {part: np.flatnonzero(mask) for part, mask in parts.items()}


def _classes(sequences: Sequences) -> npt.NDArray[Any]:
    return np.zeros(len(sequences), dtype=np.int64) if sequences.labels is None else sequences.labels


def _dealt(labels: npt.NDArray[Any], k: int, seed: int) -> Integers:
    """Shuffle each class and deal it out."""
    rng = np.random.default_rng(seed)
    numbers = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        numbers[shuffled] = np.arange(len(shuffled)) % k
    return numbers


def _uniform(events: Integers, seed: int, stream: int) -> npt.NDArray[np.float64]:
    """Give each event number its own uniform number in [0, 1): SplitMix64 (Steele et al., OOPSLA 2014)."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    z = events.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) * 2.0**-64
