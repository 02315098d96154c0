"""ONNX files that nobody vouches for: one line for whatever is wrong, and no more memory than is due."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_import_cases import model, recurrent_inputs, recurrent_model
from timelike.errors import DataError, ModelFileError
from timelike.interop.onnx_import import OPERATORS, RECURRENT, Limits, read_onnx

ARRAYS = recurrent_inputs("LSTM", np.random.default_rng(4), lengths=True, peepholes=True)
FILE = recurrent_model("LSTM", ARRAYS, constant=True)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = onnx.load_from_string(FILE)
    change(proto)
    return proto.SerializeToString()


def external(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def with_tensor(**fields: object) -> Callable[[onnx.ModelProto], None]:
    """Put other things into the first tensor, W of shape (1, 24, 3)."""

    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        for name, value in fields.items():
            tensor.ClearField(name)
            if isinstance(value, list):
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return change


def with_graph(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.ClearField(name)
        getattr(proto.graph, name).extend([value] if not isinstance(value, list) else value)

    return change


def node(*of: object, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(*of, **attributes)


LOOP = node("If", ["X"], ["Y"], then_branch=helper.make_graph([], "inner", [], []))
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([1])), [9]
)
OPTIONAL = helper.make_value_info(
    "X", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None))
)
WRONG = [
    (b"", "it does not say which version"),
    (b"\x93NUMPY", "damaged, or no ONNX model"),
    (FILE[:-5], "damaged, or no ONNX model (cut short)"),
    (changed(external), "'W' lies in another file, which is not read; save the model as one file"),
    (
        changed(with_tensor(dims=[1, 24, 4])),
        "'W': float32 of shape (1, 24, 4) needs 384 bytes, there are 288",
    ),
    (changed(with_tensor(dims=[1, 24, -3])), "'W': shape (1, 24, -3); at most 32 sizes, none below 0"),
    (
        changed(with_tensor(dims=[2**40] * 3)),
        "needs 5316911983139663491615228241121378304 bytes, there are 288",
    ),
    (changed(with_tensor(dims=[2**62, 0], raw_data=b"")), "out of range"),
    (changed(with_tensor(dims=[1] * 40)), "at most 32 sizes"),
    (changed(with_tensor(data_type=16)), "'W': type 16 of ONNX; possible: float32, uint8"),
    (
        changed(with_tensor(data_type=10, raw_data=bytes(144))),
        "(LSTM): W: float16; possible: float32, float64",
    ),
    (changed(with_tensor(name="")), "tensor '' has no name, or that of another"),
    (changed(with_tensor(name="R")), "tensor 'R' has no name, or that of another"),
    (changed(with_tensor(name="W\n2")), "node 'the layer' (LSTM) reads 'W', which nothing before it gives"),
    (changed(lambda p: p.graph.ClearField("initializer")), "reads 'W', which nothing before it gives"),
    (changed(lambda p: p.graph.ClearField("output")), "the graph has no outputs"),
    (changed(with_graph("output", onnx.ValueInfoProto(name="Z"))), "output 'Z' is given by nothing"),
    (changed(with_graph("input", OPTIONAL)), "'X' is no tensor, which is not supported"),
    (changed(with_graph("sparse_initializer", SPARSE)), "sparse tensors are not supported"),
    (changed(with_graph("node", LOOP)), "attribute 'then_branch': a graph inside of a node (If, Loop, Scan)"),
    (changed(with_graph("node", node("Neg", ["X"], ["X"]))), "gives 'X', which is there already"),
    (changed(lambda p: p.ClearField("opset_import")), "which version of ONNX's operators"),
    (changed(lambda p: setattr(p.opset_import[0], "version", 6)), "operators of version 6; known: 7 to "),
    (changed(lambda p: p.graph.node[0].attribute.add(name="clip", ref_attr_name="c")), "of a function"),
    (changed(lambda p: p.graph.node[0].attribute.add(name="hidden_size", i=6, type=2)), "is given twice"),
    (changed(lambda p: setattr(p.graph.node[0], "op_type", "LSTN")), "is not known; nearest: 'LSTM'"),
    (FILE.replace(b"the layer", b"the\xff\xfeayer"), "a name is not UTF-8"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_is_wrong_is_told_in_one_line(content, message):
    with pytest.raises(ModelFileError) as error:
        read_onnx(content)
    assert str(error.value).startswith("ONNX model: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_file_is_named(tmp_path):
    path = tmp_path / "lstm.onnx"
    with pytest.raises(ModelFileError, match=r"lstm\.onnx: no such file or directory$"):
        read_onnx(path)
    path.write_bytes(FILE[:100])
    with pytest.raises(ModelFileError, match=r"lstm\.onnx: damaged, or no ONNX model"):
        read_onnx(path)
    path.write_bytes(FILE)
    assert read_onnx(path).inputs == read_onnx(FILE).inputs
    with pytest.raises(ModelFileError, match=r"is a directory$"):
        read_onnx(tmp_path)


def test_an_endless_file_is_read_no_further_than_the_limit():
    with pytest.raises(
        ModelFileError, match=r"longer than 1000 bytes, which is the limit \(Limits\.file_bytes\)"
    ):
        read_onnx("/dev/zero", limits=Limits(file_bytes=1000))


def message(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds a message."""
    size, varint = len(content), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + content


GRAPH, NODE, ATTRIBUTE, INNER, TENSOR, INT64_DATA, INITIALIZER = 7, 1, 5, 6, 5, 7, 5


def deep(levels: int) -> bytes:
    content = b""
    for _ in range(levels):
        content = message(NODE, message(ATTRIBUTE, message(INNER, content)))
    return message(GRAPH, content)


GREEDY = [
    (message(GRAPH, message(NODE, b"") * 10**4), r"more than 5000 fields, .*\(Limits.fields\)$"),
    (message(GRAPH, message(NODE, b"") * 4000), r"which version"),  # counted, and found to be no model
    (deep(5), r"messages more than 12 deep in each other \(Limits.depth\)$"),
    (deep(3000), r"messages more than 12 deep in each other \(Limits.depth\)$"),
    (message(GRAPH, message(INITIALIZER, message(INT64_DATA, bytes(2**23)))), r"\(Limits.packed_bytes\)"),
]


@pytest.mark.parametrize(("content", "match"), GREEDY, ids=range(len(GREEDY)))
def test_a_small_file_may_not_ask_for_much_memory(content, match):
    """Seen by what Python counts: the protobuf library is not reached."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=match):
            read_onnx(content, limits=Limits(fields=5000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**18


def test_limits_can_be_moved():
    with pytest.raises(ModelFileError, match=r"1 nodes; the limit is 0 \(Limits.nodes\)"):
        read_onnx(FILE, limits=Limits(nodes=0))
    with pytest.raises(ModelFileError, match=r"more than 20 fields"):
        read_onnx(FILE, limits=Limits(fields=20))


def test_every_way_to_store_a_tensor_gives_the_same():
    """As bytes, or as numbers of protobuf's few types."""
    numbers = np.array([[1, 0, 2], [100, 3, 1]])
    names = ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"]
    for name in [*names, "uint64", "bool"]:
        array = numbers.astype(name)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        for tensor in (
            numpy_helper.from_array(array, "c"),
            helper.make_tensor("c", kind, [2, 3], array.reshape(-1)),
        ):
            proto = onnx.load_from_string(model([node("Identity", ["c"], ["y"])], {}, ["y"]))
            proto.graph.initializer.append(tensor)
            got = read_onnx(proto.SerializeToString())({})["y"]
            assert got.dtype == array.dtype
            assert got.tolist() == array.tolist()


# --- any bytes ------------------------------------------------------------------------------------

X = ARRAYS["X"]
SMALL = Limits(run_bytes=2**20)


def survives(content: bytes) -> None:
    """Read, and run where it can be read: nothing but an error of one line may come of it."""
    message = ""
    try:
        read = read_onnx(content, limits=SMALL)
        sizes = [[n if isinstance(n, int) and 0 <= n < 8 else 2 for n in v.shape or ()] for v in read.inputs]
        results = read({v.name: np.ones(n, v.dtype or "f4") for v, n in zip(read.inputs, sizes, strict=True)})
        assert all(isinstance(result, np.ndarray) for result in results.values())
    except (ModelFileError, DataError) as error:
        message = str(error)
    assert "\n" not in message


EDITS = st.lists(
    st.tuples(st.integers(0, len(FILE) - 1), st.sampled_from(["set", "cut", "add"]), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200)
@given(EDITS)
def test_a_damaged_file_gives_a_model_or_one_line(edits):
    content = bytearray(FILE)
    for at, what, byte in edits:
        at %= len(content)
        if what == "set":
            content[at] = byte
        elif what == "cut":
            del content[at : at + 1 + byte % 16]
        else:
            content.insert(at, byte)
        if not content:
            break
    survives(bytes(content))


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_give_one_line(content):
    survives(content)


NAMES = st.sampled_from(["X", "W", "R", "B", "Y", "Y_h", "", "the", "sequence_lens"])
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    st.lists(st.integers(-3, 3), min_size=1, max_size=4),
    st.lists(st.floats(width=32), min_size=1, max_size=4),
    st.text(max_size=3),
    st.just(np.arange(-1, 3)),
)
OPS = sorted({*RECURRENT, *OPERATORS})


@st.composite
def strange_nodes(draw: st.DrawFn) -> onnx.NodeProto:
    """Any operator with any inputs, and attributes that it may have with any value."""
    op = draw(st.sampled_from(OPS))
    names = (
        sorted(OPERATORS[op].attributes)
        if op in OPERATORS
        else ["direction", "layout", "activations", "clip"]
    )
    given = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3)) if names else {}
    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in given.items()
    }
    inputs = draw(st.lists(NAMES, max_size=5))
    return node(op, inputs, draw(st.sampled_from([["Z"], ["Z", "U"], ["", "Z"]])), **attributes)


@settings(max_examples=300)
@given(st.lists(strange_nodes(), min_size=1, max_size=1))
def test_strange_nodes_give_results_or_one_line(nodes):
    proto = onnx.load_from_string(FILE)
    del proto.graph.node[:], proto.graph.output[:]
    proto.graph.node.extend(nodes)
    proto.graph.output.append(onnx.ValueInfoProto(name="Z"))
    survives(proto.SerializeToString())


def test_a_path_may_be_anything_that_names_a_file(tmp_path):
    path = tmp_path / "lstm.onnx"
    path.write_bytes(FILE)
    assert repr(read_onnx(os.fspath(path))) == repr(read_onnx(path))
