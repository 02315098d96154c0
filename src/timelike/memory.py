"""Memory for the large results of a layer, kept from one step of a training to the next.

Tape, outputs and gradients of the inputs are the largest pieces of memory that a training step asks for. What
malloc gives back to the system must be asked for again, page by page: that cost a seventh of the step at
H = 128, and a twentieth at H = 32. A layer therefore keeps the memory of the last of each. It is only ever
lent to one tensor at a time: it comes back when nobody refers to that tensor any more, be it autograd, a
hook, or a caller who took it out of the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from timelike.kernels import aligned_empty

__all__ = ["LayerMemory", "SpareMemory"]

_SMALL = 1 << 18  # bytes; below this malloc serves from its own store, and keeping is no gain


class SpareMemory:
    """The memory of the last of some tensors, while none lies in it."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: list[np.ndarray] = []  # none or one; threads share it by append and pop

    def empty(self, x: Tensor, *shape: int) -> Tensor:
        """Give a tensor of the type of `x`, not initialised."""
        size = x.itemsize
        for n in shape:
            size *= n
        if size < _SMALL:
            return x.new_empty(*shape)
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = None
        if memory is None or not size <= memory.nbytes <= 4 * size:
            memory = aligned_empty(size, "uint8")
        lent = np.ndarray.__new__(_Lent, shape, "float32" if x.itemsize == 4 else "float64", memory)
        lent.memory, lent.spare = memory, self._spare
        return torch.from_numpy(lent)


class LayerMemory:
    """Spare memory for each of the large results of a layer."""

    __slots__ = ("dx", "record", "tape", "y")

    def __init__(self) -> None:
        self.tape, self.y, self.dx, self.record = (SpareMemory() for _ in range(4))


class _Lent(np.ndarray[Any, Any]):
    """What a tensor holds on to as long as it or a view of it lives: then the memory is spare again."""

    memory: np.ndarray
    spare: list[np.ndarray] | None = None

    def __del__(self) -> None:
        if self.spare is not None and not self.spare:
            self.spare.append(self.memory)
