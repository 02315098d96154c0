"""Every cell in PyTorch's own operations: slow, and differentiable any number of times.

Use `timelike.nn`; this is what stands behind its derivatives of derivatives, and what the kernels' operation
decomposes into where they cannot run. `composition` computes what `timelike.autograd.layer` computes.

The equations are those of `timelike.reference`, in the same letters; a step here is that of all sequences
which still have one.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``n`` sequences with a step left, ``D`` inputs,
``H`` units, ``R`` numbers of the hidden state (``H``, but for a projection), ``G`` gates, ``K`` directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from timelike.cells import CELLS
from timelike.kernels import Rows

__all__ = ["composition"]

Integers: TypeAlias = npt.NDArray[np.int64]


class _Weights(NamedTuple):
    """Weights of one direction."""

    W: Tensor  # [G H, D]
    U: Tensor  # [G H, R]
    b_ih: Tensor | None = None  # [G H]
    b_hh: Tensor | None = None  # [G H]
    peephole: Tensor | None = None  # [3 H], in the order i f o
    projection: Tensor | None = None  # [R, H]


# A step takes a = W x + b_ih [n, G H] and the states before, h [n, R] and c [n, H], and gives those after.


def _rnn_tanh(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(a + linear(h, p.U, p.b_hh)), c


def _rnn_relu(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(a + linear(h, p.U, p.b_hh)), c


def _lstm(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    a_i, a_f, a_g, a_o = (a + linear(h, p.U, p.b_hh)).chunk(4, dim=1)
    c = a_f.sigmoid() * c + a_i.sigmoid() * a_g.tanh()
    return a_o.sigmoid() * c.tanh(), c


def _lstm_peephole(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    assert p.peephole is not None
    p_i, p_f, p_o = p.peephole.chunk(3)
    a_i, a_f, a_g, a_o = (a + linear(h, p.U, p.b_hh)).chunk(4, dim=1)
    c = (a_f + p_f * c).sigmoid() * c + (a_i + p_i * c).sigmoid() * a_g.tanh()
    return (a_o + p_o * c).sigmoid() * c.tanh(), c


def _lstm_coupled(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    a_i, a_g, a_o = (a + linear(h, p.U, p.b_hh)).chunk(3, dim=1)
    i = a_i.sigmoid()
    c = (1 - i) * c + i * a_g.tanh()
    return a_o.sigmoid() * c.tanh(), c


def _lstm_projected(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    assert p.projection is not None
    m, c = _lstm(p, a, h, c)
    return linear(m, p.projection), c


def _gru(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    x_r, x_z, x_n = a.chunk(3, dim=1)
    h_r, h_z, h_n = linear(h, p.U, p.b_hh).chunk(3, dim=1)
    z = (x_z + h_z).sigmoid()
    n = torch.tanh(x_n + (x_r + h_r).sigmoid() * h_n)
    return (1 - z) * n + z * h, c


def _gru_reset_before(p: _Weights, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    x_r, x_z, x_n = (a if p.b_hh is None else a + p.b_hh).chunk(3, dim=1)
    U_r, U_z, U_n = p.U.chunk(3)
    r = (x_r + linear(h, U_r)).sigmoid()
    z = (x_z + linear(h, U_z)).sigmoid()
    n = torch.tanh(x_n + linear(r * h, U_n))
    return (1 - z) * n + z * h, c


_STEPS: dict[str, Callable[[_Weights, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "rnn_tanh": _rnn_tanh,
    "rnn_relu": _rnn_relu,
    "lstm": _lstm,
    "lstm_peephole": _lstm_peephole,
    "lstm_coupled": _lstm_coupled,
    "lstm_projected": _lstm_projected,
    "gru": _gru,
    "gru_reset_before": _gru_reset_before,
}


def composition(
    cell: str,
    rows: Rows,
    n_directions: int,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute a layer, in one direction or both, over a batch.

    Parameters
    ----------
    cell : str
        One of `timelike.cells.CELLS`.
    rows : Rows
        Where the steps lie in the rows of `x`.
    n_directions : int
        K; the second direction walks from the last step to the first.
    x : Tensor, shape (..., D)
        Inputs; all axes but the last together are the N rows.
    h0, c0 : Tensor, shape (K, B, R) and (K, B, H), optional
        Initial states, by default zeros; no `c0` for a cell without cell state.
    *weights : Tensor
        ``W, U``, then where there are any ``b_ih, b_hh``, then the peephole or the projection, of each
        direction.

    Returns
    -------
    y : Tensor, shape (..., K R)
        Hidden states; zero in rows that belong to no step.
    hT, cT : Tensor, shape (K, B, R) and (K, B, H)
        Last states of each sequence; `cT` is None for a cell without cell state.

    Examples
    --------
    A single unit that adds up what it reads, over two sequences (of two steps and of one):

    >>> x, one = torch.tensor([[1.0], [2.0], [5.0]]), torch.ones(1, 1)
    >>> y, hT, _ = composition("rnn_relu", Rows.ragged([0, 2, 3]), 1, x, None, None, one, one)
    >>> y.flatten().tolist(), hT.flatten().tolist()
    ([1.0, 3.0, 5.0], [3.0, 5.0])
    """
    n, order = len(weights) // n_directions, _longest_first(rows)
    sort, back = torch.from_numpy(order), torch.from_numpy(np.argsort(order))
    x_rows = x.reshape(rows.n_rows, x.shape[-1])
    outputs = []
    for k in range(n_directions):
        p = _named(cell, weights[k * n : (k + 1) * n])
        R = p.U.shape[1]
        H = R if p.projection is None else p.projection.shape[1]
        h = x.new_zeros((rows.n_sequences, R)) if h0 is None else h0[k][sort]
        c = x.new_zeros((rows.n_sequences, H)) if c0 is None else c0[k][sort]
        steps = _walk(rows, order, reverse=k == 1)
        read = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *steps]))
        a = torch.split_with_sizes(linear(x_rows[read], p.W, p.b_ih), [len(step) for step in steps])
        hidden, h, c = _run(cell, p, a, h, c)
        outputs.append((x.new_zeros((rows.n_rows, R)).index_copy(0, read, hidden), h[back], c[back]))
    ys, hs, cs = zip(*outputs, strict=True)
    y = torch.cat(ys, dim=1).reshape((*x.shape[:-1], n_directions * R))
    return y, torch.stack(hs), torch.stack(cs) if CELLS[cell].has_cell_state else None


def _run(cell: str, p: _Weights, a: Sequence[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Walk through the steps [n, G H]: hidden states of all steps one after another, and the last states."""
    hidden, ended = [h[:0]], []
    for a_t in a:
        n = len(a_t)
        if n < len(h):  # the shortest of those left have no step any more
            ended.append((h[n:], c[n:]))
        h, c = _STEPS[cell](p, a_t, h[:n], c[:n])
        hidden.append(h)
    h_last, c_last = zip((h, c), *reversed(ended), strict=True)
    return torch.cat(hidden), torch.cat(h_last), torch.cat(c_last)


def _named(cell: str, weights: Sequence[Tensor]) -> _Weights:
    """Give the weights of one direction their names, by the order in which they come."""
    if CELLS[cell].has_peephole:
        return _Weights(*weights[:-1])._replace(peephole=weights[-1])
    if CELLS[cell].has_projection:
        return _Weights(*weights[:-1])._replace(projection=weights[-1])
    return _Weights(*weights)


def _longest_first(rows: Rows) -> Integers:
    return np.argsort(-rows.lengths, kind="stable")


def _walk(rows: Rows, order: Integers, *, reverse: bool) -> list[Integers]:
    """Rows of each step of the walk: of those sequences, longest first, that have such a step."""
    start, lengths = rows.start[order], rows.lengths[order]
    counts = np.searchsorted(-lengths, -np.arange(lengths.max(initial=0)), side="left")
    steps = [
        start[:n] + rows.step[lengths[:n] - 1 - s if reverse else s] for s, n in enumerate(counts.tolist())
    ]
    return steps if rows.index is None else [rows.index[step] for step in steps]
