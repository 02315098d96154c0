"""Figures of a training and its evaluation, in the field's style.

Every function is ``plot_x(what, ..., ax=None) -> ax``. Without `ax` it makes a figure of its own in
mplhep's ROOT style (``ax.figure``); with `ax` it draws into that one and leaves its style alone, so that
curves of several trainings can be overlaid and figures composed. `timelike.canvas.render` turns a figure
into a file.

Colours belong to classes, not to figures: `class_colours` gives the signal the blue, the background the
red, and further classes their own, from a palette that the colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from timelike.canvas import INK, OTHERS, PALETTE, REST, class_colours, drawing, plain
from timelike.errors import require
from timelike.predictions import Predictions
from timelike.roc import Roc
from timelike.statistics import format_measurement, format_probability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "best_epoch",
    "plot_auc",
    "plot_confusion",
    "plot_cut",
    "plot_loss",
    "plot_overtraining",
    "plot_roc",
]

SCORE_BINS = 40


# ROC


def plot_roc(
    roc: Roc,
    measured: Mapping[str, Any] | None = None,
    *,
    label: str = "",
    colour: str = PALETTE[0],
    linestyle: Any = "-",
    signal: str = "signal",
    points: Sequence[float] = (),
    band: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw background rejection, 1 / background efficiency, over signal efficiency.

    Up and to the right is better. The curve begins where the first background event passes. Called again
    with the same `ax`, it adds a curve.

    Parameters
    ----------
    roc : Roc
        The curve.
    measured : mapping, optional
        Metrics of the same events, ``metrics["test"]`` or ``metrics["test"]["one_vs_rest"][name]``: gives
        the band of one standard deviation and the uncertainty of the area.
    label : str
        What the curve is of; stands before the area in the legend.
    colour, linestyle : str
        Of the curve.
    signal : str
        Name of the signal, for the axis.
    points : sequence of float
        Signal efficiencies to mark on the curve.
    band : bool
        Whether to draw the band, where `measured` has one.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    shown = roc.background_efficiency > 0
    eps_s, rejection = roc.signal_efficiency[shown], 1 / roc.background_efficiency[shown]
    with drawing(ax) as ax:
        if not ax.lines:
            guess = np.geomspace(1e-3, 1.0, 200)
            ax.plot(
                guess, 1 / guess, color=REST, linewidth=1.2, linestyle=(0, (1, 1.5)), label="random guess"
            )
            # Made for the first curve: one of another sample, with fewer or more events, starts elsewhere.
            ax.set(xlim=(0, 1), ylim=(1, max(10.0, 4.0 * rejection.max(initial=1.0))), yscale="log")
            ax.set_xlabel(
                f"Signal efficiency ({plain(signal)})" if signal != "signal" else "Signal efficiency"
            )
            ax.set_ylabel("Background rejection, 1 / background efficiency")
        area = format_measurement(roc.auc, measured["auc"]["error"] if measured else None, digits=4)
        name = f"{plain(label)}  AUC {area}" if label else f"AUC {area}"
        ax.plot(eps_s, rejection, color=colour, linestyle=linestyle, label=name, zorder=3)
        if band and measured is not None and measured["roc"]["low"] is not None:
            _band(ax, measured["roc"], colour)
        if len(points):
            at = roc.background_efficiency_at(points)
            seen = at > 0
            ax.plot(np.asarray(points)[seen], 1 / at[seen], "o", color=colour, markersize=6, zorder=4)
        ax.legend(loc="upper right")
    return ax


def _band(ax: Axes, curve: Mapping[str, Any], colour: str) -> None:
    low, high = np.asarray(curve["low"]), np.asarray(curve["high"])
    top = 1e12  # where replicas have no background left, the band goes beyond the figure
    upper = np.divide(1.0, low, out=np.full_like(low, top), where=low > 0)
    lower = np.divide(1.0, high, out=np.full_like(high, top), where=high > 0)
    seen = high > 0
    ax.fill_between(
        np.asarray(curve["signal_efficiency"])[seen],
        lower[seen],
        upper[seen],
        color=colour,
        alpha=0.22,
        linewidth=0,
    )


# Overtraining


def _histogram(
    scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give density and its uncertainty in equal bins of [0, 1], for weights of either sign."""
    bins = np.minimum((scores * SCORE_BINS).astype(np.intp), SCORE_BINS - 1)
    content = np.bincount(bins, weights=weights, minlength=SCORE_BINS)
    variance = np.bincount(bins, weights=weights**2, minlength=SCORE_BINS)
    scale = SCORE_BINS / weights.sum()
    return content * scale, np.sqrt(variance) * scale


def _ks(p: float) -> str:
    text = format_probability(p)
    return f"KS p {text}" if text.startswith("<") else f"KS p = {text}"


def plot_overtraining(
    train: Predictions,
    test: Predictions,
    class_names: Sequence[str],
    signal: str,
    *,
    colours: Mapping[str, str] | None = None,
    ks: tuple[float, float] | None = None,
    compact: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the score's distribution in training events (filled) and test events (points with errors).

    Parameters
    ----------
    train, test : Predictions
        The two samples.
    class_names : sequence of str
        Names of the classes, in order of the scores' columns.
    signal : str
        The class whose probability is the score; all others are the background.
    colours : mapping of str to str, optional
        Colour of each class; `class_colours` when not given.
    ks : tuple of float, optional
        Kolmogorov-Smirnov probabilities of signal and background, for the legend.
    compact : bool
        For small axes among others: smaller legend and points, a shorter label.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    s = list(class_names).index(signal)
    colours = class_colours(class_names, signal) if colours is None else colours
    others = [name for name in class_names if name != signal]
    kinds = [(signal, True, colours[signal])]
    kinds += [(others[0], False, colours[others[0]])] if len(others) == 1 else [("all others", False, OTHERS)]
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    highest, one_event = [], []
    with drawing(ax) as ax:
        for k, (name, is_signal, colour) in enumerate(kinds):
            (trained, _), (tested, error) = (
                _histogram(p.scores[members, s], p.weights[members])
                for p in (train, test)
                for members in [(p.labels == s) == is_signal]
            )
            ax.stairs(
                trained,
                edges,
                label=f"{plain(name)}, train",
                fill=True,
                facecolor=(colour, 0.25),
                edgecolor=colour,
                linewidth=1.2,
                linestyle=("-", "--")[k],
            )
            filled = tested != 0
            ax.errorbar(
                centres[filled],
                tested[filled],
                error[filled],
                fmt="os"[k] if not compact else ".",
                color=colour,
                markersize=4.5 if not compact else 4,
                elinewidth=1.2,
                label=f"{plain(name)}, test" + (f"  ({_ks(ks[k])})" if ks else ""),
            )
            highest += [trained.max(), tested.max()]
            one_event.append(error[error > 0].min())  # the error of a bin with one event is its content
        ceiling = max(highest) * (40 if compact else 10)  # room for the legend
        ax.set(xlim=(0, 1), yscale="log", ylim=(min(one_event) / 2, ceiling))
        ax.set_xlabel(f"P({plain(signal)})")
        ax.set_ylabel("Events, area 1" if compact else "Events, normalised to area 1")
        ax.legend(loc="upper center", ncols=2, fontsize="x-small" if compact else "small", columnspacing=1.2)
    return ax


# Training


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Give the epoch with the least validation loss (of equal ones, the first).

    Examples
    --------
    >>> best_epoch([{"epoch": 1, "validation_loss": 0.5}, {"epoch": 2, "validation_loss": 0.4}])
    2
    """
    return int(min(history, key=lambda row: float(row["validation_loss"]))["epoch"])


def _curve(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in history if row.get(key) is not None]
    return [int(row["epoch"]) for row in rows], [float(row[key]) for row in rows]


def _mark_best(ax: Axes, epoch: int, low: float, high: float) -> None:
    # Not over the whole height: the legend is beyond.
    dashed = {"color": REST, "linewidth": 1.2, "linestyle": (0, (4, 2)), "zorder": 1}
    ax.axvline(epoch, low, high, label=f"kept: epoch {epoch}", **dashed)


def _epochs(ax: Axes, epochs: Sequence[int]) -> None:
    ticker = require("matplotlib.ticker", "train")
    ax.set_xlabel("Epoch")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)


def plot_loss(
    history: Sequence[Mapping[str, Any]],
    *,
    best: int | None = None,
    unit: str = "event",
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss of training and validation events over the epochs.

    Parameters
    ----------
    history : sequence of mapping
        One per epoch, with ``epoch``, ``train_loss``, ``validation_loss``.
    best : int, optional
        The epoch whose weights were kept; that of the least validation loss when not given.
    unit : str
        What the loss is the mean of: event, or step.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with drawing(ax) as ax:
        _mark_best(ax, best_epoch(history) if best is None else best, 0.0, 0.8)
        for key, name, look in (
            ("train_loss", "train", {"marker": "o", "linestyle": "--", "markerfacecolor": "none"}),
            ("validation_loss", "validation", {"marker": "o"}),
        ):
            epochs, values = _curve(history, key)
            ax.plot(epochs, values, color=INK, markersize=4.5, label=name, **look)  # type: ignore[arg-type]
        _epochs(ax, [int(row["epoch"]) for row in history])
        ax.set_ylabel(f"Loss per {unit}")
        ax.legend(loc="upper right")
    return ax


def plot_auc(
    history: Sequence[Mapping[str, Any]],
    *,
    best: int | None = None,
    key: str = "validation_auc",
    label: str = "Area under the ROC curve",
    ax: Axes | None = None,
) -> Axes:
    """Draw the area under the ROC curve of the validation events over the epochs, or another such number.

    Parameters
    ----------
    history : sequence of mapping
        One per epoch, with ``epoch``, ``validation_loss``, ``validation_auc``.
    best : int, optional
        The epoch whose weights were kept; that of the least validation loss when not given.
    key, label : str
        What to draw of each epoch, and its name.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with drawing(ax) as ax:
        _mark_best(ax, best_epoch(history) if best is None else best, 0.2, 1.0)
        epochs, values = _curve(history, key)
        ax.plot(epochs, values, color=INK, marker="o", markersize=4.5, label="validation")
        _epochs(ax, [int(row["epoch"]) for row in history])
        ax.set_ylabel(label)
        ax.legend(loc="lower right")
    return ax


# Decisions and cuts


def plot_confusion(
    confusion: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    colour: str = PALETTE[0],
    ax: Axes | None = None,
) -> Axes:
    """Draw how the events of each class are classified: rows are true classes and sum to 100 %.

    Parameters
    ----------
    confusion : mapping
        ``metrics["test"]["confusion"]``.
    class_names : sequence of str
        Names of the classes.
    colour : str
        Of full cells; emptier ones are more transparent.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    rectangle = require("matplotlib.patches", "train").Rectangle
    fractions, counts = np.asarray(confusion["fractions"]), np.asarray(confusion["counts"])
    n = len(class_names)
    with drawing(ax) as ax:
        for row, column in np.ndindex(n, n):
            share = fractions[row, column]
            strength = 0.72 * float(np.clip(share, 0, 1))
            ax.add_patch(rectangle((column, row), 1, 1, facecolor=(colour, strength), edgecolor="none"))
            text = f"{100 * share:.1f} %" if n <= 6 else f"{100 * share:.0f}"
            size = 17 if n <= 2 else 13 if n <= 4 else 10
            centre = (column + 0.5, row + 0.5)
            weight = "bold" if row == column else "normal"
            ax.annotate(
                text, centre, ha="center", va="bottom" if n <= 6 else "center", fontsize=size, weight=weight
            )
            if n <= 6:
                ax.annotate(
                    f"{counts[row, column]:,}".replace(",", "\u2009"),
                    centre,
                    xytext=(0, -4),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=size * 0.68,
                )
        middle = np.arange(n) + 0.5
        ax.set(xlim=(0, n), ylim=(n, 0), aspect="equal")
        shown = [plain(name) for name in class_names]
        ax.set_xticks(middle, shown)
        ax.set_yticks(middle, shown)
        if max(map(len, class_names)) * n > 40:
            ax.tick_params(axis="x", labelrotation=45)
        ax.tick_params(which="both", length=0)
        ax.minorticks_off()
        ax.set_xlabel("Classified as")
        ax.set_ylabel("True class")
    return ax


def plot_cut(
    roc: Roc,
    yields: tuple[float, float],
    *,
    signal: str = "signal",
    background: str = "background",
    colours: tuple[str, str] = (PALETTE[0], PALETTE[1]),
    ax: Axes | None = None,
) -> Axes:
    """Draw the efficiencies of signal and background, and the purity, over the cut on the score.

    Parameters
    ----------
    roc : Roc
        The curve whose thresholds are the cuts.
    yields : tuple of float
        Numbers of signal and of background events before the cut, for the purity
        ``S eps_s / (S eps_s + B eps_b)``.
    signal, background : str
        Names of the classes.
    colours : tuple of str
        Their colours.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    cuts = np.append(np.minimum(roc.thresholds, 1.0), 0.0)
    eps_s, eps_b = (np.append(eps, 1.0) for eps in (roc.signal_efficiency, roc.background_efficiency))
    passing = yields[0] * eps_s + yields[1] * eps_b
    purity = np.divide(yields[0] * eps_s, passing, out=np.full_like(passing, np.nan), where=passing > 0)
    with drawing(ax) as ax:
        # An efficiency holds from its cut down to the next lower one.
        ax.step(cuts, eps_s, where="post", color=colours[0], label=f"{plain(signal)} efficiency")
        ax.step(
            cuts,
            eps_b,
            where="post",
            color=colours[1],
            linestyle="--",
            label=f"{plain(background)} efficiency",
        )
        ax.step(
            cuts, purity, where="post", color=INK, linestyle=(0, (1, 1)), label=f"purity of {plain(signal)}"
        )
        ax.set(xlim=(0, 1), ylim=(0, 1.32))
        ax.set_yticks(np.arange(0, 1.01, 0.2))
        ax.set_xlabel(f"Cut on P({plain(signal)})")
        ax.set_ylabel("Efficiency, purity")
        ax.legend(loc="upper right", ncols=1)
    return ax
