"""Figures of traces: gates, their gradients and states over the steps, and the gradient flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from timelike.canvas import INK, PALETTE, REST, drawing
from timelike.errors import ConfigError, nearest
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
    low: float | None,
    name: str,
    ax: Axes | None,
) -> Axes:
    if gate not in values:
        raise ConfigError(f"gate {gate!r}: {layer.cell} has no such gate; {nearest(gate, values)}")
    shown = values[gate][layer.rows(sequence)].T
    top = 1.0 if low is not None else float(np.abs(shown).max(initial=0)) or 1.0
    bottom = -top if low is None else low
    with drawing(ax) as ax:
        image = ax.imshow(
            shown,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r" if bottom < 0 else "viridis",
            vmin=bottom,
            vmax=top,
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
        If there is no such gate or sequence.
    """
    low = -1.0 if gate in "gnh" and layer.cell != "rnn_relu" else 0.0
    if layer.cell == "rnn_relu":
        return _map(layer, layer.gates, sequence, gate, None, f"Gate {gate}", ax)
    return _map(layer, layer.gates, sequence, gate, low, f"Gate {gate}", ax)


def plot_gate_gradients(
    layer: LayerTrace, sequence: int = 0, gate: str = "f", ax: Axes | None = None
) -> Axes:
    """Draw the gradients of a gate's argument, units over steps, on a scale centred at 0.

    Raises
    ------
    ConfigError, DataError
        If there is no such gate or sequence.
    """
    return _map(layer, layer.dgates, sequence, gate, None, f"Gradient of the argument of {gate}", ax)


def plot_gradient_flow(flow: GradientFlow, memory: Memory | None = None, ax: Axes | None = None) -> Axes:
    """Draw the norms of the gradients against the distance from the end, and the horizon."""
    with drawing(ax) as ax:
        ax.fill_between(flow.distance, *flow.quantiles, color=REST, alpha=0.3, linewidth=0, label="68 %")
        ax.plot(flow.distance, flow.dh, color=INK, label="dL/dh")
        if flow.dc is not None:
            ax.plot(flow.distance, flow.dc, color=PALETTE[0], label="dL/dc")
        if memory is not None and np.isfinite(memory.horizon):
            ax.axvline(memory.horizon, color=PALETTE[1], linestyle="--", label="horizon")
        ax.set(yscale="log" if (flow.dh > 0).any() else "linear")
        ax.set_xlabel("Steps to the end")
        ax.set_ylabel("Mean norm of the gradient")
        ax.legend(loc="best")
    return ax
