"""Comparing train with test: whether scores of events that a network knows have another distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.predictions import Predictions
from timelike.statistics import CONFIDENCE_LEVEL, ks_test

__all__ = ["compare_classes", "compare_labels"]

Floats = NDArray[np.float64]
Splits = Mapping[str, Predictions]  # "train" and "test"
Measured = Mapping[str, Any]  # {"value": ..., "error": ...}


def compare_classes(
    splits: Splits, areas: Mapping[str, Measured], names: list[str], signal: int
) -> dict[str, Any]:
    """Compare the distributions of the classes' scores, and the areas.

    Parameters
    ----------
    splits : mapping of str to Predictions
    areas : mapping of str to mapping
        Area of each of the two, with its error; with three classes or more the mean of their areas.
    names : list of str
        Of the classes.
    signal : int
        Index of the signal.

    Returns
    -------
    dict
        ``overtraining`` of `timelike.evaluate`.
    """
    found = _compared(splits, signal, "signal", "background")
    if len(names) == 2:
        return _judged(found, [found["ks_signal"], found["ks_background"]], areas)
    each = {name: _compared(splits, c, "class", "rest") for c, name in enumerate(names)}
    return _judged(found | {"one_vs_rest": each}, _p_values(each), areas)


def compare_labels(labels: Mapping[str, Splits], areas: Mapping[str, Measured]) -> dict[str, Any]:
    """Compare the distributions of the scores of labels of which any number may hold, and the areas.

    Parameters
    ----------
    labels : mapping of str to (mapping of str to Predictions)
        For each label its two splits, with class 1 where it holds.
    areas : mapping of str to mapping
        Mean of the labels' areas of each of the two, with its error.
    """
    each = {name: _compared(splits, 1, "class", "rest") for name, splits in labels.items()}
    return _judged({"one_vs_rest": each}, _p_values(each), areas)


def _p_values(each: Mapping[str, Mapping[str, Any]]) -> list[float]:
    return [one[key] for one in each.values() for key in ("ks_class", "ks_rest")]


def _judged(found: dict[str, Any], p_values: list[float], areas: Mapping[str, Measured]) -> dict[str, Any]:
    gap = areas["train"]["value"] - areas["test"]["value"]
    errors = [areas[split]["error"] for split in ("train", "test")]
    error = None if None in errors else math.hypot(*errors)
    # Of k tests that all agree, the least probability is below 5 %/k in 5 % of cases.
    level = (1.0 - CONFIDENCE_LEVEL) / len(p_values)
    difference = {"auc_difference": {"value": gap, "error": error}}
    return difference | found | {"ks_level": level} | _verdict(min(p_values) < level, gap, error)


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
