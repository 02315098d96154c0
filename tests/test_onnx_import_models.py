"""Whole ONNX models: what exporters write, and graphs of our own, against ONNX Runtime."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnx_import_cases import B, D, H, T, by_onnxruntime, model, recurrent_inputs, recurrent_model
from timelike.errors import DataError, MissingExtraError, ModelFileError
from timelike.interop.onnx_import import OPERATORS, Limits, read_onnx


class Tagger(torch.nn.Module):
    """Recurrent layers, a mean and the last states, and a head."""

    def __init__(self, kind: str, *, layers: int, bidirectional: bool, batch_first: bool) -> None:
        super().__init__()
        options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
        self.layers = getattr(torch.nn, kind)(D, H, **options)
        size = H * (1 + bidirectional)
        norm, dense = torch.nn.LayerNorm(size), torch.nn.Linear(size, 4)
        self.head = torch.nn.Sequential(norm, dense, torch.nn.ReLU(), torch.nn.Linear(4, 3))

    def forward(self, x, lengths=None):
        first = self.layers.batch_first
        if lengths is not None:
            packing = torch.nn.utils.rnn.pack_padded_sequence
            x = packing(x, lengths, batch_first=first, enforce_sorted=False)
        y, state = self.layers(x)
        if lengths is not None:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=first)
        h = state[0] if isinstance(state, tuple) else state
        last = torch.cat([h[-2], h[-1]], -1) if self.layers.bidirectional else h[-1]
        return torch.softmax(self.head(last) + self.head(y.mean(1 if first else 0)), -1), y


def exported(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], opset: int) -> bytes:
    file = io.BytesIO()
    axes = {"x": {0: "B", 1: "T"} if module.layers.batch_first else {0: "T", 1: "B"}, "lengths": {0: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is older than PyTorch's newest, and says so
        torch.onnx.export(
            module.eval(),
            arguments,
            file,
            dynamo=False,
            input_names=["x", "lengths"][: len(arguments)],
            output_names=["scores", "y"],
            dynamic_axes={name: axes[name] for name in ("x", "lengths")[: len(arguments)]},
            opset_version=opset,
        )
    return file.getvalue()


MODULES = [
    ("LSTM", {"layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {"layers": 1, "bidirectional": False, "batch_first": False}),
    ("RNN", {"layers": 1, "bidirectional": True, "batch_first": True}),
]


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "docs" / "onnx_import.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shown: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, shown)
    assert "'x': float32 of shape (T, B, 6) -> 'y': float32 of shape (" in capsys.readouterr().out
    assert shown["y"].shape == (50, 8, 40)
    assert f"{len(OPERATORS)} operators" in page.read_text(encoding="utf-8")


KERAS = """
import keras, numpy
from timelike.interop.onnx_import import read_onnx
layers = [keras.layers.LSTM(4, return_sequences=True), keras.layers.GRU(5), keras.layers.Dense(2, "softmax")]
model = keras.Sequential([keras.Input((7, 3)), *layers])
x = numpy.random.default_rng(0).normal(size=(6, 7, 3)).astype("float32")
want = numpy.asarray(model(x[:2]).detach())
model.export("keras.onnx", format="onnx", verbose=False)
(got,) = read_onnx("keras.onnx")(x).values()
assert got.shape == (6, 2)
# two programs of probabilities, each after 14 steps of sums of 8 numbers: (8 + sqrt(8)) eps for each
assert numpy.abs(got[:2] - want).max() <= 2 * 14 * 11 * 1.2e-7, numpy.abs(got[:2] - want).max()
"""


@pytest.mark.slow
def test_what_keras_writes(tmp_path):
    """Steps one by one, without any recurrent node."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    source = Path(__file__).resolve().parents[1] / "src"
    environment = os.environ | {"KERAS_BACKEND": "torch", "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", KERAS], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "options"), MODULES)
def test_what_pytorch_exports(kind, options, packed, opset):
    """To another batch than that of the export; its steps by kernels whose weights were packed once."""
    torch.manual_seed(1)
    module = Tagger(kind, **options)
    x = torch.randn(B, T, D) if module.layers.batch_first else torch.randn(T, B, D)
    arguments = (x, torch.tensor([3, T, 1, 2])) if packed else (x,)
    content = exported(module, arguments, opset)
    read = read_onnx(content)

    x = torch.randn(7, 9, D)
    lengths = torch.tensor([2, 9, 1, 9, 4, 3, 9])[: 7 if module.layers.batch_first else None]
    if not module.layers.batch_first:
        lengths = torch.tensor([2, 7, 1, 7, 4, 3, 7, 5, 6])
    arguments = (x, lengths) if packed else (x,)
    inputs = dict(zip(("x", "lengths"), (a.numpy() for a in arguments), strict=False))
    with torch.no_grad():
        exact = module.double()(arguments[0].double(), *arguments[1:])
    got, rival = read(inputs), by_onnxruntime(content, inputs)
    for name, want in zip(("scores", "y"), exact, strict=True):
        assert got[name].shape == tuple(want.shape)
        # twice the error of ONNX Runtime; where that is small by chance, some roundings of numbers up to 1
        tolerance = 2 * np.abs(rival[name] - want.numpy()).max() + 8 * np.finfo(np.float32).eps
        assert np.abs(got[name] - want.numpy()).max() <= tolerance


def test_older_operators_that_got_attributes_as_inputs_later():
    """Squeeze, Unsqueeze, Slice, Split, ReduceSum, Clip, Softmax and Pad as they were before version 11."""
    x = np.random.default_rng(1).normal(size=(3, 1, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Squeeze", ["x"], ["a"], axes=[1]),
        helper.make_node("Slice", ["a"], ["b"], starts=[0, -3], ends=[2, 100], axes=[0, 1]),
        helper.make_node("Pad", ["b"], ["c"], pads=[0, 0, 1, 1], value=0.5),
        helper.make_node("Split", ["c"], ["d", "e"], axis=1, split=[1, 3]),
        helper.make_node("Clip", ["e"], ["f"], min=-0.5, max=0.75),
        helper.make_node("Softmax", ["f"], ["g"], axis=0),
        helper.make_node("Unsqueeze", ["d"], ["h"], axes=[0, 3]),
        helper.make_node("ReduceSum", ["f"], ["i"], axes=[-1], keepdims=0),
    ]
    content = model(nodes, {"x": x}, ["g", "h", "i"], opset=9)
    got, want = read_onnx(content)(x), by_onnxruntime(content, {"x": x})
    for name, value in want.items():
        assert got[name].shape == value.shape
        # a sum of at most 9 numbers that are not above 1
        assert np.abs(got[name] - value).max() <= 12 * np.finfo(np.float32).eps


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_took_all_later_axes_together_before_version_13(axis, opset):
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    content = model([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], {"x": x}, ["y"], opset=opset)
    want = by_onnxruntime(content, {"x": x})["y"]
    # a quotient of two sums of at most 24 terms that are not above 1
    assert np.abs(read_onnx(content)(x)["y"] - want).max() <= 2 * (8 + 24**0.5) * np.finfo(np.float32).eps


def test_slices_of_every_kind():
    x = np.arange(7)
    for start in (-9, -7, -1, 0, 2, 6, 9):
        for end in (-(2**40), -8, -7, -1, 0, 3, 7, 2**40):
            for step in (-3, -1, 1, 2):
                parts = {"s": start, "e": end, "a": 0, "p": step}
                constants = {name: np.array([value]) for name, value in parts.items()}
                content = model(
                    [helper.make_node("Slice", ["x", *"seap"], ["y"])], {"x": x}, ["y"], constants
                )
                proto = onnx.load_from_string(content)
                proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
                want = by_onnxruntime(proto.SerializeToString(), {"x": x})["y"]
                assert read_onnx(content)(x)["y"].tolist() == want.tolist(), parts


def test_constants_are_computed_once_and_nodes_without_use_are_harmless():
    arrays = recurrent_inputs("GRU", np.random.default_rng(2))
    W = arrays.pop("W")
    nodes = [
        helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["W"]),
        helper.make_node("GRU", ["X", "W", "R", "B"], ["", "last"], hidden_size=H),
        helper.make_node("Identity", ["last"], ["unread"]),
        helper.make_node("Squeeze", ["last", "axis"], ["h"]),
    ]
    X, inside = arrays.pop("X"), {**arrays, "flat": W[0]}
    read = read_onnx(model(nodes, {"X": X}, ["h"], inside))
    assert [node.op for node, _ in read._steps] == ["GRU", "Identity", "Squeeze"]
    whole = recurrent_model("GRU", {"X": X, "W": W, **arrays})
    want = read_onnx(whole)({"X": X, "W": W, **arrays})["Y_h"][0]
    assert read(X)["h"].tobytes() == want.tobytes()


def test_what_comes_back_is_the_callers():
    """Writing to an output changes neither the input nor the model."""
    x, constant = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    nodes = [helper.make_node("Identity", [name], [out]) for name, out in (("x", "y"), ("c", "d"))]
    read = read_onnx(model(nodes, {"x": x}, ["y", "d"], {"c": constant}))
    for _ in range(2):
        for array in read(x).values():
            assert (array == 1).all()
            array += 1
    assert (x == 1).all()


def test_many_threads_share_a_model():
    arrays = recurrent_inputs("LSTM", np.random.default_rng(3), K=2)
    inputs = [np.random.default_rng(k).normal(size=(T, B + k, D)).astype(np.float32) for k in range(8)]
    proto = onnx.load_from_string(recurrent_model("LSTM", arrays, constant=True, direction="bidirectional"))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "B"
    read = read_onnx(proto.SerializeToString())
    alone = [read(x)["Y"].tobytes() for x in inputs]
    together: list[bytes] = [b""] * len(inputs)

    def work(k: int) -> None:
        for _ in range(20):
            together[k] = read(inputs[k])["Y"].tobytes()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


# --- what is refused when it runs -----------------------------------------------------------------


def of_two_inputs() -> bytes:
    x = np.zeros((2, 3), np.float32)
    proto = onnx.load_from_string(
        model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": x, "b": x}, ["y"])
    )
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "B"
    return proto.SerializeToString()


WRONG = [
    (np.zeros((2, 3), np.float32), "one array is given; the inputs are 'a': float32 of shape (B, 3); 'b'"),
    ({"a": np.zeros((2, 3), np.float32)}, "input 'b': float32 of shape (B, 3) is missing"),
    ({"c": np.zeros(2)}, "no input 'c'; known: 'a', 'b'"),
    (
        {"a": np.zeros((2, 3)), "b": np.zeros((2, 3))},
        "input 'a': float32 of shape (B, 3); got float64 of shape (2, 3)",
    ),
    (
        {"a": np.zeros((2, 3), np.float32), "b": np.zeros((1, 3), np.float32)},
        "input 'b': float32 of shape (B, 3); got float32 of shape (1, 3)",
    ),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_wrong_inputs_of_a_model_are_told(inputs, message):
    with pytest.raises(DataError) as error:
        read_onnx(of_two_inputs())(inputs)
    assert message in str(error.value)


def test_a_node_that_cannot_be_carried_out_is_named():
    x, shape = np.zeros((2, 3), np.float32), np.array([4, 2])
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="to four rows")
    read = read_onnx(model([node], {"x": x}, ["y"], {"shape": shape}))
    with pytest.raises(DataError, match=r"^node 'to four rows' \(Reshape\): cannot reshape array of size 6"):
        read(x)


def growing(op: str) -> list[onnx.NodeProto]:
    """Nodes of which the last would need far more memory than there is."""
    if op == "Concat":
        return [helper.make_node("Concat", [f"x{k}"] * 8, [f"x{k + 1}"], axis=0) for k in range(15)]
    if op == "MatMul":
        nodes = [helper.make_node("Concat", ["x0"] * 2**12, ["row"], axis=1)]
        nodes += [helper.make_node("Concat", ["row"] * 2**5, ["long"], axis=1)]
        return [*nodes, helper.make_node("MatMul", ["column", "long"], ["x15"])]
    return [helper.make_node(op, ["x0", "many"], ["x15"])]


@pytest.mark.parametrize("op", ["Concat", "MatMul", "Expand", "Tile", "Gather"])
def test_a_model_may_not_take_all_memory(op):
    x, many = np.ones((1, 1), np.float32), np.array([2**20, 2**20])
    constants = {"many": many}
    nodes = growing(op)
    if op == "MatMul":
        nodes = [helper.make_node("Expand", ["x0", "tall"], ["column"]), *nodes]
        constants = {"tall": np.array([2**17, 1])}
    if op == "Gather":
        nodes = [helper.make_node("ConstantOfShape", ["many"], ["x15"])]
    read = read_onnx(model(nodes, {"x0": x}, ["x15"], constants), limits=Limits(run_bytes=2**22))
    with pytest.raises(DataError, match=r"^node '\w+' \(\w+\): a result of shape .* \(Limits.run_bytes\)$"):
        read(x)


def test_the_limit_of_a_run_counts_what_is_alive():
    """A chain of nodes needs no more than its longest link; the same nodes kept alive need all."""
    x = np.ones(1000, np.float32)
    names = [f"x{k}" for k in range(50)]
    chain = [helper.make_node("Neg", [a], [b]) for a, b in zip(["x", *names], names, strict=False)]
    limits = Limits(run_bytes=4 * x.nbytes)
    content = model([*chain, helper.make_node("Add", ["x49", "x49"], ["y"])], {"x": x}, ["y"])
    assert read_onnx(content, limits=limits)(x)["y"][0] == 2
    kept = model([*chain, helper.make_node("Sum", names, ["y"])], {"x": x}, ["y"])
    assert read_onnx(kept)(x)["y"][0] == 0
    with pytest.raises(DataError, match=r"Limits\.run_bytes"):
        read_onnx(kept, limits=limits)(x)


def test_unknown_operators_are_named_with_what_is_known():
    x = np.zeros((2, 3), np.float32)
    for nodes, message in (
        (
            [helper.make_node("Tahn", ["x"], ["y"])],
            r"node 'y' \(Tahn\): this operator is not known; nearest: 'Tanh'",
        ),
        ([helper.make_node("Elu", ["x"], ["y"], gamma=1.0, delta=2.0)], r"attribute 'delta' is not known"),
        (
            [helper.make_node("Relu", ["x"], ["y"], domain="of.mine")],
            "operators of the domain 'of.mine' are not known",
        ),
    ):
        with pytest.raises(ModelFileError, match=message):
            read_onnx(model(nodes, {"x": x}, ["y"]))


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'timelike\[onnx\]'"):
        read_onnx(b"")
