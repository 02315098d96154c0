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
from timelike.memory import SpareMemory
from timelike.threads import get_num_threads

__all__ = ["at", "backward", "check_kept", "dense", "forward", "gradients", "row_distance"]


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
    y = _rows(held.memory.y, rows, x, *x.shape[:-1], K * R)
    hT = x.new_empty(K, B, R)
    cT = x.new_empty(K, B, H) if w.has_cell_state else None
    tape = held.memory.tape.empty(x, K * N * w.tape) if keep and w.tape else None
    w.native.run_forward(
        rows.native, N, len(rows.step), held.native, x, row_distance(x), h0, c0, y, hT, cT, tape,
        get_num_threads(),
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
    *,
    record: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h0, c0 and the weights, of those that `needs` names.

    A `record` gets, per direction, those of the gates before their activation [N, G H], of the hidden states
    [N, R] and, where there are any, of the cell states [N, H].
    """
    if dy is None and dhT is None and dcT is None:
        return (None,) * len(needs)
    w = held.layout
    check_kept(w, rows, x, h0, c0, y)
    B, K, H, R = len(rows.start), w.n_directions, w.units, w.state_size
    dx = _rows(held.memory.dx, rows, x, *x.shape) if needs[0] else None
    dh0 = x.new_empty(K, B, R) if needs[1] else None
    dc0 = x.new_empty(K, B, H) if needs[2] else None
    dy, dhT, dcT = (
        None if dy is None else dense(dy),
        None if dhT is None else plain(dhT),
        None if dcT is None else plain(dcT),
    )
    d_weights = gradients(x, needs[3:], w)
    w.native.run_backward(
        rows.native, rows.n_rows, len(rows.step), held.native, w.has_cell_state, x, row_distance(x), h0, c0,
        y, tape, dy, 0 if dy is None else row_distance(dy), dhT, dcT, dx, d_weights, dh0, dc0,
        record, get_num_threads(),
    )  # fmt: skip
    return dx, dh0, dc0, *d_weights


def _rows(memory: SpareMemory, rows: Rows, x: Tensor, *shape: int) -> Tensor:
    """Make room for a row of numbers for each row of `x`: zeros where that is of no step."""
    y = memory.empty(x, *shape)
    return y if rows.complete else y.zero_()


def gradients(x: Tensor, needs: Sequence[bool], w: Layout) -> list[Tensor | None]:
    """Make room for the gradients of weights: as forward held them, whatever the caller's are now."""
    if all(needs):
        return [x.new_empty(*shape) for shape in w.shapes[: len(needs)]]
    # The kernels give all of a direction or none, but for those of the biases.
    found: list[Tensor | None] = []
    for k in range(0, len(needs), w.n_weights):
        wanted = needs[k : k + w.n_weights]
        found += [
            x.new_empty(*shape) if need or (any(wanted) and j not in w.slots[2:4]) else None
            for j, (shape, need) in enumerate(zip(w.shapes[k : k + w.n_weights], wanted, strict=True))
        ]
    return found


def check_kept(
    w: Layout, rows: Rows, x: Tensor, h0: Tensor | None, c0: Tensor | None, y: Tensor | None = None
) -> None:
    """Refuse what is not any more what forward took or gave: no counter sees ``tensor.data = other``.

    Raises
    ------
    RuntimeError
        If a tensor has another type or size.
    """
    N, K, B = rows.n_rows, w.n_directions, rows.n_sequences
    sizes = (N * w.input_size, K * B * w.state_size, K * B * w.units, N * K * w.state_size)
    for name, t, size in zip(("x", "h0", "c0", "y"), (x, h0, c0, y), sizes, strict=True):
        if t is not None and (t.dtype is not w.dtype or t.numel() != size):
            raise RuntimeError(
                f"{name} has become {tuple(t.shape)}, {t.dtype}, since forward; {size} numbers of {w.dtype} "
                "are needed"
            )
