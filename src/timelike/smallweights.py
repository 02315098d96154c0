"""Weights of 8 or 16 bits: what becomes of them, and what they stand for.

``int8``: each row of a matrix (the weights of one unit of one gate) has a scale, and a weight is the nearest
of its multiples from -127 to 127. ``float16``: the nearest number of IEEE half precision.

Only matrices are made small: biases, peepholes and batch normalisation are a few numbers, to which scores are
most sensitive.

Both ways are stable: weights that come from 8 (16) bits go back to the same 8 (16) bits. For int8 that is so
because a scale has 16 bits of mantissa: a multiple of it up to 127 is then exact in float32, and the largest
of a row gives the scale back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, DataError, nearest

__all__ = ["SMALL", "decoded", "encoded", "float16_of", "int8_of"]

Array = npt.NDArray[Any]

SMALL = ("int8", "float16")
"""How matrices may be stored."""

_SCALE = ".scale"  # behind the name of a tensor of int8
_LEAST = 2.0**-126  # of a scale: below it float32 has fewer bits
_MOST = 2.0**127  # of a weight: the largest multiple of its scale is still a float32


def int8_of(matrix: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Give the nearest multiples of a scale for each row.

    Parameters
    ----------
    matrix : array [rows, columns]

    Returns
    -------
    numbers : array [rows, columns] of int8
        From -127 to 127.
    scale : array [rows] of float32
        The weights are about ``scale[:, None] * numbers``; exactly so in float32.

    Raises
    ------
    DataError
        If a weight is beyond 2^127.

    Examples
    --------
    >>> numbers, scale = int8_of(np.array([[0.5, -1.0], [0.0, 0.0]]))
    >>> numbers.tolist(), bool(abs(scale[0] * 127 - 1) < 1e-4)
    ([[63, -127], [0, 0]], True)
    """
    wide = matrix.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0)
    if not (largest <= _MOST).all():
        raise DataError(f"a weight of {largest.max():g} has no int8: the largest is {_MOST:g}")
    mantissa, exponent = np.frexp(np.maximum(largest / 127.0, _LEAST))
    scale = np.ldexp(np.ceil(mantissa * 2.0**16) / 2.0**16, exponent)
    return np.rint(wide / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def float16_of(matrix: Array) -> npt.NDArray[np.float16]:
    """Give the nearest numbers of half precision.

    Raises
    ------
    DataError
        If a weight is beyond them.
    """
    with np.errstate(over="ignore"):
        small = matrix.astype(np.float16)
    if not np.isfinite(small).all():
        raise DataError(
            f"a weight of {np.abs(matrix).max():g} has no float16: the largest is 65504; use int8"
        )
    return small


def encoded(weights: Mapping[str, Array], to: str) -> dict[str, Array]:
    """Make the matrices among weights small.

    Parameters
    ----------
    weights : mapping of str to array
        By name; those of two axes are made small.
    to : {"int8", "float16"}

    Returns
    -------
    dict of str to array
        Under the same names; of int8 the scales besides, under names with ``.scale`` behind them.

    Raises
    ------
    ConfigError
        If `to` is another word.
    DataError
        If a weight cannot be made small.
    """
    if to not in SMALL:
        raise ConfigError(f"weights cannot be stored as {to!r}; {nearest(to, SMALL)}")
    small: dict[str, Array] = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            small[name] = weight
        elif to == "float16":
            small[name] = float16_of(weight)
        else:
            small[name], small[name + _SCALE] = int8_of(weight)
    return small


def decoded(tensors: Mapping[str, Array], dtype: npt.DTypeLike) -> dict[str, Array]:
    """Give the weights that small ones stand for, in float32 or float64.

    Parameters
    ----------
    tensors : mapping of str to array
        As `encoded` gives them.
    dtype : dtype
        Of the weights.

    Raises
    ------
    DataError
        If a scale is missing, does not fit its tensor, or is not finite and above 0.
    """
    weights: dict[str, Array] = {}
    scales = {name for name, tensor in tensors.items() if tensor.dtype == np.int8}
    for name, tensor in tensors.items():
        if name.removesuffix(_SCALE) in scales and name.endswith(_SCALE):
            continue
        if tensor.dtype == np.int8:
            scale = tensors.get(name + _SCALE)
            if scale is None or tensor.ndim != 2 or scale.shape != tensor.shape[:1]:
                raise DataError(f"tensor {name!r} of int8 has no scale for each of its rows")
            if scale.dtype != np.float32 or not (np.isfinite(scale) & (scale > 0)).all():
                raise DataError(f"tensor {name + _SCALE!r}: scales are numbers of float32 above 0")
            weights[name] = tensor.astype(dtype) * scale[:, None].astype(dtype)
        else:
            weights[name] = tensor.astype(dtype) if tensor.dtype == np.float16 else tensor
    return weights
