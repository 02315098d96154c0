"""Shares of the events for training, validation and test.

- `by: random` -- each class is shuffled by itself and cut, so that all parts have the same mix of classes;
- `by: event_number` -- an event's number modulo some k decides: it stays in its part whatever else is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import SplitConfig

__all__ = ["PARTS", "split"]

PARTS = ("train", "validation", "test")


def split(
    sequences: Sequences, config: SplitConfig, *, class_names: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.int64]]:
    """Share out sequences.

    Parameters
    ----------
    sequences : Sequences
        With labels, where they have any; with event numbers, where these decide.
    config : SplitConfig
        How: section `split` of a config.
    class_names : sequence of str
        Names of the classes, for messages.

    Returns
    -------
    dict of str to array
        Indices of the sequences in "train", "validation" and "test", ascending; no sequence is in two. By
        event number, a sequence whose remainder is in no list is in none.

    Raises
    ------
    DataError
        If a part that is asked for has no events of a class, or there are no event numbers to split by.

    Examples
    --------
    >>> from timelike.config import SplitConfig
    >>> s = Sequences(np.zeros((0, 1)), np.zeros(11, int), events=np.arange(10))
    >>> {part: list(map(int, which)) for part, which in split(s, SplitConfig(by="event_number")).items()}
    {'train': [0, 1, 2, 3, 4, 5, 6], 'validation': [7], 'test': [8, 9]}
    """
    if config.by == "event_number":
        parts = _by_event_number(sequences, config)
        asked = [part for part in PARTS if getattr(config.remainders, part)]
    else:
        parts = _by_chance(sequences, config)
        asked = [part for part in PARTS if getattr(config.fractions, part) > 0]
    labels = _classes(sequences)
    for part in asked:
        there = np.unique(labels[parts[part]])
        for label in np.unique(labels):
            if label not in there:
                name = f" of class '{class_names[label]}'" if class_names else f" of class {label}"
                which = name if sequences.labels is not None else ""
                n = np.sum(labels == label)
                raise DataError(f"split by {config.by}: no events{which} for {part}, of the {n} there are")
    return parts


def _classes(sequences: Sequences) -> npt.NDArray[Any]:
    return np.zeros(len(sequences), dtype=np.int64) if sequences.labels is None else sequences.labels


def _by_event_number(sequences: Sequences, config: SplitConfig) -> dict[str, npt.NDArray[np.int64]]:
    if sequences.events is None:
        raise DataError("split by event_number: the events have no numbers")
    remainders = sequences.events % config.modulo
    return {part: np.flatnonzero(np.isin(remainders, getattr(config.remainders, part))) for part in PARTS}


def _by_chance(sequences: Sequences, config: SplitConfig) -> dict[str, npt.NDArray[np.int64]]:
    shares = np.cumsum([getattr(config.fractions, part) for part in PARTS[:-1]])  # the last gets what is left
    rng = np.random.default_rng(config.seed)
    labels = _classes(sequences)
    pieces: dict[str, list[npt.NDArray[np.int64]]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(shares * len(shuffled)).astype(np.int64)
        for part, piece in zip(PARTS, np.split(shuffled, cuts), strict=True):
            pieces[part].append(piece)
    nobody = np.empty(0, dtype=np.int64)
    return {part: np.sort(np.concatenate([nobody, *pieces[part]])) for part in PARTS}
