"""A trained network as an ONNX file: standard nodes, for ONNX Runtime and whatever else reads them.

``x`` [B, T, D] holds the variables as they are in the files, sequences one beside the other and filled up at
their ends with anything at all; ``lengths`` [B] says how many steps each has. ``scores`` are what
`timelike.model.predict` gives. Nothing is written that ONNX Runtime does not compute as Timelike does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import __version__
from timelike.description import Description, describe
from timelike.errors import ExportError, ModelFileError, require
from timelike.files import replacing
from timelike.interop.exported import Exported
from timelike.interop.onnx_check import check
from timelike.interop.onnx_graph import Graph
from timelike.interop.onnx_layers import dense, output, pooled, recurrent
from timelike.interop.onnx_transforms import transformed
from timelike.modelfile import ModelFile, read_model_file

__all__ = ["export_onnx", "onnx_model"]


def export_onnx(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    longest: int | None = None,
) -> Exported:
    """Write a trained network as an ONNX file, when ONNX Runtime has computed the same with it.

    Parameters
    ----------
    model : path
        A model file: of one network, or of an ensemble, whose mean is then the score.
    path : path
        The file; an older one is replaced.
    dtype : {"float32", "float64"}, optional
        Of weights, inputs and scores, by default that of the model. ONNX Runtime has recurrent layers in
        float32 only.
    longest : int, optional
        Steps of the longest sequences that are compared, by default as many as the config keeps of a
        sequence, or 120.

    Returns
    -------
    Exported
        What was checked, and the largest difference.

    Raises
    ------
    ExportError
        If ONNX or ONNX Runtime cannot express the network, the scores differ by more than rounding does, or
        the file is not named .onnx.
    ModelFileError
        If the model file cannot be read.
    ConfigError
        If the file cannot be written there.
    """
    if Path(path).suffix != ".onnx":
        raise ExportError(f"{path}: a model for ONNX is written as .onnx")
    require("onnxruntime", "onnx")
    if longest is not None and longest < 1:
        raise ExportError(f"longest: {longest}; at least 1")
    file = read_model_file(Path(model))
    try:
        made = onnx_model(file, dtype=dtype)
    except ModelFileError as error:
        raise ModelFileError(f"{Path(model)}: the header cannot be used: {error}") from None
    content = made.SerializeToString()
    with replacing(path) as part:
        found = check(content, Path(model), Path(path), longest=longest)
        part.write_bytes(content)
    return found


def onnx_model(file: ModelFile, *, dtype: str | None = None) -> Any:
    """Make an ONNX model of what a model file holds; nothing is checked by running it.

    Parameters
    ----------
    file : ModelFile
    dtype : {"float32", "float64"}, optional

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ExportError
        If ONNX or ONNX Runtime cannot express the network.
    """
    own = next(iter(file.weights.values())).dtype
    chosen = _dtype(dtype, own, recurrent=bool(file.meta["network"]["recurrent"]))
    if chosen != own:
        file = ModelFile({name: value.astype(chosen) for name, value in file.weights.items()}, file.meta)
    networks = describe(file)
    first = networks[0]
    graph = Graph(chosen)
    there = _steps_there(graph) if first.pooling in ("mean", "max", "none") else ""
    each = [_scores(graph, network, there) for network in networks]
    scores = each[0] if len(each) == 1 else graph("Mean", *each)
    shape: list[Any] = ["B", len(first.names)]
    if first.pooling == "none":
        scores = graph("Where", there, scores, graph.number(0.0))
        scores = graph("Transpose", scores, perm=[1, 0, 2])
        shape = ["B", "T", len(first.names)]
    if first.pooling == "flatten":
        assert first.steps is not None
        right = graph("Equal", "lengths", graph.constant(first.steps, np.int32))
        scores = graph("Where", graph("Unsqueeze", right, graph.integers(1)), scores, graph.number(np.nan))
    inputs: dict[str, tuple[Any, list[Any]]] = {
        "x": (chosen, ["B", first.steps or "T", len(first.variables)]),
        "lengths": (np.int32, ["B"]),
    }
    return graph.model(inputs, (scores, "scores", shape), _about(file, first))


def _dtype(asked: str | None, own: npt.DTypeLike, *, recurrent: bool) -> np.dtype[Any]:
    """Give the type of the graph."""
    if asked not in (None, "float32", "float64"):
        raise ExportError(f"dtype: {asked!r}; possible: float32, float64")
    chosen = np.dtype(asked or own)
    if chosen == np.float64 and recurrent:
        raise ExportError(
            "float64: ONNX Runtime has recurrent layers in float32 only; with dtype float32 "
            "(--dtype float32) the weights are rounded to it"
        )
    return chosen


def _steps_there(graph: Graph) -> str:
    """Say where there are steps, and where padding: [T, B, 1]."""
    T = graph("Gather", graph("Shape", "x"), graph.constant(1, np.int64), axis=0)
    times = graph("Range", graph.constant(0, np.int64), T, graph.constant(1, np.int64))
    times = graph("Unsqueeze", graph.cast(times, np.int32), graph.integers(1))
    return graph("Unsqueeze", graph("Less", times, "lengths"), graph.integers(2))


def _scores(graph: Graph, network: Description, there: str) -> str:
    """Add a network: what it says of x, [B, C], or [T, B, C] of each step."""
    x = graph("Transpose", transformed(graph, "x", network.transforms), perm=[1, 0, 2])
    last = ""
    for layer in network.layers:
        x, last = recurrent(graph, x, "lengths", layer)
    if network.pooling == "last":
        x = last
    elif network.pooling == "flatten":
        x = graph("Reshape", graph("Transpose", x, perm=[1, 0, 2]), graph.integers(0, -1))
    elif network.pooling != "none":
        x = pooled(graph, x, network.pooling, "lengths", there)
    for each in network.dense:
        x = dense(graph, x, each)
    return output(graph, x, network.output)


def _about(file: ModelFile, network: Description) -> dict[str, str]:
    """Tell what the numbers are: whoever runs the file finds it in its metadata."""
    data = file.meta["data"]
    lists = {
        "variables": list(network.variables),
        "new_variables": data.get("new_variables") or {},
        "sequence": file.meta["sequence"],
        "classes": file.meta["classes"],
        "scores": list(network.names),
    }
    about = {name: json.dumps(value, ensure_ascii=False) for name, value in lists.items()}
    return about | {
        "output": network.output,
        "signal": file.meta["signal"],
        "networks": str(len(file.meta["ensemble"]["members"]) if "ensemble" in file.meta else 1),
        "timelike_version": __version__,
    }
