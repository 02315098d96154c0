"""timelike.nn.LSTM against torch.nn.LSTM: values, gradients, states, layouts, parameters."""

import itertools

import pytest
import torch

from timelike.nn import LSTM

F64 = torch.float64


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "bias", "batch_first"),
    list(itertools.product((1, 2, 3), (False, True), (True, False), (False, True))),
)
def test_padded_batch_equals_torch(num_layers, bidirectional, bias, batch_first):
    arguments = (3, 5, num_layers, bias, batch_first, 0.0, bidirectional)
    torch.manual_seed(1)
    theirs = torch.nn.LSTM(*arguments, dtype=F64)
    torch.manual_seed(1)
    ours = LSTM(*arguments, dtype=F64)
    x = torch.randn(4, 6, 3, dtype=F64, requires_grad=True)
    results = []
    for lstm in (theirs, ours):
        y, (h, c) = lstm(x)
        torch.manual_seed(2)
        upstream = [torch.randn(t.shape, dtype=F64) for t in (y, h, c)]
        gradients = torch.autograd.grad((y, h, c), (x, *lstm.parameters()), upstream)
        results.append((y, h, c, *gradients))
    for expected, got in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()
