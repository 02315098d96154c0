"""The native kernels against the reference: every cell, precision and instruction set of this machine."""

from __future__ import annotations

from functools import lru_cache
from itertools import count, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kernel_cases import CELLS, DTYPES, ISAS, Case, assert_close
from timelike import kernels, reference

# Units around the widths of registers and panels, sequences around tiles of rows and chunks, steps around
# windows of 64; R counts where there is a projection.
SIZES = [  # B, T, D, H, R
    (1, 1, 1, 1, 1),
    (1, 5, 3, 4, 2),
    (2, 70, 4, 9, 5),
    (3, 2, 2, 8, 8),
    (5, 7, 11, 3, 7),
    (6, 4, 6, 7, 3),
    (7, 3, 5, 16, 9),
    (13, 6, 9, 12, 5),
    (18, 3, 2, 2, 1),
    (25, 4, 1, 17, 4),
    (4, 3, 40, 70, 33),
    (21, 11, 570, 301, 150),  # sums of more than 512 numbers; weights and gradients of more than 4 MiB
    (1, 40, 16, 33, 16),
    (48, 9, 3, 6, 4),
    (49, 3, 13, 10, 11),
    (97, 3, 7, 5, 2),
    (120, 11, 5, 7, 3),
]
BORDERS = [1, 2, 3, 5, 6, 7, 11, 12, 13, 17, 18, 19, 23, 24, 25, 35, 36, 37, 47, 48, 49, 95, 96, 97, 151]
WIDTHS = [(1, 1, 1), (2, 15, 16), (3, 17, 1), (5, 31, 33), (16, 32, 8), (33, 8, 32), (7, 65, 64), (64, 3, 2)]
GRID = [(B, 4, *WIDTHS[(k + shift) % 8]) for k, B in enumerate(BORDERS) for shift in (0, 3, 5)]


@lru_cache(maxsize=2)  # the instruction sets follow one another
def drawn(cell, size, dtype, reverse, **options):
    """A case whose sums keep off the kink of a rectifier, and what the reference says of it."""
    cases = (Case(cell, *size, dtype, seed=seed, **options) for seed in count())
    case = next(case for case in cases if not case.kinked)
    return case, case.reference(reverse=reverse)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_output_agrees_with_the_reference(cell, size, dtype, isa):
    reverse = SIZES.index(size) % 2 == 1
    case, expected = drawn(cell, size, dtype, reverse)
    assert_close(case, case.run(isa, reverse=reverse), expected)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", GRID, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_border_agrees_with_the_reference(cell, size, dtype, isa):
    case, expected = drawn(cell, size, dtype, False)
    assert_close(case, case.run(isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("absent", ["biases", "b_hh", "states", "peephole", "dy", "dhT", "dcT"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_absent_counts_as_zeros(cell, absent, isa):
    upstream = {"dy", "dhT", "dcT"} - {absent}
    biases = {"biases": 0, "b_hh": 1}.get(absent, 2)
    options = {"biases": biases, "states": absent != "states", "peephole": absent != "peephole"}
    case, expected = drawn(cell, (9, 6, 5, 11, 4), "float64", False, upstream=frozenset(upstream), **options)
    assert_close(case, case.run(isa), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_a_gru_of_one_bias(isa):
    case = Case("gru", 9, 6, 5, 11, biases=1)
    got, expected = case.run(isa), case.reference()
    judged = Case("gru", 9, 6, 5, 11, biases=1)
    judged.cell = "gru_single_bias"
    single = judged.reference()
    assert "db_hh" not in got
    assert_close(case, got, {name: single.get(name, expected[name]) for name in expected if name != "gates"})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    cell=st.sampled_from(CELLS),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    widths=st.tuples(*[st.integers(1, 20)] * 3),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(ISAS),
    biases=st.integers(0, 2),
    states=st.booleans(),
    reverse=st.booleans(),
    upstream=st.sets(st.sampled_from(["dy", "dhT", "dcT"])),
)
def test_any_shape_agrees_with_the_reference(
    cell, lengths, widths, dtype, isa, biases, states, reverse, upstream
):
    case = Case(
        cell,
        len(lengths),
        9,
        *widths,
        dtype,
        lengths=lengths,
        biases=biases,
        states=states,
        upstream=upstream,
    )
    assume(not case.kinked)
    assert_close(case, case.run(isa, reverse=reverse), case.reference(reverse=reverse))


@pytest.mark.parametrize("cell", CELLS)
def test_numpy_face_gives_what_the_reference_gives(cell):
    """`run` and `run_backward` of kernels.py, which make the buffers themselves."""
    case, expected = drawn(cell, (9, 6, 5, 11, 4), "float32", True)
    g = case.given
    states = {"h0": g["h0"], "c0": g["c0"]}
    out = kernels.run(cell, g["x"], case.offsets, **case.weights, **states, reverse=True)
    back = kernels.run_backward(out, g["dy"], g["dhT"], g["dcT"])
    assert_close(case, vars(out) | vars(back), expected)
    absent = {name for name, value in (vars(out) | vars(back)).items() if value is None}
    assert absent.isdisjoint(expected)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("offsets", [[0], [0, 0, 0]], ids=str)
def test_batches_without_a_step(offsets, cell):
    """States go through, gradients of states come back, gradients of weights are zeros."""
    B = len(offsets) - 1
    case = Case(cell, B, 0, 3, 5, 4, "float32", lengths=[0] * B)
    got = case.run()
    for name, value in {"hT": "h0", "cT": "c0", "dh0": "dhT", "dc0": "dcT"}.items():
        if case.given[value] is not None:
            np.testing.assert_array_equal(got[name], case.given[value])
    for name, value in case.weights.items():
        np.testing.assert_array_equal(got[f"d{name}"], np.zeros_like(value))


def test_every_cell_of_the_table_is_judged():
    """Each cell has kernels in both precisions on every instruction set, and an entry in the reference."""
    assert set(reference.CELLS) - {"gru_single_bias"} == set(CELLS)
    for cell, dtype, isa in product(CELLS, ("f32", "f64"), ISAS):
        layer = getattr(kernels._core, f"layer_{dtype}")(isa, cell, 2, 3, 3)
        assert layer.forward_size > 0
        assert layer.backward_size > 0
