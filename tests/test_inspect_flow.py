"""Gradient flow: Jacobian products against the law and differences, horizons and shares that are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import timelike
from timelike import reference
from timelike.errors import DataError
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
        assert (flow.quantiles[0] <= flow.quantiles[1]).all()


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
        of_h, _ = jacobians(layer, 0)
        rows = np.arange(6)[::-1] if layer.reverse else np.arange(6)
        for place, row in enumerate(rows[:-1]):
            rest = layer.x[rows[place + 1 :]]
            c0 = None if layer.c is None else layer.c[row : row + 1]
            for r in range(layer.h.shape[1]):
                ends = []
                for sign in (1, -1):
                    h0 = layer.h[row : row + 1].copy()
                    h0[0, r] += sign * step
                    out = reference.forward(layer.cell, rest, [0, len(rest)], h0=h0, c0=c0, **layer.weights)
                    ends.append(out.h_T[0])
                close(of_h[row][:, r], (ends[0] - ends[1]) / (2 * step), 2e-9)


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


def relu(units, factor):
    """A layer that adds up positive inputs, so that dh_T/dh_t is `factor` to the power of the distance."""
    layer = RNN(units, units, nonlinearity="relu")
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.zero_()
            if name.startswith("weight_hh"):
                p.copy_(factor * torch.eye(units))
            if name.startswith("bias_ih"):
                p.fill_(1.0)
    return traced(layer)[0].layers[0]


@pytest.mark.parametrize("units", [2, 70])  # all rows of the identity; random ones
def test_the_horizon_of_a_known_decay(units):
    found = memory(relu(units, 0.5))
    close(found.left, 0.5 ** np.arange(6), 1e-15)
    assert found.horizons.tolist() == [4, np.inf]  # 0.5^4 < 0.1; the other sequence has four steps
    assert memory(relu(units, 0.3)).horizon == 2
    assert memory(relu(units, 1.0)).horizon == np.inf


def test_memory_refuses_what_is_not_finite():
    with pytest.raises(DataError, match="not finite"):
        memory(relu(2, np.nan))


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
