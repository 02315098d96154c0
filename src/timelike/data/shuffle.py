"""A buffer that shuffles events as they come, and an iterator that is some items ahead of who takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from timelike.sequences import Sequences

__all__ = ["Ahead", "ShuffleBuffer"]

T = TypeVar("T")
_SEGMENTS = 32  # of a buffer; more are put together
_FULL = 0.7  # share of its events below which a segment is packed anew


class Ahead(Generic[T]):
    """Go through an iterator in a thread, some items ahead of whoever takes them.

    The order is that of the iterator, and what it raises is raised where it would have been.

    Parameters
    ----------
    items : iterator
        Used in one thread only; closed in the end, if it is a generator.
    n : int
        Items that are computed ahead; 0: none, and there is no thread.
    """

    def __init__(self, items: Iterator[T], n: int) -> None:
        self._items, self._n = items, n
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="timelike-read") if n else None
        self._waiting: deque[Any] = deque()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._pool is None:
            return next(self._items)
        while len(self._waiting) <= self._n:
            self._waiting.append(self._pool.submit(next, self._items, _END))
        item = self._waiting.popleft().result()
        if item is _END:
            self.close()
            raise StopIteration
        found: T = item
        return found

    def close(self) -> None:
        """Stop reading, and wait for the end of what is being read."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._waiting.clear()
        self._items = iter(())

    def __del__(self) -> None:
        self.close()


_END: Any = object()


@dataclass
class _Segment:
    """Events that came together, and which of them are still there."""

    events: Sequences
    left: npt.NDArray[np.int64]

    def remove(self, which: npt.NDArray[np.int64]) -> None:
        """Take away some of those that are left."""
        self.left = np.delete(self.left, which)
        if len(self.left) < _FULL * len(self.events):
            gone = self.events
            self.events, self.left = gone[self.left], np.arange(len(self.left))


class ShuffleBuffer:
    """Events from which some are drawn at random, in the order in which they are drawn.

    Parameters
    ----------
    random : Generator
        For the draws.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment.left) for segment in self._segments)

    def put(self, events: Sequences) -> None:
        """Put events in."""
        self._segments.append(_Segment(events, np.arange(len(events))))
        if len(self._segments) > _SEGMENTS:
            by_size = sorted(self._segments, key=lambda segment: len(segment.left))
            small = {id(segment) for segment in by_size[: _SEGMENTS // 2]}
            joined = Sequences.concatenate(
                [segment.events[segment.left] for segment in self._segments if id(segment) in small]
            )
            self._segments = [segment for segment in self._segments if id(segment) not in small]
            self._segments.append(_Segment(joined, np.arange(len(joined))))

    def draw(self, n: int) -> Sequences:
        """Draw n events, each of those that are there being as likely, and take them away."""
        ends = np.cumsum([len(segment.left) for segment in self._segments])
        chosen = self._random.choice(int(ends[-1]), n, replace=False)
        order = np.argsort(chosen, kind="stable")
        cuts = np.searchsorted(chosen[order], [0, *ends])
        numbers = np.empty(n, dtype=np.int64)  # of those drawn, counted through all segments
        removed, before = [], 0
        for segment, start, end, first in zip(
            self._segments, cuts[:-1], cuts[1:], [0, *ends[:-1]], strict=True
        ):
            which = order[start:end]
            removed.append(chosen[which] - first)
            numbers[which] = before + segment.left[removed[-1]]
            before += len(segment.events)
        drawn = Sequences.concatenate([segment.events for segment in self._segments], numbers)
        for segment, gone in zip(self._segments, removed, strict=True):
            segment.remove(gone)
        self._segments = [segment for segment in self._segments if len(segment.left)]
        return drawn
