"""Figures of a regression: predictions over targets, residuals, bias and resolution, coverage.

As in `timelike.plots`, every function is ``plot_x(what, ..., ax=None) -> ax``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from timelike.canvas import INK, PALETTE, REST, drawing, plain
from timelike.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_coverage", "plot_profile", "plot_residuals", "plot_response"]

Floats = NDArray[np.float64]

_BINS = 40
_SHOWN = (0.005, 0.995)  # quantiles of what is drawn: outliers would leave no room for the rest


def plot_response(
    targets: Floats, predicted: Floats, weights: Floats, *, name: str = "target", ax: Axes | None = None
) -> Axes:
    """Draw how often which prediction was made for which target; the diagonal is right.

    Parameters
    ----------
    targets, predicted, weights : ndarray, shape [B]
    name : str
        Of the target.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    colours = require("matplotlib.colors", "train")
    low, high = _range(np.concatenate([targets, predicted]))
    edges = np.linspace(low, high, _BINS + 1)
    filled, _, _ = np.histogram2d(targets, predicted, bins=(edges, edges), weights=weights)
    shades = colours.LinearSegmentedColormap.from_list("response", ["#dbe9f6", PALETTE[0], "#0b3d66"])
    with drawing(ax) as ax:
        seen = np.ma.masked_less_equal(filled.T, 0.0)
        ax.pcolormesh(edges, edges, seen, cmap=shades, rasterized=True)
        ax.plot([low, high], [low, high], color=INK, linewidth=1.0, linestyle="--", label="right")
        ax.set(xlim=(low, high), ylim=(low, high))
        ax.set_xlabel(f"True {plain(name)}")
        ax.set_ylabel(f"Predicted {plain(name)}")
        ax.legend(loc="upper left")
    return ax


def plot_residuals(
    residuals: Mapping[str, tuple[Floats, Floats]], *, name: str = "target", ax: Axes | None = None
) -> Axes:
    """Draw the distribution of predicted less true, of one split over that of another.

    Parameters
    ----------
    residuals : mapping of str to (ndarray [B], ndarray [B])
        By split: the residuals and their weights. "train" is filled, others are points.
    name : str
        Of the target.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    low, high = _range(np.concatenate([values for values, _ in residuals.values()]))
    edges = np.linspace(low, high, _BINS + 1)
    width, middles = edges[1] - edges[0], (edges[1:] + edges[:-1]) / 2
    with drawing(ax) as ax:
        for split, (values, weights) in residuals.items():
            scale = 1.0 / (weights.sum() * width)
            filled, _ = np.histogram(values, edges, weights=weights)
            if split == "train":
                ax.stairs(filled * scale, edges, fill=True, color=(PALETTE[0], 0.3), label=split)
                continue
            squares, _ = np.histogram(values, edges, weights=weights**2)
            errors = np.sqrt(squares) * scale
            ax.errorbar(
                middles,
                filled * scale,
                errors,
                fmt="o",
                color=INK,
                markersize=3.5,
                linewidth=1.0,
                label=split,
            )
        ax.axvline(0.0, color=REST, linewidth=1.0, linestyle="--", zorder=0)
        ax.set(xlim=(low, high))
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel(f"Predicted − true {plain(name)}")
        ax.set_ylabel("Density")
        ax.legend(loc="upper right")
    return ax


def plot_profile(
    targets: Floats,
    predicted: Floats,
    weights: Floats,
    *,
    name: str = "target",
    bins: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Draw bias and resolution over the true value, in bins of equal numbers of rows.

    Points are the medians of predicted less true with bars over the middle 68 %: where the points leave 0
    the prediction is drawn to the mean, where the bars are long the network does not know.

    Parameters
    ----------
    targets, predicted, weights : ndarray, shape [B]
        Of the weights, the sign counts: rows of negative weight are left out.
    name : str
        Of the target.
    bins : int
        At most so many.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    used = weights > 0
    t, d, w = targets[used], (predicted - targets)[used], weights[used]
    edges = np.unique(np.quantile(t, np.linspace(0, 1, bins + 1)))
    # Of counts most edges fall on the same numbers: then a bin each.
    place = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, max(len(edges) - 2, 0))
    points = []
    for k in np.unique(place):
        members = place == k
        middle, low, high = (_weighted_quantile(d[members], w[members], q) for q in (0.5, 0.1587, 0.8413))
        points.append((np.average(t[members], weights=w[members]), middle, middle - low, high - middle))
    at, middle, below, above = np.array(points).T
    with drawing(ax) as ax:
        ax.axhline(0.0, color=REST, linewidth=1.0, linestyle="--", zorder=0)
        ax.errorbar(
            at,
            middle,
            [below, above],
            fmt="o",
            color=PALETTE[0],
            markersize=5,
            capsize=2,
            label="median, 68 %",
        )
        ax.set_xlabel(f"True {plain(name)}")
        ax.set_ylabel(f"Predicted − true {plain(name)}")
        ax.legend(loc="upper right")
    return ax


def plot_coverage(quantiles: Mapping[str, Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Draw the share of targets below each quantile over the share that there is to be.

    Parameters
    ----------
    quantiles : mapping
        ``metrics["test"]["targets"][name]["quantiles"]``.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    wanted = [float(q) for q in quantiles]
    found = [one["coverage"]["value"] for one in quantiles.values()]
    errors = [one["coverage"]["error"] or 0.0 for one in quantiles.values()]
    with drawing(ax) as ax:
        ax.plot([0, 1], [0, 1], color=REST, linewidth=1.0, linestyle="--", label="as it is to be")
        ax.errorbar(wanted, found, errors, fmt="o", color=PALETTE[0], markersize=6, capsize=2, label="found")
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.set_xlabel("Quantile")
        ax.set_ylabel("Share of targets below")
        ax.legend(loc="upper left")
    return ax


def _range(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, _SHOWN)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, share * running[-1])])
