"""A recurrent layer as an operation of PyTorch's autograd: our kernels, forward and backward.

Use `timelike.nn`; this module is the bridge below it. `layer` runs one layer, in one direction or both,
over a batch. Its derivatives come from the native backpropagation through time; derivatives of these come
from `composition`, the same equations in PyTorch's own operations, which runs then alone.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``K`` directions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from timelike import kernels
from timelike.kernels import Packed, Rows

__all__ = ["PackedWeights", "composition", "layer"]

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class PackedWeights:
    """The weights of one layer and direction, packed once per change of their values.

    A change is seen by comparing all bits with a copy. Nothing less sees every change: the version counter
    of a tensor misses ``parameter.data.mul_(2)``, NumPy views, memory shared with another process, and
    another tensor at the same address. The comparison reads the weights once, as one step of the layer
    does too.

    What is packed is the copy: backward uses the weights that forward used, whatever has become of the
    caller's in between.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: tuple[Packed, tuple[Tensor, ...]] | None = None  # one name: two threads may meet here

    def of(self, weights: Sequence[Tensor]) -> Packed:
        """Packed form of ``W, U`` or ``W, U, b_ih, b_hh``."""
        held = self._held
        if held is not None and len(held[1]) == len(weights) and all(map(_same_bits, held[1], weights)):
            return held[0]
        copies = tuple(w.detach().clone(memory_format=torch.contiguous_format) for w in weights)
        packed = Packed(*copies)
        self._held = packed, copies
        return packed


def _same_bits(copy: Tensor, weight: Tensor) -> bool:
    if weight.dtype != copy.dtype or weight.shape != copy.shape or not weight.is_cpu:
        return False
    if not weight.is_contiguous():
        weight = weight.detach().contiguous()
    return bool(_memcmp(copy.data_ptr(), weight.data_ptr(), copy.nbytes) == 0)


def layer(
    rows: Rows,
    packed: Sequence[Packed],
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over a batch.

    Parameters
    ----------
    rows : Rows
        Where the steps lie in the rows of `x`.
    packed : sequence of K Packed
        The weights, packed, of each direction.
    x : Tensor, shape (..., D)
        Inputs; all axes but the last together are the N rows.
    h0, c0 : Tensor, shape (K, B, H), optional
        Initial states, by default zeros.
    weights : sequence of Tensor
        What was packed: ``W, U`` or ``W, U, b_ih, b_hh`` of each direction, one after another.

    Returns
    -------
    y : Tensor, shape (..., K H)
        Hidden states; zero in rows that belong to no step.
    hT, cT : Tensor, shape (K, B, H)
        Last states of each sequence, in each direction.
    """
    x = _dense_rows(x)
    h0 = None if h0 is None else h0.contiguous()
    c0 = None if c0 is None else c0.contiguous()
    # Forward-mode tangents live on tensors that require no gradient: Function sees them, and says no.
    inputs = (x, h0, c0, *weights)
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if differentiable or forward_ad._current_level >= 0:
        y, hT, cT = _Layer.apply(rows, packed, x, h0, c0, *weights)  # type: ignore[no-untyped-call]
        return y, hT, cT
    return _forward(rows, packed, x, h0, c0, tape=False)[:3]


def _dense_rows(x: Tensor) -> Tensor:
    """Give `x` where its rows are contiguous and lie at one distance, else a copy of it."""
    if x.is_contiguous() or (x.dim() == 2 and x.stride(1) == 1):
        return x
    return x.contiguous()


class _Layer(torch.autograd.Function):
    """``(x, h0, c0, weights) -> (y, hT, cT)``."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Rows,
        packed: Sequence[Packed],
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needed = any(ctx.needs_input_grad)
        y, hT, cT, gates, cells = _forward(rows, packed, x, h0, c0, tape=needed)
        if needed:
            ctx.rows, ctx.packed = rows, packed
            # The weights are saved so that autograd sees when they are changed before backward.
            ctx.save_for_backward(y, gates, cells, x, h0, c0, *weights)
            ctx.set_materialize_grads(False)
        return y, hT, cT

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dhT: Tensor | None, dcT: Tensor | None) -> Any:
        needs = ctx.needs_input_grad[2:]
        run = _LayerGradient.apply if torch.is_grad_enabled() else _backward
        return None, None, *run(ctx.rows, ctx.packed, needs, dy, dhT, dcT, *ctx.saved_tensors)


class _LayerGradient(torch.autograd.Function):
    """``(dy, dhT, dcT, x, h0, c0, weights) -> (dx, dh0, dc0, dweights)``, to be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Rows,
        packed: Sequence[Packed],
        needs: Sequence[bool],
        dy: Tensor | None,
        dhT: Tensor | None,
        dcT: Tensor | None,
        y: Tensor,
        gates: Tensor,
        cells: Tensor,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.rows, ctx.n_directions, ctx.needs = rows, len(packed), needs
        ctx.save_for_backward(dy, dhT, dcT, x, h0, c0, *weights)
        ctx.set_materialize_grads(False)
        return _backward(rows, packed, needs, dy, dhT, dcT, y, gates, cells, x, h0, c0, *weights)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        higher = torch.is_grad_enabled()
        needs = ctx.needs_input_grad[3:6] + ctx.needs_input_grad[9:]
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            # Views, so that the derivative by one of them does not run through another that depends on it.
            given: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            d_outputs, inputs = given[:3], given[3:]
            outputs = composition(ctx.rows, ctx.n_directions, *inputs)
            first = _derivatives(outputs, d_outputs, inputs, ctx.needs, create_graph=True)
            second = _derivatives(first, upstream, given, needs, create_graph=higher)
        return None, None, None, *second[:3], None, None, None, *second[3:]


def _derivatives(
    outputs: Sequence[Tensor | None],
    upstream: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """Vector-Jacobian products by those inputs that need one; None for the others and for zeros."""
    pairs = [
        (y, dy)
        for y, dy in zip(outputs, upstream, strict=True)
        if y is not None and dy is not None and y.requires_grad
    ]
    wanted = [x for x, need in zip(inputs, needs, strict=True) if need and x is not None]
    found: list[Tensor | None] = [None] * len(wanted)
    if pairs and wanted:
        ys, dys = zip(*pairs, strict=True)
        found = list(torch.autograd.grad(ys, wanted, dys, create_graph=create_graph, allow_unused=True))
    at = iter(found)
    return [next(at) if need and x is not None else None for x, need in zip(inputs, needs, strict=True)]


def _forward(
    rows: Rows, packed: Sequence[Packed], x: Tensor, h0: Tensor | None, c0: Tensor | None, *, tape: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    N, B, K, H = rows.n_rows, rows.n_sequences, len(packed), packed[0].units
    y = (x.new_empty if rows.complete else x.new_zeros)((*x.shape[:-1], K * H))
    hT, cT = x.new_empty((K, B, H)), x.new_empty((K, B, H))
    gates = x.new_empty((K, N, packed[0].n_gates * H)) if tape else None
    cells = x.new_empty((K, N, H)) if tape else None
    x_rows, y_rows = x.view(N, x.shape[-1]), y.view(N, K * H)
    for k, weights in enumerate(packed):
        kernels.forward(
            weights,
            rows,
            x_rows,
            y_rows if K == 1 else y_rows[:, k * H : (k + 1) * H],
            h0=None if h0 is None else h0[k],
            c0=None if c0 is None else c0[k],
            hT=hT[k],
            cT=cT[k],
            gates=None if gates is None else gates[k],
            cells=None if cells is None else cells[k],
            reverse=k == 1,
        )
    return y, hT, cT, gates, cells


def _backward(
    rows: Rows,
    packed: Sequence[Packed],
    needs: Sequence[bool],
    dy: Tensor | None,
    dhT: Tensor | None,
    dcT: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``x, h0, c0, *weights``, of those that `needs` names."""
    N, K, H = rows.n_rows, len(packed), packed[0].units
    if dy is None and dhT is None and dcT is None:
        return (None,) * len(needs)
    per_direction = len(weights) // K
    dx = (x.new_empty if rows.complete else x.new_zeros)(x.shape) if needs[0] else None
    dh0 = torch.empty_like(h0) if h0 is not None and needs[1] else None
    dc0 = torch.empty_like(c0) if c0 is not None and needs[2] else None
    d_weights: list[Tensor | None] = []
    x_rows, y_rows = x.view(N, x.shape[-1]), y.view(N, K * H)
    dx_rows = None if dx is None else dx.view(N, x.shape[-1])
    dy_rows = None if dy is None else dy.reshape(N, K * H)
    if dy_rows is not None and dy_rows.stride(1) != 1:
        dy_rows = dy_rows.contiguous()
    dhT = None if dhT is None else dhT.contiguous()
    dcT = None if dcT is None else dcT.contiguous()
    for k in range(K):
        units = slice(k * H, (k + 1) * H)
        mine = slice(k * per_direction, (k + 1) * per_direction)
        W, U, *biases = weights[mine]
        wanted = needs[3:][mine]
        dW = dU = db = None
        if any(wanted):
            dW, dU = W.new_empty(W.shape), U.new_empty(U.shape)
            db = W.new_empty(W.shape[:1])
        kernels.backward(
            packed[k],
            rows,
            x_rows,
            y_rows[:, units],
            gates[k],
            cells[k],
            h0=None if h0 is None else h0[k],
            c0=None if c0 is None else c0[k],
            dy=None if dy_rows is None else dy_rows[:, units],
            dhT=None if dhT is None else dhT[k],
            dcT=None if dcT is None else dcT[k],
            dx=dx_rows,
            add_dx=k == 1,
            dW=dW,
            dU=dU,
            db=db,
            dh0=None if dh0 is None else dh0[k],
            dc0=None if dc0 is None else dc0[k],
            reverse=k == 1,
        )
        found = [dW, dU, db, db][: 2 + len(biases)]
        if biases and all(wanted[2:]) and db is not None:
            found[3] = db.clone()  # two gradients that share memory would be clipped twice
        d_weights += [d if need else None for d, need in zip(found, wanted, strict=True)]
    return dx, dh0, dc0, *d_weights


def composition(
    rows: Rows,
    n_directions: int,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `layer` in PyTorch's own operations: slow, and differentiable any number of times.

    ``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``, with ``i f o = sigmoid(.)``, ``g = tanh(.)`` of
    ``W x_t + U h_{t-1} + b``.
    """
    N, B, per_direction = rows.n_rows, rows.n_sequences, len(weights) // n_directions
    start, step, lengths = (torch.from_numpy(a) for a in (rows.start, rows.step, rows.lengths))
    x_rows = x.reshape(N, x.shape[-1])
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for k in range(n_directions):
        W, U, *biases = weights[k * per_direction : (k + 1) * per_direction]
        H = U.shape[1]
        y = x.new_zeros((N, H))
        h = x.new_zeros((B, H)) if h0 is None else h0[k]
        c = x.new_zeros((B, H)) if c0 is None else c0[k]
        for s in range(int(lengths.max()) if B else 0):
            active = (lengths > s).nonzero().squeeze(1)
            row = start[active] + step[lengths[active] - 1 - s if k == 1 else s]
            a = x_rows[row] @ W.T + h[active] @ U.T + sum(biases)
            i, f, g, o = a.chunk(4, dim=1)
            c_active = f.sigmoid() * c[active] + i.sigmoid() * g.tanh()
            h_active = o.sigmoid() * c_active.tanh()
            c, h = c.index_copy(0, active, c_active), h.index_copy(0, active, h_active)
            y = y.index_copy(0, row, h_active)
        outputs.append((y, h, c))
    ys, hs, cs = zip(*outputs, strict=True)
    y = torch.cat(ys, dim=1)
    return y.reshape((*x.shape[:-1], y.shape[1])), torch.stack(hs), torch.stack(cs)
