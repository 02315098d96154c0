"""How many threads the kernels may use.

What `set_num_threads` says; without it what PyTorch uses, where PyTorch is loaded; else the environment
variable ``OMP_NUM_THREADS``; else as many as this process has processors. Small layers use fewer: the kernels
wake a thread only where that pays. Results are the same, to the last bit, with any number.
"""

from __future__ import annotations

import operator
import os
import sys
from functools import lru_cache
from typing import Any

from timelike.errors import TimelikeError

__all__ = ["get_num_threads", "set_num_threads"]

_MOST = 1024

_chosen: int | None = None


def set_num_threads(n: int | None) -> None:
    """Let the kernels use so many threads.

    Parameters
    ----------
    n : int or None
        From 1 to 1024; None to follow PyTorch and the environment again.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of this range.

    Examples
    --------
    >>> set_num_threads(2)
    >>> get_num_threads()
    2
    >>> set_num_threads(None)
    """
    global _chosen
    if n is None:
        _chosen = None
        return
    try:
        number = operator.index(n)
    except TypeError:
        number = None
    if number is None or isinstance(n, bool):
        raise TypeError(f"set_num_threads: got {n!r}; possible: 1 to {_MOST}, or None to follow PyTorch")
    if not 1 <= number <= _MOST:
        raise ValueError(f"set_num_threads: got {number}; possible: 1 to {_MOST}")
    _chosen = number


def get_num_threads() -> int:
    """Give the number of threads that the kernels may use.

    Raises
    ------
    TimelikeError
        If it is for ``OMP_NUM_THREADS`` to say, and that is not a positive number.
    """
    if _chosen is not None:
        return _chosen
    torch: Any = sys.modules.get("torch")
    # In the middle of its import, PyTorch is there without its functions.
    of_torch = getattr(torch, "get_num_threads", None)
    return min(int(of_torch()), _MOST) if of_torch is not None else _of_process()


@lru_cache(maxsize=1)
def _of_process() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not asked:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    outermost = asked.split(",")[0].strip()  # a list has a number for each level of nesting
    if not outermost.isdecimal() or int(outermost) < 1:
        raise TimelikeError(f"OMP_NUM_THREADS={asked!r}: not a number of threads; possible: 1 or more")
    return min(int(outermost), _MOST)
