"""What is read of a model of Keras, put together as a model of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms, Mix, Step
from timelike.errors import ConfigError
from timelike.interop.keras_chain import Item
from timelike.model import Model
from timelike.network import Network

__all__ = ["Parts", "model_from_parts"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_UNKNOWN_FILE, _UNKNOWN = "unknown.root", "unknown"


@dataclass(eq=False)
class Parts:
    """What was read so far, layer by layer."""

    path: Path
    n_variables: int = 0
    size: int = 0  # numbers that the next layer reads at each step, or of each sequence
    mask: float | None = None
    transform: tuple[Floats, Floats] | None = None  # scale and shift of the inputs
    mixed: Mix | None = None  # what is then done to all of them
    recurrent: list[dict[str, Any]] = field(default_factory=list)
    last: bool = False  # whether the last state alone is given
    pooling: str | None = None
    steps: int | None = None
    pending: tuple[Floats, Floats] | None = None  # scale and shift, for the next dense layer
    head: list[tuple[Array, Array]] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    @property
    def in_head(self) -> bool:
        """Whether there are no steps to walk any more."""
        return self.last or self.pooling is not None or bool(self.head)

    @property
    def at_input(self) -> bool:
        """Whether nothing but transforms was read."""
        return not self.recurrent and not self.in_head

    def rescale(self, item: Item, scale: Floats, shift: Floats) -> None:
        """Take in ``scale x + shift`` of what the next layer reads."""
        if self.at_input and np.any(scale <= 0):
            raise item.refusal("of the inputs with a scale that is not above 0")
        if self.at_input and self.mixed is not None:
            raise item.refusal("behind a Dense of the inputs")
        before = self.transform if self.at_input else self.pending
        if before is not None:
            scale, shift = scale * before[0], scale * before[1] + shift
        if self.at_input:
            self.transform = (scale, shift)
        else:
            self.pending = (scale, shift)

    def mix(self, item: Item, matrix: Floats, shift: Floats) -> None:
        """Take in ``matrix x + shift`` of the inputs."""
        scale = np.diag(matrix)
        if (matrix == np.diag(scale)).all() and (scale > 0).all():
            self.rescale(item, scale, shift)
            return
        try:
            mean: Floats = np.linalg.solve(matrix, -shift).astype(np.float64)
        except np.linalg.LinAlgError:
            raise item.refusal("of the inputs that cannot be undone") from None
        if not np.isfinite(mean).all():
            raise item.refusal("of the inputs that cannot be undone")
        self.mixed = Mix("decorrelate", mean, matrix)

    def dense(self, weight: Array, bias: Array, activation: str) -> None:
        """Take in a dense layer, weight [out, in]."""
        if self.pending is not None:
            scale, shift = self.pending
            exact = weight.astype(np.float64)
            weight, bias = (
                a.astype(weight.dtype) for a in (exact * scale, exact @ shift + bias.astype(np.float64))
            )
            self.pending = None
        self.head.append((weight, bias))
        self.activations.append(activation)
        self.size = len(weight)


def model_from_parts(parts: Parts, variables: Sequence[str] | None, classes: Sequence[str] | None) -> Model:
    """Make the model.

    Raises
    ------
    ConfigError
        If there is no head, its output has no counterpart, or names do not fit.
    """
    path = parts.path
    if not parts.head or parts.pending is not None:
        raise ConfigError(f"{path}: the last layer must be Dense, or Dense and Activation")
    output, kind, names = _output(parts, classes)
    names_in = _named(variables, parts.n_variables, "variables", [f"x{d}" for d in range(parts.n_variables)])
    per_step = not parts.last and parts.pooling is None
    try:
        network = NetworkConfig.model_validate_json(json.dumps(_network(parts, output, per_step)))
        data = DataConfig.model_validate_json(json.dumps(_data(kind, names_in, names, per_step)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {' '.join(first['msg'].split())[:300]}") from None
    for k, (weight, bias) in enumerate(parts.head):
        parts.weights |= {f"head.{k}.weight": weight, f"head.{k}.bias": bias}
    double = any(value.dtype == np.float64 for value in parts.weights.values())
    dtype = torch.float64 if double else torch.float32
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn for nothing; leave no trace of it
        module = Network(network, parts.n_variables, len(names), dtype=dtype)
    module.load_state_dict(
        {name: torch.from_numpy(np.array(value)).to(dtype) for name, value in parts.weights.items()}
    )
    record = {"keras": {"mask": parts.mask}}
    return Model(module.eval(), _transforms(parts, names_in), data, SequenceConfig(), record)


def _output(parts: Parts, classes: Sequence[str] | None) -> tuple[str, str, list[str]]:
    """Give the output of our head, what it tells, and the names of that."""
    last, n = parts.activations[-1], len(parts.head[-1][0])
    for activation in parts.activations[:-1]:
        if activation in ("softmax", "exponential"):
            raise ConfigError(f"{parts.path}: activation {activation} before the last layer")
    if last == "softmax" and n > 1:
        return "softmax", "classes", _named(classes, n, "classes", [f"class{k}" for k in range(n)])
    if last == "sigmoid" and n == 1:
        return "sigmoid", "classes", _named(classes, 2, "classes", ["background", "signal"])
    if last == "sigmoid":
        return "multilabel", "multilabel", _named(classes, n, "classes", [f"label{k}" for k in range(n)])
    if last in ("linear", "exponential"):
        return last, "targets", _named(classes, n, "classes", [f"y{k}" for k in range(n)])
    raise ConfigError(
        f"{parts.path}: an output with activation {last}; possible: softmax of several numbers, sigmoid, "
        "linear, exponential"
    )


def _named(given: Sequence[str] | None, n: int, what: str, default: list[str]) -> list[str]:
    if given is None:
        return default
    names = list(given)
    if len(names) != n or len(set(names)) != n:
        raise ConfigError(f"{what}: {len(set(names))} different names given, {n} needed")
    return names


def _network(parts: Parts, output: str, per_step: bool) -> dict[str, Any]:
    network: dict[str, Any] = {
        "recurrent": parts.recurrent,
        "pooling": "last" if parts.last else "none" if per_step else parts.pooling,
        "head": {"units": [len(weight) for weight, _ in parts.head[:-1]], "output": output},
    }
    if len(parts.head) > 1:
        network["head"]["activation"] = parts.activations[:-1]
    if parts.steps is not None:
        network["steps"] = parts.steps
    return network


def _data(kind: str, variables: list[str], names: list[str], per_step: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"files": [_UNKNOWN_FILE], "variables": variables}
    data["transforms"] = {"default": "none"}
    if kind == "classes" and not per_step:
        return data | {"classes": {name: {} for name in names}}
    if per_step:
        data["per"] = "step"
    return data | {("labels" if kind == "classes" else kind): dict.fromkeys(names, _UNKNOWN)}


def _transforms(parts: Parts, names: list[str]) -> FittedTransforms:
    unchanged = FittedTransforms.unchanged(tuple(names))
    if parts.transform is None:
        return replace(unchanged, mix=parts.mixed)
    scale, shift = parts.transform
    steps = tuple(
        (Step("standardise", {"mean": float(-b / a), "scale": float(1 / a)}),)
        for a, b in zip(scale, shift, strict=True)
    )
    return replace(unchanged, steps=steps, mix=parts.mixed)
