"""A recurrent layer as an operation of PyTorch's autograd: our kernels, forward and backward.

Use `timelike.nn`; this module is the bridge below it. `layer` runs one layer, in one direction or both,
over a batch. Its derivatives come from the native backpropagation through time; derivatives of these come
from `timelike.composition`, the same equations in PyTorch's own operations, which runs then alone.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``R`` numbers of the
hidden state (``H``, but for a projection), ``K`` directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from timelike import layercalls, recording, segments
from timelike.composition import composition
from timelike.kernels import Rows
from timelike.layercalls import dense
from timelike.layerweights import LayerWeights, plain

__all__ = ["Back", "LayerWeights", "Unchanged", "checked", "layer", "layer_and_back", "second_derivatives"]

# Of which of x, h0, c0 and the weights the gradients are wanted, dy, dhT and dcT, to those gradients.
Back: TypeAlias = Callable[
    [Sequence[bool], Tensor | None, Tensor | None, Tensor | None], tuple[Tensor | None, ...]
]


def layer(
    held: LayerWeights,
    rows: Rows,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    recompute: bool | int = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one layer over a batch.

    Parameters
    ----------
    held : LayerWeights
        The weights as they are now.
    rows : Rows
        Where the steps lie in the rows of `x`.
    x : Tensor, shape (..., D)
        Inputs; all axes but the last together are the N rows.
    h0, c0 : Tensor, shapes (K, B, R) and (K, B, H), optional
        Initial states, by default zeros; no `c0` for a cell without cell state.
    weights : sequence of Tensor
        The tensors that get the gradients.
    recompute : bool or int
        Whether to keep states in place of a tape, and compute the rest again: see `timelike.segments`. An int
        is the number of steps from one kept state to the next.

    Returns
    -------
    y : Tensor, shape (..., K R)
        Hidden states; zero in rows that belong to no step.
    hT, cT : Tensor, shapes (K, B, R) and (K, B, H)
        Last states of each sequence, in each direction; `cT` is None for a cell without cell state.

    Raises
    ------
    ValueError
        For a tensor of another type, device or shape than the weights and rows ask for.
    """
    x, h0, c0 = checked(held, rows, x, h0, c0)
    if (kept := recording.records.get()) is not None:
        return recording.layer(kept, held, rows, x, h0, c0, weights)
    # Tangents of forward mode live on tensors that require no gradient: Function sees them, and refuses.
    if (
        torch.is_grad_enabled() and _any_requires_grad(x, h0, c0, *weights)
    ) or forward_ad._current_level >= 0:
        k = _steps_between(held, rows, recompute)
        return _apply(held, rows, k, x, h0, c0, *weights)  # type: ignore[no-untyped-call, no-any-return]
    y, hT, cT, _ = layercalls.forward(held, rows, x, h0, c0, keep=False)
    return y, hT, cT


def layer_and_back(
    held: LayerWeights,
    rows: Rows,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *,
    recompute: bool | int = False,
) -> tuple[tuple[Tensor, Tensor, Tensor | None], Back]:
    """Run one layer as `layer` does, and give the way back beside what that gives: no autograd.

    The way back raises `RuntimeError` if a tensor that it reads has been changed in place.
    """
    x, h0, c0 = checked(held, rows, x, h0, c0)
    k = _steps_between(held, rows, recompute)
    outputs, kept = _forward(held, rows, k, x, h0, c0)
    unchanged = Unchanged(x, h0, c0, *kept)

    def back(
        needs: Sequence[bool], dy: Tensor | None, dhT: Tensor | None, dcT: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        unchanged.check()
        return _gradients(held, rows, k, needs, dy, dhT, dcT, *kept, x, h0, c0)

    return outputs, back


class Unchanged:
    """Tensors that are not to be changed in place.

    What changes in inference mode, through ``tensor.data`` or by NumPy is not seen.
    """

    __slots__ = ("_seen",)

    def __init__(self, *tensors: Tensor | None) -> None:
        self._seen = [(t, _version(t)) for t in tensors if t is not None]

    def check(self) -> None:
        """Look whether they are as they were.

        Raises
        ------
        RuntimeError
            If one has been changed.
        """
        for t, version in self._seen:
            if _version(t) != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(t.shape)} that the way back needs has been changed in place"
                )


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _steps_between(held: LayerWeights, rows: Rows, recompute: bool | int) -> int:
    """Give the number of steps from one kept state to the next; 0 for a tape."""
    if not recompute:
        return 0
    w = held.layout
    border = w.state_size + (w.units if w.has_cell_state else 0)
    return segments.segment_length(recompute, len(rows.step), border=border, record=w.tape + w.state_size)


def _forward(
    held: LayerWeights, rows: Rows, k: int, x: Tensor, h0: Tensor | None, c0: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[Tensor | None, Tensor | None]]:
    """Give ``y, hT, cT``, and what `_gradients` takes of them: y and the tape, or for k > 0 the borders."""
    if k:
        y, hT, cT, h_borders, c_borders = segments.forward(held, rows, x, h0, c0, k)
        return (y, hT, cT), (h_borders, c_borders)
    y, hT, cT, tape = layercalls.forward(held, rows, x, h0, c0, keep=True)
    return (y, hT, cT), (y, tape)


def checked(
    held: LayerWeights, rows: Rows, x: Tensor, h0: Tensor | None, c0: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Give the inputs of a layer with their memory as the kernels read it.

    Raises
    ------
    ValueError
        For a tensor of another type, device or shape than the weights and rows ask for.
    """
    w = held.layout
    x = dense(x)
    if (
        x.dtype is not w.dtype
        or not x.is_cpu
        or x.shape[-1] != w.input_size
        or x.numel() != rows.n_rows * w.input_size
    ):
        raise ValueError(
            f"x: {_described(x)}, expected {rows.n_rows} rows of {w.input_size}, {w.dtype} on the CPU"
        )
    if h0 is not None:
        h0 = _state("h0", h0, w.dtype, (w.n_directions, rows.n_sequences, w.state_size))
    if c0 is not None:
        c0 = _state("c0", c0, w.dtype, (w.n_directions, rows.n_sequences, w.units))
    return x, h0, c0


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _state(name: str, state: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if state.dtype is not dtype or not state.is_cpu or state.shape != shape:
        raise ValueError(f"{name}: {_described(state)}, expected {shape}, {dtype} on the CPU")
    return plain(state)


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)}, {x.dtype} on {x.device}"


class _Layer(torch.autograd.Function):
    """``(x, h0, c0, weights) -> (y, hT, cT)``; with a tape, or for k > 0 in segments of k steps."""

    boxed_grads_call = False  # what torch would find by default, at the cost of an exception

    @staticmethod
    def forward(
        ctx: Any,
        held: LayerWeights,
        rows: Rows,
        k: int,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        outputs, kept = _forward(held, rows, k, x, h0, c0)
        ctx.call = held, rows, k
        # The weights are saved so that autograd sees when they are changed before backward.
        ctx.save_for_backward(*kept, x, h0, c0, *weights)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dhT: Tensor | None, dcT: Tensor | None) -> Any:
        run = _LayerGradient.apply if torch.is_grad_enabled() else _gradients
        needs = ctx.needs_input_grad[3:]
        return None, None, None, *run(*ctx.call, needs, dy, dhT, dcT, *ctx.saved_tensors)


# Not _Layer.apply: the detour by Python there is for transforms of torch.func, which do not come this far.
_apply = super(torch.autograd.Function, _Layer).apply


def _gradients(
    held: LayerWeights, rows: Rows, k: int, needs: Sequence[bool], *saved: Any
) -> tuple[Tensor | None, ...]:
    given = saved[:8]  # dy, dhT, dcT, what forward kept (two), x, h0, c0; the weights behind them are in held
    if k:
        return segments.backward(held, rows, k, needs, *given)
    return layercalls.backward(held, rows, needs, *given)


class _LayerGradient(torch.autograd.Function):
    """``(dy, dhT, dcT, x, h0, c0, weights) -> (dx, dh0, dc0, dweights)``, to be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        held: LayerWeights,
        rows: Rows,
        k: int,
        needs: Sequence[bool],
        dy: Tensor | None,
        dhT: Tensor | None,
        dcT: Tensor | None,
        kept: Tensor,
        kept_too: Tensor | None,
        *inputs: Any,  # x, h0, c0, weights
    ) -> tuple[Tensor | None, ...]:
        ctx.layout, ctx.rows, ctx.needs = held.layout, rows, needs
        ctx.save_for_backward(dy, dhT, dcT, *inputs)
        ctx.set_materialize_grads(False)
        return _gradients(held, rows, k, needs, dy, dhT, dcT, kept, kept_too, *inputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        w, needs = ctx.layout, ctx.needs_input_grad[4:7] + ctx.needs_input_grad[9:]
        found = second_derivatives(
            w.cell, ctx.rows, w.n_directions, ctx.needs, needs, upstream, ctx.saved_tensors
        )
        return None, None, None, None, *found[:3], None, None, *found[3:]


def second_derivatives(
    cell: str,
    rows: Rows,
    n_directions: int,
    needs: Sequence[bool],
    needs_now: Sequence[bool],
    upstream: Sequence[Tensor | None],
    given: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Give derivatives of the derivatives of a layer.

    Parameters
    ----------
    cell, rows, n_directions
        As for `timelike.composition.composition`.
    needs : sequence of bool
        Which of ``x, h0, c0, weights`` the first derivatives were taken by.
    needs_now : sequence of bool
        Which of `given` they are to be differentiated by.
    upstream : sequence of Tensor or None
        One for each of ``x, h0, c0, weights``.
    given : sequence of Tensor or None
        ``dy, dhT, dcT, x, h0, c0, weights``.

    Returns
    -------
    list of Tensor or None
        One for each of `given`; None for zeros.
    """
    higher = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        # Views, so that the derivative by one of them does not run through another that depends on it.
        views: list[Any] = [None if t is None else t.view_as(t) for t in given]
        d_outputs, inputs = views[:3], views[3:]
        outputs = composition(cell, rows, n_directions, *inputs)
        first = _derivatives(outputs, d_outputs, inputs, needs, create_graph=True)
        return _derivatives(first, upstream, views, needs_now, create_graph=higher)


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
