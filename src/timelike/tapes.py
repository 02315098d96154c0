"""Memory for tapes, kept from one step of a training to the next.

The tape of a large batch is the largest piece of memory that a training step asks for, and fresh pages from
the system cost a seventh of the step at H = 128. A layer therefore keeps the memory of its last tape. It is
only ever lent to one tape at a time: it comes back when nobody refers to that tape any more, be it autograd,
a hook, or a caller who took it out of the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from timelike.kernels import aligned_empty

__all__ = ["TapeMemory"]

_SMALL = 1 << 20  # bytes; below this malloc serves from its own store, and keeping is no gain


class TapeMemory:
    """The memory of a layer's last tape, while no tape lies in it."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: list[np.ndarray] = []  # none or one; threads share it by append and pop

    def empty(self, n: int, x: Tensor) -> Tensor:
        """Give a tensor of `n` numbers of the type of `x`, not initialised."""
        size = n * x.itemsize
        if size < _SMALL:
            return x.new_empty(n)
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = None
        if memory is None or not size <= memory.nbytes <= 4 * size:
            memory = aligned_empty(size, "uint8")
        lent = np.ndarray.__new__(_Lent, (n,), "float32" if x.itemsize == 4 else "float64", memory)
        lent.memory, lent.spare = memory, self._spare
        return torch.from_numpy(lent)


class _Lent(np.ndarray[Any, Any]):
    """What a tensor holds on to as long as it or a view of it lives: then the memory is spare again."""

    memory: np.ndarray
    spare: list[np.ndarray] | None = None

    def __del__(self) -> None:
        if self.spare is not None and not self.spare:
            self.spare.append(self.memory)
