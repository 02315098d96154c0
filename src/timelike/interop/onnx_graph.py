"""An ONNX graph as it grows: each operation is a call that gives the name of its result.

Names of results tell the operation and are counted, so that an error of a runtime leads to its place.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import require

__all__ = ["IR_VERSION", "OPSET", "Graph"]

OPSET = 17
"""Of the standard operators: the newest that ONNX Runtime 1.13 (2022) already had, and all after it."""

IR_VERSION = 8
"""Of the file; the one that came with this opset."""


class Graph:
    """Nodes and constants of a graph, in the order in which they are computed.

    Parameters
    ----------
    dtype : dtype
        Of the weights and of what is computed, float32 or float64.

    Examples
    --------
    >>> graph = Graph(np.dtype("float32"))
    >>> graph("Add", "x", graph.number(1.0))
    'add_1'
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._onnx = require("onnx", "onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._counts: Counter[str] = Counter()

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result, and give the name of that."""
        return self.several(op, inputs, 1, **attributes)[0]

    def several(self, op: str, inputs: tuple[str, ...], n_outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several results, and give their names."""
        name = self._named(op.lower())
        outputs = [name, *(f"{name}_{k}" for k in range(1, n_outputs))]
        self.nodes.append(self._onnx.helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, values: npt.ArrayLike, dtype: Any, name: str = "constant") -> str:
        """Add a constant, and give its name."""
        name = self._named(name)
        array = np.ascontiguousarray(np.asarray(values, dtype))
        self.constants.append(self._onnx.numpy_helper.from_array(array.reshape(np.shape(values)), name))
        return name

    def number(self, values: npt.ArrayLike) -> str:
        """Add numbers in the type of the graph."""
        return self.constant(values, self.dtype)

    def integers(self, *values: int) -> str:
        """Add whole numbers: axes, or a shape."""
        return self.constant(list(values), np.int64)

    def cast(self, x: str, dtype: Any) -> str:
        """Convert to another type."""
        return self("Cast", x, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(
        self,
        inputs: dict[str, tuple[Any, list[Any]]],
        result: tuple[str, str, list[Any]],
        about: dict[str, str],
    ) -> Any:
        """Close the graph, and give the model.

        Parameters
        ----------
        inputs : dict of str to (dtype, shape)
            A str in a shape names a length that is free.
        result : tuple of name in the graph, name outside, shape
        about : dict of str to str
            Goes to ``metadata_props``.
        """
        onnx = self._onnx
        make, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
        inside, outside, shape = result
        self.nodes.append(make.make_node("Identity", [inside], [outside], name=outside))
        given = [
            make.make_tensor_value_info(name, kind(np.dtype(dtype)), axes)
            for name, (dtype, axes) in inputs.items()
        ]
        made = make.make_tensor_value_info(outside, kind(self.dtype), shape)
        graph = make.make_graph(self.nodes, "timelike", given, [made], self.constants)
        model = make.make_model(
            graph,
            opset_imports=[make.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="timelike",
        )
        make.set_model_props(model, about)
        return model

    def _named(self, name: str) -> str:
        self._counts[name] += 1
        return f"{name}_{self._counts[name]}"
