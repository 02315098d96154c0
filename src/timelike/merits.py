"""What one wants to know first of an evaluation, in lines: test beside train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timelike.statistics import format_measurement

__all__ = ["lines_of_merit"]


def lines_of_merit(metrics: Mapping[str, Any]) -> list[str]:
    """Give the lines that ``timelike evaluate`` shows.

    Parameters
    ----------
    metrics : mapping
        As in ``metrics.json``, of any task.
    """
    return {"classes": _of_classes, "multilabel": _of_labels, "regression": _of_numbers}[metrics["task"]](
        metrics
    )


def _of_classes(metrics: Mapping[str, Any]) -> list[str]:
    test, train = metrics["test"], metrics["train"]
    areas = {"AUC": "auc"}
    if "auc_macro" in test:  # of more classes than two; what follows is about one of them
        areas = {"AUC, mean of classes": "auc_macro", f"AUC of {metrics['signal']} against the rest": "auc"}
    lines = [f"{name} {_with_error(test[k])} (train {_with_error(train[k])})" for name, k in areas.items()]
    if "auc_macro" in test:
        lines.append(f"accuracy {_with_error(test['accuracy'])} (train {_with_error(train['accuracy'])})")
    for key in test["signal_efficiency"]:
        at = key.rpartition("_")[2]
        here, there = test["signal_efficiency"][key], train["signal_efficiency"][key]
        lines.append(
            f"signal efficiency at background {at}: {_with_error(here)} (train {_with_error(there)})"
        )
    for key in test["rejection"]:
        at = key.rpartition("_")[2]
        lines.append(f"background rejection at signal {at}: {_with_error(test['rejection'][key])}")
    return lines


def _of_labels(metrics: Mapping[str, Any]) -> list[str]:
    test, train = metrics["test"], metrics["train"]
    shown = {
        "AUC, mean of labels": "auc_macro",
        "accuracy": "accuracy",
        "all labels right": "subset_accuracy",
    }
    lines = [f"{name} {_with_error(test[k])} (train {_with_error(train[k])})" for name, k in shown.items()]
    for name, one in test["labels"].items():
        there = train["labels"][name]["auc"]
        lines.append(f"AUC of {name} {_with_error(one['auc'])} (train {_with_error(there)})")
    if left_out := metrics["left_out"]:
        lines.append(f"without {', '.join(left_out)}, of which train or test has none, or nothing else")
    return lines


def _of_numbers(metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, one in metrics["test"]["targets"].items():
        there = metrics["train"]["targets"][name]["rmse"]
        line = f"{name}: RMSE {_with_error(one['rmse'])} (train {_with_error(there)})"
        for key in ("resolution", "bias", "r2"):
            if one[key]["value"] is not None:
                line += f", {'R2' if key == 'r2' else key} {_with_error(one[key])}"
        if "deviance" in one:
            line += f", Poisson deviance {_with_error(one['deviance'])}"
        if "interval" in one:
            inside = one["interval"]
            line += f", {_with_error(inside['coverage'])} in the {inside['nominal']:.0%} interval"
        lines.append(line)
    return lines


def _with_error(number: Mapping[str, Any]) -> str:
    value, error = number["value"], number["error"]
    if value is None and "lower_limit" in number:
        return f"more than {format_measurement(number['lower_limit'])}"
    return format_measurement(value, error)
