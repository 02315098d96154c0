"""Prepared layers beside those for PyTorch, there and back: the same bits, and their weights as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime_cases import (
    LENGTHS,
    OFFSETS,
    assert_same_bits,
    flat,
    normal,
    of_padded,
    random_weights,
    states_of,
    upstream_of,
)
from timelike import nn
from timelike.runtime import Recurrent

CLASSES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("layout", ["time major", "batch first", "lengths", "ragged", "alone", "strided"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CLASSES)
def test_it_has_the_bits_of_the_layers_for_pytorch(cell, layers, bidirectional, layout, with_state):
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": layout == "batch first"}
    torch.manual_seed(1)
    module = CLASSES[cell](5, 9, **options)
    session = Recurrent.from_module(module)
    x, call, mask, B = normal(7, 6, 5), {}, None, 7 if layout == "batch first" else 6
    theirs = torch.from_numpy(x)
    if layout == "lengths":
        call["lengths"] = LENGTHS
        mask = torch.arange(7)[:, None] < torch.tensor(LENGTHS)
    elif layout == "ragged":
        x, call["offsets"] = of_padded(x), OFFSETS
        theirs = nn.Ragged(torch.from_numpy(x), torch.tensor(OFFSETS))
    elif layout == "alone":
        x, theirs, B = x[:, 0], theirs[:, 0], None
    elif layout == "strided":
        wide = normal(7, 6, 11)
        x, theirs = wide[..., 2:7], torch.from_numpy(wide)[..., 2:7]
    state = states_of(session, B) if with_state else None
    hx = None
    if with_state:
        tensors = tuple(map(torch.from_numpy, flat(state)))
        hx = tensors if len(tensors) == 2 else tensors[0]
    (y, last), pullback = session.vjp(x, state=state, **call)
    (their_y, _), their_pullback = module.vjp(theirs, hx, mask=mask)
    assert_same_bits(y, (their_y.values if layout == "ragged" else their_y).numpy())
    dy, d_last = upstream_of(y, last)
    d = torch.from_numpy(dy)
    d_states = tuple(map(torch.from_numpy, flat(d_last)))
    expected = their_pullback(
        nn.Ragged(d, torch.tensor(OFFSETS)) if layout == "ragged" else d,
        d_states if len(d_states) == 2 else d_states[0],
    )
    got = pullback(dy, d_last)
    assert_same_bits(got.x, (expected.input.values if layout == "ragged" else expected.input).numpy())
    for a, b in zip(
        flat(got.state) if with_state else (), flat(expected.hx) if with_state else (), strict=True
    ):
        assert_same_bits(a, b.numpy())
    assert got.weights.keys() == expected.parameters.keys()
    for name, gradient in got.weights.items():
        assert_same_bits(gradient, expected.parameters[name].numpy())


def test_weights_may_be_tensors():
    weights, x = random_weights("gru", 5, 9), normal(7, 5)
    session = Recurrent({name: torch.zeros(values.shape) for name, values in weights.items()}, "gru")
    session.update({name: torch.from_numpy(values).requires_grad_() for name, values in weights.items()})
    assert_same_bits(session.run(x)[0], Recurrent(weights, "gru").run(x)[0])
    with pytest.raises(TypeError, match=r"^bias_ih_l0: ndarray of float64, expected"):
        session.update(weights | {"bias_ih_l0": torch.from_numpy(np.zeros(27))})
