"""What a model says of events, beside what they are; made by a model, judged by `timelike.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timelike.errors import DataError

__all__ = ["Predictions"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of the events of one split, and what they are.

    Parameters
    ----------
    scores : ndarray of float64, shape [B, C]
        Probability of each class.
    labels : ndarray of int64, shape [B]
        True class of each event, 0 to C - 1.
    weights : ndarray of float64, shape [B]
        Event weights, of either sign; ones where the data has none.
    events : ndarray of int64, shape [B]
        Event numbers, by which errors name an event.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    events: NDArray[np.int64]

    def check(self, class_names: Sequence[str], where: str) -> None:
        """Make sure that everything can be computed from these predictions.

        Parameters
        ----------
        class_names : sequence of str
            The C class names, in order of the columns of `scores`.
        where : str
            Name of the split, for the message.

        Raises
        ------
        DataError
            Naming the split and the event, class or shape that is in the way.
        """
        n = len(self.labels)
        if n == 0:
            raise DataError(f"{where}: no events to evaluate")
        if self.scores.shape != (n, len(class_names)):
            raise DataError(
                f"{where}: scores have shape {self.scores.shape}; {n} labels and {len(class_names)} classes "
                f"need {(n, len(class_names))}"
            )
        for name, values in (("labels", self.labels), ("weights", self.weights), ("events", self.events)):
            if values.shape != (n,):
                raise DataError(f"{where}: {name} have shape {values.shape}; {n} events need {(n,)}")
        self._check_numbers(class_names, where)
        for c, name in enumerate(class_names):
            self._check_class(c, name, class_names, where)

    def _check_numbers(self, class_names: Sequence[str], where: str) -> None:
        # Written so that NaN fails it.
        rows, columns = np.nonzero(~((self.scores >= 0.0) & (self.scores <= 1.0)))
        if len(rows):
            given = self.scores[rows[0], columns[0]]
            raise DataError(
                f"{where}: score of class '{class_names[columns[0]]}' in event {self.events[rows[0]]} is "
                f"{given:g}; a probability from 0 to 1 is needed ({len(np.unique(rows))} such events)"
            )
        bad = np.flatnonzero(~np.isfinite(self.weights))
        if len(bad):
            raise DataError(
                f"{where}: weight of event {self.events[bad[0]]} is {self.weights[bad[0]]}, "
                f"not a finite number ({len(bad)} such events)"
            )
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= len(class_names)))
        if len(bad):
            raise DataError(
                f"{where}: label of event {self.events[bad[0]]} is {self.labels[bad[0]]}; "
                f"{len(class_names)} classes have labels 0 to {len(class_names) - 1}"
            )

    def _check_class(self, c: int, name: str, class_names: Sequence[str], where: str) -> None:
        weights = self.weights[self.labels == c]
        if not len(weights):
            present = ", ".join(f"'{class_names[k]}'" for k in np.unique(self.labels))
            raise DataError(f"{where}: no event of class '{name}', only of {present}; every class is needed")
        if not weights.any():
            raise DataError(
                f"{where}: the weights of the {len(weights)} events of class '{name}' are all zero"
            )
        if not float(weights.sum()) > 0:
            raise DataError(
                f"{where}: the weights of the {len(weights)} events of class '{name}' sum to "
                f"{float(weights.sum()):g}; an efficiency needs a positive sum"
            )
