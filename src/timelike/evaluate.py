"""From predictions to numbers: AUC, efficiencies, rejections, confusion, overtraining, with uncertainties.

`evaluate` makes the nested dictionary that becomes ``metrics.json``; `timelike.roc` and
`timelike.statistics` hold the parts, for use on their own. NumPy alone is needed, and event weights of
either sign are taken (scikit-learn's ROC refuses negative ones). How ties, negative weights and working
points are treated is said once, in `timelike.roc`.

What is in the dictionary
-------------------------
At the top: ``classes``, ``signal``, ``bootstrap``, ``overtraining`` and one entry per split, such as
``test``. Numbers with an uncertainty are ``{"value": ..., "error": ...}``; the error is the standard
deviation over bootstrap replicas, None where fewer than two replicas could be used. In a split:

- ``auc``, ``signal_efficiency``, ``rejection``, ``separation``, ``roc``: signal against all other classes,
  by the probability of signal;
- ``accuracy``, ``balanced_accuracy`` (mean of the classes' own), ``log_loss``, ``confusion``: the most
  probable class against the true one;
- ``events``, ``sum_of_weights`` and, per class, ``classes``: how much there is, with effective numbers;
- with three classes or more, ``one_vs_rest`` (each class against all others) and ``auc_macro``, their mean.

``overtraining`` has the Kolmogorov-Smirnov probabilities of train against test (``ks_signal``,
``ks_background``, for each class under ``one_vs_rest``), the probability ``ks_level`` below which one of
them tells, the ``auc_difference`` (of ``auc_macro`` with three classes or more), and what follows: a
``status`` (none, gap, differ, overtrained) and a ``verdict`` in words.

Nothing in it is NaN or infinite. A rejection of which no background is left has the value None, a
``lower_limit`` at 95 % confidence level, and a ``reason``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.errors import ConfigError, DataError, nearest
from timelike.predictions import Predictions
from timelike.roc import TieGroups, nearest_monotone, separation, trapezoid, x_to_y
from timelike.statistics import (
    CONFIDENCE_LEVEL,
    bootstrap_weights,
    effective_events,
    efficiency_upper_limit,
    ks_test,
)

__all__ = ["BACKGROUND_POINTS", "ROC_GRID", "SIGNAL_POINTS", "Predictions", "evaluate"]

Floats = NDArray[np.float64]

BACKGROUND_POINTS = (0.01, 0.10, 0.30)  # background efficiencies at which signal efficiencies are given
SIGNAL_POINTS = (0.3, 0.5, 0.7)  # signal efficiencies at which background rejections are given
ROC_GRID = np.arange(1, 101) / 100  # signal efficiencies at which the curve and its band are kept

_ONE_SIGMA = (0.15865525393145705, 0.8413447460685429)
_RESERVED = ("classes", "signal", "bootstrap", "overtraining")
_TINY = float(np.finfo(np.float64).tiny)


def evaluate(
    predictions: Mapping[str, Predictions],
    class_names: Sequence[str],
    *,
    signal: str,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute all metrics of all splits.

    Parameters
    ----------
    predictions : mapping of str to Predictions
        By split. With both "train" and "test", the two are compared for overtraining.
    class_names : sequence of str
        Names of the C classes, in order of the scores' columns.
    signal : str
        The class that efficiencies and rejections are about; all others are its background.
    n_bootstrap : int
        Number of bootstrap replicas for the uncertainties; 0 for none.
    seed : int
        Seed of the replicas.

    Returns
    -------
    dict
        Nested, of plain Python numbers, strings and lists: see the head of this module.

    Raises
    ------
    DataError
        If a split cannot be evaluated: shapes that disagree, a score that is no probability, a class
        without events or without a positive sum of weights.
    ConfigError
        If `signal` is not a class, or fewer than two classes, the same name twice, or a negative number
        of replicas is given.

    Examples
    --------
    >>> p = np.array([0.9, 0.8, 0.4, 0.3, 0.2, 0.1])
    >>> top = np.array([1, 1, 0, 1, 0, 0])
    >>> predicted = Predictions(np.stack([1 - p, p], axis=1), top, np.ones(6), np.arange(6))
    >>> metrics = evaluate({"test": predicted}, ["qcd", "top"], signal="top", n_bootstrap=0)
    >>> round(metrics["test"]["auc"]["value"], 4)
    0.8889
    >>> metrics["test"]["rejection"]["at_signal_0.5"]["reason"]
    'no background event passes the cut'
    """
    names = list(class_names)
    _check_arguments(predictions, names, signal, n_bootstrap)
    for split, predicted in predictions.items():
        predicted.check(names, split)
    metrics: dict[str, Any] = {
        "classes": names,
        "signal": signal,
        "bootstrap": {"replicas": n_bootstrap, "seed": seed},
    }
    for split, predicted in predictions.items():
        # A split's own stream of draws: the same whichever other splits there are.
        stream = (seed, *split.encode())
        metrics[split] = _evaluate_split(predicted, names, names.index(signal), n_bootstrap, stream)
    if "train" in predictions and "test" in predictions:
        metrics["overtraining"] = _overtraining(predictions, metrics, names.index(signal))
    else:
        metrics["overtraining"] = None
    return metrics


def _check_arguments(
    predictions: Mapping[str, Predictions], names: list[str], signal: str, n_bootstrap: int
) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"evaluation needs two or more different classes; given {names}")
    if signal not in names:
        raise ConfigError(f"signal: no class '{signal}'; {nearest(signal, names)}")
    if n_bootstrap < 0:
        raise ConfigError(f"number of bootstrap replicas: given {n_bootstrap}, 0 or more is possible")
    if not predictions:
        raise DataError("no split to evaluate")
    for split in predictions:
        if split in _RESERVED:
            raise ConfigError(f"a split cannot be called '{split}': that name is taken in metrics.json")


# Values and uncertainties: every quantity is an array [R] whose row 0 is the value, the rest replicas.


def _measured(rows: Floats) -> dict[str, Any]:
    """Turn a value and its replicas into JSON; replicas that could not be computed are NaN."""
    replicas = rows[1:][np.isfinite(rows[1:])]
    error = float(np.std(replicas, ddof=1)) if len(replicas) > 1 else None
    return {"value": float(rows[0]), "error": error}


def _short(curve: Floats) -> list[float]:
    """Keep six digits of a curve: enough to draw and to compare, a third of the file."""
    return [float(f"{number:.6g}") for number in curve]


def _evaluate_split(
    predicted: Predictions, names: list[str], signal: int, n_bootstrap: int, seed: Sequence[int]
) -> dict[str, Any]:
    labels, weights = predicted.labels, predicted.weights
    ranked = range(len(names)) if len(names) > 2 else [signal]
    rankings = {c: _Ranking(predicted, c) for c in ranked}
    decisions = _Decisions(predicted, len(names))
    for block in bootstrap_weights(weights, labels, n_bootstrap, seed):
        for ranking in rankings.values():
            ranking.add(block)
        decisions.add(block)
    result: dict[str, Any] = {
        "events": len(labels),
        "sum_of_weights": float(weights.sum()),
        "classes": {name: _content(weights[labels == c]) for c, name in enumerate(names)},
        **rankings[signal].metrics(),
        **decisions.metrics(),
    }
    if len(names) > 2:
        result["auc_macro"] = _measured(np.mean([r.auc() for r in rankings.values()], axis=0))
        result["one_vs_rest"] = {names[c]: ranking.metrics() for c, ranking in rankings.items()}
    return result


def _content(weights: Floats) -> dict[str, Any]:
    return {
        "events": len(weights),
        "negative_weights": int(np.sum(weights < 0)),
        "sum_of_weights": float(weights.sum()),
        "effective_events": effective_events(weights),
    }


class _Ranking:
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
        return np.concatenate(self.rows["auc"])

    def metrics(self) -> dict[str, Any]:
        eps_s, eps_b = np.concatenate(self.rows["eps_s"]), np.concatenate(self.rows["eps_b"])
        return {
            "auc": _measured(self.auc()),
            "signal_efficiency": {
                f"at_background_{point:.2f}": {
                    **_measured(eps_s[:, k]),
                    "cut": self._cut(self.points["eps_s"][k]),
                }
                for k, point in enumerate(BACKGROUND_POINTS)
            },
            "rejection": {
                f"at_signal_{point:.1f}": self._rejection(eps_b[:, k], self.points["eps_b"][k])
                for k, point in enumerate(SIGNAL_POINTS)
            },
            "separation": _measured(np.concatenate(self.rows["separation"])),
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
        measured = _measured(eps_b)
        rejection = 1.0 / measured["value"]
        # Replicas without any background would make the spread of 1/eps_b infinite; that of eps_b is not.
        error = None if measured["error"] is None else measured["error"] * rejection**2
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


class _Decisions:
    """The most probable class against the true one: gathers rows of replicas, then gives metrics."""

    def __init__(self, predicted: Predictions, n_classes: int) -> None:
        self.predicted = predicted
        self.n_classes = n_classes
        self.decided = predicted.scores.argmax(axis=1)  # of equal probabilities, the first class
        right = (self.decided == predicted.labels).astype(np.float64)
        own = np.take_along_axis(predicted.scores, predicted.labels[:, None], axis=1)[:, 0]
        # A probability that has underflown to zero counts as the smallest normal number: 708 nats.
        surprise = -np.log(np.maximum(own, _TINY))
        is_class = predicted.labels[:, None] == np.arange(n_classes)
        self.columns = np.column_stack([right, surprise, is_class, is_class * right[:, None]])  # [B, 2 + 2 C]
        self.sums: list[Floats] = []

    def add(self, weights: Floats) -> None:
        """Sum the columns with a block of sets of weights, [rows, B]."""
        self.sums.append(weights @ self.columns)

    def metrics(self) -> dict[str, Any]:
        sums = np.concatenate(self.sums)
        c = self.n_classes
        of_class, right_of_class = sums[:, 2 : 2 + c], sums[:, 2 + c :]
        total = of_class.sum(axis=1)
        usable = (of_class > 0).all(axis=1)
        rows = {
            "accuracy": sums[:, 0] / np.where(usable, total, np.nan),
            "balanced_accuracy": np.mean(right_of_class / np.where(of_class > 0, of_class, np.nan), axis=1),
            "log_loss": sums[:, 1] / np.where(usable, total, np.nan),
        }
        return {name: _measured(values) for name, values in rows.items()} | {"confusion": self._confusion()}

    def _confusion(self) -> dict[str, Any]:
        """Rows are true classes, columns decisions; fractions are of the true class."""
        shape = (self.n_classes, self.n_classes)
        cell = self.predicted.labels * self.n_classes + self.decided
        size = self.n_classes**2
        counts = np.bincount(cell, minlength=size).reshape(shape)
        weights = np.bincount(cell, weights=self.predicted.weights, minlength=size).reshape(shape)
        fractions = weights / weights.sum(axis=1, keepdims=True)
        return {"counts": counts.tolist(), "weights": weights.tolist(), "fractions": fractions.tolist()}


def _overtraining(
    predictions: Mapping[str, Predictions], metrics: Mapping[str, Any], signal: int
) -> dict[str, Any]:
    """Compare train with test: distributions of the classes' scores, and the areas."""
    names = metrics["classes"]
    area = "auc" if len(names) == 2 else "auc_macro"
    train, test = metrics["train"][area], metrics["test"][area]
    errors = (train["error"], test["error"])
    gap = train["value"] - test["value"]
    error = None if None in errors else math.hypot(*errors)
    result: dict[str, Any] = {"auc_difference": {"value": gap, "error": error}}
    result |= _compared(predictions, signal, "signal", "background")
    p_values = [result["ks_signal"], result["ks_background"]]
    if len(names) > 2:
        each = {name: _compared(predictions, c, "class", "rest") for c, name in enumerate(names)}
        p_values = [one[key] for one in each.values() for key in ("ks_class", "ks_rest")]
        result["one_vs_rest"] = each
    # Of k tests that all agree, the least probability is below 5 %/k in 5 % of cases.
    level = (1.0 - CONFIDENCE_LEVEL) / len(p_values)
    return result | {"ks_level": level} | _verdict(min(p_values) < level, gap, error)


def _compared(predictions: Mapping[str, Predictions], c: int, own: str, rest: str) -> dict[str, Any]:
    """Test the probability of class c in train against test, for events of the class and for all others."""
    result: dict[str, Any] = {}
    for kind, is_class in ((own, True), (rest, False)):
        samples: list[Floats] = []
        for split in ("train", "test"):
            predicted = predictions[split]
            members = (predicted.labels == c) == is_class
            samples += [predicted.scores[members, c], predicted.weights[members]]
        tested = ks_test(*samples)
        result[f"ks_{kind}"] = tested.p_value
        result[f"ks_distance_{kind}"] = tested.distance
        result[f"effective_{kind}"] = {"train": tested.n_effective[0], "test": tested.n_effective[1]}
    return result


def _verdict(differ: bool, gap: float, error: float | None) -> dict[str, Any]:
    """Say in a word and a sentence what the comparison means; a gap counts from two sigma on."""
    wider = error is not None and gap > 2.0 * error
    if differ and wider:
        return {
            "status": "overtrained",
            "verdict": "The network does better on the events it was trained on than on new ones: it has "
            "learnt some of them by heart. Trust the test figures alone.",
        }
    if wider:
        return {
            "status": "gap",
            "verdict": "The area is larger on the training events than on new ones, though the score "
            "distributions still agree: the onset of overtraining. Trust the test figures.",
        }
    if differ:
        return {
            "status": "differ",
            "verdict": "The score distributions of training and test events differ more than chance "
            "explains, without a gain in area: compare the two samples before blaming the network.",
        }
    return {
        "status": "none",
        "verdict": "No sign of overtraining: training and test events have the same score distributions "
        "within their statistical fluctuations.",
    }
