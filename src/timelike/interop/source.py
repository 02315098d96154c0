"""What every export begins with: one network of a model file as plain arrays, and what is common to formats.

Formats differ in what they can say. Where one cannot say what a network computes, `refusal` makes the error;
nothing is ever approximated.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.data.transforms import FittedTransforms, Step
from timelike.description import Dense, Description, describe
from timelike.errors import ConfigError, ModelFileError
from timelike.modelfile import ModelFile, read_model_file

__all__ = ["Source", "affine", "bias_sum", "folded", "network_of", "refusal"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Source: TypeAlias = ModelFile | str | os.PathLike[str]


def network_of(model: Source) -> tuple[ModelFile, Description, str]:
    """Give the one network of a model: its file, its description, and what to call it in errors.

    Parameters
    ----------
    model : path or ModelFile

    Raises
    ------
    ModelFileError
        If the file cannot be used.
    ConfigError
        If it holds an ensemble.
    """
    name = "model" if isinstance(model, ModelFile) else str(Path(model))
    file = model if isinstance(model, ModelFile) else read_model_file(model)
    try:
        networks = describe(file)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: the header cannot be used: {error}") from None
    if "ensemble" in file.meta:
        raise ConfigError(
            f"{name}: an ensemble of {len(networks)} networks, and one is needed: take that of a fold, "
            "fold-0/model.safetensors beside its file"
        )
    return file, networks[0], name


def refusal(name: str, what: str, target: str, possible: str) -> ConfigError:
    """Make the error for what a format cannot say.

    Examples
    --------
    >>> refusal("m.safetensors", "pooling: max", "lwtnn", "last, none")
    ConfigError('m.safetensors: lwtnn has no pooling: max; possible: last, none')
    """
    return ConfigError(f"{name}: {target} has no {what}; possible: {possible}")


def folded(dense: Dense) -> tuple[Array, Array]:
    """Give weight [out, in] and bias [out] of a dense layer with its batch normalisation taken in.

    ``W (scale x + shift) + b`` is ``(W scale) x + (W shift + b)``: computed in float64, rounded once.

    Examples
    --------
    >>> half = Dense(np.eye(2), np.ones(2), "linear", np.array([0.5, 0.5]), np.array([3.0, 0.0]))
    >>> folded(half)[1]
    array([4., 1.])
    """
    if dense.scale is None or dense.shift is None:
        return dense.weight, dense.bias
    weight, scale, shift = (a.astype(np.float64) for a in (dense.weight, dense.scale, dense.shift))
    dtype = dense.weight.dtype
    return (weight * scale).astype(dtype), (weight @ shift + dense.bias).astype(dtype)


def bias_sum(weights: Any, rows: int, dtype: np.dtype[Any]) -> Array:
    """Give the sum of the biases [G H] of a cell that knows it alone; zeros where there are none.

    Parameters
    ----------
    weights : mapping of str to array
        Of a direction of a `timelike.description.Layer`.
    rows : int
        G H.
    dtype : dtype
        Of the sum, which is rounded once.
    """
    total = np.zeros(rows)
    for name in ("bias_ih", "bias_hh"):
        if name in weights:
            total += weights[name]
    return total.astype(dtype)


def affine(transforms: FittedTransforms, name: str, target: str) -> tuple[Floats, Floats] | None:
    """Give mean and scale [D] of transforms that are ``(x - mean) / scale`` of each variable; see `Mix` too.

    Parameters
    ----------
    transforms : FittedTransforms
    name, target : str
        For the error: which model, and which format needs it so.

    Returns
    -------
    tuple of two arrays, or None
        None where nothing is changed.

    Raises
    ------
    ConfigError
        If a transform is another, or missing values are allowed.

    Examples
    --------
    >>> steps = (Step("minmax", {"low": 0.0, "high": 4.0}), Step("standardise", {"mean": 1.0, "scale": 2.0}))
    >>> affine(FittedTransforms(("pt",), (steps,)), "m", "Keras")
    (array([4.]), array([4.]))
    """
    if any(fill is not None for fill in transforms.fills):
        raise refusal(name, "missing values (data.missing)", target, "variables that are always there")
    means, scales = [], []
    for variable, steps in zip(transforms.names, transforms.steps, strict=True):
        mean, scale = 0.0, 1.0
        for step in steps:
            own = _affine(step)
            if own is None:
                raise refusal(
                    name,
                    f"transform {step.kind} of variable {variable!r}",
                    target,
                    "none, standardise, robust, minmax",
                )
            mean, scale = mean + scale * own[0], scale * own[1]
        means.append(mean)
        scales.append(scale)
    if set(means) <= {0.0} and set(scales) <= {1.0}:
        return None
    return np.array(means), np.array(scales)


def _affine(step: Step) -> tuple[float, float] | None:
    """Give mean and scale of one step, or None of one that is no such map."""
    if step.kind == "none":
        return 0.0, 1.0
    numbers = step.numbers
    if step.kind in ("standardise", "robust"):
        return numbers["mean"], numbers["scale"]
    if step.kind == "minmax" and numbers["high"] > numbers["low"]:
        return (numbers["low"] + numbers["high"]) / 2, (numbers["high"] - numbers["low"]) / 2
    return None
