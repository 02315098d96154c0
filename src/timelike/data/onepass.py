"""Transforms of variables fitted in one pass over the data, in bounded memory.

Exact, but for rounding, are mean, standard deviation, smallest and largest value, where only transforms stand
before them that are not fitted (``log``, ``clip`` with limits). All else is fitted on a sample of the steps:
quantiles (``robust``, ``clip``, ``uniform``, ``gauss``, what is filled in for missing values), the mix of all
variables, and whatever follows a fitted transform. Data of no more steps than the sample are the sample, and
give what `timelike.data.transforms.FittedTransforms.fit` gives.

Sizes: `N` steps, `D` variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.moments import Moments
from timelike.data.transforms import FittedTransforms, Mix, Step, check_names, quantiles
from timelike.errors import DataError
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import DataConfig

__all__ = ["OnePassFit", "PrioritySample"]

Floats = npt.NDArray[np.float64]
_SAMPLE = 100_000  # steps: quantiles are then known to 0.2 % of the weight


class PrioritySample:
    """A weighted sample of bounded size: Duffield, Lund & Thorup, J. ACM 54 (2007) 32.

    A step of weight w gets the priority w / u, u uniform from 0 to 1. Those of the highest priorities are
    kept, each with the weight ``max(w, t)``, t being the highest priority of those that are not: the sum of
    the weights of any set of steps is then right in the mean. Where all are kept t is 0.

    Parameters
    ----------
    size : int
        Steps that are kept at most.
    width : int
        Number of variables D.
    """

    def __init__(self, size: int, width: int) -> None:
        self.size = size
        self._values, self._weights, self._priorities = np.empty((0, width)), np.empty(0), np.empty(0)
        self._threshold = 0.0

    def take(self, values: npt.NDArray[Any], weights: Floats, random: np.random.Generator) -> None:
        """Take steps [N, D] with weights [N] above 0."""
        priorities = weights / (1.0 - random.random(len(weights)))
        # Before anything is copied: of a large sample few steps are new.
        worth = priorities > self._threshold
        self._add(values[worth], weights[worth], priorities[worth], self._threshold)

    def join(self, other: PrioritySample) -> None:
        """Take what another sample of the same size has."""
        self._add(other._values, other._weights, other._priorities, other._threshold)

    def drawn(self) -> tuple[Floats, Floats]:
        """Give the steps of the sample and their weights."""
        return self._values, np.maximum(self._weights, self._threshold)

    def _add(self, values: npt.NDArray[Any], weights: Floats, priorities: Floats, threshold: float) -> None:
        self._values = np.concatenate([self._values, values])
        self._weights = np.concatenate([self._weights, weights])
        self._priorities = np.concatenate([self._priorities, priorities])
        self._threshold = max(self._threshold, threshold)
        beyond = len(self._priorities) - self.size
        if beyond > 0:
            order = np.argpartition(self._priorities, beyond - 1)
            self._threshold = max(self._threshold, float(self._priorities[order[beyond - 1]]))
            kept = np.sort(order[beyond:])
            self._values, self._weights = self._values[kept], self._weights[kept]
            self._priorities = self._priorities[kept]


class OnePassFit:
    """Fit transforms to steps that come in pieces; pieces of a file may be collected and joined.

    Parameters
    ----------
    data : DataConfig
        Says the transforms of each variable.
    names : tuple of D str
        The variables.
    size : int
        Of the sample.

    Raises
    ------
    DataError
        If a transform is of no variable.
    """

    def __init__(self, data: DataConfig, names: tuple[str, ...], *, size: int = _SAMPLE) -> None:
        check_names(data, names)
        self.names, self._data = names, data
        given = [data.transforms_of(name) for name in names]
        # How many steps of each variable are known without a fit.
        self._free = [next((k for k, step in enumerate(s) if not _known(*step)), len(s)) for s in given]
        self._moments = [Moments()] * len(names)
        self._missing = [0.0] * len(names)  # weight of what is to be filled in
        sampled = any(
            len(steps) > free and (steps[free][0] not in ("standardise", "minmax") or len(steps) > free + 1)
            for steps, free in zip(given, self._free, strict=True)
        )
        sampled = sampled or data.mix is not None or bool(data.missing)
        self._sample = PrioritySample(size if sampled else 0, len(names))

    def take(self, events: Sequences, random: np.random.Generator) -> None:
        """Take the steps of training events, with the absolute weights of these."""
        values = events.values
        weights = np.ones(len(values))
        if events.weights is not None:
            weights = np.repeat(np.abs(events.weights), events.lengths)
            values, weights = values[weights > 0], weights[weights > 0]
        if self._sample.size:
            self._sample.take(values, weights, random)
        for d in range(len(self.names)):
            x = values[:, d].astype(np.float64)
            w = weights
            there = ~np.isnan(x)
            if not there.all():
                self._missing[d] += float(w[~there].sum())
                x, w = x[there], w[there]
            self._moments[d] += Moments.of(self._freely(d, x), w)

    def join(self, other: OnePassFit) -> None:
        """Take all that another fit of the same transforms has taken."""
        self._moments = [one + two for one, two in zip(self._moments, other._moments, strict=True)]
        self._missing = [one + two for one, two in zip(self._missing, other._missing, strict=True)]
        self._sample.join(other._sample)

    def fitted(self) -> FittedTransforms:
        """Fit to all that was taken.

        Raises
        ------
        DataError
            If there are no steps with a weight, or a variable is missing everywhere.
        """
        if not any(m.weight or w for m, w in zip(self._moments, self._missing, strict=True)):
            raise DataError(
                "transforms cannot be fitted: no training event has a step of weight other than 0"
            )
        values, weights = self._sample.drawn()
        columns, steps, fills = np.empty(values.shape), [], []
        for d, name in enumerate(self.names):
            fill, moments, x = None, self._moments[d], values[:, d]
            if name in self._data.missing:
                if not moments.weight:
                    raise DataError(f"variable '{name}' is missing in every training step")
                there = ~np.isnan(x)
                if not there.any():
                    raise DataError(f"variable '{name}' is missing in all of {len(x)} training steps")
                fill = float(quantiles(x[there], weights[there], 0.5))
                x = np.where(there, x, fill)
                if self._missing[d]:
                    put = float(self._freely(d, np.array([fill]))[0])
                    moments += Moments(self._missing[d], put, 0.0, put, put)
            fills.append(fill)
            done = []
            for k, (kind, given) in enumerate(self._data.transforms_of(name)):
                if k == self._free[d] and kind in ("standardise", "minmax"):
                    range_ = {"low": moments.low, "high": moments.high}
                    done.append(Step(kind, moments.standard() if kind == "standardise" else range_))
                else:
                    done.append(Step(kind, given) if _known(kind, given) else Step.fit(kind, x, weights))
                x = done[-1].apply(x)
            steps.append(tuple(done))
            columns[:, d] = x
        mix = None if self._data.mix is None else Mix.fit(self._data.mix, columns, weights)
        told = tuple(name for name in self.names if self._data.missing.get(name) == "indicator")
        return FittedTransforms(self.names, tuple(steps), mix, tuple(fills), told)

    def _freely(self, d: int, x: Floats) -> Floats:
        """Do the transforms of a variable that need no fit."""
        for kind, given in self._data.transforms_of(self.names[d])[: self._free[d]]:
            x = Step(kind, given).apply(x)
        return x


def _known(kind: str, given: dict[str, float]) -> bool:
    """Whether a transform needs no fit."""
    return kind in ("none", "log") or bool(given)
