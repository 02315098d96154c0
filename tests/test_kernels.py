"""The native kernels against the reference, in every precision and on every instruction set of this machine.

Tolerance: rounding errors of a sum of n products grow like a random walk, sqrt(n) eps of the largest term,
and pass through a handful of elementwise operations on their way: ``max|got - ref| <= (8 + sqrt(n)) eps
scale``, n the number of terms in the longest sum that an element depends on, scale the largest reference
value, or the largest single term where all values are small because their terms cancel. Buffers are full
of NaN before a kernel runs, so that an element it forgets is seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timelike import kernels, reference
from timelike.errors import TimelikeError
from timelike.kernels import Packed, Rows

ISAS = kernels.available()
DTYPES = ["float32", "float64"]
OUTPUTS = ("y", "hT", "cT", "gates", "cells")
GRADIENTS = ("dx", "dW", "dU", "db_ih", "dh0", "dc0", "dgates")

# Units around the widths of registers and panels, inputs around tiles of three, batches around chunks of 48.
SIZES = [  # B, T, D, H
    (1, 1, 1, 1),
    (1, 5, 3, 4),
    (2, 130, 4, 9),
    (3, 2, 2, 8),
    (5, 7, 11, 3),
    (7, 3, 5, 16),
    (47, 4, 6, 7),
    (48, 3, 1, 17),
    (49, 5, 13, 10),
    (100, 10, 30, 10),
    (151, 2, 8, 33),
    (1, 200, 16, 32),
]


class Case:
    """A ragged batch, weights, states and N(0,1) upstream gradients, rounded to the kernels' precision."""

    def __init__(self, B, T, D, H, dtype, seed=0, lengths=None, bias=True, states=True):
        rng = np.random.default_rng(seed)
        self.B, self.T, self.D, self.H, self.dtype = B, T, D, H, dtype
        self.lengths = rng.integers(0, T + 1, B) if lengths is None else np.asarray(lengths)
        if lengths is None:
            self.lengths[rng.integers(B)] = T
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.N = N = int(self.offsets[-1])

        def draw(*shape, scale=1.0):
            return (scale * rng.normal(size=shape)).astype(dtype)

        self.W, self.U = draw(4 * H, D, scale=D**-0.5), draw(4 * H, H, scale=H**-0.5)
        self.b_ih, self.b_hh = (draw(4 * H), draw(4 * H)) if bias else (None, None)
        self.h0, self.c0 = (draw(B, H), draw(B, H)) if states else (None, None)
        self.x, self.dy = draw(N, D), draw(N, H)
        self.dhT, self.dcT = draw(B, H), draw(B, H)

    def reference(self, reverse=False):
        run = reference.forward(
            "lstm",
            self.x,
            self.offsets,
            self.W,
            self.U,
            self.b_ih,
            self.b_hh,
            self.h0,
            self.c0,
            reverse=reverse,
        )
        back = reference.backward("lstm", run, self.dy, self.dhT, self.dcT)
        top = {"dgates": np.abs(back.dgates).max(initial=0), "dc": np.abs(np.append(back.dc, back.dc0)).max()}
        top |= {"dh": np.abs(np.append(back.dh, back.dh0)).max()}
        h = np.append(run.y, 0 if self.h0 is None else self.h0)
        self.largest_term = {  # of the sums behind each gradient
            "dx": top["dgates"] * np.abs(self.W).max(),
            "dh0": top["dgates"] * np.abs(self.U).max(),
            "dW": top["dgates"] * np.abs(self.x).max(initial=0),
            "dU": top["dgates"] * np.abs(h).max(),
            "db_ih": top["dgates"],
            "dgates": max(top["dc"], top["dh"]) / 4,  # slope of the sigmoid
            "dc0": top["dc"],
        }
        values = {"y": run.y, "hT": run.h_T, "cT": run.c_T, "gates": run.gates, "cells": run.c}
        grads = {"dx": back.dx, "dW": back.dW, "dU": back.dU, "db_ih": back.db_ih}
        return values | grads | {"dh0": back.dh0, "dc0": back.dc0, "dgates": back.dgates}

    def layout(self, kind):
        """Rows, and where each of the ragged rows lies in buffers of that layout."""
        b = np.repeat(np.arange(self.B), self.lengths)
        t = np.arange(self.N) - np.repeat(self.offsets[:-1], self.lengths)
        if kind == "ragged":
            return Rows.ragged(self.offsets), np.arange(self.N)
        if kind == "time_major":
            rows = Rows(np.arange(self.B), np.arange(self.T) * self.B, self.lengths, self.B * self.T)
            return rows, t * self.B + b
        if kind == "batch_major":
            rows = Rows(np.arange(self.B) * self.T, np.arange(self.T), self.lengths, self.B * self.T)
            return rows, b * self.T + t
        assert kind == "packed"
        assert (np.diff(self.lengths) <= 0).all()
        sizes = (self.lengths[None, :] > np.arange(self.lengths.max())[:, None]).sum(1)
        return Rows.packed(sizes), np.concatenate([[0], np.cumsum(sizes)[:-1]])[t] + b

    def run(self, isa=None, reverse=False, kind="ragged", **change):
        """All outputs and gradients by the kernels, as ragged rows; rows of no step must stay NaN."""
        rows, at = self.layout(kind)
        n, B, D, H = rows.n_rows, self.B, self.D, self.H
        shapes = {
            "y": (n, H),
            "hT": (B, H),
            "cT": (B, H),
            "gates": (n, 4 * H),
            "cells": (n, H),
            "dx": (n, D),
            "dW": (4 * H, D),
        }
        shapes |= {"dU": (4 * H, H), "db_ih": (4 * H,), "dh0": (B, H), "dc0": (B, H), "dgates": (n, 4 * H)}
        out = {name: np.full(shape, np.nan, self.dtype) for name, shape in shapes.items()}

        def place(ragged):
            there = np.full((n, ragged.shape[1]), np.nan, self.dtype)
            there[at] = ragged
            return there

        weights = Packed(self.W, self.U, self.b_ih, self.b_hh, instruction_set=isa)
        x, states = place(self.x), {"h0": self.h0, "c0": self.c0, "reverse": reverse}
        kernels.forward(weights, rows, x, out["y"], **{k: out[k] for k in OUTPUTS[1:]}, **states)
        upstream = {"dy": place(self.dy), "dhT": self.dhT, "dcT": self.dcT} | change
        tape = (out["y"], out["gates"], out["cells"])
        kernels.backward(weights, rows, x, *tape, **{k: out[k] for k in GRADIENTS}, **upstream, **states)
        for name in ("y", "gates", "cells", "dx", "dgates"):
            rest = np.delete(out[name], at, axis=0)
            assert np.isnan(rest).all(), f"{name}: rows of no step were written"
            out[name] = out[name][at]
        return out

    def terms(self, name):
        return self.N if name in ("dW", "dU", "db_ih") else (self.D + 4 * self.H)


def assert_close(case, got, expected):
    for name, reference_value in expected.items():
        value = got[name]
        assert value.dtype == case.dtype
        assert np.isfinite(value).all(), f"{name}: not finite"
        if value.size == 0:
            continue
        scale = max(np.abs(reference_value).max(), case.largest_term.get(name, 0))
        bound = (8 + case.terms(name) ** 0.5) * np.finfo(case.dtype).eps * scale
        error = np.abs(value - reference_value).max()
        assert error <= bound, f"{name}: error {error:.3e}, bound {bound:.3e}"


def assert_same_bits(a, b, names=OUTPUTS + GRADIENTS):
    for name in names:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_output_agrees_with_the_reference(size, dtype, isa, reverse):
    case = Case(*size, dtype)
    assert_close(case, case.run(isa, reverse), case.reference(reverse))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    D=st.integers(1, 20),
    H=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    bias=st.booleans(),
    states=st.booleans(),
)
def test_any_shape_agrees_with_the_reference(lengths, D, H, dtype, isa, bias, states):
    case = Case(len(lengths), 9, D, H, dtype, lengths=lengths, bias=bias, states=states)
    assert_close(case, case.run(isa), case.reference())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["time_major", "batch_major", "packed"])
def test_the_layout_does_not_change_a_bit(kind, reverse):
    lengths = np.sort(np.random.default_rng(5).integers(1, 9, 53))[::-1]
    case = Case(53, 9, 6, 11, "float32", lengths=lengths)
    assert_same_bits(case.run(kind=kind, reverse=reverse), case.run(reverse=reverse))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 49, 120])
def test_company_does_not_change_a_bit(n, dtype, isa):
    """The first sequence of a batch gives the same bits alone and among n - 1 others."""
    T, D, H = 6, 5, 19
    lengths = np.random.default_rng(n).integers(0, T + 1, n)
    lengths[0] = T - 1
    crowd = Case(n, T, D, H, dtype, lengths=lengths)
    alone = Case(1, T, D, H, dtype, lengths=lengths[:1])
    for name in ("W", "U", "b_ih", "b_hh"):
        setattr(alone, name, getattr(crowd, name))
    for name in ("h0", "c0", "dhT", "dcT"):
        setattr(alone, name, getattr(crowd, name)[:1])
    alone.x, alone.dy = crowd.x[: T - 1], crowd.dy[: T - 1]
    got, expected = crowd.run(isa), alone.run(isa)
    for name in ("y", "gates", "cells", "dx", "dgates"):
        np.testing.assert_array_equal(got[name][: T - 1], expected[name], err_msg=name)
    for name in ("hT", "cT", "dh0", "dc0"):
        np.testing.assert_array_equal(got[name][:1], expected[name], err_msg=name)


def test_the_tape_survives_backward():
    """A second walk over the same tape gives the same bits."""
    case = Case(9, 8, 5, 12, "float32")
    out = kernels.run("lstm", case.x, case.offsets, case.W, case.U, case.b_ih, case.b_hh, case.h0, case.c0)
    first = kernels.run_backward(out, case.dy, case.dhT, case.dcT)
    second = kernels.run_backward(out, case.dy, case.dhT, case.dcT)
    assert_same_bits(vars(first), vars(second), GRADIENTS)
    assert_close(case, vars(out) | vars(first), case.reference())


def test_absent_gradients_are_zeros():
    case = Case(9, 8, 5, 12, "float64")
    out = kernels.run("lstm", case.x, case.offsets, case.W, case.U, case.b_ih, case.b_hh, case.h0, case.c0)
    zeros = kernels.run_backward(out, case.dy, np.zeros((9, 12)), np.zeros((9, 12)))
    assert_same_bits(vars(kernels.run_backward(out, case.dy)), vars(zeros), GRADIENTS)
    last = kernels.run_backward(out, None, case.dhT, None)
    assert_same_bits(
        vars(kernels.run_backward(out, np.zeros_like(case.dy), case.dhT, None)), vars(last), GRADIENTS
    )


def test_two_directions_share_buffers():
    """Both directions write into one [N, 2H] buffer, and the second adds to dx."""
    case = Case(7, 6, 5, 10, "float32")
    rows, N, H = Rows.ragged(case.offsets), case.N, case.H
    weights = Packed(case.W, case.U, case.b_ih, case.b_hh)
    y, dx = np.full((N, 2 * H), np.nan, "float32"), np.full((N, case.D), np.nan, "float32")
    dy = np.concatenate([case.dy, case.dy], axis=1)
    for d, reverse in enumerate((False, True)):
        part = slice(d * H, (d + 1) * H)
        gates, cells = np.empty((N, 4 * H), "float32"), np.empty((N, H), "float32")
        kernels.forward(weights, rows, case.x, y[:, part], gates=gates, cells=cells, reverse=reverse)
        kernels.backward(
            weights,
            rows,
            case.x,
            y[:, part],
            gates,
            cells,
            dy=dy[:, part],
            dx=dx,
            add_dx=reverse,
            reverse=reverse,
        )
    ahead, back = (
        kernels.run("lstm", case.x, case.offsets, case.W, case.U, case.b_ih, case.b_hh, reverse=reverse)
        for reverse in (False, True)
    )
    np.testing.assert_array_equal(y, np.concatenate([ahead.y, back.y], axis=1))
    expected = kernels.run_backward(ahead, case.dy).dx + kernels.run_backward(back, case.dy).dx
    np.testing.assert_array_equal(dx, expected)


def test_empty_batches():
    for offsets in ([0], [0, 0, 0]):
        case = Case(1, 1, 3, 5, "float32")
        B = len(offsets) - 1
        h0, c0 = np.ones((B, 5), "float32"), np.full((B, 5), 2, "float32")
        out = kernels.run("lstm", case.x[:0], offsets, case.W, case.U, h0=h0, c0=c0)
        np.testing.assert_array_equal(out.hT, h0)
        np.testing.assert_array_equal(out.cT, c0)
        back = kernels.run_backward(out, None, 3 * h0, 4 * c0)
        np.testing.assert_array_equal(back.dh0, 3 * h0)
        np.testing.assert_array_equal(back.dc0, 4 * c0)
        for gradient in (back.dW, back.dU, back.db_ih):
            assert not gradient.any()


def test_nan_stays_in_its_sequence():
    case = Case(50, 5, 4, 9, "float32", lengths=[5] * 50)
    clean = case.run()
    case.x[case.offsets[17] + 2, 1] = np.nan
    dirty = case.run()
    assert np.isnan(dirty["y"][case.offsets[17] + 2 : case.offsets[18]]).all()
    others = np.delete(np.arange(case.N), np.arange(case.offsets[17], case.offsets[18]))
    np.testing.assert_array_equal(dirty["y"][others], clean["y"][others])
    np.testing.assert_array_equal(dirty["dx"][others], clean["dx"][others])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("function", "ulps"), [("exp", 1.1), ("sigmoid", 2.6), ("tanh", 2.7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise_functions_keep_their_bound(function, ulps, dtype, isa):
    """The bounds that stand in src/kernels/math.h, on all exponents, the borders and the worst known."""
    rng = np.random.default_rng(2)
    limit = {"float32": 87.0, "float64": 708.0}[dtype]
    magnitude = np.exp(rng.uniform(np.log(1e-30), np.log(limit), 200_000))
    worst = {
        "float32": [-5.85670471, -5.84420681, -16.635704, 0.0622862317, 0.0623535849],
        "float64": [-21.124203998233899, -36.742146021243201, 0.22138534057894263, -0.20603363111958253],
    }[dtype]
    x = np.concatenate([magnitude, -magnitude, rng.uniform(-limit, limit, 200_000), [0.0, limit, -limit]])
    x = np.concatenate([x, worst])
    if function == "tanh":
        x = np.concatenate([x, [1e4, -1e4, np.inf, -np.inf]])
    x = x.astype(dtype)
    y = np.full_like(x, np.nan)
    call = getattr(kernels._core, "function_f32" if dtype == "float32" else "function_f64")
    call(isa, function, x.ctypes.data, y.ctypes.data, len(x))
    exact = np.longdouble(x)  # 64 bits of mantissa: enough to judge 53
    exact = {
        "exp": np.exp,
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "tanh": np.tanh,
    }[function](exact)
    unit = np.spacing(np.abs(exact).astype(dtype))
    error = np.abs(np.longdouble(y) - exact) / unit
    assert np.isfinite(y).all()
    assert error.max() <= ulps, f"{float(error.max()):.2f} ULP at {x[error.argmax()]!r}"


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise_functions_beyond_their_range(isa):
    x = np.array([np.inf, -np.inf, 1000, -1000, np.nan], "float32")
    y = np.empty_like(x)
    expected = {
        "exp": [np.exp(88.0), np.exp(-87.0)] * 2,
        "sigmoid": [1, 1.6458115e-38] * 2,
        "tanh": [1, -1] * 2,
    }
    for name, values in expected.items():
        kernels._core.function_f32(isa, name, x.ctypes.data, y.ctypes.data, len(x))
        np.testing.assert_allclose(y[:4], values, rtol=1e-6)
        assert np.isnan(y[4])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["exp", "sigmoid", "tanh"])
def test_nan_stays_nan_whatever_its_payload(function, dtype, isa):
    quiet = np.array(np.nan, dtype).view(f"i{np.dtype(dtype).itemsize}")
    payload = np.random.default_rng(1).integers(0, 1 << 22, 1000)
    x = (quiet | payload).astype(quiet.dtype).view(dtype)
    x = np.concatenate([x, -x])
    y = np.zeros_like(x)
    call = getattr(kernels._core, "function_f32" if dtype == "float32" else "function_f64")
    call(isa, function, x.ctypes.data, y.ctypes.data, len(x))
    assert np.isnan(x).all()
    assert np.isnan(y).all()


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


def buffers(B=3, T=4, D=5, H=6, dtype="float32"):
    case = Case(B, T, D, H, dtype, lengths=[T] * B)
    return case, Packed(case.W, case.U), Rows.ragged(case.offsets), np.empty((case.N, H), dtype)


def test_wrong_buffers_are_refused():
    case, weights, rows, y = buffers()
    with pytest.raises(TypeError, match="x: dtype float64, but the weights are float32"):
        kernels.forward(weights, rows, case.x.astype("float64"), y)
    with pytest.raises(ValueError, match=r"x: shape \(11, 5\), expected \(12, 5\)"):
        kernels.forward(weights, rows, case.x[:-1], y)
    with pytest.raises(ValueError, match="x: the last dimension must be contiguous"):
        kernels.forward(weights, rows, np.asfortranarray(case.x), y)
    with pytest.raises(ValueError, match=r"h0: shape \(3, 5\), expected \(3, 6\)"):
        kernels.forward(weights, rows, case.x, y, h0=np.zeros((3, 5), "float32"))
    with pytest.raises(ValueError, match="h0: must be contiguous"):
        kernels.forward(weights, rows, case.x, y, h0=np.zeros((3, 12), "float32")[:, :6])
    with pytest.raises(ValueError, match="gates and cells"):
        kernels.forward(weights, rows, case.x, y, gates=np.empty((12, 24), "float32"))
    with pytest.raises(ValueError, match="dW, dU are given together"):
        kernels.backward(
            weights, rows, case.x, y, np.empty((12, 24), "float32"), y, db_ih=np.empty(24, "float32")
        )
    with pytest.raises(TypeError, match="float16; possible: float32, float64"):
        Packed(case.W.astype("float16"), case.U.astype("float16"))
    with pytest.raises(ValueError, match="multiple of 4 gates"):
        Packed(case.W[:-1], case.U[:-1])
    with pytest.raises(ValueError, match=r"U: shape \(24, 5\), expected \(24, 6\)"):
        Packed(case.W, case.W)
    with pytest.raises(ValueError, match="no kernel for cell 'lstn'; nearest: 'lstm'"):
        Packed(case.W, case.U, cell="lstn")


def test_buffers_that_would_be_misread_are_refused():
    case, weights, rows, y = buffers()
    records = np.zeros(12, [("row", "f4", (5,)), ("flag", "i1")])
    with pytest.raises(ValueError, match="x: its numbers must lie at multiples of 4 bytes"):
        kernels.forward(weights, rows, records["row"], y)
    shifted = np.frombuffer(bytearray(12 * 5 * 4 + 1), np.float32, offset=1).reshape(12, 5)
    with pytest.raises(ValueError, match="x: its numbers must lie at multiples of 4 bytes"):
        kernels.forward(weights, rows, shifted, y)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="y: is read-only"):
        kernels.forward(weights, rows, case.x, y)
    one_row = np.lib.stride_tricks.as_strided(np.zeros(6, "f4"), (12, 6), (0, 4))
    with pytest.raises(ValueError, match="y: its rows overlap"):
        kernels.forward(weights, rows, case.x, one_row)


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
    case = Case(3, 4, 5, 6, "float32")
    out = kernels.run("lstm", case.x, case.offsets, case.W, case.U)
    alive = []

    class Watched:
        def backward(self, *arguments):
            packed = weakref.ref(out.weights._backward)
            out.weights._backward = None  # as when another thread puts its own there
            alive.append(packed() is not None)

    assert out.weights.backward is out.weights.backward
    out.weights.layer = Watched()
    kernels.run_backward(out, case.dy)
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
