"""One run of a case by the kernels, in any layout, window by window, forward and backward.

Every buffer of the kernels is full of NaN before they run, so that an element which they forget is seen, and
lies between guards of NaN, so that one which they write or use too much is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from timelike import kernels
from timelike.kernels import Packed, Rows

if TYPE_CHECKING:
    from kernel_cases import Case

Result = dict[str, np.ndarray]


class Run:
    """One run of a case by the kernels.

    Parameters
    ----------
    borders : sequence of int
        Steps of the walk at which one call ends and the next one begins.
    ring : bool
        Keep the states at the borders alone, and run forward again, on a tape of one window, before each
        window's backward.
    without : sequence of str
        Gradients that are not asked for.
    """

    def __init__(
        self,
        case: Case,
        isa: str | None = None,
        *,
        reverse: bool = False,
        layout: str = "ragged",
        threads: int = 1,
        borders: Sequence[int] = (),
        ring: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        self.case, self.without, self.guarded = case, without, []
        self.how = {"reverse": reverse, "threads": threads}
        self.rows, self.at = case.layout(layout)
        weights = {name: self.copy(w) for name, w in case.weights.items()}
        self.packed = Packed(**weights, cell=case.cell, instruction_set=isa)
        given = {name: self.copy(a) for name, a in case.given.items()}
        self.x, self.dy = self.place(case.given["x"]), self.place(case.given["dy"])
        self.y, self.dx = self.buffer(self.rows.n_rows, case.R), self.buffer(self.rows.n_rows, case.D)
        windows = list(pairwise((0, *borders, case.T)))
        self.walk = case.lengths[case.b] - 1 - case.t if reverse else case.t  # [N] step of the walk
        self.results: Result = {}

        tape = None if ring else self.tape(self.rows, self.y)
        states = [(given["h0"], given["c0"])]
        for window in windows:
            states.append(self.forward(window, *states[-1], self.y, self.rows, tape))
        self.keep("hT", "cT", states.pop())
        upstream = given["dhT"], given["dcT"]
        for window, state in zip(reversed(windows), reversed(states), strict=True):
            rows = self.rows
            if ring:
                rows = rows.ring(max(end - begin for begin, end in windows))
                tape = self.tape(rows, self.buffer(rows.n_tape_rows, case.R))
                self.forward(window, *state, None, rows, tape)
            upstream = self.backward(window, *state, rows, tape, *upstream)
            self.collect(window, tape, rows if ring else None)
        self.keep("dh0", "dc0", upstream)
        self.finish(tape if not ring else {})

    def buffer(self, *shape: int) -> np.ndarray:
        """NaN between NaN; the guards' 17 numbers let the rows start anywhere in a register."""
        whole = np.full(int(np.prod(shape)) + 34, np.nan, self.case.dtype)
        self.guarded.append(whole)
        return whole[17:-17].reshape(shape)

    def copy(self, array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        guarded = self.buffer(*array.shape)
        guarded[...] = array
        return guarded

    def place(self, ragged: np.ndarray | None) -> np.ndarray | None:
        """Rows where the layout wants them, the others NaN."""
        if ragged is None:
            return None
        there = self.buffer(self.rows.n_rows, ragged.shape[1])
        there[self.at] = ragged
        return there

    def tape(self, rows: Rows, hidden: np.ndarray) -> dict[str, np.ndarray | None]:
        H, packed = self.case.H, self.packed
        widths = {"gates": packed.n_tape_gates * H, "cells": packed.has_cell_state * H}
        widths |= {"dgates": packed.n_gates * H, "dhidden": self.case.R, "dcells": widths["cells"]}
        widths |= dict.fromkeys(widths.keys() & set(self.without), 0)
        tape = {n: self.buffer(rows.n_tape_rows, width) if width else None for n, width in widths.items()}
        return {"hidden": hidden} | tape

    def forward(
        self,
        window: tuple[int, int],
        h0: np.ndarray | None,
        c0: np.ndarray | None,
        y: np.ndarray | None,
        rows: Rows,
        tape: dict[str, np.ndarray | None] | None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Run a window; give the states behind it."""
        case = self.case
        hT, cT = (
            self.buffer(case.B, case.R),
            self.buffer(case.B, case.H) if case.kind.has_cell_state else None,
        )
        kept = {} if tape is None else {name: tape[name] for name in ("gates", "cells")}
        if y is None and tape is not None:
            kept["hidden"] = tape["hidden"]
        states = {"h0": h0, "c0": c0, "hT": hT, "cT": cT}
        begin, end = window
        kernels.forward(self.packed, rows, self.x, y, **states, **kept, **self.how, begin=begin, end=end)
        return hT, cT

    def backward(
        self,
        window: tuple[int, int],
        h0: np.ndarray | None,
        c0: np.ndarray | None,
        rows: Rows,
        tape: dict[str, np.ndarray | None],
        dhT: np.ndarray | None,
        dcT: np.ndarray | None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Run a window back, and add up the gradients of the weights; give those of the states before it."""
        case = self.case
        shapes = {f"d{name}": w.shape for name, w in case.weights.items()}
        shapes["dh0"] = (case.B, case.R)
        if case.kind.has_cell_state:
            shapes["dc0"] = (case.B, case.H)
        if case.kind.has_peephole:
            shapes["dpeephole"] = (3 * case.H,)
        asked = {name: self.buffer(*shape) for name, shape in shapes.items() if name not in self.without}
        if "dx" not in self.without:
            asked["dx"] = self.dx
        begin, end = window
        gates, cells, hidden = tape["gates"], tape["cells"], tape["hidden"]
        kernels.backward(
            self.packed, rows, self.x, hidden, gates, cells, h0=h0, c0=c0, dy=self.dy, dhT=dhT, dcT=dcT,
            **{name: tape[name] for name in ("dgates", "dhidden", "dcells")}, **asked, **self.how,
            begin=begin, end=end,
        )  # fmt: skip
        for name in asked.keys() - {"dx", "dh0", "dc0"}:
            self.results[name] = self.results.get(name, 0) + asked[name]
        return asked.get("dh0"), asked.get("dc0")

    def collect(self, window: tuple[int, int], tape: dict[str, np.ndarray | None], ring: Rows | None) -> None:
        """Take the window's steps off the tape; the rest of a ring must still be NaN."""
        case = self.case
        here = (self.walk >= window[0]) & (self.walk < window[1])
        at = self.at if ring is None else case.b + case.t % (ring.n_tape_rows // case.B) * case.B
        for name, kept in tape.items():
            if kept is None or name == "hidden":
                continue
            found = self.results.setdefault(name, np.full((case.N, kept.shape[1]), np.nan, case.dtype))
            found[here] = kept[at[here]]
            if ring is not None:
                assert np.isnan(np.delete(kept, at[here], axis=0)).all(), (
                    f"{name}: rows of no step were written"
                )

    def keep(self, h: str, c: str, states: tuple[np.ndarray | None, np.ndarray | None]) -> None:
        self.results |= {name: s for name, s in zip((h, c), states, strict=True) if s is not None}

    def finish(self, tape: dict[str, np.ndarray | None]) -> None:
        for whole in self.guarded:
            assert np.isnan(whole[:17]).all(), "written before a buffer"
            assert np.isnan(whole[-17:]).all(), "written behind a buffer"
        by_step = {"y": self.y, "dx": self.dx} | {n: kept for n, kept in tape.items() if n != "hidden"}
        for name, buffer in by_step.items():
            if buffer is not None:
                rest = np.delete(buffer, self.at, axis=0)
                assert np.isnan(rest).all(), f"{name}: rows of no step were written"
        self.results["y"] = self.y[self.at]
        if "dx" not in self.without:
            self.results["dx"] = self.dx[self.at]
