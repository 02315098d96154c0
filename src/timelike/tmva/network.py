"""A TMVA layout as the ``network`` section of a config."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

from timelike.errors import ConfigError
from timelike.tmva.annotated import Annotated
from timelike.tmva.layout import BatchNorm, Dense, Layer, Recurrent, Reshape, width_of
from timelike.tmva.options import Options

__all__ = ["input_shape", "put_network"]

_CELLS = {"LSTM": "lstm", "RNN": "rnn_tanh", "GRU": "gru"}
_ACTIVATIONS = {
    "LINEAR": "linear",
    "RELU": "relu",
    "SIGMOID": "sigmoid",
    "TANH": "tanh",
    "SYMMRELU": "symmrelu",
    "SOFTSIGN": "softsign",
    "GAUSS": "gauss",
    "FTANH": "tanh",
    "FASTTANH": "tanh",
}
_INITIALISERS = {
    "XAVIER": "xavier",
    "XAVIERUNIFORM": "xavier_uniform",
    "GAUSS": "gauss",
    "UNIFORM": "uniform",
    "IDENTITY": "identity",
    "ZERO": "zero",
}


def input_shape(options: Options) -> tuple[int, int] | None:
    """Give the steps T and the variables D of each step, of ``InputLayout``; None where it is not given."""
    sizes = options.input_layout
    if not sizes:
        return None
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], prod(sizes[1:]))


def put_network(
    config: Annotated, options: Options, n_classes: int, n_variables: int | None
) -> tuple[int | None, bool]:
    """Put the section ``network`` into a config.

    Parameters
    ----------
    config : Annotated
    options : Options
    n_classes : int
    n_variables : int or None
        Numbers that each event has; None where that is not known.

    Returns
    -------
    steps : int or None
        T, where the layout or ``InputLayout`` says it.
    multiclass : bool
        Whether there is one output per class.

    Raises
    ------
    ConfigError
        If layers do not fit together, or have no counterpart here.
    """
    layers = options.layout
    n_recurrent = next((i for i, layer in enumerate(layers) if not isinstance(layer, Recurrent)), len(layers))
    recurrent = [layer for layer in layers[:n_recurrent] if isinstance(layer, Recurrent)]
    for layer in layers[n_recurrent:]:
        if isinstance(layer, Recurrent):
            raise layer.piece.error("a recurrent layer reads steps; no other layer can stand before it")
    network: dict[str, Any] = {"recurrent": [_recurrent(layer) for layer in recurrent]}
    config.values["network"] = network
    steps = _steps(config, options, recurrent, n_variables)
    if recurrent:
        head = _after_recurrent(network, recurrent, layers[n_recurrent:], steps or 0)
    else:
        network |= {"pooling": "flatten", "steps": steps or 1}
        head = [layer for layer in layers if not (isinstance(layer, Reshape) and layer.flat)]
        if steps is None:
            config.note(
                ("network", "steps"), "FILL IN: the number of variables, each of which is one of data.steps."
            )
    shape = input_shape(options)
    n = n_variables if shape is None else shape[0] * shape[1]
    multiclass = _put_head(config, network, head, n_classes, n)
    network["initialiser"] = _INITIALISERS[options.weight_initialization]
    for index, layer in enumerate(recurrent):
        _remarks(config, ("network", "recurrent", index), layer, options)
    return steps, multiclass


def _recurrent(layer: Recurrent) -> dict[str, Any]:
    values: dict[str, Any] = {"cell": _CELLS[layer.cell], "units": layer.state_size}
    if layer.cell == "GRU":
        values["reset_after"] = layer.reset_gate_after
    return values | {"inner_bias": False}  # TMVA has one bias for each gate


def _remarks(config: Annotated, path: tuple[str | int, ...], layer: Recurrent, options: Options) -> None:
    if layer.remember_state:
        config.note(
            path,
            "rememberState=1 is not carried over: each sequence begins with states of 0. (In TMVA the first "
            "sequence of a batch begins with the last states of the batch before, which is another event's.)",
        )
    if layer.cell == "GRU" and not layer.reset_gate_after and options.architecture in ("GPU", "CUDNN"):
        config.note(
            path, f"with Architecture={options.architecture} TMVA takes resetGateAfter=1: reset_after: true"
        )


def _steps(
    config: Annotated, options: Options, recurrent: Sequence[Recurrent], n_variables: int | None
) -> int | None:
    """Check the sizes that are given more than once, and give the number of steps."""
    shape = input_shape(options)
    if not recurrent:
        # Every variable is a step of one number: there is no other way to have them side by side.
        return n_variables if shape is None else shape[0] * shape[1] if 1 in shape else shape[0]
    first = recurrent[0]
    own = (first.time_steps, first.input_size)
    if shape is not None and shape != own:
        raise options.pieces["InputLayout"].error(
            f"{shape[0]} steps of {shape[1]} variables, but {first.piece.text!r} reads {own[0]} of {own[1]}"
        )
    if shape is None:
        config.note(
            ("network", "recurrent"),
            f"no InputLayout was given; the layout reads {own[0]} steps of {own[1]} variables.",
        )
    for below, layer in pairwise(recurrent):
        if not below.return_sequence:
            raise below.piece.error("returnSequence=0, but the recurrent layer above it reads all steps")
        if (layer.time_steps, layer.input_size) != (below.time_steps, below.state_size):
            raise layer.piece.error(
                f"reads {layer.time_steps} steps of {layer.input_size}, but the layer below gives "
                f"{below.time_steps} of {below.state_size}"
            )
    return own[0]


def _after_recurrent(
    network: dict[str, Any], recurrent: Sequence[Recurrent], layers: Sequence[Layer], steps: int
) -> list[Layer]:
    """Choose the pooling, and give the layers after it."""
    last = recurrent[-1]
    rest = list(layers)
    size = last.state_size * (steps if last.return_sequence else 1)
    reshape = rest[0] if rest else None
    if isinstance(reshape, Reshape):
        rest = rest[1:]
        if not (reshape.flat or reshape.shape == (1, 1, size)):
            raise reshape.piece.error(f"only RESHAPE|FLAT, or RESHAPE|1|1|{size}, can stand here")
    elif last.return_sequence:
        raise last.piece.error("returnSequence=1 gives all steps, and RESHAPE|FLAT is needed behind it")
    if last.return_sequence:
        network |= {"pooling": "flatten", "steps": steps}
    else:
        network["pooling"] = "last"
    return rest


def _put_head(
    config: Annotated, network: dict[str, Any], layers: Sequence[Layer], n_classes: int, n: int | None
) -> bool:
    dense: list[Dense] = []
    norms: list[tuple[int, BatchNorm]] = []
    for layer in layers:
        if isinstance(layer, Reshape):
            raise layer.piece.error("RESHAPE has no meaning between dense layers")
        if isinstance(layer, BatchNorm):
            if norms and norms[-1][0] == len(dense):
                raise layer.piece.error("BNORM twice in a row")
            norms.append((len(dense), layer))
        elif isinstance(layer, Dense):
            dense.append(layer)
    if not dense or isinstance(layers[-1], BatchNorm):
        where = layers[-1].piece if layers else None
        message = "the last layer is LINEAR, or DENSE with that activation"
        raise where.error(message) if where else ConfigError(f"Layout: no dense layers; {message}")
    output = dense.pop()
    if output.activation != "LINEAR":
        raise output.piece.error(
            "the last layer is LINEAR: TMVA puts a sigmoid or softmax of its own behind it, and so do we"
        )
    outputs = 1 if n_classes == 2 else n_classes
    width = width_of(output, n, outputs)
    if width not in ({1, 2} if n_classes == 2 else {n_classes}):
        raise output.piece.error(f"{width} outputs for {n_classes} classes; {outputs} is needed")
    multiclass = width != 1
    head: dict[str, Any] = {"units": [width_of(layer, n, outputs) for layer in dense]}
    if dense:
        head["activation"] = [_ACTIVATIONS[layer.activation] for layer in dense]
    for layer in dense:
        if layer.activation in ("FTANH", "FASTTANH"):
            config.note(("network", "head", "activation"), f"{layer.activation} is tanh here.")
    if norms:
        _put_norms(config, head, norms)
    head["output"] = "softmax" if multiclass else "sigmoid"
    network["head"] = head
    return multiclass


def _put_norms(config: Annotated, head: dict[str, Any], norms: Sequence[tuple[int, BatchNorm]]) -> None:
    first = norms[0][1]
    # TMVA's momentum is the share that the old mean keeps, ours that which the new batch gets.
    share = 1.0 - first.momentum
    head["batch_norm"] = {
        "before": [index for index, _ in norms],
        "momentum": None if first.momentum < 0 else round(share, 15) or share,
        "epsilon": first.epsilon,
    }
    for index, norm in norms[1:]:
        if (norm.momentum, norm.epsilon) != (first.momentum, first.epsilon):
            config.note(
                ("network", "head", "batch_norm"),
                f"{norm.piece.text}, before dense layer {index}, has other settings; all have those of "
                f"{first.piece.text} here.",
            )
