"""Figures of traces: gates, their gradients and states over the steps, and the gradient flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from timelike.canvas import INK, PALETTE, drawing
from timelike.errors import ConfigError, DataError, nearest
from timelike.inspect.flow import GradientFlow, Memory
from timelike.inspect.layertrace import LayerTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_gate_gradients", "plot_gates", "plot_gradient_flow"]


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


def plot_gradient_flow(flow: GradientFlow, memory: Memory | None = None, ax: Axes | None = None) -> Axes:
    """Draw the norms of the gradients against the distance from the end, and the horizon.

    Lines are medians over the sequences that reach so far; the bands hold 68 % of them.
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
    return ax
