"""What is computed: cases, their numbers, and how many operations they need.

Each process draws the numbers of a case by itself from the case's seed, so that all have the same.

Sizes: ``B`` sequences, ``T`` steps (of the longest), ``N`` rows (steps of all sequences), ``D`` inputs,
``H`` units, ``R`` width of h (``H``, or that of the projection), ``G`` gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["GRID", "PARAMETERS", "PROBE", "SEQUENCE", "STEP", "Case", "Size", "arrays", "operations"]

Array = npt.NDArray[Any]


class Size(NamedTuple):
    """Sequences, steps, inputs, units."""

    B: int
    T: int
    D: int
    H: int

    def __str__(self) -> str:
        return ", ".join(f"{n:,}".replace(",", " ") for n in self)


GRID = [
    Size(100, 10, 30, 10),  # the recurrent network of TMVA's tutorial
    Size(256, 30, 32, 32),
    Size(32, 50, 16, 64),
    Size(128, 100, 16, 64),
    Size(64, 100, 64, 128),
    Size(64, 100, 128, 256),
    Size(32, 50, 512, 512),
    Size(1, 100, 16, 32),
    Size(1, 20, 16, 64),
]
STEP = Size(1, 1, 16, 32)
SEQUENCE = Size(1, 20, 6, 20)
PROBE = 1 << 24  # multiply-adds on registers, which show the peak of the processor

PARAMETERS = {  # the weights of a case, by the names of `torch.nn` and `timelike.nn`
    "W": "weight_ih_l0",
    "U": "weight_hh_l0",
    "b_ih": "bias_ih_l0",
    "b_hh": "bias_hh_l0",
    "peephole": "weight_peephole_l0",
    "projection": "weight_hr_l0",
}
_GATES = {"rnn": 1, "lstm_coupled": 3, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Case:
    """One thing to compute.

    Parameters
    ----------
    kind : {"training", "forward", "inference", "step", "ragged", "peak"}
        A training step is forward and backward with all gradients, for N(0, 1) gradients of every output;
        forward is the first half of it. A step is one call of inference with states handed in and out.
        Ragged is a training step for lengths uniform in 1 .. T; peak is `PROBE` multiply-adds on registers.
    size : Size
    cell : str
        As in `timelike.reference.CELLS`.
    dtype : {"float32", "float64"}
    recompute : bool
        Whether ours keeps no gates for backward.
    """

    kind: str
    size: Size
    cell: str = "lstm"
    dtype: str = "float32"
    recompute: bool = False
    seed: int = 1

    @property
    def n_gates(self) -> int:
        return next(n for name, n in _GATES.items() if self.cell.startswith(name))

    @property
    def state_size(self) -> int:
        return self.size.H // 2 if self.cell == "lstm_projected" else self.size.H

    @property
    def has_cell_state(self) -> bool:
        return self.cell.startswith("lstm")

    @property
    def trains(self) -> bool:
        return self.kind in ("training", "ragged")


def arrays(case: Case) -> dict[str, Array]:
    """Draw the numbers of a case.

    Returns
    -------
    dict
        Weights ``W [G H, D]``, ``U [G H, R]``, ``b_ih`` and ``b_hh [G H]``, and ``peephole [3 H]`` or
        ``projection [R, H]`` where the cell has them, uniform in +-1 / sqrt(H) as in `torch.nn`; all else is
        N(0, 1): ``x [T, B, D]``, and ``dy [T, B, R]``, ``dhT [B, R]``, ``dcT [B, H]`` for training, or
        ``h0 [B, R]`` and ``c0 [B, H]`` for a step. Ragged: ``lengths [B]``, ``x [N, D]``, ``dy [N, R]``.
    """
    random = np.random.default_rng(case.seed)
    (B, T, D, H), R, G = case.size, case.state_size, case.n_gates
    weights = {"W": (G * H, D), "U": (G * H, R), "b_ih": (G * H,), "b_hh": (G * H,)}
    if case.cell == "lstm_peephole":
        weights["peephole"] = (3 * H,)
    if case.cell == "lstm_projected":
        weights["projection"] = (R, H)
    drawn: dict[str, Array] = {
        name: random.uniform(-(H**-0.5), H**-0.5, shape) for name, shape in weights.items()
    }
    if case.kind == "ragged":
        lengths = random.integers(1, T + 1, B)
        drawn |= {"x": random.standard_normal((lengths.sum(), D))}
        drawn |= {"dy": random.standard_normal((lengths.sum(), R))}
    else:
        drawn["x"] = random.standard_normal((T, B, D))
        states = {"h": (B, R)} | ({"c": (B, H)} if case.has_cell_state else {})
        if case.kind == "training":
            drawn["dy"] = random.standard_normal((T, B, R))
            drawn |= {f"d{name}T": random.standard_normal(shape) for name, shape in states.items()}
        if case.kind == "step":
            drawn |= {f"{name}0": random.standard_normal(shape) for name, shape in states.items()}
    drawn = {name: values.astype(case.dtype) for name, values in drawn.items()}
    if case.kind == "ragged":
        drawn["lengths"] = lengths
    return drawn


def operations(case: Case) -> float:
    """Count the additions and multiplications of the matrix products."""
    (B, T, D, H), R = case.size, case.state_size
    if case.kind == "peak":
        return 2.0 * PROBE
    rows = int(arrays(case)["lengths"].sum()) if case.kind == "ragged" else B * T
    a_row = 2.0 * case.n_gates * H * (D + R) + (2.0 * H * R if case.cell == "lstm_projected" else 0.0)
    return rows * a_row * (3 if case.trains else 1)
