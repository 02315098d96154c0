"""What the tests of the kernels share: cases, where their rows lie, runs by the kernels, judgement.

Tolerance: rounding errors of a sum of n products grow like a random walk, sqrt(n) eps of the largest term,
and pass through a handful of elementwise operations on their way: ``max|got - ref| <= (8 + sqrt(n)) eps
scale``, n the number of terms in the sums that an element depends on, one step after another, scale the
largest reference value, or the largest single term where all values are small because their terms cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.testing as npt  # now: imported at its first use, it would hang a fork at that moment

from kernel_runs import Result, Run
from timelike import kernels, reference
from timelike.cells import CELLS as KINDS
from timelike.cells import parameter_shapes
from timelike.kernels import Rows

CELLS = tuple(KINDS)
ISAS = kernels.available()
DTYPES = ("float32", "float64")

PARAMETERS = {  # our name of each parameter: that of timelike.cells
    "W": "weight_ih",
    "U": "weight_hh",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "peephole": "weight_peephole",
    "projection": "weight_hr",
}
SUMS = tuple(f"d{name}" for name in PARAMETERS)  # gradients that are sums over all steps
BY_STEP = ("y", "gates", "cells", "dx", "dgates", "dhidden", "dcells")
BY_SEQUENCE = ("hT", "cT", "dh0", "dc0")


class Expected(NamedTuple):
    """What the reference says, and the largest single term of the sums behind it."""

    value: np.ndarray
    term: float


def largest(*arrays: np.ndarray | None) -> float:
    return max((float(np.abs(a).max(initial=0)) for a in arrays if a is not None), default=0.0)


def _scale(parameter: str, shape: tuple[int, ...]) -> float:
    """Scale at which sums are of order 1; larger peepholes would let errors grow from step to step."""
    return shape[1] ** -0.5 if len(shape) == 2 else 0.3 if parameter == "peephole" else 1.0


class Case:
    """A ragged batch, weights, states and N(0, 1) upstream gradients, in the kernels' precision.

    Parameters
    ----------
    lengths : sequence of int, optional
        By default drawn from 0 to T, one of them T.
    biases : int
        0, 1 or 2.
    states : bool
        Whether h0 and c0 are given.
    upstream : iterable of str
        Which of dy, dhT and dcT are given.
    """

    def __init__(
        self,
        cell: str,
        B: int,
        T: int,
        D: int,
        H: int,
        R: int = 0,
        dtype: str = "float64",
        *,
        seed: int = 0,
        lengths: Sequence[int] | None = None,
        biases: int = 2,
        states: bool = True,
        peephole: bool = True,
        upstream: Iterable[str] = ("dy", "dhT", "dcT"),
    ) -> None:
        self.cell, self.kind, self.dtype = cell, KINDS[cell], dtype
        self.B, self.D, self.H, self.R = B, D, H, R if R and self.kind.has_projection else H
        rng = np.random.default_rng([seed, B, T, D, H, self.R])
        if lengths is None:
            lengths = rng.integers(0, T + 1, B)
            lengths[rng.integers(B)] = T
        self.lengths = np.asarray(lengths, np.int64)
        self.T, self.N = int(self.lengths.max(initial=0)), int(self.lengths.sum())

        def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
            return (scale * rng.normal(size=shape)).astype(dtype)

        shapes = parameter_shapes(cell, D, H, proj_size=self.R, n_biases=biases)
        if not peephole:
            shapes.pop("weight_peephole", None)
        self.weights = {
            name: draw(*shapes[key], scale=_scale(name, shapes[key]))
            for name, key in PARAMETERS.items()
            if key in shapes
        }
        h, c = (B, self.R), (B, H) if self.kind.has_cell_state else None
        arrays = {"x": (self.N, D), "h0": h, "c0": c, "dy": (self.N, self.R), "dhT": h, "dcT": c}
        absent = {"dy", "dhT", "dcT"}.difference(upstream) | (set() if states else {"h0", "c0"})
        self.given: dict[str, np.ndarray | None] = {
            name: None if shape is None or name in absent else draw(*shape) for name, shape in arrays.items()
        }

    def _like(self, lengths: np.ndarray, **given: np.ndarray | None) -> Case:
        other = Case.__new__(Case)
        vars(other).update(vars(self) | {"lengths": lengths, "given": given})
        other.B, other.T, other.N = len(lengths), int(lengths.max(initial=0)), int(lengths.sum())
        return other

    def but(self, **given: np.ndarray | None) -> Case:
        """The same case with some arrays in place of its own."""
        return self._like(self.lengths, **(self.given | given))

    def part(self, b: int) -> Case:
        """One sequence of the batch, as a batch of its own."""
        steps, one = slice(self.offsets[b], self.offsets[b + 1]), slice(b, b + 1)
        given = {
            name: None if a is None else a[steps if name in ("x", "dy") else one]
            for name, a in self.given.items()
        }
        return self._like(self.lengths[one], **given)

    def flipped(self) -> Case:
        """The same sequences, each turned around."""
        return self.but(**{name: self.turn(self.given[name]) for name in ("x", "dy")})

    def turn(self, rows: np.ndarray | None) -> np.ndarray | None:
        return None if rows is None else rows[self.offsets[self.b] + self.lengths[self.b] - 1 - self.t]

    @property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def b(self) -> np.ndarray:
        """Sequence of each row [N]."""
        return np.repeat(np.arange(self.B), self.lengths)

    @property
    def t(self) -> np.ndarray:
        """Step of each row [N]."""
        return np.arange(self.N) - self.offsets[self.b]

    def layout(self, kind: str) -> tuple[Rows, np.ndarray]:
        """Rows, and where each of the ragged rows lies in buffers of that layout."""
        B, T, b, t = self.B, self.T, self.b, self.t
        if kind == "ragged":
            return Rows.ragged(self.offsets), np.arange(self.N)
        if kind == "time_major":
            return Rows(np.arange(B), np.arange(T) * B, self.lengths, B * T), t * B + b
        if kind == "batch_major":
            return Rows(np.arange(B) * T, np.arange(T), self.lengths, B * T), b * T + t
        if kind == "backwards":  # every other row, from behind
            start = np.arange(B)[::-1] * 2 * T + 2 * T - 1
            return Rows(start, -2 * np.arange(T), self.lengths, 2 * B * T), start[b] - 2 * t
        if kind == "indexed":  # anywhere, in no order
            at = np.random.default_rng(self.N).permutation(self.N + 7)[: self.N]
            return Rows.indexed(at, self.offsets, self.N + 7), at
        assert kind == "packed"
        assert (np.diff(self.lengths) <= 0).all()
        assert self.lengths[-1] > 0
        sizes = (self.lengths[None, :] > np.arange(T)[:, None]).sum(1)
        return Rows.packed(sizes), np.concatenate([[0], np.cumsum(sizes)[:-1]])[t] + b

    def run(self, isa: str | None = None, **how: Any) -> Result:
        """All values and gradients by the kernels, rows in the order of the ragged ones; options: `Run`."""
        return Run(self, isa, **how).results

    def reference(self, *, reverse: bool = False) -> dict[str, Expected]:
        given, w = self.given, self.weights
        run = reference.forward(
            self.cell, given["x"], self.offsets, **w, h0=given["h0"], c0=given["c0"], reverse=reverse
        )
        back = reference.backward(self.cell, run, given["dy"], given["dhT"], given["dcT"])
        x, h, c = largest(given["x"]), largest(run.y, given["h0"]), largest(run.c, given["c0"])
        dh = largest(back.dh, back.dh0, given["dhT"], given["dy"])
        dc = largest(back.dc, back.dc0, given["dcT"])
        da = max(dc, dh)  # the slopes of sigmoid and tanh are at most 1, and are differences
        found = {
            "y": (run.y, h),
            "hT": (run.h_T, h),
            "cT": (run.c_T, max(1, c)),
            "gates": (self._gates_on_tape(run), 1),
            "cells": (run.c, max(1, c)),
            "dx": (back.dx, da * largest(w["W"])),
            "dW": (back.dW, da * x),
            "dU": (back.dU, da * h),
            "db_ih": (back.db_ih, da),
            "db_hh": (back.db_hh, da),
            "dpeephole": (back.dpeephole, da * c),
            "dprojection": (back.dprojection, dh),
            "dh0": (back.dh0, max(dh, da * largest(w["U"]))),
            "dc0": (back.dc0, max(dc, da * largest(w.get("peephole")))),
            "dgates": (back.dgates, da),
            "dhidden": (back.dh, max(dh, da * largest(w["U"]))),
            "dcells": (back.dc, max(dc, da * largest(w.get("peephole")))),
        }
        absent = {f"d{name}" for name in ("b_ih", "b_hh")} - {f"d{name}" for name in w}
        return {
            name: Expected(value, term)
            for name, (value, term) in found.items()
            if value is not None and name not in absent
        }

    @property
    def kinked(self) -> bool:
        """Whether a rectifier's sum is so near 0 that rounding may take it to the other side."""
        if self.cell != "rnn_relu":
            return False
        run = reference.forward(self.cell, self.given["x"], self.offsets, **self.weights, h0=self.given["h0"])
        p = run.parameters
        sums = [p.W @ step.x + p.U @ step.h_prev + p.b_ih + p.b_hh for step in run.tape]
        return bool(sums) and np.abs(sums).min() < self.tolerance("y") * largest(run.y)

    def _gates_on_tape(self, run: reference.Forward) -> np.ndarray | None:
        if self.cell.startswith("rnn"):
            return None
        if self.cell != "gru":
            return run.gates
        U_n, b_n = run.parameters.U[2 * self.H :], run.parameters.b_hh[2 * self.H :]
        sums = np.array([U_n @ step.h_prev + b_n for step in run.tape]).reshape(self.N, self.H)
        return np.hstack([run.gates, sums])

    def tolerance(self, name: str) -> float:
        terms = self.T * (self.D + self.R + len(self.kind.gates) * self.H) + (self.N if name in SUMS else 0)
        return float((8 + terms**0.5) * np.finfo(self.dtype).eps)


def assert_close(case: Case, got: Result, expected: dict[str, Expected]) -> None:
    for name, (reference_value, term) in expected.items():
        value = got[name]
        assert value.dtype == case.dtype
        assert value.shape == reference_value.shape, name
        assert np.isfinite(value).all(), f"{name}: not finite"
        if value.size == 0:
            continue
        bound = case.tolerance(name) * max(largest(reference_value), term)
        error = largest(value - reference_value)
        assert error <= bound, f"{name}: error {error:.3e}, bound {bound:.3e}"


def assert_same_bits(got: Result, expected: Result, names: Iterable[str] | None = None) -> None:
    names = expected if names is None else [name for name in names if name in expected]
    for name in names:
        npt.assert_array_equal(got[name], expected[name], err_msg=name, strict=True)
