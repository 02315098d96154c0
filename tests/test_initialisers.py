"""Initial weights: their spread and limits for every gate, biases of 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from timelike.errors import ConfigError
from timelike.initialisers import INITIALISERS, initialise
from timelike.nn import GRU, LSTM, RNN

D, H = 60, 80


def gates(how: str, kind=LSTM, seed: int = 1) -> list[torch.Tensor]:
    """All gates' matrices of a layer, and the weights of a dense layer."""
    torch.manual_seed(seed)
    net = nn.ModuleList([kind(D, H, num_layers=2, bidirectional=True), nn.Linear(D, H)])
    initialise(net, how)
    found = []
    for name, p in net.named_parameters():
        if p.ndim == 1:
            assert not p.any(), name
        else:
            found += list(p.detach().split(H))
    return found


# name -> variance of n columns and m rows, limit in units of its root
SPREADS = {
    "gauss": (lambda n, m: 2 / n, None),
    "uniform": (lambda n, m: 2 / n / 3, math.sqrt(3)),
    # A normal distribution cut at 2 sigma has a variance of 0.77374 sigma^2.
    "xavier": (lambda n, m: 0.77374 * 6 / (n + m), 2 / math.sqrt(0.77374)),
    "xavier_uniform": (lambda n, m: 6 / (n + m) / 3, math.sqrt(3)),
}


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
@pytest.mark.parametrize("how", SPREADS)
def test_every_gate_has_its_spread(how: str, kind) -> None:
    variance, limit = SPREADS[how]
    for gate in gates(how, kind):
        m, n = gate.shape
        sigma = math.sqrt(variance(n, m))
        # At least 4,800 draws: the relative error of their spread is 1 % at most; 5 of them.
        assert abs(gate.std().item() / sigma - 1) < 0.05
        assert abs(gate.mean().item()) < 5 * sigma / math.sqrt(n * m)
        if limit is not None:
            assert gate.abs().max().item() <= limit * sigma * (1 + 1e-4)
            assert gate.abs().max().item() > 0.97 * limit * sigma
        else:
            assert gate.abs().max().item() > 3 * sigma


def test_identity_and_zero() -> None:
    for gate in gates("identity"):
        assert np.array_equal(gate.numpy(), np.eye(*gate.shape))
    assert not any(gate.any() for gate in gates("zero"))


def test_torchs_own_stay() -> None:
    torch.manual_seed(1)
    layer = LSTM(3, 4)
    before = [p.clone() for p in layer.parameters()]
    initialise(layer, "torch")
    assert all(map(torch.equal, before, layer.parameters()))


def test_the_seed_decides() -> None:
    first, again, other = (gates("xavier", seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_projections_and_peepholes() -> None:
    torch.manual_seed(1)
    projected, peephole = LSTM(D, H, proj_size=40), LSTM(D, H, peephole=True)
    initialise(projected, "xavier_uniform")
    initialise(peephole, "xavier_uniform")
    assert projected.weight_hr_l0.abs().max() <= math.sqrt(6 / (40 + H))
    assert projected.weight_hr_l0.abs().max() > 0.97 * math.sqrt(6 / (40 + H))
    assert not peephole.weight_peephole_l0.any()


def test_what_is_not_there_is_refused() -> None:
    assert "glorot" not in INITIALISERS
    with pytest.raises(ConfigError, match="initialiser 'xavir': nearest: 'xavier'"):
        initialise(LSTM(2, 3), "xavir")
