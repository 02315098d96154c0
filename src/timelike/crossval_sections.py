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

__all__ = ["fold_section", "plot_folds"]


def fold_section(metrics: Mapping[str, Any]) -> Section:
    """Say how the folds of a cross validation compare.

    Parameters
    ----------
    metrics : mapping
        As in ``crossval.json``.
    """
    key = "auc_macro" if "auc_macro" in metrics["over_folds"] else "auc"
    title = "AUC, mean of classes" if key == "auc_macro" else "AUC"
    efficiencies = {f"signal_efficiency_at_background_{p:.2f}": f"{p:.2f}" for p in BACKGROUND_POINTS}
    pooled = metrics["out_of_fold"][key]
    captions = {
        key: "Each point is a network on the fold that it has not seen, with its bootstrap uncertainty. The "
        f"band is mean and standard deviation of the points, {_spread(metrics, key)}: how much one training "
        "differs from another. The dashed line is of all out-of-fold scores taken together, "
        f"{measurement(pooled, 4)}; where the networks score on different scales, it lies lower than the "
        "points. A point far from the others is a fold whose events are not like the rest.",
        "signal_efficiency_at_background_0.10": "The same for the signal efficiency at a background of 0.10, "
        "each network with a cut of its own.",
    }
    figures = tuple(
        Figure(
            f"folds_{k}",
            plot_folds(metrics, name, title if name == key else "Signal efficiency at background 0.10"),
            f"{title if name == key else 'Signal efficiency'} of each fold",
            caption,
        )
        for k, (name, caption) in enumerate(captions.items())
    )
    rows = []
    for one in metrics["per_fold"]:
        cells = [cell(one[key], 4), *(cell(_picked(one, name)) for name in efficiencies)]
        cells += [cell(one["log_loss"]), Cell(count(one["events"])), Cell(str(one["best_epoch"]))]
        rows.append(Row(f"fold {one['fold']}", tuple(cells)))
    over = [_spread(metrics, name) for name in (key, *efficiencies, "log_loss")]
    parts = (text.partition("\u00a0±\u00a0") for text in over)
    mean = tuple(Cell(value, f"±\u00a0{spread}" if spread else "") for value, _, spread in parts)
    rows.append(Row("mean", (*mean, Cell(""), Cell(""))))
    effs = (f"efficiency at background {point}" for point in efficiencies.values())
    table = Table(("", title, *effs, "log loss", "events", "epoch kept"), tuple(rows))
    how = f"by {metrics['by']}" if metrics["by"] else "by a shuffle of each class"
    return Section(
        "folds",
        "Folds",
        f"{metrics['folds']} networks, each trained without one fold ({how}). The standard deviation is not "
        "the uncertainty of the mean: any two of them share most of their training events.",
        figures,
        (table,),
    )


def _spread(metrics: Mapping[str, Any], key: str) -> str:
    over = metrics["over_folds"][key]
    return measurement({"value": over["mean"], "error": over["standard_deviation"]}, 4)


def _picked(metrics: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Find a metric by its name among those over folds."""
    group, _, point = key.partition("_at_")
    found: Mapping[str, Any] = metrics[group][f"at_{point}"] if point else metrics[key]
    return found


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
    found = [_picked(one, key) for one in metrics["per_fold"]]
    over, pooled = metrics["over_folds"][key], _picked(metrics["out_of_fold"], key)
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
