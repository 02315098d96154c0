"""Truncated backpropagation: windows with the gradient passed on give what the whole sequence gives."""

import pytest
import torch

from timelike.nn import GRU, LSTM, RNN, Ragged, windows

D, H, T, B = 3, 4, 11, 2
F64 = torch.float64
LAYERS = {
    "rnn": lambda **o: RNN(D, H, dtype=F64, **o),
    "lstm": lambda **o: LSTM(D, H, 2, dtype=F64, **o),
    "projection": lambda **o: LSTM(D, H, proj_size=2, dtype=F64, **o),
    "gru": lambda **o: GRU(D, H, dtype=F64, **o),
}
INPUTS = {
    "time major": lambda x: x,
    "batch first": lambda x: x.transpose(0, 1),
    "unbatched": lambda x: x[:, 0],
    "ragged": lambda x: Ragged(x.flatten(0, 1), torch.tensor([0, 4, 4, 15, 22])),
}


def case(layer, layout):
    torch.manual_seed(1)
    module = LAYERS[layer](batch_first=layout == "batch first")
    x = torch.randn(T, B, D, dtype=F64, requires_grad=True)
    return module, x, INPUTS[layout](x)


def rows_of(outputs, layout):
    """All outputs as one, in the order of the whole batch."""
    if layout != "ragged":
        return torch.cat(outputs, 1 if layout == "batch first" else 0)
    parts = [torch.split(y, offsets.diff().tolist()) for y, offsets in outputs]
    return torch.cat([part for sequence in zip(*parts, strict=True) for part in sequence])


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_windows_that_pass_gradients_on_give_the_whole_gradient(layer, layout, size):
    module, x, batch = case(layer, layout)
    y, last = module(batch)
    y = y.values if isinstance(y, Ragged) else y
    outputs, states = zip(*windows(module, batch, size, cut=False), strict=True)
    got = rows_of(outputs, layout)
    assert torch.equal(got, y)
    for a, b in zip(states[-1], last, strict=True):
        assert torch.equal(a, b)
    upstream, leaves = torch.randn_like(y), (x, *module.parameters())
    for g, e in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(y, leaves, upstream), strict=True
    ):
        assert (g - e).abs().max() <= 1e-13 * e.abs().max()


@pytest.mark.parametrize("layout", INPUTS)
def test_a_cut_stops_the_gradient_and_nothing_else(layout):
    module, x, batch = case("lstm", layout)
    for (y, _), (expected, _) in zip(
        windows(module, batch, 4), windows(module, batch, 4, cut=False), strict=True
    ):
        for a, b in zip(y, expected, strict=True):
            assert torch.equal(a, b)
    outputs = [y.values if isinstance(y, Ragged) else y for y, _ in windows(module, batch, 4)]
    (dx,) = torch.autograd.grad(outputs[1].sum(), x)
    first = INPUTS[layout](torch.arange(T * B, dtype=F64).view(T, B, 1).expand(T, B, D))
    seen = next(iter(windows(_Through(layout), first, 4)))[0]
    rows = (seen.values if isinstance(seen, Ragged) else seen)[..., 0].flatten().long()
    assert (dx.flatten(0, 1)[rows] == 0).all()  # the first window is out of reach of the second
    assert dx.abs().sum() > 0


class _Through:
    """A layer that gives back its input."""

    bidirectional = False

    def __init__(self, layout):
        self.batch_first = layout == "batch first"

    def __call__(self, x, hx):
        return x, torch.zeros(1)


def test_initial_states_are_taken():
    module, _, batch = case("gru", "time major")
    h0 = torch.randn(1, B, H, dtype=F64)
    assert torch.equal(next(windows(module, batch, 4, h0))[0], module(batch, h0)[0][:4])


def test_what_cannot_be_cut_is_refused():
    module, _, batch = case("lstm", "time major")
    with pytest.raises(ValueError, match="windows: got 0 steps; possible: 1 or more"):
        windows(module, batch, 0)
    with pytest.raises(ValueError, match="windows: the layer is bidirectional"):
        windows(LSTM(D, H, bidirectional=True), batch, 4)
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(3, D)])
    with pytest.raises(TypeError, match="windows: input is PackedSequence; possible: Tensor"):
        windows(module, packed, 4)
