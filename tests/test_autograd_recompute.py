"""Recomputation in place of a tape: the same outputs and gradients, for a memory that grows with sqrt(T)."""

import numpy as np
import pytest
import torch

from timelike import autograd
from timelike.autograd import LayerWeights
from timelike.cells import CELLS, parameter_shapes
from timelike.kernels import Rows

D, H, R = 3, 5, 2
ROWS = {
    "time major": Rows.time_major(11, 3),
    "batch major": Rows.batch_major(3, 11),
    "ragged": Rows.ragged([0, 4, 4, 15, 16]),
    "packed": Rows.packed([4, 4, 3, 1, 1, 1, 1]),
    "with padding": Rows([0, 11], np.arange(11), [7, 3], 22),
    "no steps": Rows.ragged([0, 0, 0]),
}


def weights_of(cell, n_directions, *, dtype=torch.float64, n_biases=2, units=H):
    torch.manual_seed(1)
    shapes = parameter_shapes(
        cell, D, units, proj_size=R if CELLS[cell].has_projection else 0, n_biases=n_biases
    )
    return [torch.randn(s, dtype=dtype).mul(0.5).requires_grad_() for s in [*shapes.values()] * n_directions]


def gradients(cell, rows, n_directions, recompute, *, with_states=True, dtype=torch.float64, n_biases=2):
    """Outputs, and gradients of all inputs for an N(0, 1) gradient on every output."""
    weights = weights_of(cell, n_directions, dtype=dtype, n_biases=n_biases)
    B, width = rows.n_sequences, weights[1].shape[1]
    x = torch.randn(rows.n_rows, D, dtype=dtype, requires_grad=True)
    h0 = torch.randn(n_directions, B, width, dtype=dtype, requires_grad=True) if with_states else None
    c0 = None
    if with_states and CELLS[cell].has_cell_state:
        c0 = torch.randn(n_directions, B, H, dtype=dtype, requires_grad=True)
    held = LayerWeights(cell, weights, n_directions)
    outputs = autograd.layer(held, rows, x, h0, c0, weights, recompute=recompute)
    outputs = [t for t in outputs if t is not None]
    upstream = [torch.randn(t.shape, dtype=dtype) for t in outputs]
    leaves = [t for t in (x, h0, c0, *weights) if t is not None]
    return outputs, torch.autograd.grad(outputs, leaves, upstream)


def assert_the_same(got, expected, dtype=torch.float64):
    for t, e in zip(got[0], expected[0], strict=True):
        assert torch.equal(t, e)
    for t, e in zip(got[1], expected[1], strict=True):
        assert t.shape == e.shape
        assert t.isfinite().all()
        if e.numel():
            # Sums of weight gradients are cut in other places: the rounding of a sum of N terms.
            assert (t - e).abs().max() <= 32 * torch.finfo(dtype).eps * e.abs().max()


@pytest.mark.parametrize("n_directions", [1, 2])
@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_as_with_a_tape(cell, layout, n_directions):
    expected = gradients(cell, ROWS[layout], n_directions, False)
    for recompute in (True, 1, 4, 100):
        assert_the_same(gradients(cell, ROWS[layout], n_directions, recompute), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_without_initial_states_and_in_float32(cell):
    options = {"with_states": False, "dtype": torch.float32}
    expected = gradients(cell, ROWS["ragged"], 2, False, **options)
    assert_the_same(gradients(cell, ROWS["ragged"], 2, 3, **options), expected, torch.float32)


@pytest.mark.parametrize("n_biases", [0, 1, 2])
def test_with_any_number_of_biases(n_biases):
    for cell in ("lstm", "gru"):
        expected = gradients(cell, ROWS["ragged"], 1, False, n_biases=n_biases)
        assert_the_same(gradients(cell, ROWS["ragged"], 1, 3, n_biases=n_biases), expected)


@pytest.mark.parametrize("wanted", [[0], [1], [3], [0, 4]])
def test_only_what_is_asked_for(wanted):
    rows, weights = ROWS["ragged"], weights_of("lstm", 1)
    inputs = [torch.randn(rows.n_rows, D, dtype=torch.float64), *weights]
    for k, t in enumerate(inputs):
        t.requires_grad_(k in wanted)
    run = {}
    for recompute in (False, 4):
        held = LayerWeights("lstm", weights, 1)
        y, *_ = autograd.layer(held, rows, inputs[0], None, None, weights, recompute=recompute)
        run[recompute] = [y], torch.autograd.grad(y.square().sum(), [inputs[k] for k in wanted])
    assert_the_same(run[4], run[False])


def test_derivatives_of_derivatives():
    rows, weights = Rows.ragged([0, 4, 7]), weights_of("lstm", 1)

    def run(x, *weights):
        held = LayerWeights("lstm", weights, 1)
        return autograd.layer(held, rows, x, None, None, weights, recompute=2)

    x = torch.randn(7, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *weights), fast_mode=True)


def kept(cell, T, recompute):
    """Tensors kept between forward and backward beside inputs and weights."""
    weights, rows = weights_of(cell, 1), Rows.time_major(T, 2)
    held = LayerWeights(cell, weights, 1)
    x = torch.randn(rows.n_rows, D, dtype=torch.float64)
    y, *_ = autograd.layer(held, rows, x, None, None, weights, recompute=recompute)
    return y.grad_fn.saved_tensors[:2]


def count(tensors):
    return sum(t.numel() for t in tensors if t is not None)


def test_a_tape_takes_five_numbers_per_row_and_unit():
    y, tape = kept("lstm", 10, False)
    assert y.shape == (20, H)
    assert tape.numel() == 5 * H * 20


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("T", [8, 100])
def test_recomputation_takes_two_at_most(cell, T):
    assert count(kept(cell, T, True)) <= 2 * H * 2 * T


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_kept_grows_with_the_square_root_of_the_steps(cell):
    small, large = (count(kept(cell, T, True)) for T in (100, 10_000))
    assert 9 * small < large < 12 * small  # 10 but for whole numbers of steps; a tape grows by 100


def test_a_very_long_sequence_is_trained():
    T = 100_000
    weights, rows = weights_of("rnn_tanh", 1, dtype=torch.float32), Rows.time_major(T, 1)
    held = LayerWeights("rnn_tanh", weights, 1)
    x, dy = torch.randn(T, D), torch.randn(T, H)
    found = []
    for recompute in (True, False):
        y, *_ = autograd.layer(held, rows, x, None, None, weights, recompute=recompute)
        found.append([y, *torch.autograd.grad(y, weights, dy)])
    assert torch.equal(found[0][0], found[1][0])
    tolerance = (8 + T**0.5) * torch.finfo(torch.float32).eps  # sums of T terms
    for got, expected in zip(*found, strict=True):
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()
