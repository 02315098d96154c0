"""Scoring events: an LSTM layer, whose last state a dense layer and a softmax make two scores of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cases import Array, Size
from bench.epochs import Epoch, events

__all__ = ["APPLICATIONS", "BATCH", "Application", "batches", "names", "write_events"]

BATCH = 256  # sequences that are padded together


@dataclass(frozen=True)
class Application(Epoch):
    """Scores of events, lengths uniform in 1 .. `size.T`; `size.B` is how many a rival takes at once.

    Attributes
    ----------
    files : bool
        Whether events come from a ROOT file and scores go to one; else both are in memory.
    """

    files: bool = False

    kind = "application"


APPLICATIONS = [
    Application(Size(BATCH, 20, 6, 20), events=20_000),
    Application(Size(BATCH, 40, 8, 32), events=10_000),
    Application(Size(BATCH, 100, 16, 64), events=2_000),
]


def names(case: Application) -> list[str]:
    """Names of the variables."""
    return [f"x{d}" for d in range(case.size.D)]


def batches(offsets: Array, *, by_length: bool) -> Iterator[Array]:
    """Give the events of each padded batch: in order, or such of like lengths together."""
    order = np.argsort(np.diff(offsets), kind="stable") if by_length else np.arange(len(offsets) - 1)
    for first in range(0, len(order), BATCH):
        yield order[first : first + BATCH]


def write_events(case: Application, path: Path) -> None:
    """Write the events of a case as a TTree, as uproot writes it."""
    import awkward as ak
    import uproot

    x, offsets, _ = events(case)
    lengths = np.diff(offsets)
    columns = {name: ak.unflatten(x[:, d], lengths) for d, name in enumerate(names(case))}
    with uproot.recreate(path) as file:
        tree = file.mktree("events", dict.fromkeys(columns, "var * float32"))
        for first in range(0, case.events, 5_000):
            tree.extend({name: column[first : first + 5_000] for name, column in columns.items()})
