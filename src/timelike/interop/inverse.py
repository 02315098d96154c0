"""Variables before their transforms: rows to try a network on, of the order that it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.data.transforms import FittedTransforms, Step

__all__ = ["before"]

Array = npt.NDArray[Any]


def before(transforms: FittedTransforms, z: Array, random: np.random.Generator) -> Array:
    """Give rows that transforms bring to about those given.

    Parameters
    ----------
    transforms : FittedTransforms
    z : array [N, D]
        As the network is to read them, without indicators of missing values.
    random : Generator
        Of which values are missing: a fifth, where they may be.

    Returns
    -------
    array [N, D]
    """
    x = z if transforms.mix is None else np.linalg.solve(transforms.mix.matrix, z.T).T + transforms.mix.mean
    x = np.array(x)
    for d, steps in enumerate(transforms.steps):
        for step in reversed(steps):
            x[:, d] = _undone(step, x[:, d])
        if transforms.fills and transforms.fills[d] is not None:
            x[random.random(len(x)) < 0.2, d] = np.nan
    return x


def _undone(step: Step, z: Array) -> Array:
    """Undo a transform, roughly where it has no inverse."""
    numbers, x = step.numbers, z
    if "mean" in numbers:
        x = z * numbers["scale"] + numbers["mean"]
    elif step.kind == "minmax":
        x = (z + 1) / 2 * (numbers["high"] - numbers["low"]) + numbers["low"]
    elif step.kind == "clip":
        x = (z + 2) / 4 * (numbers["high"] - numbers["low"]) + numbers["low"]
    elif step.kind == "log":
        x = np.copysign(np.expm1(np.minimum(np.abs(z), 30.0)), z)
    elif "values" in numbers:
        x = np.interp(z, numbers["to"], numbers["values"])
    return x
