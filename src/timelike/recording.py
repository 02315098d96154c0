"""What recurrent layers compute, kept as they compute it: values and gradients at every step.

Within `recording`, each layer leaves a `Record`: in forward its inputs, outputs and tape, in backward the
gradients of gates and states. These are the numbers of the run itself, written by the same kernels, and not
of a second one. `timelike.inspect` makes them readable.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``R`` numbers of the
hidden state (``H``, but for a projection), ``G`` gates, ``K`` directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from timelike import layercalls
from timelike.kernels import Rows
from timelike.layerweights import LayerWeights

__all__ = ["Record", "layer", "recording", "records"]

records: ContextVar[list[Record] | None] = ContextVar("records", default=None)
"""Where layers leave their records at the moment; None where nobody asks for any."""


@dataclass(eq=False)
class Record:
    """One run of a layer over a batch."""

    held: LayerWeights  # as the weights were
    rows: Rows
    x: Tensor  # (..., D), all axes but the last together are the N rows
    h0: Tensor | None  # [K, B, R]
    c0: Tensor | None  # [K, B, H]
    weights: tuple[Tensor, ...]  # of one direction after the other
    # An input of no numbers: autograd runs the layer back for it where nothing else asks for a gradient.
    anchor: Tensor
    y: Tensor = field(init=False)  # (..., K R)
    hT: Tensor = field(init=False)  # [K, B, R]
    cT: Tensor | None = field(init=False, default=None)  # [K, B, H]
    tape: Tensor | None = field(init=False, default=None)  # per direction gates [N, A H], then cells [N, H]
    # Left by backward:
    gradients: Tensor | None = None  # per direction of gates [N, G H], hidden [N, R], then cells [N, H]
    dh0: Tensor | None = None  # [K, B, R]
    dc0: Tensor | None = None  # [K, B, H]
    d_weights: tuple[Tensor, ...] = ()


@contextmanager
def recording() -> Iterator[list[Record]]:
    """Keep what the layers of `timelike.nn` compute within, in the order in which they run.

    Yields
    ------
    list of Record
        Filled by forward; backward, which may come later, adds the gradients to the same records. A layer
        with ``recompute`` runs with a tape here.
    """
    kept: list[Record] = []
    token = records.set(kept)
    try:
        yield kept
    finally:
        records.reset(token)


def layer(
    kept: list[Record],
    held: LayerWeights,
    rows: Rows,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a layer as `timelike.autograd.layer` does, with a record of it."""
    anchor = x.new_empty(0, requires_grad=True)
    h0_kept, c0_kept = (None if s is None else s.detach() for s in (h0, c0))
    # Copied: an optimiser changes them in place, and the record is of this run.
    own = tuple(w.detach().clone() for w in weights)
    record = Record(held, rows, x.detach(), h0_kept, c0_kept, own, anchor)
    kept.append(record)
    return _RecordedLayer.apply(record, anchor, x, h0, c0, *weights)  # type: ignore[no-untyped-call, no-any-return]


class _RecordedLayer(torch.autograd.Function):
    """``(anchor, x, h0, c0, weights) -> (y, hT, cT)``, all of it kept in a record."""

    @staticmethod
    def forward(
        ctx: Any,
        record: Record,
        anchor: Tensor,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        y, hT, cT, record.tape = layercalls.forward(record.held, record.rows, x, h0, c0, keep=True)
        record.y, record.hT, record.cT = y.detach(), hT.detach(), None if cT is None else cT.detach()
        ctx.record = record
        ctx.save_for_backward(y, x, h0, c0, *weights)  # so that autograd sees when they are changed
        ctx.set_materialize_grads(False)
        return y, hT, cT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dhT: Tensor | None, dcT: Tensor | None) -> Any:
        record: Record = ctx.record
        y, x, h0, c0 = ctx.saved_tensors[:4]
        layout = record.held.layout
        numbers = layout.n_directions * record.rows.n_rows * layout.record
        record.gradients = record.held.memory.record.empty(x, numbers)
        if dy is None and dhT is None and dcT is None:
            dhT = torch.zeros_like(record.hT)
        needs = ctx.needs_input_grad[2:]
        wanted = (needs[0], True, layout.has_cell_state, *[True] * len(layout.shapes))
        dx, dh0, dc0, *d_weights = layercalls.backward(
            record.held, record.rows, wanted, dy, dhT, dcT, y, record.tape, x, h0, c0,
            record=record.gradients,
        )  # fmt: skip
        record.dh0, record.dc0 = dh0, dc0
        record.d_weights = tuple(g for g in d_weights if g is not None)
        given = (dx, dh0, dc0, *d_weights)
        return None, None, *[g if need else None for g, need in zip(given, needs, strict=True)]
