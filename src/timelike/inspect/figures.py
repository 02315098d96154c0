"""Figures of traces: gates, their gradients and states over the steps, and the gradient flow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from timelike.canvas import INK, PALETTE, REST, drawing
from timelike.errors import ConfigError, DataError, nearest
from timelike.inspect.flow import GradientFlow, Memory
from timelike.inspect.layertrace import LayerTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_gate_gradients", "plot_gates", "plot_gradient_flow", "plot_states"]


def _map(
    layer: LayerTrace,
    values: dict[str, Any],
    sequence: int,
    gate: str,
    limits: tuple[float, float] | None,
    name: str,
    ax: Axes | None,
) -> Axes:
    if gate not in values:
        raise ConfigError(f"gate {gate!r}: {layer.cell} has no such gate; {nearest(gate, values)}")
    shown = values[gate][layer.rows(sequence)].T
    if not shown.shape[1]:
        raise DataError(f"sequence {sequence} has no step: there is nothing to draw")
    if limits is None:
        largest = float(np.abs(shown).max()) or 1.0
        limits = -largest, largest
    with drawing(ax) as ax:
        image = ax.imshow(
            shown,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r" if limits[0] < 0 else "viridis",
            vmin=limits[0],
            vmax=limits[1],
        )
        ax.set_xlabel("Step")
        ax.set_ylabel("Unit")
        ax.figure.colorbar(image, ax=ax, label=name)
    return ax


def plot_gates(layer: LayerTrace, sequence: int = 0, gate: str = "f", ax: Axes | None = None) -> Axes:
    """Draw the values of a gate, units over steps.

    Raises
    ------
    ConfigError, DataError
        If there is no such gate or sequence, or it has no step.
    """
    limits = (-1.0, 1.0) if gate in "gnh" else (0.0, 1.0)
    if layer.cell == "rnn_relu":
        limits = (0.0, float(layer.h[layer.rows(sequence)].max(initial=0)) or 1.0)
    return _map(layer, layer.gates, sequence, gate, limits, f"Gate {gate}", ax)


def plot_gate_gradients(
    layer: LayerTrace, sequence: int = 0, gate: str = "f", ax: Axes | None = None
) -> Axes:
    """Draw the gradients of a gate's argument, units over steps, on a scale centred at 0.

    Raises
    ------
    ConfigError, DataError
        If there is no such gate or sequence, or it has no step.
    """
    return _map(layer, layer.dgates, sequence, gate, None, f"dL/da of {gate}", ax)


def plot_states(
    layer: LayerTrace,
    sequence: int = 0,
    state: str = "c",
    units: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the course of hidden or cell states over the steps, the initial one at 0.

    Parameters
    ----------
    layer : LayerTrace
    sequence : int
    state : {"c", "h"}
        By default the cell state, where the cell has one.
    units : sequence of int, optional
        Units that are drawn in colour and named; by default the eight that move the most. All others are
        thin lines behind them.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ConfigError, DataError
        If there is no such state, sequence or unit, or the sequence has no step.
    """
    if state not in ("c", "h"):
        raise ConfigError(f"state {state!r}: {nearest(state, ('c', 'h'))}")
    values, first = (layer.h, layer.h0) if state == "h" or layer.c is None else (layer.c, layer.c0)
    rows = layer.rows(sequence)
    if rows.start == rows.stop:
        raise DataError(f"sequence {sequence} has no step: there is nothing to draw")
    assert first is not None
    course = values[rows][::-1] if layer.reverse else values[rows]
    course = np.vstack([first[sequence % layer.n_sequences], course])
    T, R = len(course) - 1, course.shape[1]
    steps = np.arange(T + 1) if not layer.reverse else np.arange(T + 1, 0, -1)
    shown = np.argsort(-np.ptp(course, axis=0), kind="stable")[:8] if units is None else units
    for unit in shown:
        if not 0 <= unit < R:
            raise ConfigError(f"unit {unit}: the layer has the units 0..{R - 1}")
    with drawing(ax) as ax:
        ax.plot(steps, course, color=REST, linewidth=0.6, alpha=0.5)
        for unit, colour in zip(shown, cycle([INK, *PALETTE]), strict=False):
            ax.plot(steps, course[:, unit], color=colour, label=f"{unit}")
        ax.axhline(0.0, color=INK, linewidth=0.6)
        ax.set_xlabel("Step")
        ax.set_ylabel("Hidden state" if values is layer.h else "Cell state")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="Unit")
    return ax


def plot_gradient_flow(flow: GradientFlow, memory: Memory | None = None, ax: Axes | None = None) -> Axes:
    """Draw the norms of the gradients against the distance from the end, and the horizon.

    Lines are medians over the sequences that reach so far; the bands hold 68 % of them. How many reach so
    far is drawn in grey, on the scale to the right.
    """
    states = [("dL/dh", flow.dh_quantiles, INK)]
    if flow.dc_quantiles is not None:
        states.append(("dL/dc", flow.dc_quantiles, PALETTE[0]))
    with drawing(ax) as ax:
        for name, (low, median, high), colour in states:
            ax.fill_between(flow.distance, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(flow.distance, median, color=colour, label=name)
        if memory is not None and np.isfinite(memory.horizon):
            ax.axvline(memory.horizon, color=PALETTE[1], linestyle="--", label="horizon")
        ax.set(yscale="log" if any((median > 0).any() for _, (_, median, _), _ in states) else "linear")
        ax.set_xlabel("Steps to the end")
        ax.set_ylabel("Norm of the gradient")
        ax.legend(loc="best")
        behind = ax.twinx()
        behind.fill_between(flow.distance, flow.count, step="mid", color=REST, alpha=0.25, linewidth=0)
        behind.set(ylim=(0, 4 * flow.count.max()), yticks=[0, flow.count.max()])
        behind.minorticks_off()
        behind.set_ylabel("Sequences", loc="bottom")
        behind.set_zorder(ax.get_zorder() - 1)
        ax.patch.set_visible(False)
    return ax
