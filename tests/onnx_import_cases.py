"""ONNX models for tests, and what ONNX Runtime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

T, B, D, H = 5, 4, 3, 6
N_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
N_OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def recurrent_inputs(
    op: str,
    rng: np.random.Generator,
    *,
    K: int = 1,
    bias: bool = True,
    lengths: bool = False,
    initial: bool = False,
    peepholes: bool = False,
) -> dict[str, np.ndarray]:
    """Inputs of a recurrent node in float32 with layout 0.

    No row of R adds up to more than 1 in absolute values, so that a step does not enlarge what is wrong in h.
    """
    G = N_GATES[op]

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    R = normal(K, G * H, H)
    arrays = {"X": normal(T, B, D), "W": normal(K, G * H, D), "R": R / np.abs(R).sum(-1, keepdims=True)}
    if bias:
        arrays["B"] = normal(K, 2 * G * H)
    if lengths:
        arrays["sequence_lens"] = np.array([T, 2, 0, 1], np.int32)
    if initial:
        arrays["initial_h"] = normal(K, B, H)
        if op == "LSTM":
            arrays["initial_c"] = normal(K, B, H)
    if peepholes:
        arrays["P"] = normal(K, 3 * H) / 4
    return arrays


def bound(arrays: dict[str, np.ndarray], results: Any, dtype: Any = np.float32) -> float:
    """Say how far a recurrent node in some precision may be from exact numbers.

    A gate is a sum of n = D + H + 3 terms: (8 + sqrt(n)) eps of the largest term or result. No activation is
    steeper than 1 and no step enlarges an error (see `recurrent_inputs`), so T steps add up to T of these.
    """
    n = D + H + 3
    largest = max(float(np.abs(result).max()) for result in results)
    largest = max(largest, float(np.abs(arrays["W"]).max() * np.abs(arrays["X"]).max()))
    return float(T * (8 + np.sqrt(n)) * np.finfo(dtype).eps * largest)


def recurrent_model(
    op: str, arrays: dict[str, np.ndarray], *, opset: int = 14, constant: bool = False, **attributes: Any
) -> bytes:
    """Give a model of one recurrent node; with `constant`, all but X is in the file."""
    names = [name if name in arrays else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: N_OUTPUTS[op]]
    node = helper.make_node(op, names, outputs, name="the layer", hidden_size=H, **attributes)
    inside = {name: array for name, array in arrays.items() if constant and name != "X"}
    given = {name: array for name, array in arrays.items() if name not in inside}
    return model([node], given, outputs, inside, opset=opset)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: list[str],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 14,
) -> bytes:
    """Give a model of some nodes as a file."""
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def by_onnxruntime(content: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model with ONNX Runtime, which wants to know the type of each output."""
    proto = onnx.load_from_string(content)
    for value in proto.graph.output:
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
