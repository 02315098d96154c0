"""The same classifier as a graph of ONNX: transforms, LSTM, dense layers, softmax.

Inputs and outputs are handed over as arrays, or bound to memory once; the faster way counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.cases import Array
from bench.peers.onnxruntime import Runtime, reordered
from bench.scores import CLASSES, Scores, lengths, parameters, steps
from bench.worker import Job


class Graph(Runtime):
    """ONNX Runtime."""

    def variants(self, case: Scores) -> tuple[str, ...]:
        return ("arrays", "bound")

    def prepare(self, case: Scores, variant: str) -> Job:
        session = self.session(graph(case))
        names = [output.name for output in session.get_outputs()]
        x, zeros = padded(case), np.zeros((1, 1, case.size.H), np.float32)
        if case.kind != "streamed":
            inputs = {"x": x} | ({"n": lengths(case).astype(np.int32)} if case.kind == "ragged" else {})
            call = _caller(session, names, inputs, case, bound=variant == "bound")
            return Job(call, lambda: {"scores": call()[0]})
        given = {"x": x[:1], "h0": zeros, "c0": zeros}

        def walk() -> dict[str, Array]:
            h, c = zeros, zeros
            for row in x:
                scores, h, c = session.run(names, {"x": row[None], "h0": h, "c0": c})
            return {"scores": scores}

        if variant == "bound":
            return Job(_caller(session, names, given, case, bound=True), walk)
        carried = [zeros, zeros]

        def step() -> Array:
            scores, *carried[:] = session.run(names, given | {"h0": carried[0], "c0": carried[1]})
            return scores

        return Job(step, walk)


def _caller(
    session: onnxruntime.InferenceSession,
    names: list[str],
    inputs: dict[str, Array],
    case: Scores,
    *,
    bound: bool,
) -> Callable[[], list[Array]]:
    if not bound:
        return lambda: session.run(names, inputs)
    binding, kept = session.io_binding(), []
    for name, values in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values))
    for name in names:
        shape = [case.size.B, CLASSES] if name == "scores" else [1, case.size.B, case.size.H]
        kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu"))
        binding.bind_ortvalue_output(name, kept[-1])

    def call() -> list[Array]:
        session.run_with_iobinding(binding)
        return [value.numpy() for value in kept]

    return call


def padded(case: Scores) -> Array:
    """All steps as [T, B, D]."""
    n = lengths(case)
    x = np.zeros((case.size.B, case.size.T, case.size.D), np.float32)
    x[np.arange(case.size.T) < n[:, None]] = steps(case)
    return np.ascontiguousarray(x.swapaxes(0, 1))


def graph(case: Scores) -> onnx.ModelProto:
    """The classifier; its gates stand in the order i o f g."""
    (B, T, D, H), given, streamed = case.size, parameters(case), case.kind == "streamed"
    biases = [reordered(given[name], H).ravel() for name in ("b_ih", "b_hh")]
    constants = {
        "W": reordered(given["W"], H)[None],
        "R": reordered(given["U"], H)[None],
        "B": np.concatenate(biases)[None],
        "first": np.array(0),
    } | {name: given[name] for name in ("mean", "scale", "V", "a", "V2", "a2")}
    inputs = {"x": (TensorProto.FLOAT, [1 if streamed else T, B, D])}
    outputs = {"scores": [B, CLASSES]}
    if case.kind == "ragged":
        inputs["n"] = (TensorProto.INT32, [B])
    if streamed:
        inputs |= {name: (TensorProto.FLOAT, [1, B, H]) for name in ("h0", "c0")}
        outputs |= {"h": [1, B, H], "c": [1, B, H]}
    of_lstm = ["z", "W", "R", "B", "n" if case.kind == "ragged" else ""] + (["h0", "c0"] if streamed else [])
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["away"]),
        helper.make_node("Div", ["away", "scale"], ["z"]),
        helper.make_node("LSTM", of_lstm, ["", "h", "c"], hidden_size=H),
        helper.make_node("Gather", ["h", "first"], ["last"], axis=0),
        helper.make_node("Gemm", ["last", "V", "a"], ["dense"], transB=1),
        helper.make_node("Relu", ["dense"], ["active"]),
        helper.make_node("Gemm", ["active", "V2", "a2"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "classifier",
            [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.checker.check_model(proto)
    return proto


def peer(threads: int) -> Graph:
    return Graph(threads)
