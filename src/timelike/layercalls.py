"""One layer over a batch of tensors, forward and backward, by the kernels: no autograd, no checks.

The kernels are called with addresses: all buffers are either made here or were checked by
`timelike.autograd`, and for a short sequence the checks of `timelike.kernels` would cost more than the layer.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``R`` numbers of the
hidden state, ``G`` gates, ``K`` directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from timelike.kernels import Rows
from timelike.layerweights import LayerWeights, Layout, plain
from timelike.threads import get_num_threads

__all__ = ["at", "backward", "dense", "forward", "gradients", "row_distance"]


def at(x: Tensor | None, offset: int = 0) -> int:
    """Address `offset` bytes into a tensor; 0 for None."""
    if x is None:
        return 0
    address = x.data_ptr()
    if address == 0 and x.numel():
        raise NotImplementedError(
            f"{type(x).__name__} has no memory: tracing with fake tensors is not supported by these kernels"
        )
    return address + offset


def dense(x: Tensor) -> Tensor:
    """Give `x` where its rows are contiguous and lie at one distance, else a copy of it."""
    if x.is_contiguous() or (x.stride(-1) == 1 and _rows_at_one_distance(x)):
        return x.resolve_neg() if x.is_neg() else x
    return x.contiguous()


def _rows_at_one_distance(x: Tensor) -> bool:
    return x.dim() == 2 or (x.dim() == 3 and x.stride(0) == x.shape[1] * x.stride(1))


def row_distance(x: Tensor) -> int:
    """Numbers from one row of a dense tensor to the next."""
    return x.shape[-1] if x.is_contiguous() else x.stride(-2)


def forward(
    held: LayerWeights, rows: Rows, x: Tensor, h0: Tensor | None, c0: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Give ``y, hT, cT`` and, to `keep` what backward needs, the tape.

    The tape has, per direction, the gate values of all rows and then their cell states.
    """
    w = held.layout
    N, B, K, H, R = rows.n_rows, len(rows.start), w.n_directions, w.units, w.state_size
    # Sizes one by one: torch takes longer to read a tuple than to allocate.
    y = (x.new_empty if rows.complete else x.new_zeros)(*x.shape[:-1], K * R)
    hT = x.new_empty(K, B, R)
    cT = x.new_empty(K, B, H) if w.has_cell_state else None
    tape = held.tapes.empty(K * N * w.tape, x) if keep and w.tape else None
    hs, cs, ts, ys = _strides(held, rows)
    cells = N * w.tape_gates * w.itemsize
    end, ldx, threads = len(rows.step), row_distance(x), get_num_threads()
    for k in range(K):
        w.native.forward(
            rows.native, 0, end, k == 1, held.forward[k],
            at(x), ldx, at(h0, k * hs), at(c0, k * cs), at(y, k * ys), K * R, 0,
            at(hT, k * hs), at(cT, k * cs), at(tape, k * ts), at(tape, k * ts + cells), threads,
        )  # fmt: skip
    return y, hT, cT, tape


def backward(
    held: LayerWeights,
    rows: Rows,
    needs: Sequence[bool],
    dy: Tensor | None,
    dhT: Tensor | None,
    dcT: Tensor | None,
    y: Tensor,
    tape: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``x, h0, c0, *weights``, of those that `needs` names."""
    if dy is None and dhT is None and dcT is None:
        return (None,) * len(needs)
    w = held.layout
    N, B, K, H, R, n = rows.n_rows, len(rows.start), w.n_directions, w.units, w.state_size, w.n_weights
    dx = (x.new_empty if rows.complete else x.new_zeros)(*x.shape) if needs[0] else None
    dh0 = x.new_empty(K, B, R) if needs[1] else None
    dc0 = x.new_empty(K, B, H) if needs[2] else None
    dy, dhT, dcT = (
        None if dy is None else dense(dy),
        None if dhT is None else plain(dhT),
        None if dcT is None else plain(dcT),
    )
    hs, cs, ts, ys = _strides(held, rows)
    cells = N * w.tape_gates * w.itemsize
    end, ldx, lddy = len(rows.step), row_distance(x), 0 if dy is None else row_distance(dy)
    threads, (_held, packed) = get_num_threads(), held.backward()
    d_weights: list[Tensor | None] = []
    for k in range(K):
        found = gradients(weights[k * n : (k + 1) * n], needs[3 + k * n : 3 + (k + 1) * n], w)
        w.native.backward(
            rows.native, 0, end, k == 1, packed[k],
            at(x), ldx, at(h0, k * hs), at(c0, k * cs), at(y, k * ys), K * R,
            at(tape, k * ts), at(tape, k * ts + cells),
            at(dy, k * ys), lddy, at(dhT, k * hs), at(dcT, k * cs), at(dx), w.input_size, k == 1,
            *[0 if slot < 0 else at(found[slot]) for slot in w.slots],
            at(dh0, k * hs), at(dc0, k * cs), 0, threads,
        )  # fmt: skip
        d_weights += found
    return dx, dh0, dc0, *d_weights


def _strides(held: LayerWeights, rows: Rows) -> tuple[int, int, int, int]:
    """Bytes from direction to direction in h, in c, on the tape, and in a row of y."""
    w, B = held.layout, len(rows.start)
    size = w.itemsize
    return B * w.state_size * size, B * w.units * size, rows.n_rows * w.tape * size, w.state_size * size


def gradients(weights: Sequence[Tensor], needs: Sequence[bool], w: Layout) -> list[Tensor | None]:
    """Make room for the gradients of one direction's weights."""
    if not any(needs):
        return [None] * len(weights)
    # The kernels give all or none, but for those of the biases.
    biases = w.slots[2:4]
    return [
        p.new_empty(*p.shape) if need or j not in biases else None
        for j, (p, need) in enumerate(zip(weights, needs, strict=True))
    ]
