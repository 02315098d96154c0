"""Fuzz the reader of ONNX models: any bytes give a model or one line, and a model gives arrays or one line.

Whatever can be read is run too, with inputs of ones, within a small limit of memory. Needs
``pip install atheris``; not run by pytest.

    python tests/fuzz/fuzz_onnx_import.py -max_total_time=300 -max_len=4000 -rss_limit_mb=1000

New inputs are kept in a folder of their own if one is named first; ``tests/fuzz/corpus/onnx_import`` is read
in any case. ``--write-corpus`` writes that folder again.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import atheris
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

with atheris.instrument_imports(include=["timelike.interop"]):
    from timelike.interop.onnx_import import OPERATORS, RECURRENT, Limits, read_onnx

from tests.onnx_import_cases import D, H, model, recurrent_inputs, recurrent_model  # noqa: E402

from timelike.errors import DataError, ModelFileError  # noqa: E402

CORPUS = HERE / "corpus" / "onnx_import"
LIMITS = Limits(file_bytes=2**16, run_bytes=2**22)
INTEGERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 6, 7, 14, 22, 2**31, 2**63 - 1]
FLOATS = [-1.0, 0.0, 0.5, 1.0, 1e30, float("inf"), float("nan")]


def seeds() -> dict[str, bytes]:
    """Small models of every recurrent node, and of what stands around them."""
    rng = np.random.default_rng(0)
    lstm = recurrent_inputs("LSTM", rng, K=2, lengths=True, initial=True, peepholes=True)
    gru, rnn = recurrent_inputs("GRU", rng), recurrent_inputs("RNN", rng)
    inside = {name: gru[name] for name in ("W", "R", "B")} | {
        "axes": np.array([0]),
        "shape": np.array([-1, H]),
        "dense": rng.normal(size=(2, H)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
        "ends": np.array([2]),
    }
    nodes = [
        helper.make_node("Transpose", ["X"], ["x"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Slice", ["x", "axes", "ends", "axes"], ["early"]),
        helper.make_node("GRU", ["X", "W", "R", "B"], ["", "h"], hidden_size=H, linear_before_reset=1),
        helper.make_node("Reshape", ["h", "shape"], ["rows"]),
        helper.make_node("Gemm", ["rows", "dense", "bias"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["p"], axis=1),
        helper.make_node("Concat", ["p", "p"], ["pp"], axis=0),
    ]
    return {
        "lstm": recurrent_model("LSTM", lstm, constant=True, direction="bidirectional", clip=3.0),
        "rnn": recurrent_model("RNN", rnn, activations=["LeakyRelu"], activation_alpha=[0.1], layout=1),
        "head": model(
            nodes, {"X": np.zeros((3, 2, D), np.float32)}, ["pp", "early", "size"], inside, opset=17
        ),
    }


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change a file as bytes, or as a model: most changes of bytes only make it no model."""
    rng = random.Random(seed)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        return bytes(atheris.Mutate(content, most))
    if rng.random() < 0.2 or not proto.graph.node:
        return bytes(atheris.Mutate(content, most))
    try:
        for _ in range(rng.randint(1, 3)):
            rng.choice((change_node, change_attribute, change_tensor, change_graph))(proto, rng)
    except UnicodeDecodeError:  # a name that is no UTF-8: such a file can be read, but not put together
        return bytes(atheris.Mutate(content, most))
    return proto.SerializeToString()[:most]


def change_node(proto: Any, rng: random.Random) -> None:
    node = rng.choice(proto.graph.node)
    names = [name for each in proto.graph.node for name in (*each.input, *each.output)] + [""]
    if rng.random() < 0.4:
        node.op_type = rng.choice([*RECURRENT, *OPERATORS])
    for side in (node.input, node.output):
        if side and rng.random() < 0.4:
            side[rng.randrange(len(side))] = rng.choice(names)
    if rng.random() < 0.2:
        node.input.append(rng.choice(names))


def change_attribute(proto: Any, rng: random.Random) -> None:
    node = rng.choice(proto.graph.node)
    known = sorted(OPERATORS[node.op_type].attributes) if node.op_type in OPERATORS else []
    known = known or ["direction", "layout", "clip", "activations", "activation_alpha", "input_forget"]
    values: list[Any] = [
        rng.choice(INTEGERS),
        rng.choice(FLOATS),
        rng.choice(["reverse", "Tanh", "constant", "x"]),
    ]
    values += [[rng.choice(kind) for _ in range(rng.randint(1, 3))] for kind in (INTEGERS, FLOATS)]
    values += [["Sigmoid", "Tanh", "Relu"], numpy_helper.from_array(np.array([rng.choice(INTEGERS)]))]
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
    else:
        node.attribute.append(helper.make_attribute(rng.choice(known), rng.choice(values)))


def change_tensor(proto: Any, rng: random.Random) -> None:
    if not proto.graph.initializer:
        return
    tensor = rng.choice(proto.graph.initializer)
    what = rng.randrange(4)
    if what == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    elif what == 1:
        tensor.data_type = rng.randrange(20)
    elif what == 2:
        tensor.int64_data.append(rng.choice(INTEGERS))
    else:
        numbers = np.array([rng.choice(INTEGERS) for _ in range(rng.randint(1, 3))])
        tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def change_graph(proto: Any, rng: random.Random) -> None:
    graph = proto.graph
    if graph.node and rng.random() < 0.5:
        graph.node.add().CopyFrom(rng.choice(graph.node))
        graph.node[-1].output[:] = [f"new {len(graph.node)} {k}" for k in range(len(graph.node[-1].output))]
        if graph.node[-1].output:
            graph.output.add(name=graph.node[-1].output[0])
    elif graph.input and rng.random() < 0.5:
        sizes = rng.choice(graph.input).type.tensor_type.shape.dim
        if sizes:
            rng.choice(sizes).dim_value = rng.choice(INTEGERS)
    else:
        del proto.opset_import[:]
        proto.opset_import.append(helper.make_opsetid("", rng.choice([7, 9, 10, 11, 12, 13, 18, 22, 28])))


def one_input(content: bytes) -> None:
    """Read bytes; run what can be read."""
    message = ""
    try:
        read = read_onnx(content, limits=LIMITS)
        sizes = [[n if isinstance(n, int) and 0 <= n < 8 else 2 for n in v.shape or ()] for v in read.inputs]
        if any(len(of_input) > 6 for of_input in sizes):
            return
        results = read({v.name: np.ones(n, v.dtype or "f4") for v, n in zip(read.inputs, sizes, strict=True)})
        assert list(results) == list(dict.fromkeys(value.name for value in read.outputs))
    except (ModelFileError, DataError) as error:
        message = str(error)
    assert "\n" not in message, message
    assert len(message) < 2000, len(message)


def main() -> None:
    """Run the fuzzer, or write the corpus."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    if "--write-corpus" in sys.argv:
        for name, content in seeds().items():
            (CORPUS / f"{name}.onnx").write_bytes(content)
        return
    atheris.Setup([*sys.argv, str(CORPUS)], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
