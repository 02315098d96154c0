"""A trained network as the JSON of lwtnn, the library that ran networks in C++ before ONNX Runtime did.

The file is a graph for ``lwt::LightweightGraph``: one input sequence "steps" with offset and scale of each
variable, recurrent layers, dense layers, and one output "scores". Sequences are given as a map from the
variable's name to its values at all steps.

**Not verified with lwtnn itself**, which no package registry has: what is written follows its parser
(``parse_json.cxx``), its layers (``Stack.tcc``) and its converter (``kerasfunc2json.py``), and the tests run
it by an evaluator of their own, written from these.

lwtnn walks forward only, gives the last state or every step, and its GRU's reset gate acts before the state
weights. It has no projection, peepholes or coupled gates, no gelu, softsign, gauss or exponential, and of the
transforms those that are a mean and a scale, and a mix of the variables. The rest raises. Its sigmoid is 0
below -30 and 1 above 30.

References
----------
D. Guest et al., lwtnn, https://github.com/lwtnn/lwtnn, doi:10.5281/zenodo.597221
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.cells import CELLS
from timelike.description import Description, Layer
from timelike.errors import ConfigError
from timelike.files import replacing
from timelike.interop.source import Source, affine, bias_sum, folded, network_of, refusal

__all__ = ["export_lwtnn", "to_lwtnn"]

Array = npt.NDArray[Any]

_CELLS = {"lstm": "lstm", "gru_reset_before": "gru", "rnn_tanh": "simplernn", "rnn_relu": "simplernn"}
_LETTERS = {"g": "c", "n": "h"}  # where lwtnn has another letter for a gate
_ACTIVATIONS: dict[str, Any] = {
    "relu": "rectified",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "linear",
    "elu": {"function": "elu", "alpha": 1.0},
    "silu": {"function": "swish", "alpha": 1.0},
    "symmrelu": "abs",
}
_OUTPUTS = {"softmax": "softmax", "sigmoid": "sigmoid", "multilabel": "sigmoid", "linear": "linear"}


def to_lwtnn(model: Source) -> dict[str, Any]:
    """Give a network as lwtnn's graph.

    Parameters
    ----------
    model : path or ModelFile

    Returns
    -------
    dict
        ``inputs``, ``input_sequences``, ``nodes``, ``layers`` and ``outputs``. The one number of an
        ``output: sigmoid`` is labelled with the last class.

    Raises
    ------
    ModelFileError
        If the file cannot be used.
    ConfigError
        If it holds an ensemble, or lwtnn cannot say what it computes.
    """
    _, description, name = network_of(model)
    _refuse(description, name)
    D = len(description.variables)
    mean, scale = affine(description.transforms, name, "lwtnn") or (np.zeros(D), np.ones(D))
    variables = [
        {"name": variable, "offset": -float(m), "scale": 1 / float(s)}
        for variable, m, s in zip(description.variables, mean, scale, strict=True)
    ]
    layers: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = [{"type": "input_sequence", "sources": [0], "size": D}]

    def append(kind: str, layer: dict[str, Any]) -> None:
        nodes.append({"type": kind, "sources": [len(nodes) - 1], "layer_index": len(layers)})
        layers.append(layer)

    mix = description.transforms.mix
    if mix is not None:
        append("time_distributed", _dense(mix.matrix, -mix.matrix @ mix.mean, "linear"))
    for one in description.layers:
        append("sequence", _recurrent(one))
    for index, dense in enumerate(description.dense):
        weight, bias = folded(dense)
        activation = _ACTIVATIONS[dense.activation]
        if index + 1 == len(description.dense):
            activation = _OUTPUTS[description.output]
        kind = "time_distributed" if description.pooling == "none" else "feed_forward"
        append(kind, _dense(weight, bias, activation))
    labels = description.names[-1:] if description.output == "sigmoid" else description.names
    return {
        "inputs": [],
        "input_sequences": [{"name": "steps", "variables": variables}],
        "nodes": nodes,
        "layers": layers,
        "outputs": {"scores": {"labels": list(labels), "node_index": len(nodes) - 1}},
    }


def export_lwtnn(model: Source, path: str | os.PathLike[str]) -> str:
    """Write a network as lwtnn's JSON.

    Parameters
    ----------
    model : path or ModelFile
    path : path
        ``NAME.json``.

    Returns
    -------
    str
        What was written, in a line; lwtnn itself has not run it.

    Raises
    ------
    ModelFileError, ConfigError
        As `to_lwtnn`; and if the file cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise ConfigError(f"{path}: a network for lwtnn is written as .json")
    graph = to_lwtnn(model)
    with replacing(path) as part:
        part.write_text(json.dumps(graph, allow_nan=False), encoding="utf-8")
    return f"lwtnn: {len(graph['layers'])} layers in {len(graph['nodes'])} nodes; not run by lwtnn itself"


def _refuse(description: Description, name: str) -> None:
    for layer in description.layers:
        if layer.cell not in _CELLS:
            hint = " (reset after)" if layer.cell == "gru" else ""
            raise refusal(name, f"cell {layer.cell}{hint}", "lwtnn", ", ".join(_CELLS))
        if layer.bidirectional:
            raise refusal(name, "layer in both directions", "lwtnn", "one direction")
    if description.pooling not in ("last", "none"):
        raise refusal(name, f"pooling: {description.pooling}", "lwtnn", "last, none")
    for dense in description.dense:
        if dense.activation not in _ACTIVATIONS:
            raise refusal(name, f"activation {dense.activation}", "lwtnn", ", ".join(_ACTIVATIONS))
    if description.output not in _OUTPUTS:
        raise refusal(name, f"output: {description.output}", "lwtnn", ", ".join(_OUTPUTS))


def _dense(weight: Array, bias: Array, activation: Any) -> dict[str, Any]:
    return {
        "architecture": "dense",
        "weights": _numbers(weight),  # [out, in], row by row
        "bias": _numbers(bias),
        "activation": activation,
    }


def _recurrent(one: Layer) -> dict[str, Any]:
    own = one.weights[0]
    gates = CELLS[one.cell].gates
    bias = bias_sum(own, len(own["weight_ih"]), np.dtype(np.float64))
    stacked = (own["weight_ih"], own["weight_hh"], bias)
    components = {}
    for letter, W, U, b in zip(gates, *(np.split(a, len(gates)) for a in stacked), strict=True):
        part = {"weights": _numbers(W), "U": _numbers(U), "bias": _numbers(b)}
        components[_LETTERS.get(letter, letter)] = part
    layer = {"architecture": _CELLS[one.cell], "components": components}
    if one.cell.startswith("rnn_"):
        return layer | {"activation": _ACTIVATIONS[one.cell.removeprefix("rnn_")]}
    return layer | {"activation": "tanh", "inner_activation": "sigmoid"}


def _numbers(array: Array) -> list[float]:
    """Give numbers row by row; JSON holds each of them to the bit."""
    return [float(value) for value in array.astype(np.float64).ravel()]
