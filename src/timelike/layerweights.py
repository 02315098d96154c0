"""The weights of a layer, held for the kernels: a copy, packed.

Letters: ``D`` inputs, ``H`` units, ``R`` numbers of the hidden state (``H``, but for a projection), ``G``
gates of the parameters, ``A`` numbers per unit on the tape, ``K`` directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from timelike.cells import CELLS, parameter_shapes
from timelike.kernels import held_weights, isa, native_layer
from timelike.memory import LayerMemory

__all__ = ["LayerWeights", "Layout", "plain"]


def plain(x: Tensor) -> Tensor:
    """Give `x` where its memory is what it says, in order; else a copy that is."""
    if x.is_contiguous() and not x.is_neg():
        return x
    return x.contiguous().resolve_neg()


class Layout:
    """What the weights of a layer are: sizes, and which tensor is what.

    Attributes
    ----------
    native
        Native functions for layers of this size.
    hold
        The native class of weights of such layers.
    n_weights : int
        Weights of one direction.
    names : tuple of str
        What they are, for messages.
    slots : tuple of int
        Where ``W, U, b_ih, b_hh, peephole, projection`` stand among them; -1 for what is not there.
    sizes : list of int
        Bytes of each.
    tape_gates, tape : int
        Numbers per row on the tape: gate values, A H; all, with the cell states where there are any.
    record : int
        Numbers per row of a record of gradients: of gates, hidden states and cell states.
    """

    __slots__ = (
        "cell",
        "dtype",
        "has_cell_state",
        "hold",
        "input_size",
        "itemsize",
        "n_directions",
        "n_weights",
        "names",
        "native",
        "record",
        "shapes",
        "sizes",
        "slots",
        "state_size",
        "tape",
        "tape_gates",
        "units",
    )

    def __init__(
        self, cell: str, n_directions: int, dtype: torch.dtype, shapes: tuple[tuple[int, ...], ...]
    ) -> None:
        kind = CELLS[cell]
        n = len(shapes) // n_directions
        n_biases = n - 2 - kind.has_peephole - kind.has_projection
        rows, self.input_size = shapes[0]
        self.units, self.state_size = rows // len(kind.gates), shapes[1][1]
        expected = parameter_shapes(
            cell, self.input_size, self.units, proj_size=self.state_size, n_biases=n_biases
        )
        self.names = tuple(expected) * n_directions
        for name, shape, right in zip(self.names, shapes, [*expected.values()] * n_directions, strict=True):
            if tuple(shape) != right:
                raise ValueError(
                    f"{name}: shape {tuple(shape)}, expected {right} beside weight_ih {shapes[0]}"
                )
        self.cell, self.dtype, self.itemsize, self.shapes = cell, dtype, dtype.itemsize, shapes
        self.n_directions, self.n_weights, self.has_cell_state = n_directions, n, kind.has_cell_state
        self.slots = (
            0,
            1,
            2 if n_biases else -1,
            3 if n_biases == 2 else -1,
            n - 1 if kind.has_peephole else -1,
            n - 1 if kind.has_projection else -1,
        )
        sizes = (self.input_size, self.units, self.state_size)
        self.sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        self.hold: Any = held_weights(str(dtype).removeprefix("torch."))
        self.native: Any = native_layer(cell, str(dtype).removeprefix("torch."), isa(), *sizes)
        self.tape_gates = self.native.tape_gates * self.units
        self.tape = self.tape_gates + (self.units if kind.has_cell_state else 0)
        self.record = rows + self.state_size + (self.units if kind.has_cell_state else 0)


_layout = lru_cache(maxsize=256)(Layout)


class LayerWeights:
    """Weights of a layer at one moment: a copy, packed for the kernels.

    What is packed is the copy, so that backward uses the weights that forward used, whatever has become of
    the caller's in between.

    Parameters
    ----------
    cell : str
        One of `timelike.cells.CELLS`.
    weights : sequence of Tensor
        ``W, U``, then where there are any ``b_ih, b_hh``, then the peephole or the projection, of each
        direction.
    n_directions : int

    Attributes
    ----------
    layout : Layout
    native
        The copy and what is packed, as long as this lives.
    forward : list of int
        Addresses of what is packed for forward, one per direction.
    memory : LayerMemory
        Memory for the layer's large results, from one step of a training to the next.

    Raises
    ------
    TypeError, ValueError
        For weights that do not fit together.
    """

    __slots__ = ("forward", "layout", "memory", "native")

    def __init__(
        self, cell: str, weights: Sequence[Tensor], n_directions: int, *, memory: LayerMemory | None = None
    ) -> None:
        self.memory = LayerMemory() if memory is None else memory
        shapes = tuple([w.shape for w in weights])
        self.layout = layout = _layout(cell, n_directions, weights[0].dtype, shapes)
        for name, w in zip(layout.names, weights, strict=True):
            if w.dtype is not layout.dtype:
                raise TypeError(f"{name}: dtype {w.dtype}, but weight_ih is {layout.dtype}")
            if not w.is_cpu:
                raise ValueError(f"{name}: on device {w.device}, but these kernels run on the CPU")
        given = [plain(w.detach()) for w in weights]
        addresses = [w.data_ptr() for w in given]
        if 0 in addresses:
            raise NotImplementedError(
                "weights have no memory: tracing with fake tensors is not supported by these kernels"
            )
        self.native = layout.hold(layout.native, addresses, layout.sizes, layout.slots, n_directions)
        self.forward: list[int] = self.native.forward()

    def renewed(self, weights: Sequence[Tensor]) -> LayerWeights:
        """Hold what the weights of the same layer are now."""
        layout = self.layout
        addresses, _copies = self._addresses(weights)
        if not addresses:  # of another type or shape
            return LayerWeights(layout.cell, weights, layout.n_directions, memory=self.memory)
        other = LayerWeights.__new__(LayerWeights)
        other.memory, other.layout = self.memory, layout
        other.native = layout.hold(layout.native, addresses, layout.sizes, layout.slots, layout.n_directions)
        other.forward = other.native.forward()
        return other

    def hold(self, weights: Sequence[Tensor]) -> bool:
        """Whether these are the same weights, bit by bit.

        Nothing less than all bits tells: the version counter of a tensor misses ``parameter.data.mul_(2)``,
        NumPy views, memory shared with another process, and another tensor at the same address. It costs
        one reading of the weights, as each step of the layer does.
        """
        addresses, _copies = self._addresses(weights)
        return bool(addresses) and bool(self.native.same(addresses))

    def _addresses(self, weights: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
        """Give where the numbers of weights are, and copies that have to live so long.

        No addresses where these are no weights of this layout.
        """
        shapes, dtype = self.layout.shapes, self.layout.dtype
        addresses: list[int] = []
        copies: list[Tensor] = []
        if len(weights) != len(shapes):
            return addresses, copies
        for weight, shape in zip(weights, shapes, strict=True):
            if weight.shape != shape or weight.dtype is not dtype or not weight.is_cpu:
                return [], copies
            if not weight.is_contiguous() or weight.is_neg():
                weight = plain(weight.detach())
                copies.append(weight)
            addresses.append(weight.data_ptr())
        return [] if 0 in addresses else addresses, copies

    def backward(self) -> list[int]:
        """Give the addresses of what is packed for backward, per direction; packed when first asked for."""
        addresses: list[int] = self.native.backward()
        return addresses
