"""One class against all others by its score: areas, efficiencies, rejections, with their replicas.

What `timelike.evaluate` and `timelike.multilabel` have in common. Every quantity is an array [R] whose row 0
is the value and whose other rows are bootstrap replicas of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.predictions import Predictions
from timelike.roc import TieGroups, nearest_monotone, separation, trapezoid, x_to_y
from timelike.statistics import effective_events, efficiency_upper_limit

__all__ = ["BACKGROUND_POINTS", "ROC_GRID", "SIGNAL_POINTS", "Ranking", "content", "measured"]

Floats = NDArray[np.float64]

BACKGROUND_POINTS = (0.01, 0.10, 0.30)  # background efficiencies at which signal efficiencies are given
SIGNAL_POINTS = (0.3, 0.5, 0.7)  # signal efficiencies at which background rejections are given
ROC_GRID = np.arange(1, 101) / 100  # signal efficiencies at which the curve and its band are kept

_ONE_SIGMA = (0.15865525393145705, 0.8413447460685429)


def measured(rows: Floats) -> dict[str, Any]:
    """Turn a value and its replicas into JSON; replicas that could not be computed are NaN."""
    replicas = rows[1:][np.isfinite(rows[1:])]
    error = float(np.std(replicas, ddof=1)) if len(replicas) > 1 else None
    return {"value": float(rows[0]), "error": error}


def _short(curve: Floats) -> list[float]:
    """Keep six digits of a curve: enough to draw and to compare, a third of the file."""
    return [float(f"{number:.6g}") for number in curve]


def content(weights: Floats) -> dict[str, Any]:
    """Say how much there is: of events with these weights."""
    return {
        "events": len(weights),
        "negative_weights": int(np.sum(weights < 0)),
        "sum_of_weights": float(weights.sum()),
        "effective_events": effective_events(weights),
    }


class Ranking:
    """One class against all others by its probability: gathers rows of replicas, then gives metrics."""

    def __init__(self, predicted: Predictions, c: int) -> None:
        self.weights = predicted.weights
        self.scores = predicted.scores[:, c]
        self.is_signal = predicted.labels == c
        self.groups = TieGroups.of(self.scores, self.is_signal)
        self.rows: dict[str, list[Floats]] = {}
        self.points: dict[str, NDArray[np.intp]] = {}  # of the value: where on the curve a working point lies

    def add(self, weights: Floats) -> None:
        """Compute everything for a block of sets of weights, [rows, B]."""
        eps_s, eps_b = self.groups.efficiencies(weights)
        found = {
            "auc": trapezoid(eps_s, eps_b),
            "separation": separation(self.groups.thresholds, eps_s, eps_b),
        }
        if self.weights.min() < 0:
            eps_s, eps_b = nearest_monotone(eps_s), nearest_monotone(eps_b)
        found["eps_s"], loosest = x_to_y(BACKGROUND_POINTS, eps_b, eps_s, side="right")
        found["eps_b"], tightest = x_to_y(SIGNAL_POINTS, eps_s, eps_b, side="left")
        found["roc"], _ = x_to_y(ROC_GRID, eps_s, eps_b, side="left")
        # A replica in which negative weights prevail in a class has no efficiencies: NaN all along.
        for name, values in found.items():
            self.rows.setdefault(name, []).append(values)
        self.points.setdefault("eps_s", loosest[0])
        self.points.setdefault("eps_b", tightest[0])

    def auc(self) -> Floats:
        """Give the area and its replicas."""
        return np.concatenate(self.rows["auc"])

    def metrics(self) -> dict[str, Any]:
        """Give all figures of merit with their uncertainties."""
        eps_s, eps_b = np.concatenate(self.rows["eps_s"]), np.concatenate(self.rows["eps_b"])
        return {
            "auc": measured(self.auc()),
            "signal_efficiency": {
                f"at_background_{point:.2f}": {
                    **measured(eps_s[:, k]),
                    "cut": self._cut(self.points["eps_s"][k]),
                }
                for k, point in enumerate(BACKGROUND_POINTS)
            },
            "rejection": {
                f"at_signal_{point:.1f}": self._rejection(eps_b[:, k], self.points["eps_b"][k])
                for k, point in enumerate(SIGNAL_POINTS)
            },
            "separation": measured(np.concatenate(self.rows["separation"])),
            "roc": self._band(np.concatenate(self.rows["roc"])),
        }

    def _cut(self, point: np.intp) -> float | None:
        """Give the cut at a point of the curve; None where it is so tight that nothing passes."""
        return float(self.groups.thresholds[point]) if point > 0 else None

    def _rejection(self, eps_b: Floats, point: np.intp) -> dict[str, Any]:
        cut = self._cut(point)
        background = self.weights[~self.is_signal]
        passing = self.scores[~self.is_signal] >= self.groups.thresholds[point]
        left = {"background_events": int(passing.sum()), "cut": cut}
        if not eps_b[0] > 0:
            limit = 1.0 / efficiency_upper_limit(background, passing)
            reason = (
                "the weights of the background events that pass the cut sum to zero or less"
                if passing.any()
                else "no background event passes the cut"
            )
            return {"value": None, "error": None, "lower_limit": limit, "reason": reason, **left}
        value, spread = measured(eps_b).values()
        rejection = 1.0 / value
        # Replicas without any background would make the spread of 1/eps_b infinite; that of eps_b is not.
        error = None if spread is None else spread * rejection**2
        replicas = eps_b[1:][np.isfinite(eps_b[1:])]
        interval = None
        if len(replicas) > 1:
            high, low = (1.0 / q if q > 0 else None for q in np.quantile(replicas, _ONE_SIGMA).tolist())
            interval = [low, high]
        return {"value": rejection, "error": error, "interval_68": interval, **left}

    @staticmethod
    def _band(rows: Floats) -> dict[str, Any]:
        usable = rows[1:][np.isfinite(rows[1:]).all(axis=1)]
        low, high = np.quantile(usable, _ONE_SIGMA, axis=0) if len(usable) > 1 else (None, None)
        return {
            "signal_efficiency": ROC_GRID.tolist(),
            "background_efficiency": _short(rows[0]),
            "low": None if low is None else _short(low),
            "high": None if high is None else _short(high),
        }
