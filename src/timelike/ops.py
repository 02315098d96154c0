"""A recurrent layer as a registered operator of PyTorch: ``torch.ops.timelike.layer``.

For `torch.compile` and `torch.export`, which see the operator, its fake tensors and its derivative, but not
what is in it. (Without them, `timelike.autograd` calls the kernels with less in between.)

Tensors come as they are, plain numbers beside them. The rows of a batch are told by a name, ``time_major``
(x is (T, B, D), or (T, D)), ``batch_major`` (x is (B, T, D)), ``ragged`` or ``packed``, and by `steps`, which
says which steps there are: the mask of a padded batch, if it has one, the offsets of a ragged one, the batch
sizes of a packed one.

Letters: ``B`` sequences, ``T`` steps, ``N`` rows, ``D`` inputs, ``H`` units, ``R`` numbers of the hidden
state, ``K`` directions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from timelike import layercalls, segments
from timelike.autograd import checked, second_derivatives
from timelike.cells import CELLS
from timelike.kernels import Rows, available, native_layer
from timelike.layerweights import LayerWeights
from timelike.layouts import Batch, Expected, Ragged, checked_mask, masked_rows, rows_of
from timelike.segments import segment_length

__all__ = ["TracedRows", "can_trace", "layer", "traced_batch"]

# Numbers per unit on the tape: the same on all instruction sets, for layers of all sizes.
_TAPE_GATES = {cell: native_layer(cell, "float32", available()[0], 1, 1, 1).tape_gates for cell in CELLS}
_NOTHING = -1  # the segment of a walk that keeps nothing for backward
_BATCH = "Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? steps, str rows, SymInt n_sequences"
_WALK = "str cell, int n_directions, int segment"
torch.library.define(
    "timelike::layer",
    f"({_BATCH}, {_WALK}) -> (Tensor y, Tensor h, Tensor c, Tensor kept, Tensor kept_too)",
)
torch.library.define(
    "timelike::layer_backward",
    "(Tensor? dy, Tensor? dh, Tensor? dc, Tensor y, Tensor kept, Tensor kept_too, "
    f"{_BATCH}, {_WALK}, bool[] needs) -> Tensor[]",
)


class TracedRows(NamedTuple):
    """Rows of a batch whose numbers may not be known yet."""

    steps: Tensor | None
    kind: str  # "time_major", "batch_major", "ragged" or "packed"
    n_sequences: int


def can_trace(input: Any, mask: Tensor | None, *, recompute: bool | int) -> bool:
    """Whether the operator takes such a batch; one that it does not take is run between two graphs."""
    if mask is None and (isinstance(input, Ragged) or _is_padded(input)):
        return True
    if recompute:  # which asks for the number of steps
        return False
    if isinstance(input, PackedSequence):  # sorted by the caller: only its numbers tell how many there are
        return mask is None and input.sorted_indices is not None
    if _is_padded(input):
        return True
    return mask is None and _is_jagged(input)


def _is_padded(input: Any) -> bool:
    return isinstance(input, Tensor) and not input.is_nested


def _is_jagged(input: Any) -> bool:
    """Whether it is a nested tensor whose sequences lie one after another."""
    return (
        isinstance(input, Tensor)
        and input.layout == torch.jagged
        and input.dim() == 3
        and input._ragged_idx == 1  # type: ignore[attr-defined]
        and input.lengths() is None  # type: ignore[attr-defined]
    )


def traced_batch(input: Any, expected: Expected, *, batch_first: bool, mask: Tensor | None) -> Batch:
    """Read a batch as `timelike.layouts.batch_of` does, where `can_trace` allows it."""
    if isinstance(input, Ragged):
        return _traced(input.values, expected, input.offsets, lambda y: Ragged(y, input.offsets))
    if isinstance(input, PackedSequence):
        x, (_, sizes, order, inverse) = rows_of(input.data, expected), input
        packed = TracedRows(sizes, "packed", order.shape[0])  # type: ignore[union-attr]
        return Batch(x, packed, lambda y: PackedSequence(y, sizes, order, inverse), order, inverse)  # type: ignore[arg-type]
    if input.is_nested:
        values, offsets = input.values(), input.offsets()
        return _traced(
            values, expected, offsets.long(), lambda y: torch.nested.nested_tensor_from_jagged(y, offsets)
        )
    if input.dim() not in (2, 3):
        raise ValueError(f"{expected.cell}: Expected input to be 2D or 3D, got {input.dim()}D instead")
    x = rows_of(input, expected)
    steps = None if mask is None else checked_mask(mask, x, expected)
    if x.dim() == 2:
        return Batch(x, TracedRows(steps, "time_major", 1), unbatched=True)  # type: ignore[arg-type]
    kind, B = ("batch_major", x.shape[0]) if batch_first else ("time_major", x.shape[1])
    return Batch(x, TracedRows(steps, kind, B))  # type: ignore[arg-type]


def _traced(values: Tensor, expected: Expected, offsets: Tensor, output: Callable[[Tensor], Any]) -> Batch:
    rows = TracedRows(offsets, "ragged", offsets.shape[0] - 1)
    return Batch(rows_of(values, expected), rows, output)  # type: ignore[arg-type]


def layer(
    cell: str,
    rows: TracedRows,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    *,
    n_directions: int,
    recompute: bool | int = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run one layer over a batch: what `timelike.autograd.layer` does, in a form that can be traced.

    Raises
    ------
    NotImplementedError
        For a ragged batch with `recompute`: the number of steps is not known to a tracer.
    """
    segment = 0
    if not torch.is_grad_enabled():
        segment = _NOTHING
    elif recompute:
        if rows.steps is not None:
            raise NotImplementedError(
                "recompute: not for ragged batches under torch.compile and torch.export, which cannot know "
                "the number of steps; possible: padded batches, or recompute=False"
            )
        R, units = weights[1].shape[1], weights[0].shape[0] // len(CELLS[cell].gates)
        c = units if CELLS[cell].has_cell_state else 0
        T = x.shape[1] if rows.kind == "batch_major" else x.shape[0]
        record = _TAPE_GATES[cell] * units + c + R
        segment = segment_length(recompute, T, border=R + c, record=record)
    y, h, c_n, *_ = torch.ops.timelike.layer(x, h0, c0, [*weights], *rows, cell, n_directions, segment)
    return y, h, c_n if CELLS[cell].has_cell_state else None


# What the kernels do


def _rows(x: Tensor, steps: Tensor | None, rows: str) -> Rows:
    if steps is not None:
        numbers = steps.numpy()
        if rows in ("time_major", "batch_major"):
            return masked_rows(numbers.tobytes(), steps.shape, rows == "batch_major")
        return (Rows.ragged if rows == "ragged" else Rows.packed)(numbers)
    # A tracer of second derivatives comes with symbols for sizes: it unrolls the steps, one graph per size.
    first, second = int(x.shape[0]), 1 if x.dim() == 2 else int(x.shape[1])
    return (Rows.time_major if rows == "time_major" else Rows.batch_major)(first, second)


_MOST = 16  # layers whose packed weights are kept
_packed: OrderedDict[tuple[Any, ...], LayerWeights] = OrderedDict()


def _hold(cell: str, weights: Sequence[Tensor], n_directions: int) -> LayerWeights:
    """Pack the weights, unless they were packed last for a layer with weights at these addresses."""
    key = (cell, n_directions, *[w.data_ptr() for w in weights])
    held = _packed.pop(key, None)
    if held is None or not held.hold(weights):
        held = LayerWeights(cell, weights, n_directions)
    _packed[key] = held
    while len(_packed) > _MOST:
        _packed.popitem(last=False)
    return held


@torch.library.impl("timelike::layer", "CPU")
def _layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    steps: Tensor | None,
    rows: str,
    n_sequences: int,
    cell: str,
    n_directions: int,
    segment: int,
) -> tuple[Tensor, ...]:
    if forward_ad._current_level >= 0:  # else torch would take the tangents for zeros
        raise NotImplementedError(
            "timelike::layer: forward mode AD is not supported; use torch.autograd.grad"
        )
    held, batch = _hold(cell, weights, n_directions), _rows(x, steps, rows)
    x, h0, c0 = checked(held, batch, x, h0, c0)
    kept_too: Tensor | None
    kept: Tensor | None
    if segment > 0:
        y, h, c, kept, kept_too = segments.forward(held, batch, x, h0, c0, segment)
    else:
        y, h, c, kept = layercalls.forward(held, batch, x, h0, c0, keep=segment == 0)
        kept_too = None
    return tuple(x.new_empty(0) if t is None else t for t in (y, h, c, kept, kept_too))


@torch.library.impl("timelike::layer_backward", "CPU")
def _layer_backward(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    y: Tensor,
    kept: Tensor,
    kept_too: Tensor,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    steps: Tensor | None,
    rows: str,
    n_sequences: int,
    cell: str,
    n_directions: int,
    segment: int,
    needs: list[bool],
) -> list[Tensor]:
    held, batch = _hold(cell, weights, n_directions), _rows(x, steps, rows)
    x, h0, c0 = checked(held, batch, x, h0, c0)
    if dy is None and dh is None and dc is None:
        dy = torch.zeros_like(y)
    if segment:
        borders = kept, kept_too if CELLS[cell].has_cell_state else None
        found = segments.backward(held, batch, segment, needs, dy, dh, dc, *borders, x, h0, c0)
    else:
        found = layercalls.backward(held, batch, needs, dy, dh, dc, y, kept, x, h0, c0)
    return [d for d, need in zip(found, needs, strict=True) if need and d is not None]


# What a tracer is told


@torch.library.register_fake("timelike::layer")  # type: ignore[untyped-decorator]
def _fake_layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    steps: Tensor | None,
    rows: str,
    n_sequences: int,
    cell: str,
    n_directions: int,
    segment: int,
) -> tuple[Tensor, ...]:
    K, B, cell_state = n_directions, n_sequences, CELLS[cell].has_cell_state
    H, R = weights[0].shape[0] // len(CELLS[cell].gates), weights[1].shape[1]
    y, h = x.new_empty((*x.shape[:-1], K * R)), x.new_empty((K, B, R))
    c = x.new_empty((K, B, H) if cell_state else (0,))
    if segment > 0:
        T = x.shape[0 if x.dim() == 2 or rows == "time_major" else 1]
        S = (T + segment - 1) // segment
        kept = x.new_empty((S - 1, K, B, R))
        kept_too = x.new_empty((S - 1, K, B, H) if cell_state else (0,))
    else:
        kept = (
            x.new_empty(0)
            if segment
            else x.new_empty(K * (x.numel() // x.shape[-1]) * H * (_TAPE_GATES[cell] + cell_state))
        )
        kept_too = x.new_empty(0)
    return y, h, c, kept, kept_too


@torch.library.register_fake("timelike::layer_backward")  # type: ignore[untyped-decorator]
def _fake_layer_backward(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    y: Tensor,
    kept: Tensor,
    kept_too: Tensor,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    steps: Tensor | None,
    rows: str,
    n_sequences: int,
    cell: str,
    n_directions: int,
    segment: int,
    needs: list[bool],
) -> list[Tensor]:
    inputs = (x, h0, c0, *weights)
    return [t.new_empty(t.shape) for t, need in zip(inputs, needs, strict=True) if need and t is not None]


# Its derivative


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h0, c0, weights, steps, *ctx.options = inputs
    if ctx.options[-1] == _NOTHING:
        raise RuntimeError("timelike::layer kept nothing for backward: segment must be 0 or more")
    y, _, _, kept, kept_too = output
    ctx.save_for_backward(y, kept, kept_too, x, h0, c0, steps, *weights)
    ctx.set_materialize_grads(False)


def _derive(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, *_: None) -> tuple[Any, ...]:
    y, kept, kept_too, x, h0, c0, steps, *weights = ctx.saved_tensors
    if not CELLS[ctx.options[2]].has_cell_state:
        dc = None
    needs = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[3]]
    found = iter(
        torch.ops.timelike.layer_backward(
            dy, dh, dc, y, kept, kept_too, x, h0, c0, weights, steps, *ctx.options, needs
        )
    )
    dx, dh0, dc0, *d_weights = [next(found) if need else None for need in needs]
    return dx, dh0, dc0, d_weights, *(None,) * 6


torch.library.register_autograd("timelike::layer", _derive, setup_context=_keep)


# And the derivative of that


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    d_outputs, (x, h0, c0, weights, steps, *options) = inputs[:3], inputs[6:]
    ctx.rows, _, ctx.cell, ctx.n_directions, _, ctx.needs = options
    ctx.save_for_backward(steps, *d_outputs, x, h0, c0, *weights)
    ctx.set_materialize_grads(False)


def _derive_backward(ctx: Any, upstream: list[Tensor | None]) -> tuple[Any, ...]:
    steps, *given = ctx.saved_tensors
    if steps is not None and type(steps) is not Tensor:  # but a tracer's
        raise NotImplementedError(
            "second derivatives in one graph: not of ragged, packed and masked batches, whose steps a "
            "tracer cannot know; possible: padded batches, or the layer outside of torch.compile"
        )
    given_now = iter(upstream)
    found = second_derivatives(
        ctx.cell,
        _rows(given[3], steps, ctx.rows),
        ctx.n_directions,
        ctx.needs,
        [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[6:9], *ctx.needs_input_grad[9]],
        [next(given_now) if need else None for need in ctx.needs],
        given,
    )
    # What was kept is a function of the inputs: the derivative by them is whole.
    kept = (None,) * 3
    return *found[:3], *kept, *found[3:6], found[6:], *(None,) * 7


torch.library.register_autograd("timelike::layer_backward", _derive_backward, setup_context=_keep_backward)
