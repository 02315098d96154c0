"""The layers under torch.compile and torch.export: one graph, with the bits of the layers themselves."""

import pytest
import torch

from timelike.cells import CELLS, parameter_shapes
from timelike.nn import GRU, LSTM, RNN, Ragged

D, H, R = 3, 4, 2
LAYERS = {
    "rnn": lambda: RNN(D, H),
    "relu, batch first": lambda: RNN(D, H, nonlinearity="relu", batch_first=True),
    "lstm, two layers, both directions": lambda: LSTM(D, H, 2, bidirectional=True),
    "projection": lambda: LSTM(D, H, proj_size=R),
    "peephole": lambda: LSTM(D, H, peephole=True),
    "coupled": lambda: LSTM(D, H, coupled=True),
    "gru": lambda: GRU(D, H, bias=False),
    "gru, reset before": lambda: GRU(D, H, reset_after=False),
    "gru, one bias": lambda: GRU(D, H, inner_bias=False),
    "recomputed": lambda: LSTM(D, H, recompute=True),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()  # there is a limit to how often one function is compiled


def outputs_and_gradients(run, layer, *inputs):
    output, last = run(*inputs)
    y = output.values if isinstance(output, Ragged) else output
    outputs = [y, *(last if isinstance(last, tuple) else (last,))]
    leaves = [*layer.parameters(), *[x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]]
    torch.manual_seed(2)
    upstream = [torch.randn_like(t) for t in outputs]
    return [t.detach() for t in outputs], torch.autograd.grad(outputs, leaves, upstream)


def assert_same_bits(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.isfinite().all()
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_gives_the_same_bits(name):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(5, 2, D, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_bits(outputs_and_gradients(compiled, layer, x), outputs_and_gradients(layer, layer, x))


def test_a_ragged_batch_in_one_graph():
    torch.manual_seed(1)
    layer, ragged = LSTM(D, H), Ragged(torch.randn(7, D), torch.tensor([0, 3, 3, 7]))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = outputs_and_gradients(compiled, layer, ragged)
    assert_same_bits(got, outputs_and_gradients(layer, layer, ragged))


def test_batches_of_other_sizes_in_one_dynamic_graph():
    torch.manual_seed(1)
    layer = LSTM(D, H)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, B in [(5, 3), (7, 2), (4, 6)]:
        x = torch.randn(T, B, D, requires_grad=True)
        assert_same_bits(outputs_and_gradients(compiled, layer, x), outputs_and_gradients(layer, layer, x))


@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_gives_the_same_bits(name):
    torch.manual_seed(1)
    layer, x = LAYERS[name](), torch.randn(5, 2, D)
    exported = torch.export.export(layer, (x,)).module()
    with torch.no_grad():
        assert torch.equal(exported(x)[0], layer(x)[0])


def test_recomputation_of_ragged_batches_is_refused_in_a_graph():
    layer, ragged = LSTM(D, H, recompute=True), Ragged(torch.randn(7, D), torch.tensor([0, 3, 3, 7]))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="recompute: not for ragged batches"):
        compiled(ragged)


@pytest.mark.parametrize(
    ("cell", "n_directions", "segment"), [("lstm", 2, 0), ("gru", 2, 0), *[(cell, 1, 2) for cell in CELLS]]
)
def test_the_operator_is_what_its_registrations_say(cell, n_directions, segment):
    torch.manual_seed(1)
    kind, f64 = CELLS[cell], torch.float64
    shapes = parameter_shapes(cell, D, H, proj_size=R if kind.has_projection else 0)
    weights = [torch.randn(s, dtype=f64, requires_grad=True) for s in [*shapes.values()] * n_directions]
    x = torch.randn(5, 2, D, dtype=f64, requires_grad=True)
    h0 = torch.randn(n_directions, 2, weights[1].shape[1], dtype=f64, requires_grad=True)
    c0 = torch.randn(n_directions, 2, H, dtype=f64, requires_grad=True) if kind.has_cell_state else None
    batch = (x, h0, c0, weights, None, "time_major", cell, n_directions, segment)
    torch.library.opcheck(torch.ops.timelike.layer.default, batch)


def test_the_operator_takes_ragged_batches():
    shapes = parameter_shapes("lstm", D, H).values()
    x, *weights = [torch.randn(s, requires_grad=True) for s in [(10, D), *shapes]]
    batch = (x, None, None, weights, torch.tensor([0, 3, 3, 10]), "ragged", "lstm", 1, 0)
    torch.library.opcheck(torch.ops.timelike.layer.default, batch)
