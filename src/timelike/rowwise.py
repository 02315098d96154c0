"""Matrix products of which a row does not depend on how many rows there are.

BLAS sums in one order for 100 rows and in another for 101, so that the same row has other last bits in other
company. With a fixed number of rows it has one order, wherever in them a row stands: found for OpenBLAS and
MKL in 500 shapes each, and held by tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["blocks"]


def blocks(x: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Give rows in blocks of one size, the last filled up with zeros: for `numpy.matmul`.

    Parameters
    ----------
    x : array [N, D]
    size : int
        Rows of a block.

    Returns
    -------
    array [blocks, size, D]

    Examples
    --------
    >>> blocks(np.array([[1.0], [2.0], [3.0]]), 2)[:, :, 0]
    array([[1., 2.],
           [3., 0.]])
    """
    n, width = x.shape
    filled = np.zeros((-(-n // size) * size, width), x.dtype)
    filled[:n] = x
    return filled.reshape(-1, size, width)
