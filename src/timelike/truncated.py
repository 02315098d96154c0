"""Truncated backpropagation through time: a long sequence in windows, with the states carried on.

Use `windows` when sequences are too long to wait for their end before a step of the optimiser is taken: each
window is a graph of its own. Where it is only memory that lacks, ``recompute=True`` of the layer gives the
whole gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from timelike.layouts import Ragged
from timelike.recurrent import Recurrent
from timelike.vjp import States

__all__ = ["windows"]


def windows(
    layer: Recurrent, input: Tensor | Ragged, size: int, hx: States | None = None, *, cut: bool = True
) -> Iterator[tuple[Any, Any]]:
    """Run a layer over a batch in windows of `size` steps; each begins in the states of the one before.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        In one direction.
    input : Tensor or Ragged
        As for the layer: (T, B, D), (B, T, D) with ``batch_first``, or (T, D). Of a `Ragged`, each window has
        the next steps of every sequence; one that has ended has no steps there, and keeps its states.
    size : int
        Steps of a window; the last one may have fewer.
    hx : optional
        Initial states, as for the layer.
    cut : bool
        Whether gradients stop at the border of windows (truncated backpropagation), or pass on: then a
        backward over all windows gives what the whole sequence gives.

    Yields
    ------
    output, states
        As from the layer, of one window.

    Raises
    ------
    ValueError
        For a layer of both directions, which would need the future, and for a size below 1.
    TypeError
        For an input in another layout.

    References
    ----------
    Williams & Peng, Neural Computation 2 (1990) 490.

    Examples
    --------
    >>> from timelike.nn import LSTM
    >>> lstm, x, target = LSTM(3, 4), torch.randn(100, 2, 3), torch.randn(100, 2, 4)
    >>> optimizer = torch.optim.Adam(lstm.parameters())
    >>> steps = 0
    >>> for output, _ in windows(lstm, x, 30):
    ...     loss = (output - target[steps : steps + len(output)]).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     steps += len(output)
    >>> steps
    100
    """
    if layer.bidirectional:
        raise ValueError(
            "windows: the layer is bidirectional; possible: one direction, which needs no future"
        )
    if size < 1:
        raise ValueError(f"windows: got {size} steps; possible: 1 or more")
    if isinstance(input, Ragged):
        return _walk(layer, _of_ragged(input, size), hx, cut)
    if isinstance(input, Tensor) and not input.is_nested:
        axis = 1 if layer.batch_first and input.dim() == 3 else 0
        return _walk(layer, iter(torch.split(input, size, axis)), hx, cut)
    raise TypeError(f"windows: input is {type(input).__name__}; possible: Tensor (not nested), Ragged")


def _walk(layer: Recurrent, inputs: Iterator[Any], hx: Any, cut: bool) -> Iterator[tuple[Any, Any]]:
    for window in inputs:
        output, hx = layer(window, hx)
        yield output, hx
        if cut:
            hx = hx.detach() if isinstance(hx, Tensor) else tuple(s.detach() for s in hx)


def _of_ragged(input: Ragged, size: int) -> Iterator[Ragged]:
    starts, lengths = input.offsets[:-1], input.offsets.diff()
    for begin in range(0, int(lengths.max()) if len(lengths) else 0, size):
        here = (lengths - begin).clamp(0, size)
        offsets = torch.cat([here.new_zeros(1), here.cumsum(0)])
        # Row j of the window is step j - offsets[b] of the window's part of its sequence b.
        first = (starts + begin - offsets[:-1]).repeat_interleave(here)
        yield Ragged(input.values[first + torch.arange(len(first))], offsets)
