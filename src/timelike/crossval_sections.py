"""The section of a report on the folds of a cross validation, which says whether they are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from timelike.canvas import PALETTE, REST, drawing
from timelike.evaluate import BACKGROUND_POINTS
from timelike.report.page import Cell, Figure, Row, Section, Table
from timelike.report.typography import cell, count, measurement
from timelike.statistics import format_measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figures_of", "fold_section", "headline", "plot_folds"]

_OF_ALL = (
    "auc",
    "auc_macro",
    "separation",
    "accuracy",
    "subset_accuracy",
    "balanced_accuracy",
    "log_loss",
)
_OF_TARGETS = ("rmse", "mae", "bias", "resolution", "r2", "deviance")


def figures_of(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the figures of merit of a split that are compared over folds, each by a name of its own.

    Parameters
    ----------
    found : mapping
        Metrics of a split, of any task.

    Returns
    -------
    dict of str to mapping
        With ``value`` and ``error``: ``auc``, ``signal_efficiency_at_background_0.10``, ``auc_charm`` of a
        label, ``rmse_mass`` of a target, and so on.
    """
    figures = {key: found[key] for key in _OF_ALL if key in found}
    for group in ("signal_efficiency", "rejection"):
        figures |= {f"{group}_{point}": value for point, value in found.get(group, {}).items()}
    for name, one in found.get("labels", {}).items():
        figures[f"auc_{name}"] = one["auc"]
    for name, one in found.get("targets", {}).items():
        figures |= {f"{key}_{name}": one[key] for key in _OF_TARGETS if key in one}
    return figures


def headline(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Give the figure of merit that stands for all: its name in `figures_of`, and what it is called.

    Parameters
    ----------
    metrics : mapping
        As in ``crossval.json``.
    """
    return _shown(metrics)[0]


def _shown(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give the figures that are tabled, and what they are called."""
    if metrics["task"] == "regression":
        titles = {"rmse": "RMSE", "resolution": "Resolution"}
        return [
            (f"{key}_{name}", f"{title} of {name}")
            for name in metrics["targets"]
            for key, title in titles.items()
        ]
    if metrics["task"] == "multilabel":
        of_labels = [(f"auc_{name}", f"AUC of {name}") for name in metrics["labels"]]
        return [("auc_macro", "AUC, mean of labels"), ("accuracy", "Accuracy"), *of_labels]
    many = "auc_macro" in metrics["over_folds"]
    first = ("auc_macro", "AUC, mean of classes") if many else ("auc", "AUC")
    efficiencies = [
        (f"signal_efficiency_at_background_{p:.2f}", f"Signal efficiency at background {p:.2f}")
        for p in BACKGROUND_POINTS
    ]
    return [first, *efficiencies, ("log_loss", "Log loss")]


def fold_section(metrics: Mapping[str, Any]) -> Section:
    """Say how the folds of a cross validation compare.

    Parameters
    ----------
    metrics : mapping
        As in ``crossval.json``.
    """
    shown = _shown(metrics)
    drawn = [shown[0], shown[2 if metrics["task"] == "classes" else 1]]
    figures = tuple(
        Figure(f"folds_{k}", plot_folds(metrics, key, title), f"{title}, of each fold", caption)
        for k, ((key, title), caption) in enumerate(zip(drawn, _captions(metrics, drawn), strict=True))
    )
    rows = []
    for one in metrics["per_fold"]:
        own = figures_of(one)
        cells = [cell(own[key], 4 if key == shown[0][0] else 3) for key, _ in shown]
        cells += [Cell(count(one["events"])), Cell(str(one["best_epoch"]))]
        rows.append(Row(f"fold {one['fold']}", tuple(cells)))
    parts = (_spread(metrics, key).partition("\u00a0±\u00a0") for key, _ in shown)
    mean = tuple(Cell(value, f"±\u00a0{spread}" if spread else "") for value, _, spread in parts)
    rows.append(Row("mean", (*mean, Cell(""), Cell(""))))
    table = Table(("", *(title for _, title in shown), "events", "epoch kept"), tuple(rows))
    how = f"by {metrics['by']}" if metrics["by"] else "by a shuffle"
    return Section(
        "folds",
        "Folds",
        f"{metrics['folds']} networks, each trained without one fold ({how}). The standard deviation is not "
        "the uncertainty of the mean: any two of them share most of their training events.",
        figures,
        (table,),
    )


def _captions(metrics: Mapping[str, Any], drawn: list[tuple[str, str]]) -> tuple[str, str]:
    """Say what the two figures show."""
    (first, _), (second, title) = drawn
    scales = (
        "; where the networks score on different scales, it lies lower than the points"
        if metrics["task"] != "regression"
        else ""
    )
    if metrics["task"] == "classes":
        same = (
            "The same for the signal efficiency at a background of 0.10, each network with a cut of its own."
        )
    else:
        same = f"The same for another figure, {title}: {_spread(metrics, second)}."
    return (
        "Each point is a network on the fold that it has not seen, with its bootstrap uncertainty. The "
        f"band is mean and standard deviation of the points, {_spread(metrics, first)}: how much one "
        "training differs from another. The dashed line is of all events out of fold taken together, "
        f"{measurement(figures_of(metrics['out_of_fold'])[first], 4)}{scales}. "
        "A point far from the others is a fold whose events are not like the rest.",
        same,
    )


def _spread(metrics: Mapping[str, Any], key: str) -> str:
    over = metrics["over_folds"][key]
    return measurement({"value": over["mean"], "error": over["standard_deviation"]}, 4)


def plot_folds(metrics: Mapping[str, Any], key: str, title: str, *, ax: Axes | None = None) -> Axes:
    """Draw a metric of each fold with its uncertainty, mean and spread, and that of all scores together.

    Parameters
    ----------
    metrics : mapping
        As in ``crossval.json``.
    key : str
        Of the metric, as under ``over_folds``.
    title : str
        What the axis calls it.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    """
    found = [figures_of(one)[key] for one in metrics["per_fold"]]
    over, pooled = metrics["over_folds"][key], figures_of(metrics["out_of_fold"])[key]
    mean, spread = over["mean"], over["standard_deviation"]
    with drawing(ax) as ax:
        ax.axhspan(mean - spread, mean + spread, color=REST, alpha=0.3, linewidth=0)
        label = f"mean and spread  {format_measurement(mean, spread, digits=4)}"
        ax.axhline(mean, color=REST, linewidth=1.2, label=label)
        together = format_measurement(pooled["value"], pooled["error"], digits=4)
        ax.axhline(
            pooled["value"], color=PALETTE[1], linestyle="--", linewidth=1.2, label=f"together  {together}"
        )
        errors = [one["error"] or 0.0 for one in found]
        at, values = np.arange(len(found)), np.array([one["value"] for one in found])
        ax.errorbar(at, values, errors, fmt="o", color=PALETTE[0], label="fold left out", zorder=3)
        ax.set(xlabel="Fold", ylabel=title, xlim=(-0.6, len(found) - 0.4))
        ax.set_xticks(at, minor=False)
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
        ax.legend(loc="upper right")
    return ax
