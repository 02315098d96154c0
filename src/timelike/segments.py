"""One layer over a batch without a tape: states at the borders of segments, and the rest again in backward.

The walk through time is cut into segments of k steps. Forward keeps the states at their borders alone.
Backward takes the segments from the last to the first: it runs each forward once more, now onto a tape of k
steps, and back over this tape; gradients of the states are handed from segment to segment, those of the
weights are added up. With T steps that is memory for T / k borders and k steps, least where k is about
``sqrt(T)``, for twice the time in forward. Outputs are the same to the last bit, gradients but for the order
in which those of the weights are added.

Chen, Xu, Zhang & Guestrin, Training deep nets with sublinear memory cost, arXiv:1604.06174 (2016), section 4.

Letters as in `timelike.layercalls`; ``S`` segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from timelike.kernels import Rows
from timelike.layercalls import at, check_kept, dense, gradients, row_distance
from timelike.layerweights import LayerWeights, plain
from timelike.threads import get_num_threads

__all__ = ["backward", "forward", "segment_length"]


def segment_length(recompute: bool | int, n_steps: int, *, border: int, record: int) -> int:
    """Give the k that was asked for; for True, that which takes least memory.

    ``T / k`` borders of ``border = R + H`` numbers (R without a cell state) and ``k`` steps of a tape with
    ``record`` numbers each are least at ``k = sqrt(T border / record)``: ``sqrt(T / 3)`` for an LSTM.
    """
    if recompute is not True:
        return recompute
    return max(1, round(math.sqrt(n_steps * border / record)))


def forward(
    held: LayerWeights, rows: Rows, x: Tensor, h0: Tensor | None, c0: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
    """Give ``y, hT, cT``, and the states h [S - 1, K, B, R] and c [S - 1, K, B, H] at the borders."""
    w, T, B = held.layout, len(rows.step), len(rows.start)
    K, H, R, S = w.n_directions, w.units, w.state_size, _count(T, k)
    y = (x.new_empty if rows.complete else x.new_zeros)(*x.shape[:-1], K * R)
    hT, h_borders = x.new_empty(K, B, R), x.new_empty(S - 1, K, B, R)
    cT = x.new_empty(K, B, H) if w.has_cell_state else None
    c_borders = x.new_empty(S - 1, K, B, H) if w.has_cell_state else None
    ldx, threads, hs, cs = row_distance(x), get_num_threads(), B * R * w.itemsize, B * H * w.itemsize
    for d in range(K):
        for s in range(S):
            h, c = _entering(s, d * hs, h0, h_borders), _entering(s, d * cs, c0, c_borders)
            if s < S - 1:
                h_out, c_out = (
                    _entering(s + 1, d * hs, h0, h_borders),
                    _entering(s + 1, d * cs, c0, c_borders),
                )
            else:
                h_out, c_out = at(hT, d * hs), at(cT, d * cs)
            w.native.forward(
                rows.native, s * k, min((s + 1) * k, T), d == 1, held.forward[d], at(x), ldx, h, c,
                at(y, d * R * w.itemsize), K * R, 0, h_out, c_out, 0, 0, threads,
            )  # fmt: skip
    return y, hT, cT, h_borders, c_borders


def backward(
    held: LayerWeights,
    rows: Rows,
    k: int,
    needs: Sequence[bool],
    dy: Tensor | None,
    dhT: Tensor | None,
    dcT: Tensor | None,
    h_borders: Tensor,
    c_borders: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h0, c0 and the weights, of those that `needs` names."""
    if dy is None and dhT is None and dcT is None:
        return (None,) * len(needs)
    w, T, B = held.layout, len(rows.step), len(rows.start)
    check_kept(w, rows, x, h0, c0)
    K, H, R, S, n = w.n_directions, w.units, w.state_size, _count(T, k), w.n_weights
    dx = (x.new_empty if rows.complete else x.new_zeros)(*x.shape) if needs[0] else None
    dh0 = x.new_empty(K, B, R)
    dc0 = x.new_empty(K, B, H) if w.has_cell_state else None
    dy = None if dy is None else dense(dy)
    dhT = None if dhT is None else plain(dhT)
    dcT = None if dcT is None else plain(dcT)
    ring = rows.ring(min(k, max(T, 1)))
    hidden = x.new_empty(ring.n_tape_rows, R)
    tape = x.new_empty(ring.n_tape_rows * w.tape)
    cells = at(tape, ring.n_tape_rows * w.tape_gates * w.itemsize)
    ldx, lddy = row_distance(x), 0 if dy is None else row_distance(dy)
    threads, packed = get_num_threads(), held.backward()
    hs, cs, ys = B * R * w.itemsize, B * H * w.itemsize, R * w.itemsize
    d_weights: list[Tensor | None] = []
    for d in range(K):
        dh, dc = at(dhT, d * hs), at(dcT, d * cs)
        dh_in, dc_in = at(dh0, d * hs), at(dc0, d * cs)
        total = part = gradients(x, needs[3 + d * n : 3 + (d + 1) * n], w)
        for s in reversed(range(S)):
            begin, end = s * k, min((s + 1) * k, T)
            h, c = _entering(s, d * hs, h0, h_borders), _entering(s, d * cs, c0, c_borders)
            w.native.forward(
                ring.native, begin, end, d == 1, held.forward[d], at(x), ldx, h, c,
                0, 0, at(hidden), 0, 0, at(tape), cells, threads,
            )  # fmt: skip
            w.native.backward(
                ring.native, begin, end, d == 1, packed[d], at(x), ldx, h, c, at(hidden), R, at(tape), cells,
                at(dy, d * ys), lddy, dh, dc, at(dx), w.input_size, d == 1,
                *[0 if slot < 0 else at(part[slot]) for slot in w.slots],
                dh_in, dc_in, 0, 0, 0, threads,
            )  # fmt: skip
            if part is total:  # the kernels overwrite: what comes next is added
                part = [None if g is None else g.new_empty(*g.shape) for g in total]
            else:
                for sum_, g in zip(total, part, strict=True):
                    if sum_ is not None and g is not None:
                        sum_.add_(g)
            dh, dc = dh_in, dc_in
        d_weights += total
    return dx, dh0 if needs[1] else None, dc0 if needs[2] else None, *d_weights


def _count(T: int, k: int) -> int:
    """Segments of k of T steps; at least one, which hands the states on."""
    return max(1, -(-T // k))


def _entering(s: int, offset: int, first: Tensor | None, borders: Tensor | None) -> int:
    """Address of the state in which a direction enters segment s; `offset` is that of the direction."""
    if s == 0:
        return at(first, offset)
    return 0 if borders is None else at(borders[s - 1], offset)
