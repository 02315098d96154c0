"""What must not change a bit: layout, company, direction, windows, a second walk over the same tape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_cases import BY_SEQUENCE, BY_STEP, CELLS, DTYPES, ISAS, SUMS, Case, assert_same_bits, largest
from timelike import kernels
from timelike.kernels import Packed, Rows

EACH = BY_STEP + BY_SEQUENCE  # what belongs to one sequence alone


def assert_same_sums(case, got, expected):
    """Gradients of the weights, added in another order: equal to rounding of the largest partial sum."""
    for name in set(SUMS) & expected.keys():
        bound = case.tolerance(name) * max(largest(got[name]), largest(*case.given.values()) * case.N**0.5)
        assert largest(got[name] - expected[name]) <= bound, name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", ["time_major", "batch_major", "packed", "backwards", "indexed"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_layout_does_not_change_a_bit(cell, layout, reverse, isa):
    lengths = np.sort(np.random.default_rng(5).integers(1, 9, 53))[::-1]
    case = Case(cell, 53, 9, 6, 11, 5, "float32", lengths=lengths)
    assert_same_bits(case.run(isa, layout=layout, reverse=reverse), case.run(isa, reverse=reverse))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
def test_reverse_is_a_walk_over_the_sequences_turned_around(cell, isa):
    case = Case(cell, 53, 9, 6, 11, 5, "float32")
    got, expected = case.run(isa, reverse=True), case.flipped().run(isa)
    assert_same_bits(got, {n: case.turn(v) if n in BY_STEP else v for n, v in expected.items()})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("B", "dtype"), [(2, "float64"), (7, "float32"), (26, "float64"), (103, "float32")])
@pytest.mark.parametrize("cell", CELLS)
def test_company_does_not_change_a_bit(cell, B, dtype, isa):
    """Every sequence gives the same bits alone and among others; gradients of the weights add up."""
    case = Case(cell, B, 5, 5, 19, 6, dtype)
    got, total = case.run(isa), {}
    for b in range(B):
        one = case.part(b).run(isa)
        steps = slice(case.offsets[b], case.offsets[b + 1])
        assert_same_bits(
            {n: got[n][steps if n in BY_STEP else slice(b, b + 1)] for n in EACH if n in got}, one, EACH
        )
        for name in set(SUMS) & one.keys():
            total[name] = total.get(name, 0) + one[name].astype("float64")
    assert_same_sums(case, got, total)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cell=st.sampled_from(CELLS),
    B=st.integers(1, 60),
    T=st.integers(2, 12),
    borders=st.sets(st.integers(1, 11)),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    reverse=st.booleans(),
    ring=st.booleans(),
    states=st.booleans(),
    layout=st.sampled_from(["ragged", "batch_major", "indexed"]),
)
def test_windows_do_not_change_a_bit(cell, B, T, borders, dtype, isa, reverse, ring, states, layout):
    """A walk in windows, states handed on and their gradients handed back, is the walk as a whole."""
    case = Case(cell, B, T, 4, 9, 3, dtype, states=states)
    borders = sorted(b for b in borders if b < case.T)
    whole = case.run(isa, reverse=reverse)
    parts = case.run(isa, reverse=reverse, borders=borders, ring=ring, layout=layout)
    assert_same_bits(parts, whole, EACH)
    assert_same_sums(case, parts, whole)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("B", [1, 2, 3])
def test_windows_of_long_sequences_do_not_change_a_bit(cell, B, isa):
    """Small batches sum their input products ahead, 64 steps at a time."""
    case = Case(cell, B, 150, 5, 9, 4, "float32")
    whole = case.run(isa)
    for borders in ([64, 128], [63], [1, 66, 67]):
        assert_same_bits(case.run(isa, borders=borders, ring=True), whole, EACH)


@pytest.mark.parametrize("cell", CELLS)
def test_a_window_without_a_step_hands_states_through(cell):
    case = Case(cell, 9, 6, 5, 11, 4, "float32")
    assert_same_bits(case.run(borders=[0, 3, 3, 6]), case.run(), EACH)


@pytest.mark.parametrize("cell", CELLS)
def test_the_tape_survives_backward(cell):
    """A second walk over the same tape gives the same bits."""
    case = Case(cell, 29, 30, 5, 12, 7, "float32")
    given = case.given
    out = kernels.run(cell, given["x"], case.offsets, **case.weights, h0=given["h0"], c0=given["c0"])
    upstream = given["dy"], given["dhT"], given["dcT"]
    first, second = (vars(kernels.run_backward(out, *upstream)) for _ in range(2))
    assert_same_bits(first, {name: value for name, value in second.items() if value is not None})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_asked_for_changes_nothing_else(cell, isa):
    case = Case(cell, 53, 9, 6, 11, 5, "float32")
    whole = case.run(isa)
    weights = [name for name in SUMS if name in whole]
    single = ("dx", "dgates", "dhidden", "dcells", "dh0", "dc0", "db_ih", "db_hh")
    for without in (*([name] for name in single), weights):
        assert_same_bits(case.run(isa, without=without), whole, set(whole) - set(without))


@pytest.mark.parametrize("cell", CELLS)
def test_absent_states_and_upstream_gradients_are_zeros(cell):
    case = Case(cell, 53, 9, 6, 11, 5, "float32")
    for name in ("dy", "dhT", "dcT", "h0", "c0"):
        if case.given[name] is not None:
            absent, zeros = case.but(**{name: None}), case.but(**{name: 0 * case.given[name]})
            assert_same_bits(absent.run(), zeros.run())


@pytest.mark.parametrize("cell", CELLS)
def test_two_directions_share_buffers(cell):
    """Both directions write into one [N, 2 R] buffer, read one of gradients, and the second adds to dx."""
    case = Case(cell, 53, 9, 6, 11, 5, "float32", upstream=["dy"], states=False)
    rows, N, R, D = Rows.ragged(case.offsets), case.N, case.R, case.D
    weights, x, dy = Packed(**case.weights, cell=cell), case.given["x"], case.given["dy"]
    wide = {name: np.full((N, 2 * n + 1), np.nan, "float32") for name, n in (("y", R), ("x", D), ("dx", D))}
    wide["x"][:, 1 : D + 1] = x
    both = np.concatenate([dy, dy], axis=1)
    dx = wide["dx"][:, 1 : D + 1]
    for d, reverse in enumerate((False, True)):
        y = wide["y"][:, d * R : (d + 1) * R]
        gates = np.empty((N, weights.n_tape_gates * case.H), "float32")
        cells = np.empty((N, case.H), "float32") if weights.has_cell_state else None
        how = {"reverse": reverse}
        kernels.forward(weights, rows, wide["x"][:, 1 : D + 1], y, gates=gates, cells=cells, **how)
        part = both[:, d * R : (d + 1) * R]
        kernels.backward(
            weights, rows, wide["x"][:, 1 : D + 1], y, gates, cells, dy=part, dx=dx, add_dx=reverse, **how
        )
    ahead, back = case.run(without=["dgates"]), case.run(reverse=True, without=["dgates"])
    np.testing.assert_array_equal(wide["y"][:, : 2 * R], np.concatenate([ahead["y"], back["y"]], axis=1))
    np.testing.assert_array_equal(dx, ahead["dx"] + back["dx"])
    for name in ("y", "dx"):
        assert np.isnan(wide[name][:, -1]).all()
    assert np.isnan(wide["dx"][:, 0]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_stays_in_its_sequence(cell, isa):
    case = Case(cell, 50, 5, 4, 9, 3, "float32", lengths=[5] * 50)
    clean = case.run(isa)
    case.given["x"][case.offsets[17] + 2, 1] = np.nan
    dirty = case.run(isa)
    behind = slice(case.offsets[17] + 2, case.offsets[18])
    assert np.isnan(dirty["y"][behind]).all()
    for name in set(EACH) & clean.keys():
        own = np.s_[case.offsets[17] : case.offsets[18]] if name in BY_STEP else 17
        np.testing.assert_array_equal(
            np.delete(dirty[name], own, axis=0), np.delete(clean[name], own, axis=0), err_msg=name
        )
