"""A small trained classifier as it is deployed: transforms, an LSTM, two dense layers, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.cases import Array, Case, Size, arrays

__all__ = ["CLASSES", "SCORES", "UNITS", "Scores", "lengths", "parameters", "steps"]

CLASSES = 2
UNITS = 32  # of the dense layer between


@dataclass(frozen=True)
class Scores:
    """Scores of `size.B` sequences of `size.T` steps.

    Parameters
    ----------
    kind : {"whole", "streamed", "ragged"}
        Whole sequences of T steps, one call; one step with carried states (the results are those after T
        steps); sequences of lengths uniform in 1 .. T, one call.
    size : Size
    """

    kind: str
    size: Size
    seed: int = 1

    dtype = "float32"


SCORES = {
    "one event of 20 steps": Scores("whole", Size(1, 20, 6, 20)),
    "one step of a stream": Scores("streamed", Size(1, 20, 6, 20)),
    "10 000 events of 1 to 20 steps": Scores("ragged", Size(10_000, 20, 6, 20)),
}


def lengths(case: Scores) -> Array:
    """Draw the lengths [B]."""
    B, T = case.size.B, case.size.T
    if case.kind == "ragged":
        return np.random.default_rng(case.seed).integers(1, T + 1, B)
    return np.full(B, T)


def steps(case: Scores) -> Array:
    """Draw all steps [N, D], one sequence after another, as they are before the transforms."""
    random = np.random.default_rng(case.seed + 1)
    return random.normal(3.0, 2.0, (lengths(case).sum(), case.size.D)).astype(np.float32)


def parameters(case: Scores) -> dict[str, Array]:
    """Draw the weights of the LSTM, as in `cases.arrays`, and of the dense layers; mean and scale [D]."""
    drawn = arrays(Case("inference", case.size._replace(B=1, T=1)))
    random, H = np.random.default_rng(case.seed), case.size.H
    dense = {"V": (UNITS, H), "a": (UNITS,), "V2": (CLASSES, UNITS), "a2": (CLASSES,)}
    given = {name: random.uniform(-(H**-0.5), H**-0.5, shape) for name, shape in dense.items()}
    given |= {"mean": random.normal(3.0, 0.1, case.size.D), "scale": random.uniform(1.8, 2.2, case.size.D)}
    lstm = {name: drawn[name] for name in ("W", "U", "b_ih", "b_hh")}
    return lstm | {name: values.astype(np.float32) for name, values in given.items()}
