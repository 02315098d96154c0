"""A trained network as plain arrays, in the order of their use: what runs it without PyTorch or exports it.

`describe` makes it of what a model file holds. All that a score depends on is in a `Description`, and
nothing else; `timelike.network.Network` computes the same with PyTorch.

Of `B` sequences, ``x [N, D]`` with N steps of them all, the way is

1. ``transforms`` of the variables, to the ``inputs`` that the layers read;
2. ``layers``, one upon the other; of a layer in two directions the hidden states of both, forward first;
3. ``pooling`` over the steps of each sequence: ``last`` (each direction's state after its last step, for the
   backward one that at the first step), ``mean``, ``max``, ``flatten`` (all ``steps`` steps, one behind the
   other; no other number is possible), ``none`` (every step goes on by itself); of a sequence without steps
   zeros;
4. ``dense`` layers: ``activation(W (scale x + shift) + b)``;
5. the ``output``: see `OUTPUTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.cells import cell_of, parameter_shapes
from timelike.data.transforms import FittedTransforms
from timelike.errors import ModelFileError
from timelike.modelfile import ModelFile

__all__ = ["OUTPUTS", "Dense", "Description", "Layer", "describe", "output_names"]

Array = npt.NDArray[Any]

OUTPUTS = {
    "softmax": "probabilities of the classes: exp(s_c) / sum exp(s_k)",
    "sigmoid": "of two classes the probability of the last, 1 / (1 + exp(-s)), and before it one minus that",
    "multilabel": "a probability for each label by itself: 1 / (1 + exp(-s_c))",
    "linear": "the numbers themselves",
    "exponential": "exp(s_c)",
}
"""What is made of the numbers s that the last dense layer gives."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A recurrent layer.

    Attributes
    ----------
    cell : str
        One of `timelike.cells.CELLS`.
    weights : tuple of one or two mappings
        Of each direction, forward first: parameters by the names of `timelike.cells.parameter_shapes`.
    units, state_size : int
        H, and R: numbers of the hidden state.
    """

    cell: str
    weights: tuple[Mapping[str, Array], ...]
    units: int
    state_size: int

    @property
    def bidirectional(self) -> bool:
        """Whether there are two directions."""
        return len(self.weights) == 2

    @property
    def input_size(self) -> int:
        """Numbers that are read at each step."""
        return int(self.weights[0]["weight_ih"].shape[1])

    @property
    def output_size(self) -> int:
        """Numbers that are given at each step."""
        return len(self.weights) * self.state_size


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense layer: ``activation(weight (scale x + shift) + bias)``.

    Attributes
    ----------
    weight : array [out, in]
    bias : array [out]
    activation : str
        As in a config (`timelike.config.HeadConfig`); ``linear`` for the last.
    scale, shift : array [in], or None
        Of the batch normalisation of its inputs, as it is in inference.
    """

    weight: Array
    bias: Array
    activation: str
    scale: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True, eq=False)
class Description:
    """A network as plain arrays; see the head of this module.

    Attributes
    ----------
    transforms : FittedTransforms
    layers : tuple of Layer
    pooling : {"last", "mean", "max", "flatten", "none"}
    steps : int, optional
        With ``flatten``.
    dense : tuple of Dense
    output : str
        One of `OUTPUTS`.
    names : tuple of str
        Of the numbers that are given; see `output_names`.
    dtype : dtype
        Of all weights, float32 or float64.
    """

    transforms: FittedTransforms
    layers: tuple[Layer, ...]
    pooling: str
    steps: int | None
    dense: tuple[Dense, ...]
    output: str
    names: tuple[str, ...]
    dtype: np.dtype[Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the inputs of each step, before the transforms."""
        return self.transforms.names

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the first layer reads."""
        return self.transforms.outputs


def output_names(names: Sequence[str], quantiles: Sequence[float] = ()) -> tuple[str, ...]:
    """Name the numbers that a network gives: classes, labels or targets, or the quantiles of each target.

    Examples
    --------
    >>> output_names(["mass"], [0.16, 0.5])
    ('mass_q0.16', 'mass_q0.5')
    """
    if not quantiles:
        return tuple(names)
    return tuple(f"{name}_q{share:g}" for name in names for share in quantiles)


def describe(file: ModelFile) -> tuple[Description, ...]:
    """Describe the network of a model file, or of an ensemble those of all its members.

    Parameters
    ----------
    file : ModelFile
        As `timelike.modelfile.read_model_file` gives it, checked.

    Raises
    ------
    ModelFileError
        If the transforms in the header cannot be used, or are of other variables than the network reads.
    """
    meta = file.meta
    if "ensemble" not in meta:
        return (_one(meta, file.weights, meta["transforms"]),)
    return tuple(
        _one(meta, _under(file.weights, f"fold.{k}."), member["transforms"])
        for k, member in enumerate(meta["ensemble"]["members"])
    )


def _one(meta: Mapping[str, Any], weights: Mapping[str, Array], transforms: dict[str, Any]) -> Description:
    network = meta["network"]
    layers = []
    for index, layer in enumerate(network["recurrent"]):
        of_layer = _under(weights, f"recurrent.{index}.")
        cell, proj_size, n_biases = cell_of(layer)
        units = layer["units"]
        names = parameter_shapes(cell, 1, units, proj_size=proj_size, n_biases=n_biases)
        ends = ("_l0", "_l0_reverse") if layer["bidirectional"] else ("_l0",)
        of_directions = tuple({name: of_layer[name + end] for name in names} for end in ends)
        layers.append(Layer(cell, of_directions, units, proj_size or units))
    head, dense = network["head"], []
    activation = head.get("activation", ["relu"])
    activations = [activation] if isinstance(activation, str) else list(activation)
    if len(activations) == 1:
        activations *= len(head["units"])
    for index, name in enumerate((*activations, "linear")):
        scale, shift = _normalised(head, _under(weights, f"norms.{index}."))
        weight, bias = weights[f"head.{index}.weight"], weights[f"head.{index}.bias"]
        dense.append(Dense(weight, bias, name, scale, shift))
    output = head.get("output", "softmax")
    if output == "softmax" and meta["data"].get("targets"):  # so it was written before there were others
        output = "linear"
    fitted = FittedTransforms.from_dict(transforms)
    read = meta.get("inputs", meta["variables"])
    if fitted.names != tuple(meta["variables"]) or fitted.outputs != tuple(read):
        raise ModelFileError("'variables' and 'transforms' disagree")
    return Description(
        fitted,
        tuple(layers),
        network.get("pooling", "last"),
        network.get("steps"),
        tuple(dense),
        output,
        output_names(meta["classes"], head.get("quantiles") or ()),
        next(iter(weights.values())).dtype,
    )


def _normalised(head: Mapping[str, Any], norm: Mapping[str, Array]) -> tuple[Array | None, Array | None]:
    """Give scale and shift of a batch normalisation, in the type of its weights."""
    if not norm:
        return None, None
    epsilon = head["batch_norm"]["epsilon"]
    weight, bias, mean, variance = (
        norm[name].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    if not (variance + epsilon > 0).all():
        raise ModelFileError("batch_norm: a variance and its epsilon are not above 0")
    scale = weight / np.sqrt(variance + epsilon)
    dtype = norm["weight"].dtype
    return scale.astype(dtype), (bias - mean * scale).astype(dtype)


def _under(weights: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
