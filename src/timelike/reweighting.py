"""Kinematic reweighting: event weights for which every class has the same, flat, distribution of an observer.

A network that is trained so cannot tell the classes by the observer alone. Evaluation keeps the weights that
the events have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, nearest
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import FlattenConfig

__all__ = ["Flattening"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Flattening:
    """Factors for event weights, by class and bin of an observer.

    Attributes
    ----------
    observer : str
    edges : ndarray, shape (n + 1,)
    factors : ndarray, shape (C, n)
        The sum of the weights of a class stays as it is.
    """

    observer: str
    edges: Floats
    factors: Floats

    @classmethod
    def fit(cls, sequences: Sequences, config: FlattenConfig, class_names: tuple[str, ...]) -> Flattening:
        """Find the factors that make the distribution of the observer flat in each class.

        Parameters
        ----------
        sequences : Sequences
            Training events, with labels.
        config : FlattenConfig
            The observer, bins, and their range; by default that of the events.
        class_names : tuple of C str

        Raises
        ------
        DataError
            If there is no such observer, it is not a number everywhere, or the weights of a class in a bin do
            not have a positive sum.
        """
        values = _observed(sequences, config.observer)
        low = float(values.min()) if config.low is None else config.low
        high = float(values.max()) if config.high is None else config.high
        if not low < high:
            raise DataError(f"training.flatten: '{config.observer}' has no range: from {low:g} to {high:g}")
        edges = np.linspace(low, high, config.bins + 1)
        weights = np.ones(len(sequences)) if sequences.weights is None else sequences.weights
        factors = np.empty((len(class_names), config.bins))
        for c, name in enumerate(class_names):
            of_class = sequences.labels == c
            sums = np.histogram(values[of_class], edges, weights=weights[of_class])[0]
            bad = np.flatnonzero(sums <= 0)
            if len(bad):
                k = int(bad[0])
                raise DataError(
                    f"training.flatten: class {name!r} has a sum of weights of {sums[k]:g} where "
                    f"'{config.observer}' is from {edges[k]:g} to {edges[k + 1]:g}: take fewer bins or "
                    "another range"
                )
            factors[c] = sums.mean() / sums
        return cls(config.observer, edges, factors)

    def apply(self, sequences: Sequences) -> Sequences:
        """Give events their weights times the factor of their class and bin; beyond the bins it is 0."""
        values = _observed(sequences, self.observer)
        assert sequences.labels is not None
        n = len(self.edges) - 1
        k = np.searchsorted(self.edges, values, side="right") - 1
        k[values == self.edges[-1]] = n - 1
        inside = (k >= 0) & (k < n)
        weights = np.ones(len(sequences)) if sequences.weights is None else sequences.weights
        found = weights * np.where(inside, self.factors[sequences.labels, np.clip(k, 0, n - 1)], 0.0)
        return sequences.replace(weights=found)


def _observed(sequences: Sequences, name: str) -> Floats:
    if name not in sequences.observers:
        raise DataError(
            f"training.flatten: no observer '{name}' (data.observers); {nearest(name, sequences.observers)}"
        )
    values = np.asarray(sequences.observers[name], np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"training.flatten: '{name}' is not a finite number in every event")
    return values
