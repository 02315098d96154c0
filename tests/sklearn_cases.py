"""Small fits for the tests of the estimators, and sequences in all forms that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import awkward as ak
import numpy as np
import torch

from timelike import Sequences

QUICK = {"units": 6, "head": (5,), "epochs": 3, "batch_size": 16, "random_state": 3}


def sample(n: int = 60, *, seed: int = 0) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Sequences of two variables, the first of which is larger in class b; one has no steps."""
    rng = np.random.default_rng(seed)
    y = np.array(["a", "b"])[rng.integers(0, 2, n)]
    X = [rng.normal([1.5 * (label == "b"), 0], size=(rng.integers(1, 6), 2)) for label in y]
    X[5] = np.zeros((0, 2))
    return X, y


def rows(X: list[np.ndarray[Any, Any]]) -> ak.Array:
    return Sequences.from_list(X, names=["pt", "eta"]).to_awkward()


def padded(X: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Padding at the end, at the beginning, or in the middle."""
    array = np.full((len(X), 8, 2), np.nan)
    for b, x in enumerate(X):
        steps = np.arange(len(x))
        where = (steps, steps + 8 - len(x), 2 * steps if len(x) < 5 else steps)
        array[b, where[b % 3]] = x
    return array


def objects(X: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    array = np.empty(len(X), dtype=object)
    array[:] = X
    return array


FORMS: dict[str, Callable[[list[np.ndarray[Any, Any]]], Any]] = {
    "tuple": tuple,
    "objects": objects,
    "sequences": Sequences.from_list,
    "padded": padded,
    "awkward records": rows,
    "awkward records in a list": lambda X: list(rows(X)),
    "awkward rows": lambda X: ak.Array([x.tolist() for x in X]),
    "torch, padded": lambda X: torch.from_numpy(padded(X)),
}


def weights_of(found: Any) -> list[torch.Tensor]:
    return list(found.model_.network.state_dict().values())


def same(a: Any, b: Any) -> bool:
    """Whether two estimators have the same weights and transforms, to the bit."""
    pairs = zip(weights_of(a), weights_of(b), strict=True)
    return (
        all(torch.equal(x, y) for x, y in pairs)
        and a.model_.transforms.to_dict() == b.model_.transforms.to_dict()
    )
