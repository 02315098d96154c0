"""What the kernels refuse, and how they say so; which instruction set is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from kernel_cases import CELLS, ISAS, Case
from timelike import kernels
from timelike.errors import TimelikeError
from timelike.kernels import Packed, Rows


@pytest.mark.parametrize("isa", ISAS)
def test_an_instruction_set_can_be_forced(isa):
    code = "from timelike import kernels as k; import numpy as np"
    code += "; print(k.isa(), k.Packed(np.eye(4), np.ones((4, 1))).isa)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TIMELIKE_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [isa, isa]


def test_an_unknown_instruction_set_is_refused():
    code = "from timelike import kernels; kernels.isa()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TIMELIKE_ISA": "avx1024"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{TimelikeError.__module__}.TimelikeError: TIMELIKE_ISA='avx1024'")
    assert "nearest: 'avx" in last or "known: " in last


class Call:
    """Buffers of a layer, all of which fit, and both calls with one of them replaced."""

    def __init__(self, cell="lstm", B=3, T=4, D=5, H=6, R=2, dtype="float32"):
        case = self.case = Case(cell, B, T, D, H, R, dtype, lengths=[T] * B)
        self.weights, self.rows = Packed(**case.weights, cell=cell), Rows.ragged(case.offsets)
        n, R, kind, G = case.N, case.R, case.kind, len(case.kind.gates)
        states = {"h0": (B, R)} | ({"c0": (B, H)} if kind.has_cell_state else {})
        tape = {"gates": (n, self.weights.n_tape_gates * H)} if self.weights.n_tape_gates else {}
        if kind.has_cell_state:
            tape["cells"] = (n, H)
        self.read = {"x": (n, D)} | states
        self.written = {"y": (n, R), "hidden": (n, R), **tape, "hT": (B, R)}
        self.read_back = {"x": (n, D), "hidden": (n, R), **tape, "dy": (n, R), "dhT": (B, R)} | states
        self.written_back = {"dx": (n, D), "dh0": (B, R), "dgates": (n, G * H), "dhidden": (n, R)}
        self.written_back |= {f"d{name}": w.shape for name, w in case.weights.items()}
        if kind.has_cell_state:
            self.written["cT"] = self.read_back["dcT"] = self.written_back["dc0"] = (B, H)
            self.written_back["dcells"] = (n, H)

    def forward(self, **change):
        shapes = self.read | self.written
        buffers = {name: np.zeros(shape, self.case.dtype) for name, shape in shapes.items()} | change
        kernels.forward(self.weights, self.rows, **buffers)

    def backward(self, **change):
        shapes = self.read_back | self.written_back
        buffers = {name: np.zeros(shape, self.case.dtype) for name, shape in shapes.items()} | change
        kernels.backward(self.weights, self.rows, **({"gates": None, "cells": None} | buffers))


def shapes_of(cell):
    call = Call(cell)
    calls = ((call.forward, call.read, call.written), (call.backward, call.read_back, call.written_back))
    for run, read, written in calls:
        for name, shape in (read | written).items():
            yield run, name, shape, name in written


@pytest.mark.parametrize("cell", CELLS)
def test_each_buffer_must_fit(cell):
    for run, name, shape, written in shapes_of(cell):
        for wrong in ((*shape[:-1], shape[-1] + 1), (shape[0] + 1, *shape[1:]), (*shape, 1)):
            with pytest.raises(ValueError, match=rf"^{name}: shape .*, expected "):
                run(**{name: np.zeros(wrong, "float32")})
        with pytest.raises(TypeError, match=rf"^{name}: dtype float64, but the weights are float32$"):
            run(**{name: np.zeros(shape, "float64")})
        apart = np.zeros((*shape[:-1], 2 * shape[-1]), "float32")[..., ::2]
        with pytest.raises(ValueError, match=rf"^{name}: the last dimension must be contiguous$"):
            run(**{name: apart})
        if written:
            read_only = np.zeros(shape, "float32")
            read_only.flags.writeable = False
            with pytest.raises(ValueError, match=rf"^{name}: is read-only"):
                run(**{name: read_only})
        wide = np.zeros((*shape[:-1], shape[-1] + 3), "float32")[..., : shape[-1]]
        may_lie_apart = {"x", "y", "dx", "dy"} | ({"hidden"} if run.__name__ == "backward" else set())
        if len(shape) == 1 or name in may_lie_apart:
            run(**{name: wide})
        else:
            with pytest.raises(ValueError, match=rf"^{name}: must be contiguous$"):
                run(**{name: wide})


def test_buffers_that_would_be_misread_are_refused():
    call = Call()
    records = np.zeros(12, [("row", "f4", (5,)), ("flag", "i1")])
    with pytest.raises(ValueError, match="x: its numbers must lie at multiples of 4 bytes"):
        call.forward(x=records["row"])
    shifted = np.frombuffer(bytearray(12 * 5 * 4 + 1), np.float32, offset=1).reshape(12, 5)
    with pytest.raises(ValueError, match="x: its numbers must lie at multiples of 4 bytes"):
        call.forward(x=shifted)
    one_row = np.lib.stride_tricks.as_strided(np.zeros(6, "f4"), (12, 6), (0, 4))
    with pytest.raises(ValueError, match="y: its rows overlap"):
        call.forward(y=one_row)


def test_what_the_cell_does_not_have_is_refused():
    one = np.zeros((3, 6), "float32")
    for name in ("c0", "cT"):
        with pytest.raises(ValueError, match=f"gru has no cell state, but {name} is given"):
            Call("gru").forward(**{name: one})
    for name in ("c0", "dcT", "dc0"):
        with pytest.raises(ValueError, match=f"gru has no cell state, but {name} is given"):
            Call("gru").backward(**{name: one})
    W, U = np.zeros((24, 5)), np.zeros((24, 6))
    with pytest.raises(ValueError, match="lstm has no peephole weights; lstm_peephole has"):
        Packed(W, U, peephole=np.zeros(18))
    with pytest.raises(ValueError, match="a projection is given to lstm_projected, and to no other cell"):
        Packed(W, U, projection=np.zeros((6, 6)))
    with pytest.raises(ValueError, match="a projection is given to lstm_projected, and to no other cell"):
        Packed(W, U, cell="lstm_projected")


@pytest.mark.parametrize(
    ("cell", "lone"),
    [("lstm", "dW, dU"), ("lstm_peephole", "dW, dU, dpeephole"), ("lstm_projected", "dW, dU, dprojection")],
)
def test_gradients_of_weights_are_given_together(cell, lone):
    for name in lone.split(", "):
        with pytest.raises(ValueError, match=f"{lone} are given together or not at all, and db_ih, db_hh"):
            Call(cell).backward(**{name: None})
    for name in ("db_ih", "db_hh"):
        absent = dict.fromkeys(lone.split(", ")) | {"db_ih": None, "db_hh": None}
        with pytest.raises(ValueError, match="given together or not at all"):
            Call(cell).backward(**(absent | {name: np.zeros(24, "float32")}))
        Call(cell).backward(**{name: None})


def test_a_tape_is_whole():
    with pytest.raises(ValueError, match="gates and cells are given together or not at all"):
        Call().forward(cells=None)
    with pytest.raises(ValueError, match="lstm: backward needs the cells that forward wrote"):
        Call().backward(cells=None)
    with pytest.raises(ValueError, match="gru: backward needs the gates that forward wrote"):
        Call("gru").backward(gates=None)


def test_wrong_weights_are_refused():
    W, U = np.zeros((24, 5)), np.zeros((24, 6))
    with pytest.raises(TypeError, match="float16; possible: float32, float64"):
        Packed(W.astype("float16"), U.astype("float16"))
    with pytest.raises(TypeError, match="U: dtype float32, but the weights are float64"):
        Packed(W, U.astype("float32"))
    for n in (23, 0):
        with pytest.raises(ValueError, match=f"W: {n} rows are not a positive multiple of 4 gates"):
            Packed(W[:n], U[:n])
    with pytest.raises(ValueError, match=r"U: shape \(24, 5\), expected \(24, 6\)"):
        Packed(W, W)
    with pytest.raises(ValueError, match=r"W: shape \(120,\), expected two axes"):
        Packed(W.ravel(), U)
    with pytest.raises(ValueError, match=r"U: shape \(24, 6, 1\), expected two axes"):
        Packed(W, U[..., None])
    with pytest.raises(ValueError, match="no kernel for cell 'lstn'; nearest: 'lstm'"):
        Packed(W, U, cell="lstn")


def test_windows_must_lie_within_the_steps():
    call = Call()
    x, y = np.zeros((12, 5), "float32"), np.zeros((12, 6), "float32")
    for begin, end in ((-1, 2), (3, 2), (0, 5), (5, 5)):
        with pytest.raises(ValueError, match=rf"steps {begin} to {end}; possible: a range within 0\.\.4"):
            kernels.forward(call.weights, call.rows, x, y, begin=begin, end=end)


def test_a_ring_is_not_run_over():
    call = Call("rnn_tanh")
    rows = call.rows.ring(2)
    x, hidden = np.zeros((12, 5), "float32"), np.zeros((6, 6), "float32")
    kernels.forward(call.weights, rows, x)
    kernels.forward(call.weights, rows, x, hidden=hidden, begin=1, end=3)
    with pytest.raises(ValueError, match="a walk of 3 steps on a tape of 2: take no more at a time"):
        kernels.forward(call.weights, rows, x, hidden=hidden, begin=1)
    with pytest.raises(ValueError, match="a walk of 4 steps on a tape of 2: take no more at a time"):
        kernels.backward(call.weights, rows, x, hidden, None, None)
    with pytest.raises(ValueError, match="a tape of 0 steps; at least 1 is needed"):
        call.rows.ring(0)


def test_rows_do_not_change_with_the_arrays_they_were_made_of():
    start, step, lengths = np.array([0]), np.arange(3), np.array([3])
    rows = Rows(start, step, lengths, 3)
    lengths[0] = 1 << 40
    assert rows.lengths.tolist() == [3]
    for made in (rows, Rows.ragged([0, 3]), Rows.time_major(3, 1), Rows.packed([1, 1, 1])):
        for array in (made.start, made.step, made.lengths):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 7


def test_backward_keeps_its_weights_while_it_runs():
    """Two threads may pack at once; the loser's weights must outlive its call."""
    case = Case("lstm", 3, 4, 5, 6, dtype="float32")
    out = kernels.run("lstm", case.given["x"], case.offsets, **case.weights)
    alive = []

    class Watched:
        def backward(self, *arguments):
            packed = weakref.ref(out.weights._backward)
            out.weights._backward = None  # as when another thread puts its own there
            alive.append(packed() is not None)

    assert out.weights.backward is out.weights.backward
    out.weights.layer = Watched()
    kernels.run_backward(out, case.given["dy"])
    assert alive == [True]


def test_wrong_rows_are_refused():
    with pytest.raises(TypeError, match="offsets: dtype float64; integers are needed"):
        Rows.ragged([0, 1.5])
    with pytest.raises(TypeError, match="start: dtype float64; integers are needed"):
        Rows([0.5], [0, 1], [2], 5)
    for sizes in ([2, 3], [2, 1, 2], [1, -1], [2, 0]):
        with pytest.raises(ValueError, match="batch sizes must be positive and never rise"):
            Rows.packed(sizes)
    for start, step in (([2**63 - 1], [0, 1]), ([-(2**63)], [-(2**63), 0]), ([5, -(2**63)], [-(2**63), 0])):
        with pytest.raises(ValueError, match="steps lie in rows"):
            Rows(start, step, [2] * len(start), 10)
    for offsets in ([0, 4, 3], [1, 4]):
        with pytest.raises(ValueError, match="offsets must start at 0 and never fall"):
            Rows.ragged(offsets)
    with pytest.raises(ValueError, match=r"lengths must lie in 0\.\.3, got -1\.\.4"):
        Rows([0, 3], [0, 1, 2], [-1, 4], 5)
    with pytest.raises(ValueError, match=r"steps lie in rows 0\.\.5, but there are 5 rows"):
        Rows([0, 3], [0, 1, 2], [3, 3], 5)
    with pytest.raises(ValueError, match="equally long"):
        Rows([0, 3], [0, 1, 2], [3], 6)
