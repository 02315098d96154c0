"""The weights of a network as constants of C++.

A matrix [rows, inputs] is written line by line of its transpose, a line for each input, padded with zeros to
64 bytes of the numbers that are computed with: the product's inner loop runs over rows, side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.description import Dense, Layer
from timelike.smallweights import float16_of, int8_of

__all__ = ["Writer", "constants_of_dense", "constants_of_direction", "integers", "numbers", "quoted"]

Array = npt.NDArray[Any]


class Writer:
    """Writes arrays in a type of the numbers, matrices in a type of the weights.

    Parameters
    ----------
    dtype : dtype
        float32 or float64: what is computed with.
    weights : {"float32", "float64", "float16", "int8"}
        How matrices are stored.
    """

    def __init__(self, dtype: np.dtype[Any], weights: str) -> None:
        self.dtype, self.weights = dtype, weights

    def padded(self, n: int) -> int:
        """Round up to 64 bytes of numbers, as ``padded`` in the header does."""
        most = 64 // self.dtype.itemsize
        return -(-n // most) * most

    def array(self, name: str, values: Array) -> str:
        """Write numbers [n], with zeros behind them."""
        full = np.zeros(self.padded(len(values)), self.dtype)
        full[: len(values)] = values
        return f"  alignas(64) static constexpr real {name}[{len(full)}] = {{\n{self._numbers(full)}}};\n"

    def matrix(self, name: str, values: Array) -> str:
        """Write a matrix [rows, inputs] as ``Matrix``, or in 8 bits as ``ScaledMatrix``."""
        rows, inputs = values.shape
        columns = self.padded(rows)
        head = "  alignas(64) static constexpr "
        if self.weights == "int8":
            small, scale = int8_of(values)
            lines = integers(_lines(small, columns).ravel())
            full = np.zeros(columns, self.dtype)
            full[:rows] = scale
            return (
                f"{head}ScaledMatrix<{inputs}, {columns}> {name}{{\n{{{{\n{lines}}}}},\n"
                f"{{{self._numbers(full)}}}}};\n"
            )
        if self.weights == "float16":
            text, kind = (
                integers(_lines(float16_of(values), columns).view(np.uint16).ravel()),
                "std::uint16_t",
            )
        else:
            text, kind = self._numbers(_lines(values, columns).astype(self.dtype).ravel()), "real"
        return f"{head}Matrix<{kind}, {inputs}, {columns}> {name}{{{{\n{text}}}}};\n"

    def _numbers(self, values: Array) -> str:
        return numbers(values, suffix="f" if self.dtype == np.float32 else "")


def _lines(values: Array, columns: int) -> Array:
    """Transpose [rows, inputs] to [inputs, columns], zeros behind the rows."""
    rows, inputs = values.shape
    lines = np.zeros((inputs, columns), values.dtype)
    lines[:, :rows] = values.T
    return lines


def constants_of_direction(
    name: str, cell: str, weights: Mapping[str, Array], layer: Layer, to: Writer
) -> str:
    """Write one direction of a recurrent layer as a struct of constants."""
    H = layer.units
    W, U = weights["weight_ih"], weights["weight_hh"]
    none = np.zeros(len(W), W.dtype)
    b_ih, b_hh = weights.get("bias_ih", none), weights.get("bias_hh", none)
    bias, more = b_ih + b_hh, ""
    if cell in ("gru", "gru_reset_before"):
        more += to.matrix("weight_hh_rz", U[: 2 * H]) + to.matrix("weight_hn", U[2 * H :])
        if cell == "gru":
            bias = np.concatenate([bias[: 2 * H], b_ih[2 * H :]])
            more += to.array("bias_hn", b_hh[2 * H :])
    else:
        more += to.matrix("weight_hh", U)
    if cell == "lstm_peephole":
        for gate, values in zip("ifo", np.split(weights["weight_peephole"], 3), strict=True):
            more += to.array(f"peephole_{gate}", values)
    if cell == "lstm_projected":
        more += to.matrix("weight_hr", weights["weight_hr"])
    return (
        f"struct {name} {{\n  static constexpr int units = {H}, state_size = {layer.state_size};\n"
        f"{to.matrix('weight_ih', W)}{to.array('bias', bias)}{more}}};\n"
    )


def constants_of_dense(name: str, dense: Dense, to: Writer) -> str:
    """Write a dense layer as a struct of constants."""
    norm = ""
    if dense.scale is not None and dense.shift is not None:
        norm = to.array("scale", dense.scale) + to.array("shift", dense.shift)
    return f"struct {name} {{\n{norm}{to.matrix('weight', dense.weight)}{to.array('bias', dense.bias)}}};\n"


def numbers(values: Array, *, suffix: str = "") -> str:
    """Write numbers with as many digits as bring them back to the bit, some on each line.

    Examples
    --------
    >>> print(numbers(np.float32([0.1, 1e-30, 2, 0])), end="")
    0.1, 1e-30, 2.0, 0
    """
    return _rows(("0" if v == "0.0" else f"{v}{suffix}" for v in map(str, values)), 10)


def integers(values: Array) -> str:
    """Write integers, as closely as can be: large networks have millions."""
    return _rows(map(str, values.tolist()), 24, ",")


def _rows(words: Iterable[str], each: int, between: str = ", ") -> str:
    given = list(words)
    return ",\n".join(between.join(given[k : k + each]) for k in range(0, len(given), each)) + "\n"


def quoted(text: str) -> str:
    """Write a text as a string of C++."""
    raw = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{raw}"'
