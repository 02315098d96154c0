"""An epoch of training a small classifier: its events and its first weights.

The network is an LSTM layer, whose last state a dense layer makes two logits of; its loss is the cross
entropy, its optimiser Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.cases import Array, Case, Size, arrays

__all__ = ["EPOCHS", "FIRST", "LEARNING_RATE", "Epoch", "Events", "events", "weights"]

LEARNING_RATE = 1e-3
CLASSES = 2
FIRST = 5  # batches whose losses are compared


@dataclass(frozen=True)
class Epoch:
    """One epoch: `size.B` events in a batch, lengths uniform in 1 .. `size.T`."""

    size: Size
    events: int = 10_000
    seed: int = 1

    kind = "epoch"
    dtype = "float32"


EPOCHS = [Epoch(Size(100, 10, 30, 10)), Epoch(Size(100, 40, 8, 32))]


class Events(NamedTuple):
    """Events with jagged rows."""

    x: Array  # [N, D]
    offsets: Array  # [events + 1]
    labels: Array  # [events]


def events(epoch: Epoch) -> Events:
    """Draw events: rows are N(0, 1), shifted by the label."""
    random = np.random.default_rng(epoch.seed)
    lengths = random.integers(1, epoch.size.T + 1, epoch.events)
    labels = random.integers(0, CLASSES, epoch.events)
    x = random.standard_normal((lengths.sum(), epoch.size.D)) + 0.1 * np.repeat(labels, lengths)[:, None]
    return Events(x.astype(np.float32), np.concatenate([[0], np.cumsum(lengths)]), labels)


def weights(epoch: Epoch) -> dict[str, Array]:
    """Draw the weights of the LSTM, as in `cases.arrays`, and ``V [classes, H]``, ``b [classes]``."""
    drawn = arrays(Case("training", epoch.size._replace(B=1, T=1)))
    random = np.random.default_rng(epoch.seed)
    H = epoch.size.H
    dense = {"V": random.uniform(-(H**-0.5), H**-0.5, (CLASSES, H)).astype(np.float32)}
    dense["b"] = np.zeros(CLASSES, np.float32)
    return {name: drawn[name] for name in ("W", "U", "b_ih", "b_hh")} | dense
