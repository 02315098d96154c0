"""Judging labels of which any number may hold: each against its absence, with uncertainties.

`evaluate_multilabel` makes the nested dictionary that becomes ``metrics.json``, as `timelike.evaluate` does
for classes. At the top: ``task`` ("multilabel"), ``unit``, ``all_labels``, ``labels`` (those that have
figures), ``left_out`` (those that hold for all or for none in a split, which has no area of them then),
``bootstrap``, ``overtraining`` and one entry per split, such as ``test``. In a split:

- ``events``, ``sum_of_weights``, ``auc_macro`` (the mean of the labels' areas);
- ``accuracy``, the share of right decisions (probability above 1/2) over all labels, and
  ``subset_accuracy``, the share of events in which all labels are right;
- ``labels``: for each what `timelike.evaluate` gives of a signal (``auc``, ``signal_efficiency``,
  ``rejection``, ``separation``, ``roc``), how often it holds (``prevalence``), and of the decisions
  ``precision``, ``recall`` and ``f1``; None where nothing was decided so.

``overtraining`` is as in `timelike.evaluate`, of each label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.errors import ConfigError, DataError
from timelike.overtraining import compare_labels
from timelike.predictions import Estimates, Predictions, unit_of
from timelike.ranking import Ranking, measured
from timelike.statistics import bootstrap_weights

__all__ = ["evaluate_multilabel", "of_label"]

Floats = NDArray[np.float64]


def evaluate_multilabel(
    estimates: Mapping[str, Estimates], names: Sequence[str], *, n_bootstrap: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Compute all metrics of all splits.

    Parameters
    ----------
    estimates : mapping of str to Estimates
        By split: probabilities of the labels, and which hold.
    names : sequence of str
        Of the labels.
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
        If a split cannot be evaluated: each label always holds, or never, or weights do not sum to more
        than 0.
    ConfigError
        If a negative number of replicas is given.

    Examples
    --------
    >>> p = np.array([[0.9, 0.2], [0.2, 0.8], [0.6, 0.7]])
    >>> holds = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> found = Estimates(p, holds, np.ones(3), np.arange(3))
    >>> metrics = evaluate_multilabel({"test": found}, ["charm", "beauty"], n_bootstrap=0)
    >>> metrics["test"]["auc_macro"]["value"], metrics["test"]["subset_accuracy"]["value"]
    (1.0, 1.0)
    """
    if n_bootstrap < 0:
        raise ConfigError(f"number of bootstrap replicas: given {n_bootstrap}, 0 or more is possible")
    if not estimates:
        raise DataError("no split to evaluate")
    for split, found in estimates.items():
        found.check(names, split)
    told = {
        name: k
        for k, name in enumerate(names)
        if all(len(np.unique(found.targets[:, k])) == 2 for found in estimates.values())
    }
    if not told:
        raise DataError(
            f"each label holds for every row of {' or '.join(estimates)}, or for none; an area needs some "
            "where it holds and some where it does not"
        )
    for split, found in estimates.items():
        for name, k in told.items():
            of_label(found, k).check((f"not {name}", name), split)
    metrics: dict[str, Any] = {
        "task": "multilabel",
        "unit": unit_of(estimates),
        "all_labels": list(names),
        "labels": list(told),
        "left_out": [name for name in names if name not in told],
        "bootstrap": {"replicas": n_bootstrap, "seed": seed},
    }
    for split, found in estimates.items():
        metrics[split] = _evaluate_split(found, told, n_bootstrap, (seed, *split.encode()))
    metrics["overtraining"] = None
    if "train" in estimates and "test" in estimates and metrics["unit"] == "event":
        both = {split: estimates[split] for split in ("train", "test")}
        by_label = {
            name: {split: of_label(found, k) for split, found in both.items()} for name, k in told.items()
        }
        metrics["overtraining"] = compare_labels(
            by_label, {split: metrics[split]["auc_macro"] for split in both}
        )
    return metrics


def of_label(found: Estimates, k: int) -> Predictions:
    """Take one label as a task of two classes: 0 where it does not hold, 1 where it does."""
    p = found.values[:, k]
    return Predictions(
        np.stack([1.0 - p, p], axis=1),
        found.targets[:, k].astype(np.int64),
        found.weights,
        found.events,
        found.groups,
    )


def _evaluate_split(
    found: Estimates, told: Mapping[str, int], n_bootstrap: int, seed: Sequence[int]
) -> dict[str, Any]:
    rankings = [Ranking(of_label(found, k), 1) for k in told.values()]
    holds, said = found.targets == 1, found.values > 0.5
    right = holds == said
    columns = np.column_stack(
        [np.ones(len(holds)), right.mean(axis=1), right.all(axis=1), holds, said, holds & said]
    )
    parts = []
    for block in bootstrap_weights(found.weights, None, n_bootstrap, seed, found.groups):
        for ranking in rankings:
            ranking.add(block)
        parts.append(block @ columns)
    sums = np.concatenate(parts)
    n = holds.shape[1]
    total = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    of_holds, of_said, of_both = sums[:, 3 : 3 + n], sums[:, 3 + n : 3 + 2 * n], sums[:, 3 + 2 * n :]
    labels = {}
    for (name, k), ranking in zip(told.items(), rankings, strict=True):
        labels[name] = {
            **ranking.metrics(),
            "prevalence": measured(of_holds[:, k] / total),
            "precision": _ratio(of_both[:, k], of_said[:, k]),
            "recall": _ratio(of_both[:, k], of_holds[:, k]),
            "f1": _ratio(2 * of_both[:, k], of_said[:, k] + of_holds[:, k]),
        }
    return {
        "events": len(holds) if found.groups is None else int(found.groups.max()) + 1,
        "rows": len(holds),
        "sum_of_weights": float(found.weights.sum()),
        "auc_macro": measured(np.mean([ranking.auc() for ranking in rankings], axis=0)),
        "accuracy": measured(sums[:, 1] / total),
        "subset_accuracy": measured(sums[:, 2] / total),
        "labels": labels,
    }


def _ratio(part: Floats, whole: Floats) -> dict[str, Any]:
    ratio = part / np.where(whole > 0, whole, np.nan)
    return measured(ratio) if np.isfinite(ratio[0]) else {"value": None, "error": None}
