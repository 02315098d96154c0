"""Recurrent nodes of ONNX in plain NumPy float64, one step at a time, for what no cell of ours computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.interop.onnx_activations import Activation

__all__ = ["Weights", "step_of"]

Array: TypeAlias = npt.NDArray[Any]


class Weights(NamedTuple):
    """Weights of one direction in our order of gates."""

    W: Array  # [G H, D]
    U: Array  # [G H, H]
    b_ih: Array  # [G H]
    b_hh: Array  # [G H]
    peephole: Array | None  # [3 H]: i f o

    def as_float64(self) -> Weights:
        """Give the same in float64."""
        W, U, b_ih, b_hh = (part.astype(np.float64) for part in self[:4])
        return Weights(W, U, b_ih, b_hh, None if self.peephole is None else self.peephole.astype(np.float64))


Step: TypeAlias = Callable[..., tuple[Array, ...]]  # of x [B, D] and the states [B, H], the new states


def step_of(
    op: str,
    activations: tuple[Activation, ...],
    w: Weights,
    *,
    clip: float | None,
    input_forget: bool,
    linear_before_reset: bool,
) -> Step:
    """Give one step of a direction of a node; what stands for what is told at `RecurrentNode`."""

    def clipped(activation: Activation) -> Callable[[Array], Array]:
        return lambda a: activation(a if clip is None else np.clip(a, -clip, clip))

    if op == "LSTM":
        f, g = (clipped(activation) for activation in activations[:2])
        return _lstm(f, g, activations[2], w, coupled=input_forget)
    if op == "GRU":
        f, g = (clipped(activation) for activation in activations)
        return _gru(f, g, w, reset_after=linear_before_reset)
    return _rnn(clipped(activations[0]), w)


_Function: TypeAlias = Callable[[Array], Array]


def _lstm(f: _Function, g: _Function, h: _Function, w: Weights, *, coupled: bool) -> Step:
    p_i, p_f, p_o = np.split(np.zeros(3 * w.U.shape[1]) if w.peephole is None else w.peephole, 3)

    def step(x: Array, h_prev: Array, c_prev: Array) -> tuple[Array, ...]:
        a_i, a_f, a_g, a_o = np.split(x @ w.W.T + h_prev @ w.U.T + w.b_ih + w.b_hh, 4, axis=1)
        i = f(a_i + p_i * c_prev)
        forget = 1 - i if coupled else f(a_f + p_f * c_prev)
        c = forget * c_prev + i * g(a_g)
        o = f(a_o + p_o * c)
        return o * h(c), c

    return step


def _gru(f: _Function, g: _Function, w: Weights, *, reset_after: bool) -> Step:
    U_n, b_n = np.split(w.U, 3)[2], np.split(w.b_hh, 3)[2]

    def step(x: Array, h_prev: Array) -> tuple[Array, ...]:
        x_r, x_z, x_n = np.split(x @ w.W.T + w.b_ih, 3, axis=1)
        h_r, h_z, h_n = np.split(h_prev @ w.U.T + w.b_hh, 3, axis=1)
        r, z = f(x_r + h_r), f(x_z + h_z)
        n = g(x_n + (r * h_n if reset_after else (r * h_prev) @ U_n.T + b_n))
        return ((1 - z) * n + z * h_prev,)

    return step


def _rnn(f: _Function, w: Weights) -> Step:
    def step(x: Array, h_prev: Array) -> tuple[Array, ...]:
        return (f(x @ w.W.T + h_prev @ w.U.T + w.b_ih + w.b_hh),)

    return step
