"""Models of Keras 3 read as models of ours, from their configuration and weights; no code of theirs is run.

What is understood, in this order:

1. Masking, and Normalization, Rescaling or BatchNormalization of the inputs, and a Dense without activation
   of as many units as there are inputs: these become transforms;
2. LSTM, GRU (`reset_after` or not), SimpleRNN, each alone or in Bidirectional (``merge_mode="concat"``);
3. the last state, GlobalAveragePooling1D, GlobalMaxPooling1D, Flatten, or every step by itself;
4. Dense with BatchNormalization before it and Activation behind it, the last one with the output.

Dropout and noise do nothing in inference and are left out. Anything else is refused by its name, a Lambda
first of all: it is code. A Functional model must be one chain of layers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timelike.gates import reorder_gates
from timelike.interop.keras_archive import MAX_BYTES, Archive, open_archive
from timelike.interop.keras_chain import IGNORED, Item, chain
from timelike.interop.keras_model import Parts, model_from_parts
from timelike.model import Model

__all__ = ["from_keras"]

_OUTPUTS = ("softmax", "exponential")  # of the last layer alone
_ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "linear", *_OUTPUTS)
_EPSILON = 1e-7  # below which Keras takes no width in Normalization


def from_keras(
    source: Any,
    config: str | os.PathLike[str] | None = None,
    *,
    variables: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Model:
    """Read a model of Keras.

    Padding is no part of ours: steps that Masking would leave out must not be given. The record says, under
    ``training``, ``keras``, which number marked them.

    Parameters
    ----------
    source : path or keras.Model
        ``.keras``, ``.weights.h5``, or a model, which is saved to a temporary file and read.
    config : path, optional
        With ``.weights.h5`` a file with the model's ``to_json()``.
    variables : sequence of str, optional
        Names of the inputs of each step; by default x0, x1, ....
    classes : sequence of str, optional
        Names of classes, labels or targets; by default "background" and "signal" for one sigmoid, class0, ...
        for a softmax, label0, ... and y0, ... for others.
    max_bytes : int
        Size up to which the weights are read.

    Returns
    -------
    Model
        As `timelike.model.save_model` takes it. The files of events are unknown, and named so.

    Raises
    ------
    ModelFileError
        If a file cannot be read, is damaged or too large.
    ConfigError
        If a layer has no counterpart here, or names do not fit.
    MissingExtraError
        If h5py is not installed.
    """
    if hasattr(source, "save") and not isinstance(source, (str, os.PathLike)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            source.save(path)
            return from_keras(path, variables=variables, classes=classes, max_bytes=max_bytes)
    archive = open_archive(source, config, max_bytes=max_bytes)
    with archive.weights:
        parts = Parts(archive.path)
        steps, parts.n_variables, items = chain(archive)
        parts.size = parts.n_variables
        for item in items:
            _take(item, parts, archive, steps)
    return model_from_parts(parts, variables, classes)


def _take(item: Item, parts: Parts, archive: Archive, steps: int | None) -> None:
    """Add a layer to what was read before it."""
    if item.kind in IGNORED:
        return
    if item.kind in ("Normalization", "Rescaling", "BatchNormalization"):
        _take_affine(item, parts, archive)
    elif item.kind == "Masking":
        if not parts.at_input or parts.transform is not None:
            raise item.refusal("behind another layer; possible: as the first layer")
        parts.mask = item.number("mask_value")
    elif item.kind in ("LSTM", "GRU", "SimpleRNN", "Bidirectional"):
        _take_recurrent(item, parts, archive)
    elif item.kind in ("GlobalAveragePooling1D", "GlobalMaxPooling1D", "Flatten"):
        _take_pooling(item, parts, steps)
    elif item.kind == "Dense":
        _take_dense(item, parts, archive)
    elif item.kind == "Activation":
        if not parts.head or parts.activations[-1] != "linear" or parts.pending is not None:
            raise item.refusal("here; possible: right behind a Dense without activation")
        parts.activations[-1] = item.choice("activation", _ACTIVATIONS)
    else:
        raise item.unknown()


def _take_affine(item: Item, parts: Parts, archive: Archive) -> None:
    if not parts.at_input and not parts.in_head:
        raise item.refusal("between recurrent layers and pooling; possible: of the inputs, or before a Dense")
    size = parts.size
    if item.kind == "Rescaling":
        scale, shift = (np.broadcast_to(item.numbers(key), size) for key in ("scale", "offset"))
    elif item.kind == "Normalization":
        if item.config.get("mean") is not None:
            mean, variance = (np.broadcast_to(item.numbers(key), size) for key in ("mean", "variance"))
        else:
            mean, variance = archive.arrays(item.place, [(size,)] * 2)
        if np.any(variance < 0):
            raise archive.error(f"weights: {item.place}: a variance below 0")
        scale = 1 / np.maximum(np.sqrt(variance.astype(np.float64)), _EPSILON)
        shift = -mean * scale
    else:
        scale, shift = _batch_norm(item, archive, size)
    parts.rescale(item, np.asarray(scale, np.float64), np.asarray(shift, np.float64))


def _batch_norm(item: Item, archive: Archive, size: int) -> tuple[Any, Any]:
    if item.config.get("axis") not in (-1, [-1]):
        raise item.refusal("along another axis than the last")
    n = sum(item.flag(key) for key in ("scale", "center"))
    *learnt, mean, variance = archive.arrays(item.place, [(size,)] * (n + 2))
    gamma = learnt.pop(0) if item.flag("scale") else np.ones(size)
    beta = learnt.pop(0) if item.flag("center") else np.zeros(size)
    width = variance.astype(np.float64) + item.number("epsilon")
    if np.any(width <= 0):
        raise archive.error(f"weights: {item.place}: a variance that is not above 0")
    scale = gamma / np.sqrt(width)
    return scale, beta - mean * scale


def _take_recurrent(item: Item, parts: Parts, archive: Archive) -> None:
    if parts.in_head:
        raise item.refusal("behind pooling, Dense or a layer without return_sequences")
    directions = [item]
    if item.kind == "Bidirectional":
        item.choice("merge_mode", ("concat",))
        directions = [item.inner("layer", "forward_layer"), item.inner("backward_layer", "backward_layer")]
        keys = ("units", "activation", "recurrent_activation", "reset_after", "use_bias", "return_sequences")
        first, second = ({key: d.config.get(key) for key in keys} | {"kind": d.kind} for d in directions)
        if first != second or not directions[1].flag("go_backwards"):
            raise item.refusal("of two layers that are not the same")
    one = directions[0]
    if one.kind not in ("LSTM", "GRU", "SimpleRNN"):
        raise one.unknown()
    if one.flag("go_backwards"):
        raise one.refusal("with go_backwards; possible: in Bidirectional")
    for key in ("return_state", "stateful"):
        if one.flag(key):
            raise one.refusal(f"with {key}")
    cell, layer = _cell(one)
    units = one.integer("units")
    for suffix, direction in zip(("", "_reverse"), directions, strict=False):
        weights = _direction(direction, archive, cell, units, parts.size)
        prefix = f"recurrent.{len(parts.recurrent)}."
        parts.weights |= {f"{prefix}{name}_l0{suffix}": value for name, value in weights.items()}
    bidirectional = len(directions) == 2
    parts.recurrent.append({**layer, "units": units, "bidirectional": bidirectional})
    parts.size = units * len(directions)
    parts.last = not one.flag("return_sequences")


def _cell(item: Item) -> tuple[str, dict[str, Any]]:
    """Give the family, and the options of the layer in a config."""
    if item.kind == "SimpleRNN":
        kind = item.choice("activation", ("tanh", "relu"))
        return "rnn", {"cell": f"rnn_{kind}", "inner_bias": False}
    item.choice("activation", ("tanh",))
    item.choice("recurrent_activation", ("sigmoid",))
    if item.kind == "LSTM":
        return "lstm", {"cell": "lstm", "inner_bias": False}
    after = item.flag("reset_after")
    return "gru", {"cell": "gru", "reset_after": after, "inner_bias": after}


def _direction(item: Item, archive: Archive, cell: str, units: int, size: int) -> dict[str, Any]:
    rows = {"rnn": 1, "lstm": 4, "gru": 3}[cell] * units
    two = cell == "gru" and item.flag("reset_after")
    shapes: list[tuple[int, ...]] = [(size, rows), (units, rows)]
    if item.flag("use_bias"):
        shapes.append((2, rows) if two else (rows,))
    kernel, recurrent, *given = archive.arrays(f"{item.place}/cell", shapes)
    bias = given[0] if given else np.zeros((2, rows) if two else rows, kernel.dtype)

    def ordered(stacked: Any) -> Any:
        return reorder_gates(np.ascontiguousarray(stacked), cell, source="keras", target="timelike")

    weights = {"weight_ih": ordered(kernel.T), "weight_hh": ordered(recurrent.T)}
    weights["bias_ih"] = ordered(bias[0] if two else bias)
    if two:
        weights["bias_hh"] = ordered(bias[1])
    elif cell != "gru":  # our LSTM and RNN have a second bias, which then is 0
        weights["bias_hh"] = np.zeros_like(weights["bias_ih"])
    return weights


def _take_pooling(item: Item, parts: Parts, steps: int | None) -> None:
    if parts.in_head:
        raise item.refusal("where there are no steps any more")
    parts.pooling = {"GlobalAveragePooling1D": "mean", "GlobalMaxPooling1D": "max"}.get(item.kind, "flatten")
    if parts.pooling != "mean" and parts.mask is not None:
        raise item.refusal("behind Masking, where it looks at padding")
    if parts.pooling == "flatten":
        if steps is None:
            raise item.refusal("of any number of steps; possible: of a fixed one")
        parts.steps = steps
        parts.size *= steps
    elif item.config.get("keepdims"):
        raise item.refusal("with keepdims")


def _take_dense(item: Item, parts: Parts, archive: Archive) -> None:
    units = item.integer("units")
    activation = item.choice("activation", _ACTIVATIONS)
    if parts.at_input and (units != parts.size or activation != "linear" or parts.mixed):
        raise item.refusal("of the inputs; possible: one without activation, of as many units as inputs")
    shapes: list[tuple[int, ...]] = [(parts.size, units)]
    if item.flag("use_bias"):
        shapes.append((units,))
    weight, *given = archive.arrays(item.place, shapes)
    bias = given[0] if given else np.zeros(units, weight.dtype)
    if parts.at_input:
        parts.mix(item, weight.T.astype(np.float64), bias.astype(np.float64))
    else:
        parts.dense(weight.T, bias, activation)
