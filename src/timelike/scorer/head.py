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
from timelike.rowwise import blocks

__all__ = ["ACTIVATIONS", "RESULTS", "Head"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_BLOCK = 128  # rows


def _sigmoid(x: Array) -> Array:
    """Give 1 / (1 + exp(-x)); only of numbers below 0 is the exponential taken, so that none overflows."""
    small = np.exp(-np.abs(x))
    found: Array = np.where(x < 0, small, 1) / (1 + small)
    return found


_ZEROS = {char: np.zeros((), char) for char in "fd"}  # a number of Python would be looked at for 0.4 us


def _relu(x: Array) -> Array:
    found: Array = np.maximum(x, _ZEROS[x.dtype.char])
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
    if x.ndim == 1:
        return _softmax_of_few(x.tolist())
    by_class = np.ascontiguousarray(x.T)  # a reduction along the long axis is many times as fast
    by_class -= np.maximum.reduce(by_class)
    np.exp(by_class, out=by_class)
    by_class /= np.add.reduce(by_class)
    return np.ascontiguousarray(by_class.T)


def _softmax_of_few(values: list[float]) -> Floats:
    """Give the same of a few numbers of Python: 1 us, where seven calls of NumPy cost 4."""
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    total = sum(powers)
    return np.array([power / total for power in powers])


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
        for layer in dense[:-1]:
            if layer.activation not in ACTIVATIONS:
                near = nearest(str(layer.activation), ACTIVATIONS)
                raise ModelFileError(f"head: no activation {layer.activation!r}; {near}")
            self._layers.append((*_laid_out(layer), layer.bias, ACTIVATIONS[layer.activation]))
        last = dense[-1]
        self._scale, self._shift, self._weight = _laid_out(last)
        self._bias = last.bias.astype(np.float64)  # so that the output is computed in float64
        if output == "sigmoid":  # the sigmoid of a number is the softmax of 0 and it
            self._weight = np.pad(self._weight, ((0, 0), (1, 0)))
            self._bias = np.pad(self._bias, (1, 0))
        self._few = self._bias.tolist()

    def __call__(self, x: Array) -> Floats:
        """Give the output [B, C] of rows [B, in], or [C] of one row [in]."""
        x = self._products(x, np.dot)
        if x.ndim == 1 and self._result is _softmax:
            return _softmax_of_few([a + b for a, b in zip(x.tolist(), self._few, strict=True)])
        return self._result(x + self._bias)

    def alike(self, x: Array) -> Floats:
        """Give the output [B, C], so that the last bits of a row do not depend on how many rows there are."""
        products = self._products(blocks(x, _BLOCK), np.matmul)
        return self._result(products.reshape(-1, products.shape[-1]) + self._bias)[: len(x)]

    def _products(self, x: Array, product: Callable[[Array, Array], Array]) -> Array:
        """Give what the last layer makes of its inputs, but for its bias."""
        for scale, shift, weight, bias, activation in self._layers:
            if scale is not None:
                x = x * scale + shift
            x = activation(product(x, weight) + bias)
        if self._scale is not None:
            x = x * self._scale + self._shift
        return product(x, self._weight)


def _laid_out(layer: Dense) -> tuple[Array | None, Array | None, Array]:
    """Give scale and shift of the inputs, and the weights [in, out] as a product of rows reads them."""
    return layer.scale, layer.shift, np.ascontiguousarray(layer.weight.T)
