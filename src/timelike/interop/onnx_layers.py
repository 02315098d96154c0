"""Layers of a network as nodes of an ONNX graph: recurrent ones, pooling, dense ones, the output.

All is time-major here, [T, B, ...], the layout 0 of ONNX's recurrent nodes. A coupled LSTM, whose forget gate
is 1 minus the input gate, is an LSTM whose forget gate has the weights of the input gate with the other sign:
1 - sigmoid(a) = sigmoid(-a). So it needs no `input_forget`, of which ONNX gives no equation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.description import Dense, Layer
from timelike.errors import ExportError
from timelike.gates import reorder_gates
from timelike.interop.onnx_graph import Graph

__all__ = ["dense", "output", "pooled", "recurrent"]

Array = npt.NDArray[Any]


def recurrent(graph: Graph, x: str, lengths: str, layer: Layer) -> tuple[str, str]:
    """Add a layer: x [T, B, D] to the hidden states of all steps [T, B, H dirs], and the last [B, H dirs].

    Raises
    ------
    ExportError
        For a projection.
    """
    if layer.cell == "lstm_projected":
        raise ExportError(
            f"ONNX has no LSTM with a projection, which this network has ({layer.units} units to "
            f"{layer.state_size}); possible: all other cells"
        )
    op = layer.cell.partition("_")[0].upper()
    directions = [_parameters(weights, layer.cell) for weights in layer.weights]
    W, U, b, *peephole = (
        graph.constant(np.stack(each), graph.dtype, f"{op.lower()}_{name}")
        for name, each in zip("WRBP", zip(*directions, strict=True), strict=False)
    )
    attributes: dict[str, Any] = {"hidden_size": layer.units}
    attributes["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if op == "GRU":
        attributes["linear_before_reset"] = int(layer.cell == "gru")
    if layer.cell == "rnn_relu":
        attributes["activations"] = ["Relu"] * len(directions)
    inputs = [x, W, U, b, lengths, *(["", "", *peephole] if peephole else [])]
    states, last = graph.several(op, tuple(inputs), 2, **attributes)
    together = graph.integers(0, 0, layer.output_size)
    states = graph("Reshape", graph("Transpose", states, perm=[0, 2, 1, 3]), together)  # was [T, dirs, B, H]
    flat = graph.integers(0, layer.output_size)
    return states, graph("Reshape", graph("Transpose", last, perm=[1, 0, 2]), flat)  # was [dirs, B, H]


def _parameters(weights: Mapping[str, Array], cell: str) -> tuple[Array, ...]:
    """Give W [G H, D], U [G H, H], both biases [2 G H], and peepholes [3 H] if any, as ONNX has them."""
    family = cell.partition("_")[0]
    none = np.zeros_like(weights["weight_ih"][:, 0])  # of a bias that the layer does not have
    stacked = [weights["weight_ih"], weights["weight_hh"]]
    stacked += [weights.get("bias_ih", none), weights.get("bias_hh", none)]
    if cell == "lstm_coupled":
        stacked = [_uncoupled(each) for each in stacked]
    W, U, b_ih, b_hh = (reorder_gates(each, family, source="timelike", target="onnx") for each in stacked)
    found: tuple[Array, ...] = (W, U, np.concatenate([b_ih, b_hh]))
    if "weight_peephole" in weights:
        peephole = weights["weight_peephole"]
        found += (reorder_gates(peephole, "lstm_peepholes", source="timelike", target="onnx"),)
    return found


def _uncoupled(stacked: Array) -> Array:
    """Put a forget gate of its own between the gates i, g and o."""
    i, g, o = np.split(stacked, 3)
    return np.concatenate([i, -i, g, o])


def pooled(graph: Graph, states: str, how: str, lengths: str, there: str) -> str:
    """Add pooling by mean or max over the states [T, B, F], where `there` [T, B, 1] are steps: [B, F]."""
    if how == "mean":
        total = graph(
            "ReduceSum", graph("Where", there, states, graph.number(0.0)), graph.integers(0), keepdims=0
        )
        steps = graph("Max", lengths, graph.constant(1, np.int32))
        steps = graph("Unsqueeze", graph.cast(steps, graph.dtype), graph.integers(1))
        return graph("Div", total, steps)
    lowest = graph("Where", there, states, graph.number(-np.inf))
    highest = graph("ReduceMax", lowest, axes=[0], keepdims=0)
    some = graph("Unsqueeze", graph("Greater", lengths, graph.constant(0, np.int32)), graph.integers(1))
    return graph("Where", some, highest, graph.number(0.0))


def dense(graph: Graph, x: str, layer: Dense) -> str:
    """Add a dense layer along the last axis, with its normalisation before and its activation behind."""
    if layer.scale is not None and layer.shift is not None:
        x = graph("Add", graph("Mul", x, graph.number(layer.scale)), graph.number(layer.shift))
    weight = graph.constant(layer.weight.T, graph.dtype, "weight")
    x = graph("MatMul", x, weight)
    return _activated(
        graph, graph("Add", x, graph.constant(layer.bias, graph.dtype, "bias")), layer.activation
    )


_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "symmrelu": "Abs"}


def _activated(graph: Graph, x: str, activation: str) -> str:
    if activation in _OPERATORS:
        return graph(_OPERATORS[activation], x)
    if activation == "linear":
        return x
    if activation == "elu":  # written out: ONNX Runtime has Elu in float32 only
        low = graph("Sub", graph("Exp", graph("Min", x, graph.number(0.0))), graph.number(1.0))
        return graph("Where", graph("Greater", x, graph.number(0.0)), x, low)
    if activation == "gelu":
        if graph.dtype == np.float64:
            raise ExportError("gelu in float64: ONNX Runtime has the error function in float32 only")
        half = graph("Mul", x, graph.number(0.5))
        share = graph("Erf", graph("Mul", x, graph.number(np.sqrt(0.5))))
        return graph("Mul", half, graph("Add", share, graph.number(1.0)))
    if activation == "silu":
        return graph("Mul", x, graph("Sigmoid", x))
    if activation == "softsign":
        return graph("Div", x, graph("Add", graph("Abs", x), graph.number(1.0)))
    if activation == "gauss":
        return graph("Exp", graph("Neg", graph("Mul", x, x)))
    raise ExportError(f"the activation {activation!r} has no operators of ONNX here")


def output(graph: Graph, scores: str, kind: str) -> str:
    """Add what is made of the numbers of the last dense layer; see `timelike.description.OUTPUTS`."""
    if kind == "softmax":
        return graph("Softmax", scores, axis=-1)
    if kind == "sigmoid":
        both = (graph("Sigmoid", graph("Neg", scores)), graph("Sigmoid", scores))
        return graph("Concat", *both, axis=-1)
    if kind == "multilabel":
        return graph("Sigmoid", scores)
    if kind == "exponential":
        return graph("Exp", scores)
    if kind == "linear":
        return scores
    raise ExportError(f"the output {kind!r} has no operators of ONNX here")
