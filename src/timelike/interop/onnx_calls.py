"""What a function gets that computes an operator of ONNX, and the tables that such functions stand in.

Each function gets a `Call`, and gives the outputs of its node. They follow the text of ONNX's operators for
the versions in `timelike.interop.onnx_file.OPSETS`; what an operator can be told beyond the attributes in its
table is refused when the model is read. Results that would be larger than the call's room are refused before
they are made. Faults are a `ValueError`, whose reader knows the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.interop.onnx_file import Node

__all__ = ["Call", "Operator", "Result", "Table", "axis_of"]

Array: TypeAlias = npt.NDArray[Any]
Result: TypeAlias = Any  # an array, or a tuple of them


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operator.

    Attributes
    ----------
    node : Node
    opset : int
    inputs : sequence of ndarray or None
    room : int
        Bytes that the result may take.
    """

    node: Node
    opset: int
    inputs: Sequence[Array | None]
    room: int

    def given(self, index: int) -> Array | None:
        """Input `index`, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def needed(self, index: int) -> Array:
        """Input `index`."""
        array = self.given(index)
        if array is None:
            raise ValueError(f"input {index} is missing")
        return array

    def attribute(self, name: str, default: Any = None) -> Any:
        """Give an attribute of the node, of the type of the default."""
        value = self.node.attributes.get(name, default)
        if default is not None and not isinstance(value, type(default)):
            raise ValueError(f"{name}: {value!r}; expected {type(default).__name__}")
        return value

    def integers(self, index: int, name: str) -> list[int] | None:
        """Whole numbers that are an input in newer versions of an operator, an attribute in older ones."""
        array = self.given(index)
        if array is not None:
            if array.dtype.kind not in "iu" or array.ndim > 1:
                raise ValueError(f"{name}: {array.dtype} of shape {array.shape}; expected a row of integers")
            return [int(number) for number in array.reshape(-1)]
        value = self.node.attributes.get(name)
        if value is None or (isinstance(value, list) and all(isinstance(number, int) for number in value)):
            return value
        raise ValueError(f"{name}: {value!r}; expected integers")

    def fit(self, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        """Refuse a result that is too large, before it is made."""
        if min(shape, default=0) < 0:
            raise ValueError(f"a result of shape {tuple(shape)}")
        # a size of 0 may not hide that another one is beyond all bounds
        size = math.prod(n or 1 for n in shape) * np.dtype(dtype).itemsize
        if size > self.room:
            raise ValueError(
                f"a result of shape {tuple(shape)}: {size} bytes, with {self.room} left (Limits.run_bytes)"
            )


_Function: TypeAlias = Callable[[Call], Result]


class Operator(NamedTuple):
    """What computes an operator, and the attributes that it may have."""

    function: _Function
    attributes: frozenset[str] = frozenset()


class Table(dict[str, Operator]):
    """Name of an operator -> what computes it."""

    def put(self, *names: str, attributes: str = "") -> Callable[[_Function], _Function]:
        """Decorate a function that computes these operators, which may have these attributes."""

        def decorate(function: _Function) -> _Function:
            for name in names:
                self[name] = Operator(function, frozenset(attributes.split()))
            return function

        return decorate


def axis_of(axis: int, n_axes: int) -> int:
    """Count an axis from the first one; an axis below 0 is counted from the last."""
    if not -n_axes <= axis < max(n_axes, 1):
        raise ValueError(f"axis {axis} of an array with {n_axes} axes")
    return axis % max(n_axes, 1)
