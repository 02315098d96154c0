"""The dense layers of a head and what is made of their numbers, with NumPy.

Sizes: `B` rows, `C` numbers that the last layer gives, probabilities or not. One row may come without its
axis: NumPy adds two vectors in half of the time that it takes to spread one over the rows of an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.description import Dense
from timelike.errors import ModelFileError, nearest

__all__ = ["ACTIVATIONS", "RESULTS", "Head"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def _sigmoid(x: Array) -> Array:
    """Give 1 / (1 + exp(-x)); only of numbers below 0 is the exponential taken, so that none overflows."""
    small = np.exp(-np.abs(x))
    found: Array = np.where(x < 0, small, 1) / (1 + small)
    return found


def _relu(x: Array) -> Array:
    found: Array = np.maximum(x, 0)
    return found


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: Array) -> Array:
    # NumPy has no error function. In float64, and by the complement, which does not cancel where x << 0.
    below = [math.erfc(-value * math.sqrt(0.5)) / 2 for value in x.ravel().tolist()]
    found: Array = x * np.reshape(below, x.shape).astype(x.dtype)
    return found


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _softsign(x: Array) -> Array:
    found: Array = x / (1 + np.abs(x))
    return found


def _gauss(x: Array) -> Array:
    found: Array = np.exp(-np.square(x))
    return found


def _same(x: Array) -> Array:
    return x


def _softmax(x: Floats) -> Floats:
    if x.ndim == 1:  # a few numbers of Python cost 1 us, seven calls of NumPy 4
        values: list[float] = x.tolist()
        top = max(values)
        powers = [math.exp(value - top) for value in values]
        total = sum(powers)
        return np.array([power / total for power in powers])
    by_class = np.ascontiguousarray(x.T)  # a reduction along the long axis is many times as fast
    by_class -= np.maximum.reduce(by_class)
    np.exp(by_class, out=by_class)
    by_class /= np.add.reduce(by_class)
    return np.ascontiguousarray(by_class.T)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "tanh": np.tanh,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "softsign": _softsign,
    "symmrelu": np.abs,
    "gauss": _gauss,
    "linear": _same,
}
"""As in a config."""

RESULTS: dict[str, Callable[[Floats], Floats]] = {
    "softmax": _softmax,
    "sigmoid": _softmax,  # of the number and 0, as `Head` lays it out
    "multilabel": _sigmoid,
    "linear": _same,
    "exponential": np.exp,
}
"""What is made of the last layer's numbers, by `timelike.description.OUTPUTS`."""


class Head:
    """Dense layers one upon the other, and the output.

    Parameters
    ----------
    dense : sequence of Dense
    output : str
        One of `timelike.description.OUTPUTS`.

    Raises
    ------
    ModelFileError
        For an activation or output that is not known.
    """

    def __init__(self, dense: Sequence[Dense], output: str) -> None:
        if output not in RESULTS:
            raise ModelFileError(f"head: no output {output!r}; {nearest(str(output), RESULTS)}")
        self._result = RESULTS[output]
        self._layers = []
        for layer in dense:
            if layer.activation not in ACTIVATIONS:
                raise ModelFileError(
                    f"head: no activation {layer.activation!r}; {nearest(str(layer.activation), ACTIVATIONS)}"
                )
            weight, bias, last = layer.weight.T, layer.bias, layer is dense[-1]
            if last and output == "sigmoid":  # the sigmoid of a number is the softmax of 0 and it
                weight, bias = np.pad(weight, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
            self._layers.append(
                (
                    np.ascontiguousarray(weight),
                    bias.astype(np.float64) if last else bias,  # so that the output is computed in float64
                    None if last else ACTIVATIONS[layer.activation],
                    layer.scale,
                    layer.shift,
                )
            )

    def __call__(self, x: Array) -> Floats:
        """Give the output [B, C] of rows [B, in], or [C] of one row [in]."""
        for weight, bias, activation, scale, shift in self._layers:
            if scale is not None:
                x = x * scale + shift
            x = x.dot(weight) + bias
            if activation is not None:
                x = activation(x)
        return self._result(x)
