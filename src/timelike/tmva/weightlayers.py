"""The layers of TMVA's networks as its weight files tell them, and what each matrix in them holds.

`MATRICES` is the table to trust: most names of the elements of a recurrent layer say something else than what
they hold. TMVA walks through its list of matrices (all W, then all U) with names that take turns (W, U, W,
U); its own reader makes the same mistake, so it never shows there.

Sizes: `T` steps, `D` inputs of a layer, `H` its units; W is [H, D], U [H, H], a bias [H, 1] of each gate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.cells import CELLS
from timelike.errors import nearest
from timelike.tmva.xmltree import Element

__all__ = ["ACTIVATIONS", "INITIALISERS", "MATRICES", "MAX_LAYERS", "Stack", "read_stack"]

MAX_LAYERS = 100

MATRICES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "LSTMLayer": (
        ("InputWeights", "W", "i"),
        ("InputStateWeights", "W", "f"),
        ("InputBiases", "b", "i"),
        ("ForgetWeights", "W", "g"),
        ("ForgetStateWeights", "W", "o"),
        ("ForgetBiases", "b", "f"),
        ("CandidateWeights", "U", "i"),
        ("CandidateStateWeights", "U", "f"),
        ("CandidateBiases", "b", "g"),
        ("OuputWeights", "U", "g"),  # so spelled
        ("OutputStateWeights", "U", "o"),
        ("OutputBiases", "b", "o"),
    ),
    "GRULayer": (
        ("ResetWeights", "W", "r"),
        ("ResetStateWeights", "W", "z"),
        ("ResetBiases", "b", "r"),
        ("UpdateWeights", "W", "n"),
        ("UpdateStateWeights", "U", "r"),
        ("UpdateBiases", "b", "z"),
        ("CandidateWeights", "U", "z"),
        ("CandidateStateWeights", "U", "n"),
        ("CandidateBiases", "b", "n"),
    ),
    "RNNLayer": (("InputWeights", "W", "h"), ("StateWeights", "U", "h"), ("Biases", "b", "h")),
}
"""Recurrent layer -> its matrices in the order of the file: element, what it holds, of which gate."""

ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh", "symmrelu", "softsign", "gauss", "tanh")
"""Activation of each of TMVA's codes; the last is its fast tanh, read as the tanh that it approximates."""

INITIALISERS = {
    "G": "gauss",
    "U": "uniform",
    "I": "identity",
    "Z": "zero",
    "X": "xavier",
    "F": "xavier_uniform",
}

_CELLS = {"LSTMLayer": "lstm", "GRULayer": "gru", "RNNLayer": "rnn_tanh"}
_NORM = {"weight": "Gamma", "bias": "Beta", "running_mean": "Training-mu", "running_var": "Training-variance"}
_WITHOUT = ("ConvLayer", "MaxPoolLayer")  # layers of TMVA that have no counterpart
_KNOWN = (*MATRICES, "ReshapeLayer", "DenseLayer", "BatchNormLayer", *_WITHOUT)

Array = npt.NDArray[Any]


@dataclass
class Stack:
    """The layers of a network as they are read, from the first on."""

    dtype: npt.DTypeLike
    steps: int  # T of the input
    n_variables: int  # D of the input
    width: int = 0  # of what the last layer gives, of one step while there are steps
    sequence: bool = True  # whether it gives all steps, one below or behind the other
    flattened: bool = False  # whether they are one behind the other
    recurrent: list[dict[str, Any]] = field(default_factory=list)
    dense: list[tuple[int, str]] = field(default_factory=list)  # width and activation
    norms: dict[int, tuple[float, float]] = field(default_factory=dict)  # before which; momentum, epsilon
    weights: dict[str, Array] = field(default_factory=dict)  # by the names of a model file

    def __post_init__(self) -> None:
        self.width = self.n_variables

    @property
    def n_inputs(self) -> int:
        """Numbers of an event."""
        return self.steps * self.n_variables

    def add_recurrent(self, layer: Element) -> None:
        """Take an LSTMLayer, GRULayer or RNNLayer."""
        if self.dense or self.norms or self.flattened or not self.sequence:
            raise layer.refusal("a recurrent layer needs steps, and what is before it has none")
        H, D, T = (layer.integer(name, 1) for name in ("StateSize", "InputSize", "TimeSteps"))
        if layer.name == "LSTMLayer" and layer.integer("CellSize") != H:
            raise layer.error(f"attribute 'CellSize' is {layer.attribute('CellSize')}; 'StateSize' is {H}")
        if _flag(layer, "RememberState"):
            raise layer.refusal(
                "RememberState=1 carries states from event to event; here every sequence starts from zeros"
            )
        if not self.recurrent:
            if self.n_inputs != T * D:
                raise layer.error(f"takes {T} steps of {D} variables; the file has {self.n_inputs} variables")
            self.steps, self.n_variables = T, D
        elif (self.steps, self.width) != (T, D):
            raise layer.error(f"takes {T} steps of {D}; the layer before gives {self.steps} of {self.width}")
        self.sequence = _flag(layer, "ReturnSequence")
        config: dict[str, Any] = {"cell": _CELLS[layer.name], "units": H, "inner_bias": False}
        if layer.name == "GRULayer":
            config["reset_after"] = _flag(layer, "ResetGateAfter")
        self._add_gates(layer, D, H)
        self.recurrent.append(config)
        self.width = H

    def _add_gates(self, layer: Element, D: int, H: int) -> None:
        matrices = MATRICES[layer.name]
        _check_children(layer, [name for name, _, _ in matrices])
        columns = {"W": D, "U": H, "b": 1}
        blocks = {
            (kind, gate): layer.child(name).matrix(H, columns[kind], self.dtype)
            for name, kind, gate in matrices
        }
        gates = CELLS[_CELLS[layer.name]].gates
        W, U, b = (np.concatenate([blocks[kind, gate] for gate in gates]) for kind in "WUb")
        prefix = f"recurrent.{len(self.recurrent)}."
        self.weights |= {
            f"{prefix}weight_ih_l0": W,
            f"{prefix}weight_hh_l0": U,
            f"{prefix}bias_ih_l0": b[:, 0],
        }
        if layer.name != "GRULayer":
            # One bias in TMVA; here two that only ever meet as their sum.
            self.weights[f"{prefix}bias_hh_l0"] = np.zeros_like(b[:, 0])

    def add_reshape(self, layer: Element) -> None:
        """Take a ReshapeLayer: of inputs to steps, or of steps to one row."""
        size = layer.integer("Depth") * layer.integer("Height") * layer.integer("Width")
        _check_children(layer, ())
        if _flag(layer, "Flattening"):
            if self.flattened or self.dense or self.norms:
                raise layer.refusal("flattens what is flat")
            if self.sequence:
                self.width *= self.steps
            self.flattened = True
            if size not in (0, self.width):
                raise layer.error(f"gives {size} numbers; the layer before gives {self.width}")
        elif self.recurrent or self.dense or self.norms:
            raise layer.refusal(
                "RESHAPE between layers is possible to flatten (RESHAPE|FLAT) and for nothing else"
            )
        elif size != self.n_inputs:
            raise layer.error(f"gives {size} numbers; the file has {self.n_inputs} variables")

    def _end_of_steps(self, layer: Element) -> None:
        if self.sequence and not self.flattened and (self.recurrent or self.steps > 1):
            raise layer.refusal("reads steps; possible: RESHAPE|FLAT before it, or a last state alone")

    def add_norm(self, layer: Element) -> None:
        """Take a BatchNormLayer."""
        self._end_of_steps(layer)
        if len(self.dense) in self.norms:
            raise layer.refusal(
                "normalises what is normalised already; one before each dense layer is possible"
            )
        momentum, epsilon = layer.number("Momentum"), layer.number("Epsilon")
        if momentum >= 1.0 or epsilon <= 0.0:
            raise layer.error(
                f"momentum {momentum:g} and epsilon {epsilon:g}; below 1 and above 0 are possible"
            )
        before = next(iter(self.norms.values()), (momentum, epsilon))
        if before != (momentum, epsilon):
            raise layer.refusal(
                f"momentum {momentum:g} and epsilon {epsilon:g}, before {before[0]:g} and {before[1]:g}; "
                "all have the same here"
            )
        _check_children(layer, list(_NORM.values()))
        for name, element in _NORM.items():
            matrix = layer.child(element).matrix(1, self.width, self.dtype)
            if name == "running_var" and (matrix < 0).any():
                raise layer.child(element).error("holds a variance below 0")
            self.weights[f"norms.{len(self.dense)}.{name}"] = matrix[0]
        self.norms[len(self.dense)] = momentum, epsilon

    def add_dense(self, layer: Element) -> None:
        """Take a DenseLayer."""
        self._end_of_steps(layer)
        width = layer.integer("Width", 1)
        code = layer.integer("ActivationFunction")
        if code >= len(ACTIVATIONS):
            raise layer.error(
                f"attribute 'ActivationFunction' is {code}; possible: 0..{len(ACTIVATIONS) - 1}"
            )
        _check_children(layer, ("Weights", "Biases"))
        prefix = f"head.{len(self.dense)}."
        self.weights[f"{prefix}weight"] = layer.child("Weights").matrix(width, self.width, self.dtype)
        self.weights[f"{prefix}bias"] = layer.child("Biases").matrix(width, 1, self.dtype)[:, 0]
        self.dense.append((width, ACTIVATIONS[code]))
        self.width = width


def _flag(layer: Element, name: str) -> bool:
    return layer.choice(name, "01") == "1"


def _check_children(layer: Element, possible: Any) -> None:
    for child in layer.children:
        if child.name not in possible:
            raise child.error(f"does not belong to a {layer.name}; {nearest(child.name[:60], possible)}")


def read_stack(weights: Element, n_inputs: int, dtype: npt.DTypeLike) -> Stack:
    """Read the layers of a network.

    Parameters
    ----------
    weights : Element
        The element ``<Weights>``.
    n_inputs : int
        Variables of the file, T D: what the first recurrent layer says, and without one InputDepth times
        InputHeight steps of InputWidth variables.
    dtype : dtype
        Of the weights.

    Returns
    -------
    Stack
        With at least one dense layer.

    Raises
    ------
    ModelFileError
        If sizes do not fit, or something is missing or no number.
    ConfigError
        If it has layers or an order of layers that have no counterpart.
    """
    layers = weights.children
    if len(layers) > MAX_LAYERS:
        raise weights.error(f"has {len(layers)} layers; up to {MAX_LAYERS} are read")
    if weights.integer("NetDepth", 1) != len(layers):
        raise weights.error(
            f"attribute 'NetDepth' is {weights.attribute('NetDepth')}; there are {len(layers)}"
        )
    depth, height, width = (weights.integer(f"Input{name}", 1) for name in ("Depth", "Height", "Width"))
    # With one row per event TMVA puts the rows of a batch below each other.
    rows, columns = weights.integer("BatchHeight", 1), weights.integer("BatchWidth", 1)
    if (columns if depth == height == 1 else rows * columns) != n_inputs:
        raise weights.error(f"takes {rows} x {columns} numbers; the file has {n_inputs} variables")
    # How the older of TMVA's versions count depth and height of steps differs; recurrent layers tell again.
    known = depth * height * width == n_inputs
    stack = Stack(dtype, depth * height if known else 1, width if known else n_inputs)
    add = dict.fromkeys(MATRICES, stack.add_recurrent)
    add |= {
        "ReshapeLayer": stack.add_reshape,
        "BatchNormLayer": stack.add_norm,
        "DenseLayer": stack.add_dense,
    }
    for layer in layers:
        if layer.name in _WITHOUT:
            raise layer.refusal(
                "has no counterpart here; recurrent, dense and batch normalisation layers have"
            )
        if layer.name not in add:
            raise layer.error(f"is no layer of TMVA; {nearest(layer.name[:60], _KNOWN)}")
        add[layer.name](layer)
    if not stack.dense or len(stack.dense) in stack.norms:
        raise weights.refusal("the last layer is no dense one")
    if stack.dense[-1][1] != "linear":
        raise layers[-1].refusal(
            f"the last layer's activation is {stack.dense[-1][1]}; possible there: linear (LINEAR)"
        )
    return stack
