"""A trained network as a model of Keras 3, and models of Keras as ours.

- `to_keras`, `export_keras`: Masking, the transforms, recurrent layers, pooling, Dense;
- `from_keras`: a model, a ``.keras`` file, or ``.weights.h5`` with its configuration; see
  `timelike.interop.keras_reader`, which runs no code of the file.

Padding: batches of Keras are padded, [B, T, D]. A step whose variables are all `PAD` is none: Masking leaves
it out, before the transforms, and directions, last states and means are those of the steps that are there.
Of ``pooling: mean`` a sequence without steps is 0 / 0 in Keras and 0 here.

Transforms that are a mean and a scale of each variable become a BatchNormalization, one that mixes the
variables a Dense behind it.

Keras computes in float32, whatever the type of a layer, but for a global setting and with TensorFlow. So the
weights of a float64 model are rounded, and the line of `export_keras` says so.

One bias where we have two: LSTM, SimpleRNN and a GRU whose reset gate acts before know their sum alone, which
is rounded once. Batch normalisation is taken into the dense layers. An ``output: sigmoid`` is one number in
Keras, that of the last class.

Keras has no projection, no peepholes, no coupled gates, and no layer for transforms that are no affine map.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.data.transforms import FittedTransforms
from timelike.description import Description, Layer
from timelike.errors import ConfigError, require
from timelike.files import replacing
from timelike.gates import reorder_gates
from timelike.interop.checks import Probe, padded, probe
from timelike.interop.keras_reader import from_keras
from timelike.interop.source import Source, affine, bias_sum, folded, network_of, refusal

__all__ = ["PAD", "export_keras", "from_keras", "to_keras"]

Array = npt.NDArray[Any]

PAD = -999.0
"""What padded steps hold by default: a number that no variable has, where 0 may well be one."""

_CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before")
_ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "linear")
_OUTPUTS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "multilabel": "sigmoid",
    "linear": "linear",
    "exponential": "exponential",
}
_LOWEST = -3e38  # below every hidden state, where -inf would be NaN after a product


def to_keras(model: Source, *, pad: float = PAD, steps: int | None = None, transforms: bool = True) -> Any:
    """Build a model of Keras that computes what a model does, transforms included.

    Keras needs a backend; where ``KERAS_BACKEND`` does not say which and Keras is not yet imported, it is
    PyTorch.

    Parameters
    ----------
    model : path or ModelFile
    pad : float
        Steps whose variables are all this number are padding.
    steps : int, optional
        Fixed number of steps of the input; by default any, or what ``pooling: flatten`` takes. With a fixed
        number there is no Masking: every step counts.
    transforms : bool
        Whether the model transforms the variables; without, it takes what the first layer reads.

    Returns
    -------
    keras.Model
        From [B, T, D] to [B, C], or [B, T, C] where each step has its own numbers.

    Raises
    ------
    ModelFileError
        If the file cannot be used.
    ConfigError
        If it holds an ensemble, or Keras has no layers for what it computes.
    MissingExtraError
        If Keras is not installed.
    """
    _, description, name = network_of(model)
    if not transforms:
        description = replace(description, transforms=FittedTransforms.unchanged(description.inputs))
    return _built(description, name, pad, steps)


def export_keras(
    model: Source, path: str | os.PathLike[str], *, pad: float = PAD, steps: int | None = None
) -> str:
    """Write a network as a ``.keras`` file, after Keras has computed the same.

    Parameters
    ----------
    model : path or ModelFile
    path : path
        ``NAME.keras``.
    pad, steps
        As of `to_keras`.

    Returns
    -------
    str
        What was checked, in a line.

    Raises
    ------
    ModelFileError, ConfigError, MissingExtraError
        As `to_keras`; and if the file cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ConfigError(f"{path}: a model of Keras is written as .keras")
    file, description, name = network_of(model)
    keras = keras_module()
    built = _built(description, name, pad, steps)
    # Keras gives NaN for the mean of no steps: told above, and not tried.
    empty = description.pooling != "mean"
    tried = probe(file, description, empty=empty, steps=steps, dtype="float32")
    with replacing(path) as part:
        named = part.with_name(f"{part.name}.keras")  # Keras takes the format from the name
        try:
            built.save(named)
            said = checked(keras.models.load_model(named), description, tried, pad)
            os.replace(named, part)
        finally:
            named.unlink(missing_ok=True)
    return said + ("" if description.dtype == np.float32 else "; weights rounded to float32")


def keras_module() -> Any:
    """Import Keras; with PyTorch where nobody chose a backend."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    return require("keras", "keras")


def checked(model: Any, description: Description, tried: Probe, pad: float, program: str = "Keras") -> str:
    """Compare a model of Keras with ours, and say in a line what came out."""
    x = padded(tried.sequences, pad)
    got = np.asarray(model.predict(x, verbose=0), np.float64)
    if description.pooling == "none":
        got = got[np.arange(x.shape[1]) < tried.sequences.lengths[:, None]]
    if description.output == "sigmoid":
        got = np.concatenate([1 - got, got], axis=-1)
    return tried.check(got, program)


def _built(description: Description, name: str, pad: float, steps: int | None) -> Any:
    _refuse(description, name, steps)
    if not abs(pad) <= float(np.finfo(np.float32).max):  # NaN equals nothing, itself included
        raise ConfigError(f"pad: {pad}; a finite number of float32 is needed")
    keras = keras_module()
    layers = keras.layers
    weights: list[tuple[Any, list[Array]]] = []
    steps = steps or description.steps
    x = inputs = keras.Input((steps, len(description.variables)), dtype="float32", name="steps")
    there = None
    if steps is None:
        there = keras.ops.any(keras.ops.not_equal(inputs, pad), axis=-1, keepdims=True)
        x = layers.Masking(pad)(x)
    for layer, given in _transforms(description, name, layers):
        x = layer(x)
        weights.append((layer, given))
    for index, one in enumerate(description.layers):
        whole = index + 1 < len(description.layers) or description.pooling != "last"
        layer = _recurrent(one, layers, whole)
        x = layer(x)
        weights.append((layer, [a for own in one.weights for a in kernel(one.cell, own)]))
    x = _pooled(x, there, description.pooling, keras)
    for dense in description.dense:
        last = dense is description.dense[-1]
        activation = _OUTPUTS[description.output] if last else dense.activation
        layer = layers.Dense(len(dense.weight), activation=activation)
        x = layer(x)
        weight, bias = folded(dense)
        weights.append((layer, [weight.T, bias]))
    model = keras.Model(inputs, x)
    for layer, given in weights:
        layer.set_weights(given)
    return model


def _refuse(description: Description, name: str, steps: int | None) -> None:
    for layer in description.layers:
        if layer.cell not in _CELLS:
            raise refusal(name, f"cell {layer.cell}", "Keras", ", ".join(_CELLS))
    for dense in description.dense:
        if dense.activation not in _ACTIVATIONS:
            raise refusal(name, f"activation {dense.activation}", "Keras", ", ".join(_ACTIVATIONS))
    if steps is not None and steps < 1:
        raise ConfigError(f"steps: {steps}; at least 1, or None for any number")
    if steps is not None and description.steps not in (None, steps):
        raise ConfigError(f"steps: {steps}; the network takes {description.steps} (pooling: flatten)")


def _transforms(description: Description, name: str, layers: Any) -> Iterator[tuple[Any, list[Array]]]:
    """Give the layers of the transforms, with their weights."""
    found = affine(description.transforms, name, "Keras")
    mix = description.transforms.mix
    if found is not None:
        mean, scale = found
        # The mean as float32 holds it is taken off first, and what it lacks afterwards: nothing is lost where
        # a variable lies far from 0.
        near = mean.astype(np.float32).astype(np.float64)
        weights = [1 / scale, (near - mean) / scale, near, np.ones(len(mean))]
        yield layers.BatchNormalization(epsilon=0.0, trainable=False, name="transforms"), weights
    if mix is not None:
        layer = layers.Dense(len(mix.matrix), trainable=False, name="mix")
        yield layer, [mix.matrix.T, -mix.matrix @ mix.mean]


def _recurrent(one: Layer, layers: Any, whole: bool) -> Any:
    """Make a recurrent layer that gives all hidden states, or the last alone."""
    options: dict[str, Any] = {"return_sequences": whole}
    if one.cell == "lstm":
        layer = layers.LSTM(one.units, **options)
    elif one.cell.startswith("gru"):
        layer = layers.GRU(one.units, reset_after=one.cell == "gru", **options)
    else:
        layer = layers.SimpleRNN(one.units, activation=one.cell.removeprefix("rnn_"), **options)
    return layers.Bidirectional(layer) if one.bidirectional else layer


def kernel(cell: str, own: Mapping[str, Array]) -> list[Array]:
    """Give kernel [D, G H], recurrent kernel [H, G H] and bias of a direction, as Keras keeps them.

    Parameters
    ----------
    cell : str
    own : mapping
        Weights of the direction, as of `timelike.description.Layer`.
    """
    family = cell.split("_", maxsplit=1)[0]
    rows, dtype = len(own["weight_ih"]), own["weight_ih"].dtype

    def ordered(stacked: Array) -> Array:
        return reorder_gates(stacked, family, source="timelike", target="keras")

    if cell == "gru":
        zeros = np.zeros(rows, dtype)
        bias = np.stack([ordered(own.get(key, zeros)) for key in ("bias_ih", "bias_hh")])
    else:
        bias = ordered(bias_sum(own, rows, dtype))
    return [ordered(own["weight_ih"]).T, ordered(own["weight_hh"]).T, bias]


def _pooled(x: Any, there: Any, pooling: str, keras: Any) -> Any:
    if pooling == "mean":
        return keras.layers.GlobalAveragePooling1D()(x)
    if pooling == "flatten":
        return keras.layers.Flatten()(x)
    if pooling != "max":
        return x
    if there is None:
        return keras.layers.GlobalMaxPooling1D()(x)
    # GlobalMaxPooling1D looks at padding too; and of no steps our maximum is 0.
    highest = keras.ops.max(keras.ops.where(there, x, _LOWEST), axis=1)
    return keras.ops.where(keras.ops.any(there, axis=1), highest, 0.0)
