"""Read an ONNX file that nobody vouches for into plain arrays and nodes.

The bytes are looked through once before the protobuf library makes objects of them, so that a small file
cannot ask for much memory: its fields are counted, and its messages may not lie deep in each other. A tensor
is made only if the file holds as many bytes as its shape says. Data in other files is never read. Every fault
is a `ModelFileError` of one line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import ModelFileError, require

__all__ = ["OPSETS", "Graph", "Limits", "Node", "Value", "dtype_of", "read_graph", "read_node", "shown"]

Array: TypeAlias = npt.NDArray[Any]

OPSETS = range(7, 29)
"""Versions of ONNX's operators whose meaning is known here."""


@dataclass(frozen=True)
class Limits:
    """What a file may ask for.

    Attributes
    ----------
    file_bytes : int
        Length of the file.
    fields : int
        Entries of the protobuf message in all: each name, number, node and tensor is one.
    depth : int
        Messages in each other, the model itself counted; a tensor that is an attribute of a node is the
        fifth.
    packed_bytes : int
        Bytes of one list of integers that is not ``raw_data``: such a list grows eightfold when it is read.
    nodes : int
        Nodes of the graph.
    run_bytes : int
        Arrays that are alive at once when the model runs.
    """

    file_bytes: int = 2**28
    fields: int = 500_000
    depth: int = 12
    packed_bytes: int = 2**22
    nodes: int = 10_000
    run_bytes: int = 2**31


@dataclass(frozen=True)
class Value:
    """An input or output of the graph.

    Attributes
    ----------
    name : str
    dtype : dtype, or None
        None where the file does not say it.
    shape : tuple of (int or str), or None
        A name stands for any size; None for any shape.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sizes = ", ".join(str(n) if isinstance(n, int) else shown(n)[1:-1] for n in self.shape or ())
        shape = "any shape" if self.shape is None else f"shape ({sizes}{',' * (len(self.shape) == 1)})"
        return f"{shown(self.name)}: {self.dtype or 'any type'} of {shape}"


@dataclass(frozen=True, eq=False)
class Node:
    """A node: operator, names of what it reads and gives ('' where left out), attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        label = self.name or next((name for name in self.outputs if name), "")
        return f"node {shown(label)} ({shown(self.op)[1:-1]})"


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph: inputs that must be given, arrays that are in the file, nodes in the order of their use."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[str, Array]
    nodes: tuple[Node, ...]
    opset: int


def shown(name: str) -> str:
    r"""Show a name out of a file: in one line, and not too long.

    Examples
    --------
    >>> print(shown("a line\nand another"))
    'a line\nand another'
    """
    return repr(name if len(name) <= 60 else name[:57] + "...")


def read_graph(source: str | os.PathLike[str] | bytes, limits: Limits) -> Graph:
    """Read a model and check all that can be checked without running it.

    Parameters
    ----------
    source : path or bytes
        The file, or what it holds.
    limits : Limits

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, no ONNX model, beyond the limits, or says what is not supported.
    MissingExtraError
        If onnx is not installed.
    """
    onnx, message = require("onnx", "onnx"), require("google.protobuf.message", "onnx")
    where = str(Path(source)) if isinstance(source, (str, os.PathLike)) else "ONNX model"
    try:
        content = _content(source, limits)
        _look_through(content, onnx.ModelProto.DESCRIPTOR, limits)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(content)
        except message.DecodeError as error:
            raise ModelFileError(f"damaged, or no ONNX model ({' '.join(str(error).split())})") from None
        return _graph(model, limits)
    except ModelFileError as error:
        raise ModelFileError(f"{where}: {error}") from None


def _content(source: str | os.PathLike[str] | bytes, limits: Limits) -> bytes:
    if isinstance(source, bytes):
        content = source
    else:
        try:
            with Path(source).open("rb") as file:
                content = file.read(limits.file_bytes + 1)
        except (OSError, ValueError) as error:  # the second: a zero byte in the name
            raise ModelFileError((getattr(error, "strerror", None) or str(error)).lower()) from None
    if len(content) > limits.file_bytes:
        raise ModelFileError(f"longer than {limits.file_bytes} bytes, which is the limit (Limits.file_bytes)")
    return content


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number in protobuf's variable length; where it ends."""
    number = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ModelFileError("damaged, or no ONNX model (cut short)")
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _look_through(content: bytes, message: Any, limits: Limits) -> None:
    """Count the fields of a protobuf message of a type, without making anything of them."""
    members: dict[str, dict[int, Any]] = {}
    inside, n_fields = [(0, len(content), message)], 0  # the messages that we are in, outermost first
    while inside:
        at, end, kind = inside.pop()
        known = members.setdefault(kind.full_name, dict(kind.fields_by_number.items()))
        while at < end:
            n_fields += 1
            if n_fields > limits.fields:
                raise ModelFileError(f"more than {limits.fields} fields, which is the limit (Limits.fields)")
            key, at = _varint(content, at)
            wire, member, size = key & 7, known.get(key >> 3), 0
            if wire == 0:
                _, at = _varint(content, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            elif wire == 2:
                size, at = _varint(content, at)
            else:
                raise ModelFileError("damaged, or no ONNX model (a field of an unknown kind)")
            if at + size > end:
                raise ModelFileError("damaged, or no ONNX model (cut short)")
            if wire == 2 and member is not None and member.message_type is not None:
                inside += [(at + size, end, kind), (at, at + size, member.message_type)]
                if len(inside) > limits.depth:
                    raise ModelFileError(
                        f"messages more than {limits.depth} deep in each other (Limits.depth)"
                    )
                break
            if wire == 2 and member is not None and member.type in _PACKED and size > limits.packed_bytes:
                raise ModelFileError(
                    f"{member.name}: {size} bytes of integers one by one, more than {limits.packed_bytes} "
                    "(Limits.packed_bytes); as raw_data there may be more"
                )
            at += size


_PACKED = {3, 4, 5, 13}  # int64, uint64, int32, uint32 in protobuf's descriptors

_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
_TYPED = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
_TYPED |= {"uint32": "uint64_data", "uint64": "uint64_data"}  # all others: int32_data


def dtype_of(number: int) -> np.dtype[Any]:
    """Name the NumPy type of ONNX's number for it.

    Raises
    ------
    ModelFileError
        If NumPy has no such type, or ONNX no such number.
    """
    if number not in _DTYPES:
        raise ModelFileError(f"type {number} of ONNX; possible: {', '.join(_DTYPES.values())}")
    return np.dtype(_DTYPES[number])


def _array(tensor: Any) -> Array:
    """Make an array of a tensor, if the file holds what its shape says; it cannot be written to."""
    label = shown(_text(tensor.name)) if tensor.name else "a tensor"
    if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
        raise ModelFileError(f"{label} lies in another file, which is not read; save the model as one file")
    if tensor.HasField("segment"):
        raise ModelFileError(f"{label} is stored in segments, which is not supported")
    try:
        dtype = dtype_of(tensor.data_type)
    except ModelFileError as error:
        raise ModelFileError(f"{label}: {error}") from None
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    # a size of 0 may not hide that another one is beyond all bounds
    if len(shape) > 32 or min(shape, default=0) < 0 or math.prod(n or 1 for n in shape) > max(count, 2**24):
        raise ModelFileError(f"{label}: shape {shape[:33]}; at most 32 sizes, none below 0 or out of range")
    if tensor.HasField("raw_data"):
        given, needed, unit = len(tensor.raw_data), count * dtype.itemsize, "bytes"
    else:
        numbers = getattr(tensor, _TYPED.get(dtype.name, "int32_data"))
        given, needed, unit = len(numbers), count, "numbers"
    if given != needed:
        raise ModelFileError(f"{label}: {dtype} of shape {shape} needs {needed} {unit}, there are {given}")
    if tensor.HasField("raw_data"):
        array = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype)
    elif dtype == np.float16:  # its bits stand there as integers
        array = np.array(numbers, np.int64).astype(np.uint16).view(np.float16)
    else:
        array = np.fromiter(numbers, np.int64 if dtype.kind == "b" else dtype, count).astype(dtype)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _text(value: str | bytes) -> str:
    """Give a text of the file: the protobuf library hands on as bytes what is no UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ModelFileError(f"{shown(repr(value))}: a name is not UTF-8") from None
    return value


def _attribute(attribute: Any) -> Any:
    """Give the value of an attribute: float, int, str, array, or a list of these."""
    if attribute.ref_attr_name:
        raise ModelFileError("it refers to an attribute of a function, which is not supported")
    kind = attribute.type
    simple = {attribute.FLOAT: "f", attribute.INT: "i", attribute.FLOATS: "floats", attribute.INTS: "ints"}
    if kind in simple:
        value = getattr(attribute, simple[kind])
        return value if kind in (attribute.FLOAT, attribute.INT) else list(value)
    if kind == attribute.STRING:
        return _text(attribute.s)
    if kind == attribute.STRINGS:
        return [_text(value) for value in attribute.strings]
    if kind == attribute.TENSOR:
        return _array(attribute.t)
    if kind in (attribute.GRAPH, attribute.GRAPHS):
        raise ModelFileError("a graph inside of a node (If, Loop, Scan) is not supported")
    raise ModelFileError(f"type {kind} of an attribute is not supported")


def read_node(proto: Any) -> Node:
    """Take a node out of its protobuf message.

    Raises
    ------
    ModelFileError
        If it is of a domain of its own, or an attribute cannot be read.
    """
    inputs, outputs = (tuple(_text(name) for name in side) for side in (proto.input, proto.output))
    node = Node(_text(proto.op_type), _text(proto.name), inputs, outputs, {})
    domain = _text(proto.domain)
    if domain not in ("", "ai.onnx"):
        raise ModelFileError(f"{node}: operators of the domain {shown(domain)} are not known")
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        name = _text(attribute.name)
        if name in attributes:
            raise ModelFileError(f"{node}: attribute {shown(name)} is given twice")
        try:
            attributes[name] = _attribute(attribute)
        except ModelFileError as error:
            raise ModelFileError(f"{node}, attribute {shown(name)}: {error}") from None
    return replace(node, attributes=attributes)


def _value(info: Any) -> Value:
    name = _text(info.name)
    if info.type.WhichOneof("value") not in (None, "tensor_type"):
        raise ModelFileError(f"{shown(name)} is no tensor, which is not supported")
    tensor = info.type.tensor_type
    shape: tuple[int | str, ...] | None = None
    if tensor.HasField("shape"):
        sizes = tensor.shape.dim
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else _text(size.dim_param) or "?" for size in sizes
        )
    try:
        dtype = dtype_of(tensor.elem_type) if tensor.elem_type else None
    except ModelFileError as error:
        raise ModelFileError(f"{shown(name)}: {error}") from None
    return Value(name, dtype, shape)


def _opset(imports: Iterable[Any]) -> int:
    versions = [int(each.version) for each in imports if _text(each.domain) in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ModelFileError("no ONNX model: it does not say which version of ONNX's operators it uses")
    if versions[0] not in OPSETS:
        raise ModelFileError(f"operators of version {versions[0]}; known: {OPSETS[0]} to {OPSETS[-1]}")
    return versions[0]


def _graph(model: Any, limits: Limits) -> Graph:
    opset = _opset(model.opset_import)
    graph = model.graph
    if len(graph.node) > limits.nodes:
        raise ModelFileError(f"{len(graph.node)} nodes; the limit is {limits.nodes} (Limits.nodes)")
    if graph.sparse_initializer:
        raise ModelFileError("sparse tensors are not supported")
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        name = _text(tensor.name)
        if not name or name in constants:
            raise ModelFileError(f"tensor {shown(name)} has no name, or that of another")
        constants[name] = _array(tensor)
    # Until ONNX's IR version 4 each constant was listed among the inputs: none of those is one here.
    inputs = tuple(_value(info) for info in graph.input if _text(info.name) not in constants)
    outputs = tuple(_value(info) for info in graph.output)
    nodes = tuple(read_node(proto) for proto in graph.node)
    _check_order(inputs, outputs, constants, nodes)
    return Graph(inputs, outputs, constants, nodes, opset)


def _check_order(
    inputs: tuple[Value, ...], outputs: tuple[Value, ...], constants: Iterable[str], nodes: tuple[Node, ...]
) -> None:
    """Refuse a graph in which something is used before it is made, or made twice."""
    made = set(constants)
    for value in inputs:
        if not value.name or value.name in made:
            raise ModelFileError(f"input {shown(value.name)} has no name, or that of another")
        made.add(value.name)
    for node in nodes:
        for name in node.inputs:
            if name and name not in made:
                raise ModelFileError(f"{node} reads {shown(name)}, which nothing before it gives")
        for name in node.outputs:
            if name in made:
                raise ModelFileError(f"{node} gives {shown(name)}, which is there already")
            if name:
                made.add(name)
    if not outputs:
        raise ModelFileError("the graph has no outputs")
    for value in outputs:
        if value.name not in made:
            raise ModelFileError(f"output {shown(value.name)} is given by nothing")
