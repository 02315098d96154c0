"""ONNX Runtime: a model of one LSTM node, run as deployed models are, its weights packed when it is loaded.

Inputs and outputs are handed over as arrays, or bound to memory once; the faster way counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.cases import Array, Case, arrays
from bench.worker import Job


class Runtime:
    """What all peers that run by ONNX Runtime have in common."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": onnxruntime.__version__}

    def set_threads(self, n: int) -> None:
        self._threads = n

    def forget(self) -> None:
        """Nothing is kept."""

    def session(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self._threads
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class OnnxRuntime(Runtime):
    """The LSTM operator of ONNX."""

    def variants(self, case: Case) -> tuple[str, ...]:
        if case.cell != "lstm" or case.dtype != "float32" or case.recompute:
            return ()
        return ("arrays", "bound") if case.kind in ("inference", "step") else ()

    def prepare(self, case: Case, variant: str) -> Job:
        numbers = arrays(case)
        session = self.session(model(case, numbers))
        inputs = {"x": numbers["x"]} | {name: numbers[name][None] for name in ("h0", "c0") if name in numbers}
        outputs = [output.name for output in session.get_outputs()]
        if variant == "arrays":

            def call() -> list[Array]:
                return session.run(outputs, inputs)

        else:
            binding = session.io_binding()
            for name, values in inputs.items():
                binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values))
            bound = [
                onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu")
                for shape in _shapes(case).values()
            ]
            for name, value in zip(outputs, bound, strict=True):
                binding.bind_ortvalue_output(name, value)

            def call() -> list[Any]:
                session.run_with_iobinding(binding)
                return bound

        def results() -> dict[str, Array]:
            y, h, c = (value if variant == "arrays" else value.numpy() for value in call())
            return {"y": y[:, 0], "hT": h[0], "cT": c[0]}

        return Job(call, results)


def _shapes(case: Case) -> dict[str, list[int]]:
    B, T, _, H = case.size
    return {"y": [T, 1, B, H], "h": [1, B, H], "c": [1, B, H]}


def reordered(values: Array, H: int) -> Array:
    """Put gates that stand in the order i f g o into that of ONNX, i o f g."""
    i, f, g, o = values.reshape(4, H, -1)
    return np.concatenate([i, o, f, g])


def model(case: Case, numbers: dict[str, Array]) -> onnx.ModelProto:
    """A graph of one LSTM node, whose gates stand in the order i o f g."""
    B, T, D, H = case.size
    biases = [reordered(numbers[name], H).ravel() for name in ("b_ih", "b_hh")]
    weights = {
        "W": reordered(numbers["W"], H)[None],
        "R": reordered(numbers["U"], H)[None],
        "B": np.concatenate(biases)[None],
    }
    inputs = {"x": [T, B, D]}
    if case.kind == "step":
        inputs |= {"h0": [1, B, H], "c0": [1, B, H]}
    given = ["x", *weights] + (["", "h0", "c0"] if case.kind == "step" else [])
    graph = helper.make_graph(
        [helper.make_node("LSTM", given, list(_shapes(case)), hidden_size=H)],
        "lstm",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in _shapes(case).items()],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto


def peer(threads: int) -> OnnxRuntime:
    return OnnxRuntime(threads)
