"""Diagnosis: each finding fires on a network built to have it, and on no healthy one."""

from __future__ import annotations

import pytest
import torch

import timelike
from timelike.inspect.diagnosis import diagnose
from timelike.nn import GRU, LSTM, RNN


def diagnosed(module):
    torch.manual_seed(2)
    return diagnose(timelike.trace(module, torch.randn(12, 5, module.input_size)))


def kinds(module):
    return {finding.kind for finding in diagnosed(module).findings}


def rnn(factor, bias=1.0):
    torch.manual_seed(4)
    layer = RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_ih_l0.mul_(0.1)
        layer.weight_hh_l0.copy_(factor * torch.eye(4))
        layer.bias_ih_l0.fill_(bias)
        layer.bias_hh_l0.zero_()
    return layer


def lstm(forget_bias, factor=1.0):
    torch.manual_seed(4)
    layer = LSTM(3, 4)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(factor)
        layer.bias_ih_l0[4:8] = forget_bias
        layer.bias_hh_l0[4:8] = 0
    return layer


def test_a_healthy_network_is_told_so():
    for layer in (lstm(2.0), rnn(0.95)):
        found = diagnosed(layer)
        assert found.healthy
        assert str(found).startswith("Healthy")


def test_vanishing_and_exploding():
    assert kinds(rnn(0.1)) == {"vanishing"}
    assert kinds(rnn(2.0)) == {"exploding"}
    found = diagnosed(rnn(0.1)).findings[0]
    assert found.evidence == {"horizon": 2.0, "length": 12.0}  # 0.1 in float32 is a little above a tenth
    assert "LSTM" in found.proposal
    assert diagnosed(rnn(2.0)).findings[0].evidence["growth"] == pytest.approx(2.0**11, rel=1e-12)


def test_forget_bias():
    assert {"forgets", "vanishing"} <= kinds(lstm(-3.0))
    assert diagnosed(lstm(5.0)).healthy  # open at every step: what a bias of log T is to give


def test_saturated_by_huge_weights():
    found = [f.text for f in diagnosed(lstm(2.0, factor=100.0)).findings if f.kind == "saturated"]
    assert {letter for letter in "ifgo" if any(f"gate {letter} " in text for text in found)} == set("ifgo")


def test_dead_rectifiers():
    found = [f for f in diagnosed(rnn(0.95, bias=-100.0)).findings if f.kind == "dead"]
    assert [f.evidence for f in found] == [{"units": 4.0}]
    assert kinds(rnn(0.95, bias=-100.0)) == {"dead"}  # there is no memory to speak of


def test_a_gru_is_told_of_its_own_gate():
    torch.manual_seed(4)
    layer = GRU(3, 4)
    with torch.no_grad():
        layer.bias_ih_l0[4:8] = -4.0
    found = {f.kind: f.proposal for f in diagnosed(layer).findings}
    assert "update gate" in found["vanishing"]


def test_what_is_not_finite_is_said_first():
    assert kinds(rnn(float("nan"))) == {"overflow"}
