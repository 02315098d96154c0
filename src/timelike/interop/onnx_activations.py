"""The activations that a recurrent node of ONNX may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import ModelFileError, nearest
from timelike.interop.onnx_file import shown

__all__ = ["USUAL", "Activation", "read_activations"]

Array: TypeAlias = npt.NDArray[Any]

USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
"""Operator -> activations where none are given: ``f g h`` of its equations, in the text of ONNX."""

_NEEDED = float("nan")  # in place of a default, where ONNX has none


class _Kind(NamedTuple):
    """An activation: its function of (a, alpha, beta), and the parameters where none are given."""

    function: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


def _sigmoid(a: Array, *_: float) -> Array:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


_KINDS: dict[str, _Kind] = {
    "sigmoid": _Kind(_sigmoid),
    "tanh": _Kind(lambda a, *_: np.tanh(a)),
    "relu": _Kind(lambda a, *_: np.maximum(a, 0)),
    "affine": _Kind(lambda a, alpha, beta: alpha * a + beta, _NEEDED, _NEEDED),
    "leakyrelu": _Kind(lambda a, alpha, _: np.where(a >= 0, a, alpha * a), 0.01),
    "thresholdedrelu": _Kind(lambda a, alpha, _: np.where(a > alpha, a, 0), 1.0),
    "scaledtanh": _Kind(lambda a, alpha, beta: alpha * np.tanh(beta * a), _NEEDED, _NEEDED),
    "hardsigmoid": _Kind(lambda a, alpha, beta: np.clip(alpha * a + beta, 0, 1), 0.2, 0.5),
    "elu": _Kind(lambda a, alpha, _: np.where(a >= 0, a, alpha * np.expm1(np.minimum(a, 0))), 1.0),
    "softsign": _Kind(lambda a, *_: a / (1 + np.abs(a))),
    "softplus": _Kind(lambda a, *_: np.logaddexp(0, a)),
}


@dataclass(frozen=True)
class Activation:
    """An activation with its parameters; without them 0."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, a: Array) -> Array:
        """Apply it to each number."""
        return _KINDS[self.name].function(a, self.alpha, self.beta)


def read_activations(
    op: str, n_directions: int, given: Mapping[str, Any]
) -> tuple[tuple[Activation, ...], ...]:
    """Read the activations of each direction, with their parameters, from a node's attributes.

    Raises
    ------
    ModelFileError
        If an activation is not known, one is missing, or its parameters are.
    """
    per_direction = len(USUAL[op])
    names = _listed(op, given, "activations", str) or list(USUAL[op]) * n_directions
    if op == "RNN" and len(names) == 2:  # ONNX's own default, whatever the direction
        names = names[:n_directions]
    if len(names) != per_direction * n_directions:
        raise ModelFileError(
            f"activations of {op}: {len(names)} are given, expected {per_direction * n_directions}"
        )
    alphas, betas = (iter(_listed(op, given, f"activation_{name}", float)) for name in ("alpha", "beta"))
    read = []
    for name in map(str.lower, names):
        kind = _KINDS.get(name)
        if kind is None:
            raise ModelFileError(f"activation of {op}: {shown(name)}; {nearest(name, _KINDS)}")
        alpha = 0.0 if kind.alpha is None else next(alphas, kind.alpha)
        beta = 0.0 if kind.beta is None else next(betas, kind.beta)
        if not (math.isfinite(alpha) and math.isfinite(beta)):
            raise ModelFileError(f"activation of {op}: {name} with alpha {alpha}, beta {beta}; give both")
        read.append(Activation(name, alpha, beta))
    return tuple(tuple(read[k * per_direction : (k + 1) * per_direction]) for k in range(n_directions))


def _listed(op: str, given: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = given.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ModelFileError(f"{name} of {op}: expected a list of {kind.__name__}")
    return values
