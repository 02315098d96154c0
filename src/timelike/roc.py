"""ROC curves of weighted events, exact with tied scores and with negative weights.

Use `roc_curve` for one curve and its working points. `TieGroups` is the same computation for many sets
of weights at once (rows of a matrix): `timelike.evaluate` gives it the events' weights in row 0 and
bootstrap replicas below, so that a value and its uncertainty come from the same lines of code.

Conventions
-----------
An event passes a cut when its score is greater than or equal to it. Efficiencies are sums of weights that
pass over sums of all weights, of signal (`eps_s`) and of background (`eps_b`). Events with the same score
cannot be separated by a cut: they make one point, and the curve goes straight through them, as if ties
were broken at random.

The area under the curve is the trapezoidal sum of eps_s over eps_b, which for weights of any sign is
exactly the weighted share of signal-background pairs in right order::

    AUC = sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i  sum_j w_j)

with i in signal and j in background.

With negative weights the efficiencies need not rise as the cut is loosened, and several cuts may have the
same eps_b. The area needs no remedy. Working points and drawn curves are read from the monotone function
nearest to each efficiency in the largest deviation (the mean of the running maximum and of the running
minimum from the other end), kept within [0, 1]; without negative weights this is the efficiency itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timelike.errors import DataError

__all__ = ["Roc", "TieGroups", "nearest_monotone", "roc_curve", "separation", "trapezoid", "x_to_y"]

Floats = NDArray[np.float64]

SEPARATION_BINS = 40  # of the score from 0 to 1, as many as TMVA takes


@dataclass(frozen=True, eq=False)
class TieGroups:
    """Events in order of falling score, those with equal scores in one group.

    Parameters
    ----------
    order : ndarray of int, shape [B]
        Event indices by falling score.
    ends : ndarray of int, shape [K]
        Position in `order` of the last event of each group.
    thresholds : ndarray, shape [K + 1]
        Cuts: infinity (nothing passes), then the K distinct scores.
    is_signal : ndarray of bool, shape [B]
        Which events are signal, in `order`.
    """

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    thresholds: Floats
    is_signal: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, is_signal: NDArray[np.bool_]) -> TieGroups:
        """Sort events by score, once for all sets of weights."""
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
        return cls(order, ends, np.append(np.inf, falling[ends]), is_signal[order])

    def efficiencies(self, weights: Floats) -> tuple[Floats, Floats]:
        """Give eps_s and eps_b at every cut for each row of weights.

        Parameters
        ----------
        weights : ndarray, shape [R, B]
            One set of event weights per row, in the order of events. A row whose signal or background
            does not sum to a positive number has no efficiencies and gives NaN.

        Returns
        -------
        eps_s, eps_b : ndarray, shape [R, K + 1]
            From 0 (cut at infinity) to 1 (everything passes), as they are: not monotone where weights
            are negative.
        """
        falling = weights[:, self.order]
        return self._one(falling * self.is_signal), self._one(falling * ~self.is_signal)

    def _one(self, falling: Floats) -> Floats:
        passing = np.zeros((len(falling), len(self.ends) + 1))
        passing[:, 1:] = np.cumsum(falling, axis=1)[:, self.ends]
        total = passing[:, -1:]
        return np.divide(passing, total, out=np.full_like(passing, np.nan), where=total > 0)


def trapezoid(eps_s: Floats, eps_b: Floats) -> Floats:
    """Integrate eps_s over eps_b along the last axis.

    Parameters
    ----------
    eps_s, eps_b : ndarray, shape [..., K + 1]
        Efficiencies at falling cuts.

    Returns
    -------
    ndarray, shape [...]
        The area; it may leave [0, 1] where weights are negative.
    """
    heights = 0.5 * (eps_s[..., 1:] + eps_s[..., :-1])
    area: Floats = np.einsum("...k,...k->...", heights, np.diff(eps_b))
    return area


def nearest_monotone(efficiency: Floats) -> Floats:
    """Give the rising function nearest to an efficiency in the largest deviation, within [0, 1].

    Parameters
    ----------
    efficiency : ndarray, shape [..., K + 1]
        Efficiency at falling cuts.

    Returns
    -------
    ndarray, shape [..., K + 1]
        (max over tighter cuts + min over looser cuts) / 2, clipped; the same numbers where they rise already.

    Examples
    --------
    >>> nearest_monotone(np.array([0.0, 0.4, 0.2, 1.0])).round(12).tolist()
    [0.0, 0.3, 0.3, 1.0]
    """
    highest = np.maximum.accumulate(efficiency, axis=-1)
    lowest = np.minimum.accumulate(efficiency[..., ::-1], axis=-1)[..., ::-1]
    return np.clip(0.5 * (highest + lowest), 0.0, 1.0)


def x_to_y(targets: ArrayLike, x: Floats, y: Floats, *, side: str) -> tuple[Floats, NDArray[np.intp]]:
    """Read y where x takes given values, on curves whose x and y rise.

    Between two points of a curve y is interpolated linearly. Where x takes the value along a vertical
    piece, `side` decides: "right" reads its upper end, "left" its lower end.

    Parameters
    ----------
    targets : array_like, shape [M]
        Values of x, from 0 to 1.
    x, y : ndarray, shape [R, K + 1]
        R curves, from 0 to 1; a curve of NaN gives NaN.
    side : {"left", "right"}
        Which end of a vertical piece counts.

    Returns
    -------
    values : ndarray, shape [R, M]
        y at the targets.
    points : ndarray of int, shape [R, M]
        "right": the last point of the curve with x <= target; "left": the first with x >= target.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    # A sum of K rounded numbers is good to K eps: a point that near a target is at the target.
    slack = x.shape[-1] * np.finfo(np.float64).eps
    if side == "right":
        found = [np.searchsorted(row, wanted + slack, side="right") - 1 for row in x]
        lower = np.maximum(np.stack(found), 0)
        upper = np.minimum(lower + 1, x.shape[-1] - 1)
        points = lower
    else:
        found = [np.searchsorted(row, wanted - slack, side="left") for row in x]
        upper = np.minimum(np.stack(found), x.shape[-1] - 1)
        lower = np.maximum(upper - 1, 0)
        points = upper
    x0, x1 = np.take_along_axis(x, lower, -1), np.take_along_axis(x, upper, -1)
    y0, y1 = np.take_along_axis(y, lower, -1), np.take_along_axis(y, upper, -1)
    width = x1 - x0
    share = np.divide(wanted - x0, width, out=np.zeros_like(width), where=width != 0)
    return y0 + np.clip(share, 0.0, 1.0) * (y1 - y0), points


def separation(thresholds: Floats, eps_s: Floats, eps_b: Floats) -> Floats:
    """Give the separation 1/2 int (s - b)^2 / (s + b) of the score distributions s and b.

    0 for equal distributions, 1 for distributions without overlap. The densities are histograms of 40 equal
    bins from 0 to 1, so that fluctuations of the bins add about ``(40 - 1) (1/n_s + 1/n_b) / 4`` where s
    and b are alike. A bin whose weights sum to less than nothing counts as empty.

    Parameters
    ----------
    thresholds : ndarray, shape [K + 1]
        Falling cuts on a score from 0 to 1.
    eps_s, eps_b : ndarray, shape [R, K + 1]
        Efficiencies at these cuts, as they are.

    Returns
    -------
    ndarray, shape [R]
        The separation for each row; NaN for a row of NaN.

    Examples
    --------
    >>> groups = TieGroups.of(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, False, True]))
    >>> separation(groups.thresholds, *groups.efficiencies(np.ones((1, 4))))
    array([0.5])
    """
    edges = np.arange(SEPARATION_BINS) / SEPARATION_BINS
    points = np.append(np.searchsorted(-thresholds, -edges, side="right") - 1, 0)
    s, b = (np.maximum(eps[:, points[:-1]] - eps[:, points[1:]], 0.0) for eps in (eps_s, eps_b))
    s, b = (density / density.sum(axis=1, keepdims=True) for density in (s, b))
    both = s + b
    # Asked for 0, not for more: a row of NaN stays NaN.
    terms = np.divide((s - b) ** 2, both, out=np.zeros_like(both), where=both != 0)
    result: Floats = 0.5 * terms.sum(axis=1)
    return result


@dataclass(frozen=True, eq=False)
class Roc:
    """One ROC curve.

    Parameters
    ----------
    thresholds : ndarray, shape [K + 1]
        Cuts on the score: infinity, then the distinct scores from high to low.
    signal_efficiency, background_efficiency : ndarray, shape [K + 1]
        Share of signal and of background that passes each cut, made monotone where weights are negative.
    auc : float
        Area under the curve, from the efficiencies as they were.
    """

    thresholds: Floats
    signal_efficiency: Floats
    background_efficiency: Floats
    auc: float

    def signal_efficiency_at(self, background_efficiency: ArrayLike) -> Floats:
        """Give the greatest signal efficiency at given background efficiencies.

        Examples
        --------
        >>> roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False]).signal_efficiency_at([0.0, 0.5, 1.0])
        array([0.5, 1. , 1. ])
        """
        targets = np.atleast_1d(np.asarray(background_efficiency, dtype=np.float64))
        values, _ = x_to_y(
            targets, self.background_efficiency[None], self.signal_efficiency[None], side="right"
        )
        result: Floats = values[0].reshape(np.shape(background_efficiency))
        return result

    def background_efficiency_at(self, signal_efficiency: ArrayLike) -> Floats:
        """Give the least background efficiency at given signal efficiencies.

        Examples
        --------
        >>> roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False]).background_efficiency_at([0.5, 0.6])
        array([0. , 0.5])
        """
        targets = np.atleast_1d(np.asarray(signal_efficiency, dtype=np.float64))
        values, _ = x_to_y(
            targets, self.signal_efficiency[None], self.background_efficiency[None], side="left"
        )
        result: Floats = values[0].reshape(np.shape(signal_efficiency))
        return result


def roc_curve(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None) -> Roc:
    """Make the ROC curve of weighted events.

    Parameters
    ----------
    scores : array_like, shape [B]
        Any number that grows with the likeness to signal.
    is_signal : array_like of bool, shape [B]
        True for signal, False for background.
    weights : array_like, shape [B], optional
        Event weights, of either sign; ones when not given.

    Returns
    -------
    Roc
        The curve, its working points and its area.

    Raises
    ------
    DataError
        If shapes differ, a number is not finite, or signal or background has no events or no positive
        sum of weights.

    Examples
    --------
    >>> roc_curve([0.9, 0.6, 0.6, 0.2], [True, True, False, False]).auc
    0.875
    """
    score = np.asarray(scores, dtype=np.float64)
    signal = np.asarray(is_signal, dtype=np.bool_)
    weight = np.ones(score.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if not score.ndim == signal.ndim == weight.ndim == 1 or not len(score) == len(signal) == len(weight):
        raise DataError(
            "roc_curve: scores, is_signal and weights must be one number per event; "
            f"given shapes {score.shape}, {signal.shape}, {weight.shape}"
        )
    for name, values in (("score", score), ("weight", weight)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(f"roc_curve: {name} of event {bad[0]} is {values[bad[0]]}, not a finite number")
    for name, members in (("signal", signal), ("background", ~signal)):
        total = float(weight[members].sum())
        if not total > 0:
            raise DataError(
                f"roc_curve: the {int(members.sum())} {name} events have weights that sum to {total:g}; "
                "an efficiency needs a positive sum"
            )
    groups = TieGroups.of(score, signal)
    eps_s, eps_b = groups.efficiencies(weight[None])
    area = float(trapezoid(eps_s, eps_b)[0])
    return Roc(groups.thresholds, nearest_monotone(eps_s)[0], nearest_monotone(eps_b)[0], area)
