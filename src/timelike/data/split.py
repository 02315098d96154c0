"""Shares of the events for training, validation and test.

- `by: random` -- each class is shuffled by itself and cut, so that all parts have the same mix of classes;
- `by: alternate`, `by: block` -- so many events of each class for training and for test, taken in turn or one
  lot after the other, in the order of the files; with counts, `by: random` draws them.
- `by: event_number` -- an event's number modulo some k decides: it stays in its part whatever else is read.
- `by: folds` -- one fold of a cross validation for test: see `timelike.data.folds`.

Events that are streamed (`data.stream`) are never all there to be shuffled. There `by: random` decides for
each event by itself, by a hash of the seed, the name of its file and its entry (`part_numbers`): the parts
have about the shares that are asked for, and an event stays in its part whatever other files there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.folds import split_by_folds
from timelike.errors import DataError
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import CountsConfig, SplitConfig

__all__ = ["PARTS", "check_parts", "part_numbers", "split"]

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
    if config.folds is not None:
        return split_by_folds(sequences, config.folds, seed=config.seed, class_names=class_names)
    if config.by == "event_number":
        parts = _by_event_number(sequences, config)
    elif config.counts is not None or config.by != "random":
        parts = _by_counts(sequences, config, class_names)
    else:
        parts = _by_chance(sequences, config)
    labels = _classes(sequences)
    total = np.bincount(labels)
    names = [f" of class '{name}'" for name in class_names] or [f" of class {c}" for c in range(len(total))]
    check_parts(
        config,
        names if sequences.labels is not None else [""],
        np.stack([np.bincount(labels[parts[part]], minlength=len(total)) for part in PARTS]),
        total,
    )
    return parts


def check_parts(
    config: SplitConfig, names: Sequence[str], counts: npt.NDArray[Any], total: npt.NDArray[Any]
) -> None:
    """Refuse a split that leaves a part without events of a class.

    Parameters
    ----------
    config : SplitConfig
    names : sequence of C str
        What the message calls the classes: " of class 'top'".
    counts : array [3, C]
        Events of each class in each of `PARTS`.
    total : array [C]
        Events of each class, those in no part included.

    Raises
    ------
    DataError
        If a part that is asked for has no events of a class that has any.
    """
    for p, part in enumerate(PARTS):
        if config.by == "event_number":
            asked = bool(getattr(config.remainders, part))
        else:
            counted = config.counts is not None or config.by != "random"
            asked = counted or getattr(config.fractions, part) > 0
        for label in map(int, np.flatnonzero(total)) if asked else ():
            if not counts[p, label]:
                which, n = names[label], total[label]
                raise DataError(f"split by {config.by}: no events{which} for {part}, of the {n} there are")


def _classes(sequences: Sequences) -> npt.NDArray[Any]:
    return np.zeros(len(sequences), dtype=np.int64) if sequences.labels is None else sequences.labels


def _by_event_number(sequences: Sequences, config: SplitConfig) -> dict[str, npt.NDArray[np.int64]]:
    if sequences.events is None:
        raise DataError("split by event_number: the events have no numbers")
    remainders = sequences.events % config.modulo
    return {part: np.flatnonzero(np.isin(remainders, getattr(config.remainders, part))) for part in PARTS}


def part_numbers(
    config: SplitConfig, file: str, entries: npt.NDArray[np.int64], events: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Tell for each event by itself to which part it belongs.

    Parameters
    ----------
    config : SplitConfig
        By event number, or random without counts.
    file : str
        Name of the file, without its folder: files may be moved.
    entries, events : array [B]
        Entries in the file, and event numbers.

    Returns
    -------
    array [B]
        Indices of `PARTS`; -1 for an event that belongs to none.

    Examples
    --------
    >>> from timelike.config import SplitConfig
    >>> part_numbers(SplitConfig(by="event_number"), "a.root", np.arange(3), np.array([10, 17, 28]))
    array([0, 1, 2])
    """
    if config.by == "event_number":
        of_remainder = np.full(config.modulo, -1, dtype=np.int64)
        for p, part in enumerate(PARTS):
            of_remainder[list(getattr(config.remainders, part))] = p
        return of_remainder[events % config.modulo]
    shares = np.cumsum([getattr(config.fractions, part) for part in PARTS[:-1]])
    if not config.fractions.test:
        shares[-1] = 1.0  # not what rounding makes of it
    return np.searchsorted(shares, _uniform(f"{config.seed} {file}", entries), side="right")


def _uniform(key: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Give numbers in [0, 1) by the finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):  # it is arithmetic modulo 2^64
        z = np.uint64(start) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _by_counts(
    sequences: Sequences, config: SplitConfig, class_names: Sequence[str]
) -> dict[str, npt.NDArray[np.int64]]:
    """Take so many events of each class; the last of those for training are for validation."""
    counts = config.counts_or_halves
    rng = np.random.default_rng(config.seed)
    labels = _classes(sequences)
    pieces: dict[str, list[npt.NDArray[np.int64]]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        events = np.flatnonzero(labels == label)
        name = class_names[label] if class_names else str(label)
        train, test = _numbers(name, len(events), counts)
        if config.by == "random":
            events = rng.permutation(events)
        elif config.by == "alternate":
            # By how much of its part is used up at each event: then both are spread over all that are taken.
            events = events[: train + test]
            due = np.concatenate([(np.arange(n) + 0.5) / n for n in (train, test)])
            turn = np.argsort(due, kind="stable") < train
            events = np.concatenate([events[turn], events[~turn]])
        n = int(np.rint(train * (1 - counts.validation)))
        for part, piece in zip(PARTS, np.split(events[: train + test], [n, train]), strict=True):
            pieces[part].append(piece)
    nobody = np.empty(0, dtype=np.int64)
    return {part: np.sort(np.concatenate([nobody, *pieces[part]])) for part in PARTS}


def _numbers(name: str, n: int, counts: CountsConfig) -> tuple[int, int]:
    """Give the number of events of a class for training and for test."""
    train, test = counts.train.get(name), counts.test.get(name)
    if train is None and test is None:
        train = n // 2
    train = n - (test or 0) if train is None else train
    test = n - train if test is None else test
    if train < 1 or test < 0 or train + test > n:
        raise DataError(
            f"split.counts: class {name!r} has {n} events; {max(train, 0)} for training and "
            f"{max(test, 0)} for test were asked for"
        )
    return train, test


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
