"""From predictions to numbers: AUC, efficiencies, rejections, confusion, overtraining, with uncertainties.

`evaluate` makes the nested dictionary that becomes ``metrics.json``; `timelike.roc` and
`timelike.statistics` hold the parts, for use on their own. NumPy alone is needed, and event weights of
either sign are taken (scikit-learn's ROC refuses negative ones). How ties, negative weights and working
points are treated is said once, in `timelike.roc`.

What is in the dictionary
-------------------------
At the top: ``task`` ("classes"), ``unit`` ("event", or "step" where each step has a class), ``classes``,
``signal``, ``bootstrap``, ``overtraining`` and one entry per split, such as ``test``. Numbers with an
uncertainty are ``{"value": ..., "error": ...}``; the error is the standard deviation over bootstrap replicas,
None where fewer than two replicas could be used. In a split:

- ``auc``, ``signal_efficiency``, ``rejection``, ``separation``, ``roc``: signal against all other classes,
  by the probability of signal;
- ``accuracy``, ``balanced_accuracy`` (mean of the classes' own), ``log_loss``, ``confusion``: the most
  probable class against the true one;
- ``events``, ``rows`` (events, or their steps), ``sum_of_weights`` and, per class, ``classes``: how much
  there is, with effective numbers;
- with three classes or more, ``one_vs_rest`` (each class against all others) and ``auc_macro``, their mean.

``overtraining`` has the Kolmogorov-Smirnov probabilities of train against test (``ks_signal``,
``ks_background``, for each class under ``one_vs_rest``), the probability ``ks_level`` below which one of
them tells, the ``auc_difference`` (of ``auc_macro`` with three classes or more), and what follows: a
``status`` (none, gap, differ, overtrained) and a ``verdict`` in words. Of steps it is None: those of an event
are not independent, which the test takes them to be.

Nothing in it is NaN or infinite. A rejection of which no background is left has the value None, a
``lower_limit`` at 95 % confidence level, and a ``reason``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.errors import ConfigError, DataError, nearest
from timelike.overtraining import compare_classes
from timelike.predictions import Predictions, unit_of
from timelike.ranking import BACKGROUND_POINTS, ROC_GRID, SIGNAL_POINTS, Ranking, content, measured
from timelike.statistics import bootstrap_weights

__all__ = ["BACKGROUND_POINTS", "ROC_GRID", "SIGNAL_POINTS", "Predictions", "evaluate"]

Floats = NDArray[np.float64]

_RESERVED = ("task", "unit", "classes", "signal", "bootstrap", "overtraining")
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
        "task": "classes",
        "unit": unit_of(predictions),
        "classes": names,
        "signal": signal,
        "bootstrap": {"replicas": n_bootstrap, "seed": seed},
    }
    for split, predicted in predictions.items():
        # A split's own stream of draws: the same whichever other splits there are.
        stream = (seed, *split.encode())
        metrics[split] = _evaluate_split(predicted, names, names.index(signal), n_bootstrap, stream)
    if "train" in predictions and "test" in predictions and metrics["unit"] == "event":
        area = "auc" if len(names) == 2 else "auc_macro"
        areas = {split: metrics[split][area] for split in ("train", "test")}
        metrics["overtraining"] = compare_classes(predictions, areas, names, names.index(signal))
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


def _evaluate_split(
    predicted: Predictions, names: list[str], signal: int, n_bootstrap: int, seed: Sequence[int]
) -> dict[str, Any]:
    labels, weights = predicted.labels, predicted.weights
    ranked = range(len(names)) if len(names) > 2 else [signal]
    rankings = {c: Ranking(predicted, c) for c in ranked}
    decisions = _Decisions(predicted, len(names))
    for block in bootstrap_weights(weights, labels, n_bootstrap, seed, predicted.groups):
        for ranking in rankings.values():
            ranking.add(block)
        decisions.add(block)
    result: dict[str, Any] = {
        "events": len(labels) if predicted.groups is None else int(predicted.groups.max()) + 1,
        "rows": len(labels),
        "sum_of_weights": float(weights.sum()),
        "classes": {name: content(weights[labels == c]) for c, name in enumerate(names)},
        **rankings[signal].metrics(),
        **decisions.metrics(),
    }
    if len(names) > 2:
        result["auc_macro"] = measured(np.mean([r.auc() for r in rankings.values()], axis=0))
        result["one_vs_rest"] = {names[c]: ranking.metrics() for c, ranking in rankings.items()}
    return result


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
        return {name: measured(values) for name, values in rows.items()} | {"confusion": self._confusion()}

    def _confusion(self) -> dict[str, Any]:
        """Rows are true classes, columns decisions; fractions are of the true class."""
        shape = (self.n_classes, self.n_classes)
        cell = self.predicted.labels * self.n_classes + self.decided
        size = self.n_classes**2
        counts = np.bincount(cell, minlength=size).reshape(shape)
        weights = np.bincount(cell, weights=self.predicted.weights, minlength=size).reshape(shape)
        fractions = weights / weights.sum(axis=1, keepdims=True)
        return {"counts": counts.tolist(), "weights": weights.tolist(), "fractions": fractions.tolist()}
