"""Rows that follow no rule: the kernels find each step by a list, and touch no other row."""

import numpy as np
import pytest

from timelike import kernels
from timelike.cells import CELLS, parameter_shapes
from timelike.kernels import Packed, Rows

D, H, R, N = 3, 5, 2, 40
OFFSETS = np.array([0, 4, 4, 11, 12, 20])
INDEX = np.random.default_rng(0).permutation(N)[: OFFSETS[-1]]
ARGUMENTS = {"weight_ih": "W", "weight_hh": "U", "weight_hr": "projection", "weight_peephole": "peephole"}


def weights_of(cell):
    rng = np.random.default_rng(1)
    shapes = parameter_shapes(cell, D, H, proj_size=R, n_biases=0)
    return {ARGUMENTS[name]: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_indexed_rows_give_the_bits_of_a_ragged_batch(cell, reverse, ring):
    rng = np.random.default_rng(2)
    weights = weights_of(cell)
    packed = Packed(**weights, cell=cell)
    A, C, size = packed.n_tape_gates, CELLS[cell].has_cell_state, packed.state_size
    x, dy = rng.normal(size=(N, D)), rng.normal(size=(N, size))
    expected = kernels.run(cell, x[INDEX], OFFSETS, **weights, reverse=reverse)
    d_expected = kernels.run_backward(expected, dy[INDEX])

    rows = Rows.indexed(INDEX, OFFSETS, N)
    tape_rows = N
    if ring:
        rows = rows.ring(8)
        tape_rows = rows.n_tape_rows
    unread = np.ones(N, bool)
    unread[INDEX] = False
    x[unread] = dy[unread] = np.nan
    y, dx = np.full((N, size), np.nan), np.full((N, D), np.nan)
    gates = np.full((tape_rows, A * H), np.nan) if A else None
    cells = np.full((tape_rows, H), np.nan) if C else None
    hidden = np.full((tape_rows, size), np.nan) if ring else None
    hT = np.full_like(expected.hT, np.nan)
    kernels.forward(packed, rows, x, y, hT=hT, gates=gates, cells=cells, hidden=hidden, reverse=reverse)
    dW, dU = np.full_like(d_expected.dW, np.nan), np.full_like(d_expected.dU, np.nan)
    others = {
        name: np.empty_like(getattr(d_expected, name))
        for name in ("dpeephole", "dprojection")
        if getattr(d_expected, name) is not None
    }
    kernels.backward(
        packed, rows, x, y if hidden is None else hidden, gates, cells, dy=dy, dx=dx, dW=dW, dU=dU, **others,
        reverse=reverse,
    )  # fmt: skip
    np.testing.assert_array_equal(y[INDEX], expected.y)
    np.testing.assert_array_equal(hT, expected.hT)
    np.testing.assert_array_equal(dx[INDEX], d_expected.dx)
    np.testing.assert_array_equal(dW, d_expected.dW)
    np.testing.assert_array_equal(dU, d_expected.dU)
    for name, got in others.items():
        np.testing.assert_array_equal(got, getattr(d_expected, name))
    assert np.isnan(y[unread]).all()
    assert np.isnan(dx[unread]).all()


@pytest.mark.parametrize(
    ("index", "offsets", "said"),
    [
        ([0, 1, 4], [0, 3], "rows 0..4, but there are 4 rows"),
        ([0, -1, 3], [0, 3], "rows -1..3"),
        ([0, 1], [0, 3], "shape \\(2,\\), but the offsets end at 3"),
        ([0, 1], [0, 3, 2], "never fall"),
    ],
)
def test_an_index_that_leads_astray_is_refused(index, offsets, said):
    with pytest.raises(ValueError, match=said):
        Rows.indexed(index, offsets, 4)


def test_an_index_is_a_copy():
    index = np.array([1, 0])
    rows = Rows.indexed(index, [0, 2], 2)
    index[:] = 1 << 40
    assert rows.index.tolist() == [1, 0]
    assert rows.complete
    assert not Rows.indexed([1, 0], [0, 2], 3).complete
