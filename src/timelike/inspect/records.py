"""From what layers left in records to arrays that one can read: `layers_of`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from timelike.cells import CELLS
from timelike.inspect.layertrace import LayerTrace
from timelike.kernels import Rows
from timelike.ragged import gather, offsets_of
from timelike.recording import Record
from timelike.recurrent import Recurrent

__all__ = ["layer_traces", "layers_of"]

Array = npt.NDArray[Any]


def layers_of(module: nn.Module, kept: Sequence[Record]) -> tuple[LayerTrace, ...]:
    """Make readable what the layers of a module left, in the order in which they ran.

    Parameters
    ----------
    module : torch.nn.Module
        Its names name the layers.
    kept : sequence of Record
        After backward.
    """
    names: dict[int, str] = {}
    for name, part in module.named_modules():
        if isinstance(part, Recurrent):
            for number, held in enumerate(part.held):
                label = name if part.num_layers == 1 else f"{name}:{number}"
                names[id(held)] = label
    found: list[LayerTrace] = []
    runs: Counter[str] = Counter()
    for record in kept:
        name = names.get(id(record.held), "")
        runs[name] += 1  # a layer may run more than once in a forward
        found += layer_traces(name if runs[name] == 1 else f"{name}#{runs[name]}", record)
    return tuple(found)


def layer_traces(name: str, record: Record) -> list[LayerTrace]:
    """Make readable what a layer left, forward and backward.

    Parameters
    ----------
    name : str
        What the layer is called.
    record : Record
        After backward.

    Returns
    -------
    list of LayerTrace
        One for each direction, rows in the order of a ragged batch.
    """
    layout, rows = record.held.layout, record.rows
    kind, N, B = CELLS[layout.cell], rows.n_rows, rows.n_sequences
    H, R, GH = layout.units, layout.state_size, layout.shapes[0][0]
    order, offsets = _order(rows)
    x, y = (values.reshape(N, values.shape[-1]) for values in (record.x, record.y))
    found = []
    for k, direction in enumerate(("forward", "reverse")[: layout.n_directions]):
        assert record.gradients is not None
        assert record.dh0 is not None
        recorded = {"x": x, "h": y[:, k * R : (k + 1) * R]}
        widths = {"dgates": GH, "dh": R} | ({"dc": H} if kind.has_cell_state else {})
        recorded |= _cut(record.gradients, k, N, widths)
        if record.tape is not None:
            widths = {"gates": layout.tape_gates} | ({"c": H} if kind.has_cell_state else {})
            recorded |= _cut(record.tape, k, N, widths)
        own = slice(k * layout.n_weights, (k + 1) * layout.n_weights)
        h0, c0 = (
            np.zeros((B, size), y.numpy().dtype) if state is None else state[k].numpy()
            for state, size in ((record.h0, R), (record.c0, H))
        )
        found.append(
            LayerTrace(
                name=name,
                direction=direction,
                cell=layout.cell,
                offsets=offsets,
                h0=h0,
                c0=c0 if kind.has_cell_state else None,
                weights=_weights(layout.slots, record.weights[own]),
                dh0=record.dh0[k].numpy(),
                dc0=None if record.dc0 is None else record.dc0[k].numpy(),
                dweights=_weights(layout.slots, record.d_weights[own]),
                recorded={key: values.numpy() for key, values in recorded.items()},
                order=order,
            )
        )
    return found


def _cut(memory: Tensor, direction: int, N: int, widths: dict[str, int]) -> dict[str, Tensor]:
    """Cut the part of a direction into arrays [N, width], one behind the other."""
    at, found = direction * N * sum(widths.values()), {}
    for name, width in widths.items():
        found[name] = memory[at : at + N * width].view(N, width)
        at += N * width
    return found


def _weights(slots: Sequence[int], weights: Sequence[Tensor]) -> dict[str, Array]:
    names = ("W", "U", "b_ih", "b_hh", "peephole", "projection")
    return {name: weights[slot].numpy() for name, slot in zip(names, slots, strict=True) if slot >= 0}


@lru_cache(maxsize=16)  # layers and training steps see the same few rows again and again
def _order(rows: Rows) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
    """Where the rows of a ragged batch lie, None where they lie in that order, and its offsets."""
    lengths = rows.lengths
    offsets = offsets_of(lengths)
    ragged_start = rows.complete and rows.index is None and np.array_equal(rows.start, offsets[:-1])
    if ragged_start and np.array_equal(rows.step, np.arange(len(rows.step))):
        return None, offsets
    step = gather(np.zeros_like(lengths), lengths)[0]
    index = np.repeat(rows.start, lengths) + rows.step[step]
    if rows.index is not None:
        index = rows.index[index]
    return index, offsets
