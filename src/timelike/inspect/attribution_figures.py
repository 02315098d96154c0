"""Figures of attributions: one event step by step, variables by class, what shuffling a variable costs.

In the style of `timelike.plots`: each is ``plot_x(what, ..., ax=None) -> ax``. Blue speaks for the target,
red against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.canvas import INK, OTHERS, PALETTE, class_colours, drawing, figure_of, plain
from timelike.errors import ConfigError, require
from timelike.inspect.attribution import Attribution, rows_of
from timelike.inspect.importance import PermutationImportance
from timelike.statistics import format_measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_permutation_importance", "plot_step_attributions", "plot_variable_attributions"]


def _score_name(attribution: Attribution) -> str:
    kind = "log odds" if attribution.of == "logit" and len(attribution.class_names) == 2 else attribution.of
    return f"{kind} of {plain(attribution.target)}"


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def plot_step_attributions(attribution: Attribution, event: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the attributions of one event: variables over steps, and their sum at each step above.

    Parameters
    ----------
    attribution : Attribution
        Of `timelike.inspect.integrated_gradients` or `timelike.inspect.gradient_times_input`.
    event : int
        Which event.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        That of the variables; above it, in the same place of the figure, are axes with the sums.

    Raises
    ------
    DataError
        If there is no such event.
    ConfigError
        If `ax` is not part of a grid of subplots.
    """
    colors, ticker = require("matplotlib.colors", "train"), require("matplotlib.ticker", "train")
    rows_of(attribution.offsets, event)
    values = attribution.at(event)  # [T, D]
    T, D = values.shape
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    towards = [(*colors.to_rgb(PALETTE[1]), 1.0), (*colors.to_rgb(PALETTE[1]), 0.0)]
    towards += [(*colors.to_rgb(PALETTE[0]), 0.0), (*colors.to_rgb(PALETTE[0]), 1.0)]
    # Transparent in the middle: the page behind is white or dark.
    shades = colors.LinearSegmentedColormap.from_list(
        "attribution", list(zip((0.0, 0.5, 0.5, 1.0), towards, strict=True)), N=65
    )
    own = ax is None
    with drawing(ax) as ax:
        if own:
            figure_of(ax).set_size_inches(9.6, 4.6)  # steps need width
        top = _axes_above(ax)
        edges = np.arange(T + 1) + 0.5
        mesh = ax.pcolormesh(
            edges, np.arange(D + 1), values.T, cmap=shades, vmin=-largest, vmax=largest, linewidth=0
        )
        ax.set(xlim=(0.5, max(T, 1) + 0.5), ylim=(D, 0))
        ax.set_yticks(np.arange(D) + 0.5, [plain(name) for name in attribution.names])
        ax.tick_params(axis="y", which="both", length=0)
        ax.tick_params(axis="x", which="both", top=False, direction="out")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        ax.minorticks_off()
        ax.set_xlabel("Step, in the order of reading")
        top.sharex(ax)
        _signed_bars(top, values.sum(axis=1))
        top.set_title(_balance(attribution, event), fontsize="small", loc="left")
        bar = figure_of(ax).colorbar(mesh, ax=[top, ax], pad=0.02, aspect=30)
        bar.set_label(f"Attribution to the {_score_name(attribution)}")
        bar.ax.minorticks_off()
        bar.outline.set_linewidth(0.8)
    return ax


def _axes_above(ax: Axes) -> Axes:
    """Make axes in the upper part of the place of others, which keep the lower part."""
    place = ax.get_subplotspec()
    if place is None:
        raise ConfigError("steps are drawn into axes of a subplot: these were put somewhere by hand")
    parts = place.subgridspec(2, 1, height_ratios=(2, 5), hspace=0.04)
    ax.set_subplotspec(parts[1])
    above: Axes = figure_of(ax).add_subplot(parts[0])
    return above


def _signed_bars(ax: Axes, sums: npt.NDArray[np.float64]) -> None:
    colours = [PALETTE[0] if value >= 0 else PALETTE[1] for value in sums]
    ax.bar(np.arange(1, len(sums) + 1), sums, width=0.8, color=colours)
    ax.axhline(0.0, color=INK, linewidth=0.8)
    ax.tick_params(axis="x", which="both", labelbottom=False, top=False, bottom=False)
    ax.minorticks_off()
    ax.margins(y=0.12)
    ax.set_ylabel("Sum", loc="center")


def _balance(attribution: Attribution, event: int) -> str:
    score, start = float(attribution.score[event]), float(attribution.baseline_score[event])
    total = float(attribution.at(event).sum())
    sign = "+" if total >= 0 else "-"
    error = float(attribution.completeness_error[event])
    text = f"baseline {start:.3f} {sign} {abs(total):.3f} = {start + total:.3f},  score {score:.3f},  "
    return _minus(text + f"completeness error {error:.1g}")


def plot_variable_attributions(
    attribution: Attribution,
    labels: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the attributions of the variables, averaged over the events of each class.

    A bar is the mean of the signed sum over the steps, with its standard error. A tick marks the mean of the
    absolute value: far outside the bar where a variable speaks now for the target and now against it.

    Parameters
    ----------
    attribution : Attribution
    labels, weights : array_like, shape (B,), optional
        As `Attribution.averages` takes them.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        As `Attribution.averages`.
    """
    found = attribution.averages(labels, weights)
    order = np.argsort(-found.magnitude.mean(axis=0), kind="stable")
    C, D = found.mean.shape
    known = class_colours(attribution.class_names, attribution.target)
    # The target first, as everywhere.
    shown = sorted(range(C), key=lambda c: found.class_names[c] != attribution.target)
    with drawing(ax) as ax:
        height = 0.8 / C
        for k, c in enumerate(shown):
            name = found.class_names[c]
            colour = known.get(name, OTHERS)
            at = np.arange(D) + (k - (C - 1) / 2) * height
            ax.barh(at, found.mean[c, order], height, color=colour, label=plain(name))
            _whiskers(ax, found.mean[c, order], at, found.error[c, order])
            size = found.magnitude[c, order]
            ax.plot(
                np.copysign(size, found.mean[c, order]),
                at,
                "|",
                color=colour,
                markersize=0.5 * 180 * height / max(D, 1) + 4,
                markeredgewidth=2.0,
                label="mean of absolute values" if k == C - 1 else None,
            )
        ax.axvline(0.0, color=INK, linewidth=0.8)
        _variables(ax, [attribution.names[d] for d in order])
        ax.set_xlabel(f"Mean attribution to the {_score_name(attribution)}")
        _legend_above(ax)
    return ax


def plot_permutation_importance(importance: PermutationImportance, ax: Axes | None = None) -> Axes:
    """Draw the loss of AUC, or the rise of the log loss, for each shuffled variable.

    Bars are means over the shuffles, with their statistical uncertainty; dots are the single shuffles.

    Parameters
    ----------
    importance : PermutationImportance
        Of `timelike.inspect.permutation_importance`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    order, mean = importance.order, importance.importance
    D, R = importance.repeats.shape
    at = np.arange(D, dtype=np.float64)
    with drawing(ax) as ax:
        ax.barh(at, mean[order], 0.56, color=PALETTE[0], label=f"mean of {R}" if R > 1 else "one shuffle")
        if R > 1:
            ax.plot(
                importance.repeats[order].ravel(),
                np.repeat(at + 0.4, R),
                "o",
                color=OTHERS,
                markersize=3.5,
                markeredgewidth=0,
                label="single shuffles",
            )
        if importance.error is not None:
            error = importance.error[order]
            _whiskers(ax, mean[order], at, error, label="statistical uncertainty")
        ax.axvline(0.0, color=INK, linewidth=0.8)
        _variables(ax, [importance.names[d] for d in order])
        whole = _minus(format_measurement(importance.reference, importance.reference_error))
        kind = "Loss of AUC" if importance.metric == "auc" else "Rise of the log loss"
        short = "AUC" if importance.metric == "auc" else "log loss"
        ax.set_xlabel(f"{kind} when shuffled ({short} {whole} as it is)")
        _legend_above(ax)
    return ax


def _whiskers(ax: Axes, x: Any, y: Any, error: Any, label: str | None = None) -> None:
    ax.errorbar(x, y, xerr=error, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5, label=label, zorder=3)


def _legend_above(ax: Axes) -> None:
    """Put the legend outside: bars may be anywhere."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize="small", columnspacing=1.2)


def _variables(ax: Axes, names: list[str]) -> None:
    """Put a name to each line, the first on top."""
    ax.set_yticks(np.arange(len(names)), [plain(name) for name in names])
    ax.tick_params(axis="y", which="both", length=0)
    ax.tick_params(axis="x", which="both", top=False)
    ax.minorticks_off()
    ax.set_ylim(len(names) - 0.4, -0.6)
