"""Run ONNX models that are made of recurrent nodes: LSTM, GRU, RNN and what exporters put around them.

- `read_onnx` reads a whole model and gives an `OnnxModel` that is called with arrays.
- `import_node` reads one recurrent node, and gives a function of its inputs.

Reading runs nothing and trusts nothing (`timelike.interop.onnx_file`). The recurrent nodes go through the
native kernels wherever a cell of ours is what they compute (`timelike.interop.onnx_recurrent`); their weights
are packed once. The other operators are NumPy functions: `timelike.interop.onnx_arithmetic`, `onnx_shapes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, ModelFileError, TimelikeError, nearest
from timelike.interop.onnx_arithmetic import ARITHMETIC
from timelike.interop.onnx_calls import Call
from timelike.interop.onnx_file import Graph, Limits, Node, Value, read_graph, read_node, shown
from timelike.interop.onnx_recurrent import Prepared, RecurrentNode
from timelike.interop.onnx_shapes import SHAPES

__all__ = ["Limits", "OnnxModel", "import_node", "read_onnx"]

Array: TypeAlias = npt.NDArray[Any]

OPERATORS = {**ARITHMETIC, **SHAPES}
"""Name of an operator beside the recurrent ones -> what computes it."""

RECURRENT = {
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}
"""Recurrent operator -> names of its inputs, in ONNX's order."""


def import_node(proto: Any) -> RecurrentNode:
    """Read a recurrent node.

    Parameters
    ----------
    proto : onnx.NodeProto
        Of LSTM, GRU or RNN, as in version 7, 14 or 22 of ONNX's operators.

    Returns
    -------
    RecurrentNode
        Call it with the inputs of the node.

    Raises
    ------
    ModelFileError
        If it is another node, or an attribute is unknown.

    Examples
    --------
    >>> import onnx.helper
    >>> node = import_node(onnx.helper.make_node("GRU", ["X", "W", "R"], ["", "Y_h"], hidden_size=4))
    >>> rng = np.random.default_rng(1)
    >>> X, W, R = (rng.normal(size=shape).astype("float32") for shape in [(7, 2, 3), (1, 12, 3), (1, 12, 4)])
    >>> Y, Y_h = node(X, W, R)
    >>> Y.shape, Y_h.shape
    ((7, 1, 2, 4), (1, 2, 4))
    """
    node = read_node(proto)
    if node.op not in RECURRENT:
        raise ModelFileError(f"{node}: not a recurrent node; possible: {', '.join(RECURRENT)}")
    return _recurrent(node)


def read_onnx(source: str | os.PathLike[str] | bytes, *, limits: Limits | None = None) -> OnnxModel:
    """Read an ONNX model.

    Parameters
    ----------
    source : path or bytes
        The file, or what it holds. The file may come from anybody: see `timelike.interop.onnx_file`.
    limits : Limits, optional
        What it may ask for.

    Returns
    -------
    OnnxModel
        Call it with arrays.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, no ONNX model, beyond the limits, or uses what is not known here:
        one line with the file, the node and why.
    MissingExtraError
        If onnx is not installed.

    References
    ----------
    ONNX's operators: https://onnx.ai/onnx/operators/

    Examples
    --------
    >>> import onnx
    >>> from onnx import helper, numpy_helper
    >>> rng = np.random.default_rng(1)
    >>> weights = {"W": rng.normal(size=(1, 16, 3)), "R": rng.normal(size=(1, 16, 4))}
    >>> graph = helper.make_graph(
    ...     [helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=4)],
    ...     "a layer",
    ...     [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "B", 3])],
    ...     [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["T", 1, "B", 4])],
    ...     [numpy_helper.from_array(w.astype("float32"), name) for name, w in weights.items()],
    ... )
    >>> file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]).SerializeToString()
    >>> model = read_onnx(file)
    >>> model
    OnnxModel('x': float32 of shape (T, B, 3) -> 'y': float32 of shape (T, 1, B, 4))
    >>> model(np.zeros((7, 2, 3), "float32"))["y"].shape
    (7, 1, 2, 4)
    """
    limits = limits or Limits()
    graph = read_graph(source, limits)
    try:
        return OnnxModel(graph, limits)
    except ModelFileError as error:
        where = "ONNX model" if isinstance(source, bytes) else os.fspath(source)
        raise ModelFileError(f"{where}: {error}") from error


class OnnxModel:
    """An ONNX model, ready to run; made by `read_onnx`.

    Any number of threads may call it at a time.

    Attributes
    ----------
    inputs, outputs : tuple of Value
        Name, type and shape of each.
    graph : Graph
        All that was read.
    """

    def __init__(self, graph: Graph, limits: Limits) -> None:
        self.graph, self._limits = graph, limits
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._constants = dict(graph.constants)
        # What is computed of constants alone is computed here, as long as it does not grow much.
        room = 4 * sum(array.nbytes for array in self._constants.values()) + 2**20
        self._steps: list[tuple[Node, _Function]] = []
        for node in graph.nodes:
            function = _function(node, graph.opset, self._constants)
            results = _folded(node, function, self._constants, room)
            if results is None:
                self._steps.append((node, function))
                continue
            room -= 0 if node.op == "Constant" else sum(result.nbytes for result in results)
            self._constants |= zip(node.outputs, results, strict=False)
        self._unused = _unused_after(
            [node for node, _ in self._steps], {value.name for value in self.outputs}
        )

    def __call__(self, inputs: Mapping[str, Array] | Array) -> dict[str, Array]:
        """Run the model.

        Parameters
        ----------
        inputs : mapping of str to ndarray, or ndarray
            An array for each input by its name; where there is but one input, that array alone will do.
            Types must be those of the model.

        Returns
        -------
        dict of str to ndarray
            The outputs by their names.

        Raises
        ------
        DataError
            If an input is missing, unknown, or of a type or shape that does not fit; if the model cannot be
            carried out with these inputs, or would need more memory than `Limits.run_bytes`: with the node.
        """
        arrays = self._constants | self._checked(inputs)
        room = self._limits.run_bytes
        for (node, function), unused in zip(self._steps, self._unused, strict=True):
            results = _run(node, function, [arrays[name] if name else None for name in node.inputs], room)
            named = {name: result for name, result in zip(node.outputs, results, strict=False) if name}
            arrays |= named
            room -= sum(result.nbytes for result in named.values())
            room += sum(arrays.pop(name).nbytes for name in unused)
        # a copy of each: what is given may be a view of an input or of a constant
        return {value.name: np.array(arrays[value.name], order="C") for value in self.outputs}

    def _checked(self, inputs: Mapping[str, Array] | Array) -> dict[str, Array]:
        """Check names, types and shapes of what is given."""
        known = {value.name: value for value in self.inputs}
        if not isinstance(inputs, Mapping):
            if len(known) != 1:
                raise DataError(
                    f"one array is given; the inputs are {'; '.join(map(str, self.inputs)) or 'none'}"
                )
            inputs = {self.inputs[0].name: inputs}
        for name in inputs:
            if name not in known:
                raise DataError(f"no input {name!r}; {nearest(str(name), known)}")
        sizes: dict[str, int] = {}
        for name, value in known.items():
            if name not in inputs:
                raise DataError(f"input {value} is missing")
            array = np.asarray(inputs[name])
            if not _fits(array, value, sizes):
                raise DataError(f"input {value}; got {array.dtype} of shape {array.shape}")
        return {name: np.asarray(array) for name, array in inputs.items()}

    def __repr__(self) -> str:
        sides = ("; ".join(map(str, values)) for values in (self.inputs, self.outputs))
        return f"OnnxModel({' -> '.join(sides)})"


_Function: TypeAlias = Callable[[list[Array | None], int], tuple[Array, ...]]  # of inputs, and room in bytes


def _fits(array: Array, value: Value, sizes: dict[str, int]) -> bool:
    """Whether an array is as an input says, and a name of a size stands for one number throughout."""
    if value.dtype is not None and array.dtype != value.dtype:
        return False
    if value.shape is None:
        return True
    if len(value.shape) != array.ndim:
        return False
    for size, n in zip(value.shape, array.shape, strict=True):
        if size != "?" and n != (size if isinstance(size, int) else sizes.setdefault(size, n)):
            return False
    return True


def _function(node: Node, opset: int, constants: Mapping[str, Array]) -> _Function:
    """Give what computes a node in this version of ONNX's operators."""
    if node.op in RECURRENT:
        return _recurrent_function(node, constants)
    if node.op not in OPERATORS:
        known = [*RECURRENT, *OPERATORS]
        raise ModelFileError(f"{node}: this operator is not known; {nearest(shown(node.op)[1:-1], known)}")
    operator = OPERATORS[node.op]
    for name in node.attributes:
        if name not in operator.attributes:
            raise ModelFileError(
                f"{node}: attribute {shown(name)} is not known; {nearest(name, operator.attributes)}"
            )

    def function(given: list[Array | None], room: int) -> tuple[Array, ...]:
        result = operator.function(Call(node, opset, given, room))
        return result if isinstance(result, tuple) else (result,)

    return function


def _recurrent(node: Node) -> RecurrentNode:
    try:
        return RecurrentNode.from_attributes(node.op, node.attributes)
    except ModelFileError as error:
        raise ModelFileError(f"{node}: {error}") from None


def _recurrent_function(node: Node, constants: Mapping[str, Array]) -> _Function:
    """Give what runs a recurrent node, its weights packed here if they are constants."""
    recurrent, names = _recurrent(node), RECURRENT[node.op]
    if len(node.inputs) > len(names) or not all(node.inputs[:3]) or len(node.inputs) < 3:
        raise ModelFileError(f"{node}: inputs {', '.join(names[:3])} are needed, {len(names)} possible")
    place = {name: index for index, name in enumerate(names)}
    sources = {name: node.inputs[k] if k < len(node.inputs) else "" for name, k in place.items()}
    weights = [sources.get(name, "") for name in ("W", "R", "B", "P")]
    prepared: Prepared | None = None
    if all(source in constants for source in weights if source):
        W, R, B, P = (constants.get(source) for source in weights)
        assert W is not None
        assert R is not None
        try:
            prepared = recurrent.prepare(W, R, B, P)
        except DataError as error:
            raise ModelFileError(f"{node}: {error}") from None

    def function(given: list[Array | None], room: int) -> tuple[Array, ...]:
        call, at = Call(node, 0, given, room), place.get("P", len(given))
        ready = prepared or recurrent.prepare(call.needed(1), call.needed(2), call.given(3), call.given(at))
        return ready.run(call.needed(0), call.given(4), call.given(5), call.given(6), room)

    return function


def _run(node: Node, function: _Function, given: list[Array | None], room: int) -> tuple[Array, ...]:
    """Run a node; whatever cannot be done is told with its name."""
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are handed on, as ONNX has it
            results = function(given, room)
    except (TimelikeError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(f"{node}: {' '.join(str(error).split())}") from error
    if any(node.outputs[len(results) :]):
        raise DataError(f"{node}: {len(node.outputs)} outputs are asked for, there are {len(results)}")
    return results


def _folded(
    node: Node, function: _Function, constants: Mapping[str, Array], room: int
) -> tuple[Array, ...] | None:
    """Give the results of a node that reads constants alone, if they are not too large to be kept."""
    if node.op in RECURRENT or not all(name in constants for name in node.inputs if name):
        return None
    try:
        results = _run(node, function, [constants.get(name) for name in node.inputs], room)
    except DataError:
        return None  # it will be raised where the model is run, unless there is room then
    for result in results:
        result.flags.writeable = False
    return results


def _unused_after(nodes: list[Node], outputs: set[str]) -> list[list[str]]:
    """Of each node, what is made by the nodes and not read any more."""
    last = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    for index, node in enumerate(nodes):
        last |= {name: index for name in node.inputs if name in last}
    unused: list[list[str]] = [[] for _ in nodes]
    for name, index in last.items():
        if name not in outputs:
            unused[index].append(name)
    return unused
