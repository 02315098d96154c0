"""The reference: every cell, forward and backward through time, in plain NumPy float64.

This file is the law, not the product: it is written to be read and believed, one sequence and one step at a
time, and is never made faster. It shares no code with what it judges. Tests compare the kernels with it;
readers find here what the kernels compute (docs/equations.md derives it). To compute something, use
`timelike.kernels` or `timelike.nn`. It is long because each cell is written out in full beside its equations:
cells first, then the two loops over time, then the checks of what is given.

Sizes    B sequences, N rows (the time steps of all sequences), D inputs, H units, G gates; with a
         projection, h has P numbers instead of H.
Letters  x [D] input of a step, h [H] hidden state, c [H] cell state, W [G*H, D] input weights,
         U [G*H, H] state weights, b_ih and b_hh [G*H] biases, a = W x + U h_prev + b pre-activations.
Gates    blocks of H rows of W, U and b, in the order of torch: i f g o (LSTM), r z n (GRU), h (RNN).
Batch    x [N, D] and offsets [B+1]: sequence b is x[offsets[b]:offsets[b+1]]; it may have no step at all.
Signs    dx has the shape of x and is dL/dx. Each cell shows forward and backward on one screen; a comment
         above the lines of backward repeats the line of forward that they differentiate.
         Gradients of parameters are *added* (+=), over steps and sequences; all others are set (=).

References
----------
P. J. Werbos, Backpropagation through time: what it does and how to do it, Proc. IEEE 78 (1990) 1550.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, DataError, nearest

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "Cell",
    "Forward",
    "GRUResetBefore",
    "GRUSingleBias",
    "Gradients",
    "LSTMCoupled",
    "LSTMPeephole",
    "LSTMProjected",
    "Parameters",
    "RNNRelu",
    "RNNTanh",
    "Step",
    "StepGradients",
    "backward",
    "forward",
    "sigmoid",
]

Array: TypeAlias = npt.NDArray[np.float64]
Offsets: TypeAlias = npt.NDArray[np.int64]


def sigmoid(a: Array) -> Array:
    """Logistic function 1 / (1 + exp(-a)), written so that exp never overflows."""
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


@dataclass
class Parameters:
    """Parameters of one layer; also, starting from zeros, what their gradients are added to."""

    W: Array  # [G*H, D] input weights
    U: Array  # [G*H, H] state weights
    b_ih: Array  # [G*H] bias beside W x
    b_hh: Array  # [G*H] bias beside U h
    peephole: Array  # [3*H] diagonal weights from the cell state to i, f and o; empty where there are none
    projection: Array  # [P, H] from the units to h; empty where there is none


class Step(NamedTuple):
    """One step forward: what it read and what it wrote."""

    x: Array  # [D]
    h_prev: Array  # [H]
    c_prev: Array  # [H]; like c, empty where the cell has no cell state
    gates: Array  # [G*H] values of the gates, after their activation
    h: Array  # [H]
    c: Array  # [H]


class StepGradients(NamedTuple):
    """One step back: the gradients of what the step read and wrote."""

    dx: Array  # [D]
    dh_prev: Array  # [H]
    dc_prev: Array  # [H]
    dgates: Array  # [G*H] of the pre-activations: the arguments of sigmoid and tanh
    dgate_values: Array  # [G*H] of the gates themselves: the values of sigmoid and tanh
    dc: Array  # [H] of c_t, what came through h_t included


class Cell(ABC):
    """What every cell shows: the letters of its gates, one step forward, one step back.

    A cell without a cell state is handed an empty c and hands it on.
    """

    gates: ClassVar[tuple[str, ...]]
    has_cell_state: ClassVar[bool] = False
    has_b_hh: ClassVar[bool] = True
    has_peephole: ClassVar[bool] = False
    has_projection: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward with the parameters p."""

    @staticmethod
    @abstractmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back through s: dh and dc are the gradients of h_t and c_t; those of p are added to d."""


class RNNTanh(Cell):
    """Simple recurrent network, two biases: ``h = tanh(W x + b_ih + U h_prev + b_hh)``.

    References
    ----------
    J. L. Elman, Finding structure in time, Cognitive Science 14 (1990) 179.
    """

    gates = ("h",)

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        a = p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh
        h = np.tanh(a)
        return Step(x, h_prev, c_prev, h, h, c_prev)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        # h = tanh(a)
        da = dh * (1 - s.h**2)
        # a = W x + b_ih + U h_prev + b_hh
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc, da, dh, dc)


class RNNRelu(Cell):
    """Simple recurrent network with rectifier, two biases: ``h = max(0, W x + b_ih + U h_prev + b_hh)``.

    The slope of the rectifier at 0 is taken as 0.
    """

    gates = ("h",)

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        a = p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh
        h = np.maximum(a, 0.0)
        return Step(x, h_prev, c_prev, h, h, c_prev)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        # h = max(0, a)
        da = dh * (s.h > 0)
        # a = W x + b_ih + U h_prev + b_hh
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc, da, dh, dc)


class LSTM(Cell):
    """Long short-term memory with forget gate, gates i f g o, two biases, as torch.nn.LSTM.

    ::

        i = sigmoid(W_i x + b_ii + U_i h_prev + b_hi)    input gate
        f = sigmoid(W_f x + b_if + U_f h_prev + b_hf)    forget gate
        g =    tanh(W_g x + b_ig + U_g h_prev + b_hg)    candidate
        o = sigmoid(W_o x + b_io + U_o h_prev + b_ho)    output gate
        c = f * c_prev + i * g
        h = o * tanh(c)

    References
    ----------
    S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997) 1735.
    F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget: continual prediction with LSTM,
    Neural Computation 12 (2000) 2451 (the forget gate).
    """

    gates = ("i", "f", "g", "o")
    has_cell_state = True

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        a_i, a_f, a_g, a_o = np.split(p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh, 4)
        i = sigmoid(a_i)
        f = sigmoid(a_f)
        g = np.tanh(a_g)
        o = sigmoid(a_o)
        c = f * c_prev + i * g
        h = o * np.tanh(c)
        return Step(x, h_prev, c_prev, np.concatenate([i, f, g, o]), h, c)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        i, f, g, o = np.split(s.gates, 4)
        # h = o * tanh(c)
        do = dh * np.tanh(s.c)
        dc = dc + dh * o * (1 - np.tanh(s.c) ** 2)
        # c = f * c_prev + i * g
        di = dc * g
        df = dc * s.c_prev
        dg = dc * i
        dc_prev = dc * f
        # i = sigmoid(a_i), f = sigmoid(a_f), g = tanh(a_g), o = sigmoid(a_o)
        da_i = di * i * (1 - i)
        da_f = df * f * (1 - f)
        da_g = dg * (1 - g**2)
        da_o = do * o * (1 - o)
        # a = W x + b_ih + U h_prev + b_hh
        da = np.concatenate([da_i, da_f, da_g, da_o])
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc_prev, da, np.concatenate([di, df, dg, do]), dc)


class GRU(Cell):
    """Gated recurrent unit, reset after, gates r z n, two biases, as torch.nn.GRU and Keras' default.

    The candidate's second bias stands inside the reset::

        r = sigmoid(W_r x + b_ir + U_r h_prev + b_hr)          reset gate
        z = sigmoid(W_z x + b_iz + U_z h_prev + b_hz)          update gate
        n =    tanh(W_n x + b_in + r * (U_n h_prev + b_hn))    candidate
        h = (1 - z) * n + z * h_prev

    References
    ----------
    K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine
    translation, EMNLP 2014, arXiv:1406.1078 (there reset before; see `GRUResetBefore`).
    """

    gates = ("r", "z", "n")

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        x_r, x_z, x_n = np.split(p.W @ x + p.b_ih, 3)
        h_r, h_z, h_n = np.split(p.U @ h_prev + p.b_hh, 3)
        r = sigmoid(x_r + h_r)
        z = sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h_prev
        return Step(x, h_prev, c_prev, np.concatenate([r, z, n]), h, c_prev)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        r, z, n = np.split(s.gates, 3)
        _, _, h_n = np.split(p.U @ s.h_prev + p.b_hh, 3)
        # h = (1 - z) * n + z * h_prev
        dz = dh * (s.h_prev - n)
        dn = dh * (1 - z)
        dh_prev = dh * z
        # n = tanh(a_n), a_n = x_n + r * h_n
        da_n = dn * (1 - n**2)
        dr = da_n * h_n
        dh_n = da_n * r
        # r = sigmoid(x_r + h_r), z = sigmoid(x_z + h_z)
        da_r = dr * r * (1 - r)
        da_z = dz * z * (1 - z)
        # x_r, x_z, x_n = W x + b_ih
        da = np.concatenate([da_r, da_z, da_n])
        d.W += np.outer(da, s.x)
        d.b_ih += da
        dx = p.W.T @ da
        # h_r, h_z, h_n = U h_prev + b_hh
        da_h = np.concatenate([da_r, da_z, dh_n])
        d.U += np.outer(da_h, s.h_prev)
        d.b_hh += da_h
        dh_prev = dh_prev + p.U.T @ da_h
        return StepGradients(dx, dh_prev, dc, da, np.concatenate([dr, dz, dn]), dc)


class GRUSingleBias(GRU):
    """Gated recurrent unit, reset after, gates r z n, one bias outside the reset, as TMVA's resetGateAfter=1.

    ::

        r = sigmoid(W_r x + U_r h_prev + b_r)          reset gate
        z = sigmoid(W_z x + U_z h_prev + b_z)          update gate (TMVA's u)
        n =    tanh(W_n x + r * (U_n h_prev) + b_n)    candidate
        h = (1 - z) * n + z * h_prev

    This is `GRU` with b_hh = 0, step by step; that bias is no parameter here and is not trained.
    """

    has_b_hh = False


class GRUResetBefore(Cell):
    """Gated recurrent unit, reset before, gates r z n, as TMVA's default and ONNX's linear_before_reset=0.

    ::

        r = sigmoid(W_r x + b_ir + U_r h_prev + b_hr)          reset gate
        z = sigmoid(W_z x + b_iz + U_z h_prev + b_hz)          update gate (TMVA's u)
        n =    tanh(W_n x + b_in + U_n (r * h_prev) + b_hn)    candidate
        h = (1 - z) * n + z * h_prev

    The two biases appear as their sum alone (ONNX keeps two, TMVA one).

    References
    ----------
    K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine
    translation, EMNLP 2014, arXiv:1406.1078.
    """

    gates = ("r", "z", "n")

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        x_r, x_z, x_n = np.split(p.W @ x + p.b_ih + p.b_hh, 3)
        U_r, U_z, U_n = np.split(p.U, 3)
        r = sigmoid(x_r + U_r @ h_prev)
        z = sigmoid(x_z + U_z @ h_prev)
        k = r * h_prev
        n = np.tanh(x_n + U_n @ k)
        h = (1 - z) * n + z * h_prev
        return Step(x, h_prev, c_prev, np.concatenate([r, z, n]), h, c_prev)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        U_r, U_z, U_n = np.split(p.U, 3)
        r, z, n = np.split(s.gates, 3)
        k = r * s.h_prev
        # h = (1 - z) * n + z * h_prev
        dz = dh * (s.h_prev - n)
        dn = dh * (1 - z)
        dh_prev = dh * z
        # n = tanh(a_n), a_n = x_n + U_n k
        da_n = dn * (1 - n**2)
        dk = U_n.T @ da_n
        # k = r * h_prev
        dr = dk * s.h_prev
        dh_prev = dh_prev + dk * r
        # r = sigmoid(x_r + U_r h_prev), z = sigmoid(x_z + U_z h_prev)
        da_r = dr * r * (1 - r)
        da_z = dz * z * (1 - z)
        dh_prev = dh_prev + U_r.T @ da_r + U_z.T @ da_z
        d.U += np.concatenate([np.outer(da_r, s.h_prev), np.outer(da_z, s.h_prev), np.outer(da_n, k)])
        # x_r, x_z, x_n = W x + b_ih + b_hh
        da = np.concatenate([da_r, da_z, da_n])
        d.W += np.outer(da, s.x)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        return StepGradients(dx, dh_prev, dc, da, np.concatenate([dr, dz, dn]), dc)


class LSTMPeephole(Cell):
    """LSTM with peepholes, gates i f g o, two biases: the gates also see the cell state.

    The weights p_i, p_f, p_o are diagonal (a number per unit). The output gate sees the new cell state::

        i = sigmoid(W_i x + b_ii + U_i h_prev + b_hi + p_i * c_prev)    input gate
        f = sigmoid(W_f x + b_if + U_f h_prev + b_hf + p_f * c_prev)    forget gate
        g =    tanh(W_g x + b_ig + U_g h_prev + b_hg)                   candidate
        c = f * c_prev + i * g
        o = sigmoid(W_o x + b_io + U_o h_prev + b_ho + p_o * c)         output gate
        h = o * tanh(c)

    References
    ----------
    F. A. Gers, J. Schmidhuber, Recurrent nets that time and count, IJCNN 2000, vol. 3, 189.
    """

    gates = ("i", "f", "g", "o")
    has_cell_state = True
    has_peephole = True

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        p_i, p_f, p_o = np.split(p.peephole, 3)
        a_i, a_f, a_g, a_o = np.split(p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh, 4)
        i = sigmoid(a_i + p_i * c_prev)
        f = sigmoid(a_f + p_f * c_prev)
        g = np.tanh(a_g)
        c = f * c_prev + i * g
        o = sigmoid(a_o + p_o * c)
        h = o * np.tanh(c)
        return Step(x, h_prev, c_prev, np.concatenate([i, f, g, o]), h, c)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        p_i, p_f, p_o = np.split(p.peephole, 3)
        i, f, g, o = np.split(s.gates, 4)
        # h = o * tanh(c)
        do = dh * np.tanh(s.c)
        dc = dc + dh * o * (1 - np.tanh(s.c) ** 2)
        # o = sigmoid(a_o + p_o * c)
        da_o = do * o * (1 - o)
        dc = dc + da_o * p_o
        # c = f * c_prev + i * g
        di = dc * g
        df = dc * s.c_prev
        dg = dc * i
        dc_prev = dc * f
        # i = sigmoid(a_i + p_i * c_prev), f = sigmoid(a_f + p_f * c_prev), g = tanh(a_g)
        da_i = di * i * (1 - i)
        da_f = df * f * (1 - f)
        da_g = dg * (1 - g**2)
        dc_prev = dc_prev + da_i * p_i + da_f * p_f
        d.peephole += np.concatenate([da_i * s.c_prev, da_f * s.c_prev, da_o * s.c])
        # a = W x + b_ih + U h_prev + b_hh
        da = np.concatenate([da_i, da_f, da_g, da_o])
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc_prev, da, np.concatenate([di, df, dg, do]), dc)


class LSTMProjected(Cell):
    """LSTM with projection V, gates i f g o, two biases, as torch.nn.LSTM with proj_size.

    The cell has H units, its hidden state P numbers; U is [4*H, P] and V [P, H]::

        i, f, g, o, c   as in `LSTM`
        m = o * tanh(c)
        h = V m

    References
    ----------
    H. Sak, A. Senior, F. Beaufays, Long short-term memory recurrent neural network architectures for large
    scale acoustic modeling, Interspeech 2014, 338 (there with peepholes besides), arXiv:1402.1128.
    """

    gates = ("i", "f", "g", "o")
    has_cell_state = True
    has_projection = True

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        a_i, a_f, a_g, a_o = np.split(p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh, 4)
        i = sigmoid(a_i)
        f = sigmoid(a_f)
        g = np.tanh(a_g)
        o = sigmoid(a_o)
        c = f * c_prev + i * g
        m = o * np.tanh(c)
        h = p.projection @ m
        return Step(x, h_prev, c_prev, np.concatenate([i, f, g, o]), h, c)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        i, f, g, o = np.split(s.gates, 4)
        m = o * np.tanh(s.c)
        # h = V m
        d.projection += np.outer(dh, m)
        dm = p.projection.T @ dh
        # m = o * tanh(c)
        do = dm * np.tanh(s.c)
        dc = dc + dm * o * (1 - np.tanh(s.c) ** 2)
        # c = f * c_prev + i * g
        di = dc * g
        df = dc * s.c_prev
        dg = dc * i
        dc_prev = dc * f
        # i = sigmoid(a_i), f = sigmoid(a_f), g = tanh(a_g), o = sigmoid(a_o)
        da_i = di * i * (1 - i)
        da_f = df * f * (1 - f)
        da_g = dg * (1 - g**2)
        da_o = do * o * (1 - o)
        # a = W x + b_ih + U h_prev + b_hh
        da = np.concatenate([da_i, da_f, da_g, da_o])
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc_prev, da, np.concatenate([di, df, dg, do]), dc)


class LSTMCoupled(Cell):
    """LSTM with input and forget gate coupled, gates i g o, two biases: it forgets as much as it takes in.

    ::

        i = sigmoid(W_i x + b_ii + U_i h_prev + b_hi)    input gate; the forget gate is 1 - i
        g =    tanh(W_g x + b_ig + U_g h_prev + b_hg)    candidate
        o = sigmoid(W_o x + b_io + U_o h_prev + b_ho)    output gate
        c = (1 - i) * c_prev + i * g
        h = o * tanh(c)

    References
    ----------
    K. Greff et al., LSTM: a search space odyssey, IEEE Trans. Neural Netw. Learn. Syst. 28 (2017) 2222
    (there CIFG).
    """

    gates = ("i", "g", "o")
    has_cell_state = True

    @staticmethod
    def cell_forward(p: Parameters, x: Array, h_prev: Array, c_prev: Array) -> Step:
        """One step forward."""
        a_i, a_g, a_o = np.split(p.W @ x + p.b_ih + p.U @ h_prev + p.b_hh, 3)
        i = sigmoid(a_i)
        g = np.tanh(a_g)
        o = sigmoid(a_o)
        c = (1 - i) * c_prev + i * g
        h = o * np.tanh(c)
        return Step(x, h_prev, c_prev, np.concatenate([i, g, o]), h, c)

    @staticmethod
    def cell_backward(p: Parameters, d: Parameters, s: Step, dh: Array, dc: Array) -> StepGradients:
        """One step back."""
        i, g, o = np.split(s.gates, 3)
        # h = o * tanh(c)
        do = dh * np.tanh(s.c)
        dc = dc + dh * o * (1 - np.tanh(s.c) ** 2)
        # c = (1 - i) * c_prev + i * g
        di = dc * (g - s.c_prev)
        dg = dc * i
        dc_prev = dc * (1 - i)
        # i = sigmoid(a_i), g = tanh(a_g), o = sigmoid(a_o)
        da_i = di * i * (1 - i)
        da_g = dg * (1 - g**2)
        da_o = do * o * (1 - o)
        # a = W x + b_ih + U h_prev + b_hh
        da = np.concatenate([da_i, da_g, da_o])
        d.W += np.outer(da, s.x)
        d.U += np.outer(da, s.h_prev)
        d.b_ih += da
        d.b_hh += da
        dx = p.W.T @ da
        dh_prev = p.U.T @ da
        return StepGradients(dx, dh_prev, dc_prev, da, np.concatenate([di, dg, do]), dc)


CELLS: dict[str, type[Cell]] = {
    "rnn_tanh": RNNTanh,
    "rnn_relu": RNNRelu,
    "lstm": LSTM,
    "gru": GRU,
    "gru_single_bias": GRUSingleBias,
    "gru_reset_before": GRUResetBefore,
    "lstm_peephole": LSTMPeephole,
    "lstm_projected": LSTMProjected,
    "lstm_coupled": LSTMCoupled,
}


@dataclass(frozen=True, eq=False)
class Forward:
    """Result of `forward`: the outputs, and the tape that `backward` reads."""

    y: Array  # [N, H] h after every step; with a projection, here and below, h has P numbers
    h_T: Array  # [B, H] h after the last step of each sequence; h0 where there is none
    c_T: Array | None  # [B, H] c likewise; like c, None where the cell has no cell state
    gates: Array  # [N, G*H] values of the gates at every step, after their activation
    c: Array | None  # [N, H] c after every step
    cell: type[Cell]
    parameters: Parameters
    offsets: Offsets  # [B+1]
    reverse: bool
    tape: tuple[Step, ...]  # [N] every step, in the order of the rows

    def gate(self, letter: str) -> Array:
        """Values [N, H] of one gate at every step, by its letter."""
        if letter not in self.cell.gates:
            raise ConfigError(
                f"{self.cell.__name__} has no gate {letter!r}; {nearest(letter, self.cell.gates)}"
            )
        return np.split(self.gates, len(self.cell.gates), axis=1)[self.cell.gates.index(letter)]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Result of `backward`: the gradients of the loss over all paths."""

    dx: Array  # [N, D]
    dW: Array  # [G*H, D]
    dU: Array  # [G*H, H]
    db_ih: Array  # [G*H]
    db_hh: Array | None  # [G*H]; None where the cell has a single bias
    dh0: Array  # [B, H]
    dc0: Array | None  # [B, H]; like dc, None where the cell has no cell state
    dgates: Array  # [N, G*H] of the pre-activations: the arguments of the gates' sigmoid or tanh
    dgate_values: Array  # [N, G*H] of the gates themselves: the values of that sigmoid or tanh
    dh: Array  # [N, H] of h at every step: its own dy and all that follows
    dc: Array | None  # [N, H] of c at every step: through h of that step and all that follows
    dpeephole: Array | None  # [3*H]; None where the cell has none
    dprojection: Array | None  # [P, H]; None where the cell has none


def forward(
    cell: type[Cell] | str,
    x: npt.ArrayLike | Sequence[npt.ArrayLike],
    offsets: npt.ArrayLike | None,
    W: npt.ArrayLike,
    U: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    h0: npt.ArrayLike | None = None,
    c0: npt.ArrayLike | None = None,
    *,
    peephole: npt.ArrayLike | None = None,
    projection: npt.ArrayLike | None = None,
    reverse: bool = False,
) -> Forward:
    """Run one layer over a ragged batch: ``h_t, c_t = cell_forward(x_t, h_{t-1}, c_{t-1})``.

    Parameters
    ----------
    cell : Cell or str
        A cell, or its name in `CELLS`.
    x : array [N, D], or list of B arrays [T, D]
        The steps of all sequences one after another; with a list, give None for `offsets`.
    offsets : array [B+1] or None
        Sequence b is ``x[offsets[b]:offsets[b+1]]``.
    W, U : arrays [G*H, D] and [G*H, H]
        Input weights and state weights, gates in the order of ``cell.gates``.
    b_ih, b_hh : arrays [G*H], optional
        Biases; zero where not given.
    h0, c0 : arrays [B, H], optional
        States before the first step; zero where not given.
    peephole : array [3*H], optional
        Peephole weights, in the order i f o; zero where not given. Only of `LSTMPeephole`.
    projection : array [P, H]
        Projection of the units to the hidden state. Needed by `LSTMProjected`, and by no other.
    reverse : bool
        Read each sequence from its last row to its first. Row n of the results still belongs to row n of x;
        h_T is the state after the first row.

    Returns
    -------
    Forward
        Outputs, final states, and all gates at every step.

    Raises
    ------
    ConfigError
        If the cell is not known, or is given something that it does not have.
    DataError
        If a shape does not fit.

    Examples
    --------
    A single unit that adds up what it reads, over two sequences (of two steps and of one):

    >>> run = forward("rnn_relu", [[1.0], [2.0], [5.0]], [0, 2, 3], W=[[1.0]], U=[[1.0]])
    >>> run.y.ravel().tolist()
    [1.0, 3.0, 5.0]
    >>> backward("rnn_relu", run, dh_T=[[1.0], [1.0]]).dx.ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    cell = _known(cell)
    x, offsets = _ragged(x, offsets)
    p = _parameters(cell, x.shape[1], W, U, b_ih, b_hh, peephole, projection)
    N, B, P = len(x), len(offsets) - 1, p.U.shape[1]
    C = _cell_state_size(cell, p)
    h0 = _array("h0", h0, (B, P))
    _refuse(cell, "c0", c0, lambda known: known.has_cell_state)
    c0 = _array("c0", c0, (B, C))

    steps: dict[int, Step] = {}
    h_T, c_T = np.full((B, P), np.nan), np.full((B, C), np.nan)
    for b in range(B):
        h, c = h0[b], c0[b]
        for row in _rows(offsets, b, reverse):
            steps[row] = cell.cell_forward(p, x[row], h, c)
            h, c = steps[row].h, steps[row].c
        h_T[b], c_T[b] = h, c

    tape = tuple(steps[row] for row in range(N))
    y = np.array([s.h for s in tape]).reshape(N, P)
    gates = np.array([s.gates for s in tape]).reshape(N, len(p.U))
    if not cell.has_cell_state:
        return Forward(y, h_T, None, gates, None, cell, p, offsets, reverse, tape)
    return Forward(
        y, h_T, c_T, gates, np.array([s.c for s in tape]).reshape(N, C), cell, p, offsets, reverse, tape
    )


def backward(
    cell: type[Cell] | str,
    forward: Forward,
    dy: npt.ArrayLike | None = None,
    dh_T: npt.ArrayLike | None = None,
    dc_T: npt.ArrayLike | None = None,
) -> Gradients:
    """Backpropagate through time: ``dh_{t-1}, dc_{t-1} = cell_backward(dh_t, dc_t)``, last step to first.

    Parameters
    ----------
    cell : Cell or str
        The cell that ran forward.
    forward : Forward
        What it returned.
    dy : array [N, H], optional
        Gradient of the loss with respect to the outputs; zero where not given.
    dh_T, dc_T : arrays [B, H], optional
        Gradient with respect to the final states, added to what reaches them through `dy`; zero where not
        given.

    Returns
    -------
    Gradients
        Gradients of inputs, parameters and initial states, and of everything in between at every step.

    Raises
    ------
    ConfigError
        If `forward` came from another cell, or `dc_T` is given to a cell without cell state.
    DataError
        If a shape does not fit.

    References
    ----------
    P. J. Werbos, Backpropagation through time: what it does and how to do it, Proc. IEEE 78 (1990) 1550.
    """
    cell = _known(cell)
    if cell is not forward.cell:
        raise ConfigError(f"backward of {cell.__name__} was given the forward of {forward.cell.__name__}")
    p, offsets = forward.parameters, forward.offsets
    (N, P), B, D = forward.y.shape, len(offsets) - 1, p.W.shape[1]
    C = _cell_state_size(cell, p)
    dy = _array("dy", dy, (N, P))
    dh_T = _array("dh_T", dh_T, (B, P))
    _refuse(cell, "dc_T", dc_T, lambda known: known.has_cell_state)
    dc_T = _array("dc_T", dc_T, (B, C))

    d = Parameters(*(np.zeros_like(array) for array in vars(p).values()))
    dx = np.full((N, D), np.nan)
    dh_all, dc_all = np.full((N, P), np.nan), np.full((N, C), np.nan)
    dgates, dgate_values = np.full_like(forward.gates, np.nan), np.full_like(forward.gates, np.nan)
    dh0, dc0 = np.full((B, P), np.nan), np.full((B, C), np.nan)
    for b in range(B):
        dh, dc = dh_T[b], dc_T[b]
        for row in reversed(_rows(offsets, b, forward.reverse)):
            dh = dy[row] + dh
            s = cell.cell_backward(p, d, forward.tape[row], dh, dc)
            dx[row], dgates[row], dgate_values[row] = s.dx, s.dgates, s.dgate_values
            dh_all[row], dc_all[row] = dh, s.dc
            dh, dc = s.dh_prev, s.dc_prev
        dh0[b], dc0[b] = dh, dc

    return Gradients(
        dx=dx,
        dW=d.W,
        dU=d.U,
        db_ih=d.b_ih,
        db_hh=d.b_hh if cell.has_b_hh else None,
        dh0=dh0,
        dc0=dc0 if cell.has_cell_state else None,
        dgates=dgates,
        dgate_values=dgate_values,
        dh=dh_all,
        dc=dc_all if cell.has_cell_state else None,
        dpeephole=d.peephole if cell.has_peephole else None,
        dprojection=d.projection if cell.has_projection else None,
    )


def _rows(offsets: Offsets, b: int, reverse: bool) -> list[int]:
    """Rows of sequence b in the order in which they are read."""
    rows = list(range(int(offsets[b]), int(offsets[b + 1])))
    return rows[::-1] if reverse else rows


def _known(cell: type[Cell] | str) -> type[Cell]:
    if not isinstance(cell, str):
        return cell
    if cell not in CELLS:
        raise ConfigError(f"unknown cell {cell!r}; {nearest(cell, CELLS)}")
    return CELLS[cell]


def _ragged(x: Any, offsets: npt.ArrayLike | None) -> tuple[Array, Offsets]:
    """Rows [N, D] and offsets [B+1] from either way of giving a batch."""
    if offsets is None:
        sequences = [np.asarray(sequence, dtype=np.float64) for sequence in x]
        if not sequences or any(s.ndim != 2 for s in sequences) or len({s.shape[1] for s in sequences}) > 1:
            shapes = [s.shape for s in sequences]
            raise DataError(f"x: without offsets, a list of arrays [T, D] of one D is needed, got {shapes}")
        return np.concatenate(sequences), np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    rows, starts = np.array(x, dtype=np.float64), np.array(offsets, dtype=np.int64)
    if rows.ndim != 2:
        raise DataError(f"x: shape [N, D] is needed, got {rows.shape}")
    if starts.ndim != 1 or len(starts) == 0 or not _rises(starts, len(rows)):
        raise DataError(f"offsets: must rise from 0 to N = {len(rows)}, got {starts.tolist()}")
    return rows, starts


def _rises(offsets: Offsets, N: int) -> bool:
    return bool(offsets[0] == 0 and offsets[-1] == N and np.all(offsets[1:] >= offsets[:-1]))


def _parameters(
    cell: type[Cell], D: int, W: Any, U: Any, b_ih: Any, b_hh: Any, peephole: Any, projection: Any
) -> Parameters:
    _refuse(cell, "b_hh", b_hh, lambda known: known.has_b_hh)
    _refuse(cell, "peephole", peephole, lambda known: known.has_peephole)
    _refuse(cell, "projection", projection, lambda known: known.has_projection)
    G, P = len(cell.gates), _columns("U", U)
    H = _columns("projection", projection) if cell.has_projection else P
    return Parameters(
        _array("W", W, (G * H, D)),
        _array("U", U, (G * H, P)),
        _array("b_ih", b_ih, (G * H,)),
        _array("b_hh", b_hh, (G * H,)),
        _array("peephole", peephole, (3 * H if cell.has_peephole else 0,)),
        _array("projection", projection, (P, H) if cell.has_projection else (0, 0)),
    )


def _columns(name: str, matrix: Any) -> int:
    shape = np.shape(matrix)
    if len(shape) != 2:
        raise DataError(f"{name}: an array of two axes is needed, got shape {shape}")
    return int(shape[1])


def _refuse(cell: type[Cell], name: str, values: Any, has: Callable[[type[Cell]], bool]) -> None:
    """Refuse values of something that the cell does not have."""
    if values is not None and not has(cell):
        possible = ", ".join(repr(key) for key, known in CELLS.items() if has(known))
        raise ConfigError(f"{cell.__name__} has no {name}; cells with one: {possible}")


def _cell_state_size(cell: type[Cell], p: Parameters) -> int:
    return len(p.W) // len(cell.gates) if cell.has_cell_state else 0


def _array(name: str, values: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Copy the values as float64, safe from later writes to them; zeros where none are given."""
    if values is None:
        return np.zeros(shape)
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise DataError(f"{name}: shape {shape} is needed, got {array.shape}")
    return array
