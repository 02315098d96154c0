"""Gradient flow: Jacobian products against the law and differences, horizons and shares that are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import timelike
from timelike import reference
from timelike.errors import DataError
from timelike.inspect import diagnose
from timelike.inspect.flow import (
    gradient_flow,
    jacobians,
    largest_singular_values,
    memory,
    saturation,
)
from timelike.nn import GRU, LSTM, RNN, Ragged

OFFSETS = [0, 6, 6, 7, 11]  # one sequence without a step
MAKERS = {
    "lstm": lambda: LSTM(3, 4, bidirectional=True),
    "projected": lambda: LSTM(3, 4, proj_size=2, bidirectional=True),
    "gru": lambda: GRU(3, 4, bidirectional=True),
    "rnn": lambda: RNN(3, 4, bidirectional=True),
    "peephole": lambda: LSTM(3, 4, peephole=True, bidirectional=True),
    "coupled": lambda: LSTM(3, 4, coupled=True, bidirectional=True),
    "reset before": lambda: GRU(3, 4, reset_after=False, bidirectional=True),
    "single bias": lambda: GRU(3, 4, inner_bias=False, bidirectional=True),
}


def traced(module, seed=1):
    """Traces of a layer over a ragged batch, with N(0, 1) upstream of its last hidden states."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(OFFSETS[-1], module.input_size, generator=rng, dtype=torch.float64)
    upstream = []

    def loss(output):
        last = output[1][0] if isinstance(output[1], tuple) else output[1]
        upstream.append(torch.randn(last.shape, generator=rng, dtype=torch.float64))
        return (last * upstream[0]).sum()

    return timelike.trace(module.double(), Ragged(x, torch.tensor(OFFSETS)), loss=loss), upstream[0].numpy()


@pytest.fixture(params=MAKERS)
def layers(request):
    torch.manual_seed(3)
    return traced(MAKERS[request.param]())


def close(got, want, tolerance):
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    assert np.abs(got - want).max(initial=0) <= tolerance


def test_flow_is_the_mean_over_the_sequences_that_reach_so_far(layers):
    for layer in layers[0].layers:
        flow = gradient_flow(layer)
        assert flow.count.tolist() == [3, 2, 2, 2, 1, 1]
        assert (flow.dc is None) == (layer.dc is None)
        for name in ("dh",) if layer.dc is None else ("dh", "dc"):
            for d in range(6):
                at = [o + d if layer.reverse else e - 1 - d for o, e in pairwise(OFFSETS) if e - o > d]
                norms = np.linalg.norm(getattr(layer, name)[at], axis=1)
                assert getattr(flow, name)[d] == pytest.approx(norms.mean(), rel=1e-14)
                quantiles = getattr(flow, f"{name}_quantiles")[:, d]
                assert quantiles == pytest.approx(np.quantile(norms, [0.16, 0.5, 0.84]), rel=1e-14)


def test_jacobians_times_upstream_are_the_gradients_of_the_trace(layers):
    found, upstream = layers
    for k, layer in enumerate(found.layers):
        for b in range(4):
            of_h, of_c = jacobians(layer, b)
            # Sums of at most 6 steps of at most 16 terms, of order 1: far below 1e-12 in float64.
            close(np.einsum("v,tvr->tr", upstream[k, b], of_h), layer.dh[layer.rows(b)], 1e-12)
            if of_c is not None:
                close(np.einsum("v,tvh->th", upstream[k, b], of_c), layer.dc[layer.rows(b)], 1e-12)


def test_jacobians_are_differences_of_the_law(layers):
    step = 1e-6  # central: step^2 by truncation, eps / step = 2e-10 by rounding
    for layer in layers[0].layers:
        of_h, of_c = jacobians(layer, 0)
        cell = "gru_single_bias" if layer.cell == "gru" and "b_hh" not in layer.weights else layer.cell
        rows = np.arange(6)[::-1] if layer.reverse else np.arange(6)
        for place, row in enumerate(rows[:-1]):
            rest = layer.x[rows[place + 1 :]]
            c0 = None if layer.c is None else layer.c[row : row + 1]
            for r in range(layer.h.shape[1]):
                ends = []
                for sign in (1, -1):
                    h0 = layer.h[row : row + 1].copy()
                    h0[0, r] += sign * step
                    out = reference.forward(cell, rest, [0, len(rest)], h0=h0, c0=c0, **layer.weights)
                    ends.append(out.h_T[0])
                close(of_h[row][:, r], (ends[0] - ends[1]) / (2 * step), 2e-9)
            if of_c is None or "W" not in layer.weights:
                continue
            # By c_t the way through h_t of the same step counts too: take that step again, from c_t on.
            for u in range(layer.units):
                ends = []
                for sign in (1, -1):
                    c = layer.c[row : row + 1].copy()
                    c[0, u] += sign * step
                    h = hidden_of(layer, row, c)
                    out = reference.forward(cell, rest, [0, len(rest)], h0=h, c0=c, **layer.weights)
                    ends.append(out.h_T[0])
                close(of_c[row][:, u], (ends[0] - ends[1]) / (2 * step), 2e-9)


def hidden_of(layer, row, c):
    """h of a step whose cell state is c and all else as it was."""
    o = layer.gates["o"][row : row + 1]
    if "peephole" in layer.weights:
        moved = layer.weights["peephole"][2 * layer.units :] * (c - layer.c[row : row + 1])
        o = 1 / (1 + (1 / o - 1) * np.exp(-moved))
    m = o * np.tanh(c)
    return m @ layer.weights["projection"].T if "projection" in layer.weights else m


def test_jacobians_refuse_upstream_of_another_size(layers):
    with pytest.raises(DataError, match="upstream: shape"):
        jacobians(layers[0].layers[0], 0, upstream=np.ones((1, 9)))


def test_power_iteration_agrees_with_lapack():
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.standard_normal((3, 20, 20)))[0] for _ in range(2))
    matrices = left * (3.0 * 0.5 ** np.arange(20)) @ right
    close(largest_singular_values(matrices), np.full(3, 3.0), 1e-13)
    # The second value is half of the first: a change of 1e-9 leaves less than that to come.
    close(largest_singular_values(matrices, exact_up_to=0), np.full(3, 3.0), 3e-9)
    assert largest_singular_values(np.zeros((2, 5, 5)), exact_up_to=0).tolist() == [0, 0]


def relu(units, factor, direction=0):
    """A layer that adds up positive inputs, so that dh_T/dh_t is `factor` to the power of the distance."""
    layer = RNN(units, units, nonlinearity="relu", bidirectional=True)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.zero_()
            if name.startswith("weight_hh"):
                p.copy_(factor * torch.eye(units))
            if name.startswith("bias_ih"):
                p.fill_(1.0)
    return traced(layer)[0].layers[direction]


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("units", [2, 70])  # all rows of the identity; random ones
def test_the_horizon_of_a_known_decay(units, direction):
    found = memory(relu(units, 0.5, direction))
    close(found.left, 0.5 ** np.arange(6), 1e-15)
    assert found.horizons.tolist() == [4, np.inf]  # 0.5^4 < 0.1; the other sequence has four steps
    assert memory(relu(units, 0.3)).horizon == 2
    assert memory(relu(units, 1.0)).horizon == np.inf


def test_memory_refuses_what_is_not_finite():
    with pytest.raises(DataError, match="its states or weights are not finite"):
        memory(relu(2, np.nan))


def long_relu(steps):
    """Doubles at every step: states of 2^steps."""
    layer = RNN(1, 1, nonlinearity="relu").double()
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.weight_hh_l0.fill_(2.0)
        layer.bias_ih_l0.fill_(1.0)
    return timelike.trace(layer, torch.zeros(steps, 1, 1, dtype=torch.float64))


def test_a_gradient_whose_square_is_beyond_float64_explodes():
    found = memory(long_relu(1000)[0])
    assert found.left[-1] == pytest.approx(2.0**999, rel=1e-9)  # a sum of logarithms of order 700
    assert found.horizon == np.inf
    assert [f.kind for f in diagnose(long_relu(1000)).findings] == ["exploding"]


def test_states_beyond_float64_are_called_so():
    assert [f.kind for f in diagnose(long_relu(1100)).findings] == ["overflow"]


def test_what_memory_says():
    assert str(memory(relu(2, 1.0))) == "more than all 5 steps"
    assert str(memory(relu(2, 0.3))) == "2 of 5 steps"


def test_saturated_gates_and_dead_units():
    layer = LSTM(3, 4)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.bias_ih_l0[4:8] = 5.0
    found = saturation(traced(layer)[0].layers[0])
    assert found.high == {"i": 0, "f": 1, "g": 0, "o": 0}
    assert found.low == {"i": 0, "f": 0, "g": 0, "o": 0}
    assert found.by_unit["f"].tolist() == [1] * 4
    assert found.means["i"] == 0.5
    assert found.dead.tolist() == [0, 1, 2, 3]  # the candidate is 0, so nothing ever moves
    torch.manual_seed(1)
    assert saturation(traced(LSTM(3, 4))[0].layers[0]).dead.tolist() == []
    assert saturation(timelike.trace(LSTM(3, 4), torch.randn(1, 1, 3))[0]).dead.tolist() == []
