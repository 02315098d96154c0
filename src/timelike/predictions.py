"""What a model says of events, beside what they are.

`Predictions` are of classes, judged by `timelike.evaluate`; `Estimates` of numbers or of labels of which any
number may hold, judged by `timelike.regression` and `timelike.multilabel`. Where each step of an event was
to be told, rows are steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timelike.errors import DataError

__all__ = ["Estimates", "Predictions", "unit_of"]


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
    groups : ndarray of int64, shape [B], optional
        Where rows are steps of events: the place of each one's event, from 0 on. Steps of an event are not
        independent, so uncertainties are made of whole events.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    events: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

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
        _check_weights(self.weights, self.events, where)
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


@dataclass(frozen=True, eq=False)
class Estimates:
    """What a model says of numbers or of labels by themselves, and what they are.

    Parameters
    ----------
    values : ndarray of float64, shape [B, K Q]
        What the model says: K numbers, of each Q quantiles where these are asked for (else Q = 1), or the
        probabilities of K labels.
    targets : ndarray of float64, shape [B, K]
        What they are; of a label 1 where it holds, else 0.
    weights, events, groups
        As of `Predictions`.
    """

    values: NDArray[np.float64]
    targets: NDArray[np.float64]
    weights: NDArray[np.float64]
    events: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def check(self, names: Sequence[str], where: str, *, each: int = 1) -> None:
        """Make sure that everything can be computed from these estimates.

        Parameters
        ----------
        names : sequence of str
            The K names.
        where : str
            Name of the split, for the message.
        each : int
            Q, numbers that are said of each.

        Raises
        ------
        DataError
            Naming the split and the event, column or shape that is in the way.
        """
        n = len(self.targets)
        if n == 0:
            raise DataError(f"{where}: no events to evaluate")
        shapes = {
            "values": (n, len(names) * each),
            "targets": (n, len(names)),
            "weights": (n,),
            "events": (n,),
        }
        for name, shape in shapes.items():
            given = getattr(self, name).shape
            if given != shape:
                raise DataError(f"{where}: {name} have shape {given}; {shape} is needed")
        for name, array in (("value", self.values), ("target", self.targets)):
            rows, columns = np.nonzero(~np.isfinite(array))
            if len(rows):
                per = array.shape[1] // len(names)
                raise DataError(
                    f"{where}: the {name} of '{names[columns[0] // per]}' in event {self.events[rows[0]]} is "
                    f"{array[rows[0], columns[0]]}, not a finite number"
                )
        _check_weights(self.weights, self.events, where)
        if not float(self.weights.sum()) > 0:
            raise DataError(f"{where}: the weights sum to {self.weights.sum():g}; a positive sum is needed")


def unit_of(splits: Mapping[str, Predictions] | Mapping[str, Estimates]) -> Literal["event", "step"]:
    """Say what a row of predictions is."""
    return "step" if any(split.groups is not None for split in splits.values()) else "event"


def _check_weights(weights: NDArray[np.float64], events: NDArray[np.int64], where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise DataError(
            f"{where}: weight of event {events[bad[0]]} is {weights[bad[0]]}, "
            f"not a finite number ({len(bad)} such events)"
        )
