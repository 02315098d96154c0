"""A recurrent layer as an operation of PyTorch's autograd: our kernels, forward and backward.

Use `timelike.nn`; this module is the bridge below it. `layer` runs one layer, in one direction or both,
over a batch. Its derivatives come from the native backpropagation through time; derivatives of these come
from `timelike.composition`, the same equations in PyTorch's own operations, which runs then alone.

The kernels are called with addresses: all buffers are either allocated here or checked in `layer`, and for a
short sequence the checks of `timelike.kernels` would cost more than the layer.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``G`` gates,
``K`` directions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from timelike.composition import composition
from timelike.kernels import Packed, Rows

__all__ = ["LayerWeights", "layer"]

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class LayerWeights:
    """Weights of a layer at one moment: a copy, packed for the kernels.

    What is packed is the copy, so that backward uses the weights that forward used, whatever has become of
    the caller's in between.

    Parameters
    ----------
    cell : str
        One of `timelike.cells.CELLS`.
    weights : sequence of Tensor
        ``W, U`` or ``W, U, b_ih, b_hh`` of each direction, one direction after another.
    n_directions : int
    """

    __slots__ = (
        "_copies",
        "cell",
        "dtype",
        "input_size",
        "itemsize",
        "n_gates",
        "packed",
        "packed_forward",
        "units",
    )

    def __init__(self, cell: str, weights: Sequence[Tensor], n_directions: int) -> None:
        self.cell = cell
        copies = [w.detach().clone(memory_format=torch.contiguous_format) for w in weights]
        n = len(copies) // n_directions
        self.packed = tuple(Packed(*copies[k * n : (k + 1) * n], cell=cell) for k in range(n_directions))
        self.packed_forward = tuple(_address(p.forward) for p in self.packed)
        self._copies = [(w, w.data_ptr(), w.nbytes, w.dtype, w.shape) for w in copies]
        self.dtype, self.itemsize = copies[0].dtype, copies[0].itemsize
        first = self.packed[0]
        self.input_size, self.units, self.n_gates = first.input_size, first.units, first.n_gates

    def hold(self, weights: Sequence[Tensor]) -> bool:
        """Whether these are the same weights, bit by bit.

        Nothing less than all bits tells: the version counter of a tensor misses ``parameter.data.mul_(2)``,
        NumPy views, memory shared with another process, and another tensor at the same address. It costs
        one reading of the weights, as each step of the layer does.
        """
        if len(weights) != len(self._copies):
            return False
        for weight, (_, address, size, dtype, shape) in zip(weights, self._copies, strict=True):
            if weight.dtype is not dtype or weight.shape != shape or not weight.is_cpu or weight.is_neg():
                return False
            same = weight if weight.is_contiguous() else weight.detach().contiguous()
            if _memcmp(address, _at(same), size):
                return False
        return True


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def layer(
    held: LayerWeights,
    rows: Rows,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over a batch.

    Parameters
    ----------
    held : LayerWeights
        The weights as they are now.
    rows : Rows
        Where the steps lie in the rows of `x`.
    x : Tensor, shape (..., D)
        Inputs; all axes but the last together are the N rows.
    h0, c0 : Tensor, shape (K, B, H), optional
        Initial states, by default zeros.
    weights : sequence of Tensor
        The tensors that get the gradients.

    Returns
    -------
    y : Tensor, shape (..., K H)
        Hidden states; zero in rows that belong to no step.
    hT, cT : Tensor, shape (K, B, H)
        Last states of each sequence, in each direction.

    Raises
    ------
    ValueError
        For a tensor of another type, device or shape than the weights and rows ask for.
    """
    x = _dense(x)
    D = held.input_size
    if x.dtype is not held.dtype or not x.is_cpu or x.shape[-1] != D or x.numel() != rows.n_rows * D:
        raise ValueError(f"x: {_described(x)}, expected {rows.n_rows} rows of {D}, {held.dtype} on the CPU")
    if h0 is not None or c0 is not None:
        states = (len(held.packed), rows.n_sequences, held.units)
        h0, c0 = _state("h0", h0, held.dtype, states), _state("c0", c0, held.dtype, states)
    # Tangents of forward mode live on tensors that require no gradient: Function sees them, and refuses.
    if (
        torch.is_grad_enabled() and _any_requires_grad(x, h0, c0, *weights)
    ) or forward_ad._current_level >= 0:
        y, hT, cT = _Layer.apply(held, rows, x, h0, c0, *weights)  # type: ignore[no-untyped-call]
    else:
        y, hT, cT, _ = _forward(held, rows, x, h0, c0, tape=False)
    return y, hT, cT


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _dense(x: Tensor) -> Tensor:
    """Give `x` where its rows are contiguous and lie at one distance, else a copy of it."""
    if x.is_contiguous() or (x.dim() == 2 and x.stride(1) == 1):
        return x.resolve_neg()
    return x.contiguous()


def _state(name: str, state: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
    if state is None:
        return None
    if state.dtype is not dtype or not state.is_cpu or state.shape != shape:
        raise ValueError(f"{name}: {_described(state)}, expected {shape}, {dtype} on the CPU")
    return state.contiguous().resolve_neg()


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)}, {x.dtype} on {x.device}"


class _Layer(torch.autograd.Function):
    """``(x, h0, c0, weights) -> (y, hT, cT)``."""

    @staticmethod
    def forward(
        ctx: Any,
        held: LayerWeights,
        rows: Rows,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, hT, cT, tape = _forward(held, rows, x, h0, c0, tape=True)
        ctx.held, ctx.rows = held, rows
        # The weights are saved so that autograd sees when they are changed before backward.
        ctx.save_for_backward(y, tape, x, h0, c0, *weights)
        ctx.set_materialize_grads(False)
        return y, hT, cT

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dhT: Tensor | None, dcT: Tensor | None) -> Any:
        run = _LayerGradient.apply if torch.is_grad_enabled() else _backward
        needs = ctx.needs_input_grad[2:]
        return None, None, *run(ctx.held, ctx.rows, needs, dy, dhT, dcT, *ctx.saved_tensors)


class _LayerGradient(torch.autograd.Function):
    """``(dy, dhT, dcT, x, h0, c0, weights) -> (dx, dh0, dc0, dweights)``, to be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        held: LayerWeights,
        rows: Rows,
        needs: Sequence[bool],
        dy: Tensor | None,
        dhT: Tensor | None,
        dcT: Tensor | None,
        y: Tensor,
        tape: Tensor,
        *inputs: Any,  # x, h0, c0, weights
    ) -> tuple[Tensor | None, ...]:
        ctx.cell, ctx.rows, ctx.n_directions, ctx.needs = held.cell, rows, len(held.packed), needs
        ctx.save_for_backward(dy, dhT, dcT, *inputs)
        ctx.set_materialize_grads(False)
        return _backward(held, rows, needs, dy, dhT, dcT, y, tape, *inputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        higher = torch.is_grad_enabled()
        needs = ctx.needs_input_grad[3:6] + ctx.needs_input_grad[8:]
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            # Views, so that the derivative by one of them does not run through another that depends on it.
            given: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            d_outputs, inputs = given[:3], given[3:]
            outputs = composition(ctx.cell, ctx.rows, ctx.n_directions, *inputs)
            first = _derivatives(outputs, d_outputs, inputs, ctx.needs, create_graph=True)
            second = _derivatives(first, upstream, given, needs, create_graph=higher)
        return None, None, None, *second[:3], None, None, *second[3:]


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
    held: LayerWeights, rows: Rows, x: Tensor, h0: Tensor | None, c0: Tensor | None, *, tape: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``y, hT, cT`` and the tape [K, N (G + 1) H]: gates [N, G H], then cells [N, H] of each direction."""
    N, B, K = rows.n_rows, rows.n_sequences, len(held.packed)
    H, G = held.units, held.n_gates
    y = (x.new_empty if rows.complete else x.new_zeros)((*x.shape[:-1], K * H))
    hT, cT = x.new_empty((K, B, H)), x.new_empty((K, B, H))
    record = x.new_empty((K, N * (G + 1) * H)) if tape else None
    state, unit = B * H * held.itemsize, H * held.itemsize
    ldx = _row_distance(x)
    for k, packed in enumerate(held.packed):
        gates = k * N * (G + 1) * unit
        packed.layer.forward(
            rows.native, 0, len(rows.step), k == 1, held.packed_forward[k],
            _at(x), ldx, _at(h0, k * state), _at(c0, k * state), _at(y, k * unit), K * H, 0,
            _at(hT, k * state), _at(cT, k * state), _at(record, gates), _at(record, gates + N * G * unit), 1,
        )  # fmt: skip
    return y, hT, cT, record


def _backward(
    held: LayerWeights,
    rows: Rows,
    needs: Sequence[bool],
    dy: Tensor | None,
    dhT: Tensor | None,
    dcT: Tensor | None,
    y: Tensor,
    tape: Tensor,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``x, h0, c0, *weights``, of those that `needs` names."""
    if dy is None and dhT is None and dcT is None:
        return (None,) * len(needs)
    N, B, K = rows.n_rows, rows.n_sequences, len(held.packed)
    D, H, G = held.input_size, held.units, held.n_gates
    dx = (x.new_empty if rows.complete else x.new_zeros)(x.shape) if needs[0] else None
    dh0 = x.new_empty((K, B, H)) if needs[1] else None
    dc0 = x.new_empty((K, B, H)) if needs[2] else None
    if dy is not None:
        dy = _dense(dy)
    dhT, dcT = (None if d is None else d.contiguous().resolve_neg() for d in (dhT, dcT))

    state, unit = B * H * held.itemsize, H * held.itemsize
    ldx, lddy = _row_distance(x), 0 if dy is None else _row_distance(dy)
    n = len(weights) // K
    d_weights: list[Tensor | None] = []
    for k, packed in enumerate(held.packed):
        wanted = needs[3 + k * n : 3 + (k + 1) * n]
        dW = dU = db = None
        if any(wanted):
            dW, dU, db = x.new_empty((G * H, D)), x.new_empty((G * H, H)), x.new_empty(G * H)
        gates = k * N * (G + 1) * unit
        for_backward = packed.backward  # held here: another thread may put its own in place
        packed.layer.backward(
            rows.native, 0, len(rows.step), k == 1, _address(for_backward),
            _at(x), ldx, _at(h0, k * state), _at(c0, k * state), _at(y, k * unit), K * H,
            _at(tape, gates), _at(tape, gates + N * G * unit),
            _at(dy, k * unit), lddy, _at(dhT, k * state), _at(dcT, k * state), _at(dx), D, k == 1,
            _at(dW), _at(dU), _at(db), 0, 0, 0, _at(dh0, k * state), _at(dc0, k * state), 0, 1,
        )  # fmt: skip
        found = [dW, dU, db, db][:n]
        if db is not None and n == 4 and all(wanted[2:]):
            found[3] = db.clone()  # gradients that share memory would be scaled twice in place
        d_weights += [d if need else None for d, need in zip(found, wanted, strict=True)]
    return dx, dh0, dc0, *d_weights


def _at(x: Tensor | None, offset: int = 0) -> int:
    """Address `offset` bytes into a tensor; 0 for None."""
    if x is None:
        return 0
    address = x.data_ptr()
    if address == 0 and x.numel():
        raise NotImplementedError(
            f"{type(x).__name__} has no memory: tracing with fake tensors is not supported by these kernels"
        )
    return address + offset


def _row_distance(x: Tensor) -> int:
    """Elements from one row of a dense tensor to the next."""
    return x.stride(0) if x.dim() == 2 else x.shape[-1]
