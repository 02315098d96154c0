"""The section of a report on what was seen inside while the network learned, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from timelike.canvas import INK, PALETTE, drawing
from timelike.errors import ConfigError, DataError, nearest
from timelike.inspect.flow_sections import layer_titles
from timelike.inspect.watch import LayerLook, Look
from timelike.report.page import Figure, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_flow_of_training", "plot_saturation_of_training", "watch_sections"]


def watch_sections(looks: Sequence[Look]) -> list[Section]:
    """Show what was seen inside while the network learned.

    Parameters
    ----------
    looks : sequence of Look
        As `timelike.inspect.Watch` gave them.

    Returns
    -------
    list of Section
        One; none where no batch with steps was looked at.
    """
    layers = list(dict.fromkeys(layer.layer for look in looks for layer in look.layers))
    if not layers:
        return []
    figures, titles = [], layer_titles(layers)
    for k, (name, title) in enumerate(titles.items(), 1):
        flow = (
            f"Norm of the gradient of the loss with respect to the hidden state of {title}, by the number of "
            "steps to the end, while the network learned. The line is the horizon, after which less than a "
            "tenth of the gradient is left."
        )
        alt = f"Gradient by distance from the end over the training, {title}"
        figures.append(Figure(f"watch-flow-{k}", plot_flow_of_training(looks, name), alt, flow))
        if not any(layer.low for layer in _of(looks, name)[1]):
            continue  # a rectifier
        ends = f"Share of the values of each gate of {title} within 0.05 of an end of its range."
        alt = f"Saturated gates over the training, {title}"
        figures.append(Figure(f"watch-gates-{k}", plot_saturation_of_training(looks, name), alt, ends))
    lead = (
        f"{len(looks)} batches, from the first to number {looks[-1].step}, were looked at: these are the "
        "very gates and gradients that changed the weights."
    )
    return [
        Section("learning", "While it learned", lead, tuple(figures), facts=tuple(_courses(looks, titles)))
    ]


def _courses(looks: Sequence[Look], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say of each thing that was found when it was, and what it was the last time."""
    seen: dict[tuple[str, str], list[int]] = {}
    last = {}
    for look in looks:
        for finding in look.findings:
            key = finding.layer, finding.kind
            seen.setdefault(key, []).append(look.step)
            last[key] = str(replace(finding, layer=titles[finding.layer]))
    facts = []
    for key, steps in seen.items():
        still = " and at the end" if steps[-1] == looks[-1].step else ", not later"
        when = f"in {len(steps)} of {len(looks)} looks, from batch {steps[0]} to {steps[-1]}{still}"
        facts.append((key[1], f"{when}. {last[key]}"))
    return facts or [("diagnosis", "nothing was found in any look")]


def _of(looks: Sequence[Look], name: str) -> tuple[list[int], list[LayerLook]]:
    """Give steps and looks of one layer."""
    found = [(look.step, layer) for look in looks for layer in look.layers if layer.layer == name]
    if not found:
        names = list(dict.fromkeys(layer.layer for look in looks for layer in look.layers))
        if not names:
            raise DataError("no layer was looked at: there is nothing to draw")
        raise ConfigError(f"layer {name!r}: there is no such layer; {nearest(name, names)}")
    steps, layers = zip(*found, strict=True)
    return list(steps), list(layers)


def plot_flow_of_training(looks: Sequence[Look], layer: str, ax: Axes | None = None) -> Axes:
    """Draw the norm of dL/dh_t by distance from the end, over the training, and the horizon.

    Parameters
    ----------
    looks : sequence of Look
    layer : str
        Name and direction, as the looks call it.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ConfigError, DataError
        If there is no such layer, or none at all.
    """
    steps, layers = _of(looks, layer)
    longest = max(found.distance[-1] for found in layers)
    distance = np.arange(longest + 1)
    norms = np.full((len(distance), len(steps)), np.nan)
    for column, found in enumerate(layers):
        inside = distance <= found.distance[-1]
        norms[inside, column] = np.interp(distance[inside], found.distance, found.dh)
    norms[~(norms > 0)] = np.nan  # no gradient, and what is not finite, has no place on a logarithmic scale
    with drawing(ax) as ax:
        from matplotlib.colors import LogNorm

        if np.isfinite(norms).any():
            high = float(np.nanmax(norms))
            low = max(float(np.nanmin(norms)), 1e-6 * high)  # a few decades tell, more would hide them
            image = ax.pcolormesh(
                _edges(steps),
                np.arange(longest + 2) - 0.5,
                norms,
                norm=LogNorm(low, high if high > low else 10 * low),
                cmap="viridis",
                rasterized=True,
            )
            ax.figure.colorbar(image, ax=ax, label="Norm of dL/dh")
        horizons = [found.length if found.horizon is None else found.horizon for found in layers]
        ax.plot(steps, np.minimum(horizons, longest), color="white", linewidth=3.5)
        ax.plot(steps, np.minimum(horizons, longest), color=PALETTE[1], label="horizon")
        ax.set(xlim=(_edges(steps)[0], _edges(steps)[-1]), ylim=(-0.5, longest + 0.5))
        ax.set_xlabel("Batch")
        ax.set_ylabel("Steps to the end")
        ax.legend(loc="upper left", frameon=True)
    return ax


def _edges(steps: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Give borders between steps."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = np.convolve(np.asarray(steps, np.float64), [0.5, 0.5], "valid")
    return np.concatenate([[2 * steps[0] - middle[0]], middle, [2 * steps[-1] - middle[-1]]])


def plot_saturation_of_training(looks: Sequence[Look], layer: str, ax: Axes | None = None) -> Axes:
    """Draw the share of saturated values of each gate over the training; as `plot_flow_of_training`."""
    steps, layers = _of(looks, layer)
    with drawing(ax) as ax:
        for k, letter in enumerate(layers[0].low):
            shares = [found.low[letter] + found.high[letter] for found in layers]
            ax.plot(steps, shares, color=[INK, *PALETTE][k], label=letter)
        ax.set_ylim(0.0, max(0.1, 1.05 * ax.get_ylim()[1]))
        ax.set_xlabel("Batch")
        ax.set_ylabel("Share at an end")
        ax.legend(loc="best", title="Gate")
    return ax
