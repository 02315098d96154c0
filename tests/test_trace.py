"""Traces against the reference: every number of every step, for all cells, layouts and directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import timelike
from kernel_cases import largest
from timelike import reference
from timelike.errors import ConfigError, DataError
from timelike.inspect import LayerTrace
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.recording import recording
from timelike.sequences import Sequences

LENGTHS = [5, 1, 0, 9, 4]
CELLS = {
    "rnn_tanh": lambda **how: RNN(3, 6, **how),
    "rnn_relu": lambda **how: RNN(3, 6, nonlinearity="relu", **how),
    "lstm": lambda **how: LSTM(3, 6, **how),
    "lstm_peephole": lambda **how: LSTM(3, 6, peephole=True, **how),
    "lstm_coupled": lambda **how: LSTM(3, 6, coupled=True, **how),
    "lstm_projected": lambda **how: LSTM(3, 6, proj_size=4, **how),
    "gru": lambda **how: GRU(3, 6, **how),
    "gru_single_bias": lambda **how: GRU(3, 6, inner_bias=False, **how),
    "gru_reset_before": lambda **how: GRU(3, 6, reset_after=False, **how),
}


def made(cell: str, dtype: torch.dtype = torch.float64, seed: int = 1, **how) -> nn.Module:
    torch.manual_seed(seed)
    layer = CELLS[cell](dtype=dtype, **how)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def batch(dtype: torch.dtype = torch.float64, seed: int = 2) -> Ragged:
    torch.manual_seed(seed)
    offsets = torch.tensor(np.concatenate([[0], np.cumsum(LENGTHS)]))
    return Ragged(torch.randn(sum(LENGTHS), 3, dtype=dtype), offsets)


class Random:
    """A loss with N(0, 1) gradients of every output: of all hidden states and of the last states."""

    def __init__(self, seed: int = 3) -> None:
        self.seed, self.upstream = seed, []

    def __call__(self, output) -> torch.Tensor:
        torch.manual_seed(self.seed)
        y, states = output
        y = y.values if isinstance(y, Ragged) else y
        outputs = [y, *(states if isinstance(states, tuple) else (states,))]
        self.upstream = [torch.randn_like(out) for out in outputs]
        return sum((out * d).sum() for out, d in zip(outputs, self.upstream, strict=True))


def judged(found: LayerTrace, loss: Random, k: int, n_directions: int) -> tuple:
    """The reference over the same layer, direction k."""
    R = found.h.shape[1]
    dy = loss.upstream[0].numpy().reshape(-1, n_directions * R)[:, k * R : (k + 1) * R]
    dhT, dcT = loss.upstream[1][k].numpy(), loss.upstream[2][k].numpy() if found.c is not None else None
    cell = found.cell
    if cell == "gru" and "b_hh" not in found.weights:
        cell = "gru_single_bias"
    run = reference.forward(cell, found.x, found.offsets, **found.weights, reverse=found.reverse)
    return run, reference.backward(cell, run, dy, dhT, dcT)


def close(name: str, got: np.ndarray, expected: np.ndarray, dtype: torch.dtype) -> None:
    # Sums of at most 9 steps of 3 + 6 products of numbers of order 1, and all that lies before them.
    bound = 100 * torch.finfo(dtype).eps * max(1.0, largest(expected))
    assert got.shape == expected.shape, name
    assert largest(got - expected) <= bound, f"{name}: {largest(got - expected):.2e} > {bound:.2e}"
    assert np.isfinite(got).all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_every_number_is_that_of_the_reference(cell, bidirectional, dtype):
    loss, layer = Random(), made(cell, dtype, bidirectional=bidirectional)
    trace = timelike.trace(layer, batch(dtype), loss=loss)
    assert [found.direction for found in trace.layers] == ["forward", "reverse"][: 1 + bidirectional]
    for k, found in enumerate(trace.layers):
        run, back = judged(found, loss, k, len(trace.layers))
        letters = run.cell.gates
        assert tuple(found.gates) == tuple(found.dgates) == tuple(found.dgate_values) == letters
        pairs = {"h": (found.h, run.y), "dh": (found.dh, back.dh), "dx": (found.dx, back.dx)}
        pairs["dh0"] = found.dh0, back.dh0
        if run.cell.has_cell_state:
            pairs |= {"c": (found.c, run.c), "dc": (found.dc, back.dc), "dc0": (found.dc0, back.dc0)}
        for name, got, expected in (
            ("gate", found.gates, run.gates),
            ("dgate", found.dgates, back.dgates),
            ("dgate value", found.dgate_values, back.dgate_values),
        ):
            blocks = np.split(expected, len(letters), axis=1)
            pairs |= {f"{name} {g}": (got[g], block) for g, block in zip(letters, blocks, strict=True)}
        pairs["h_prev"] = found.h_prev, np.array([step.h_prev for step in run.tape])
        for name, d in found.dweights.items():
            pairs[f"d{name}"] = d, getattr(back, f"d{name}")
        for name, (got, expected) in pairs.items():
            close(name, got, expected, dtype)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_contributions_of_the_steps_sum_up_to_the_gradients_of_the_weights(cell, bidirectional):
    trace = timelike.trace(made(cell, bidirectional=bidirectional), batch(), loss=Random())
    for found in trace.layers:
        norms = found.contribution_norms()
        assert norms.keys() == found.weights.keys() == found.dweights.keys()
        total = {name: np.zeros_like(d) for name, d in found.dweights.items()}
        for b, T in enumerate(LENGTHS):
            for name, steps in found.contributions(b).items():
                assert steps.shape == (T, *found.weights[name].shape)
                total[name] += steps.sum(axis=0)
                each = np.sqrt((steps**2).sum(axis=tuple(range(1, steps.ndim))))
                close(f"norm of d{name}", norms[name][found.rows(b)], each, torch.float64)
        for name, d in found.dweights.items():
            close(f"d{name}", total[name], d, torch.float64)
            assert largest(d) > 0.1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_stacked_layers_pass_gradients_down(cell):
    layer = made(cell, num_layers=3, bidirectional=True)
    x = batch()
    trace = timelike.trace(layer, x, loss=Random())
    names = [(found.name, found.direction) for found in trace.layers]
    assert names == [(f":{k}", d) for k in range(3) for d in ("forward", "reverse")]
    for below, above in ((0, 2), (2, 4)):
        ahead, back = trace[below], trace[below + 1]
        np.testing.assert_array_equal(trace[above].x, np.hstack([ahead.h, back.h]))
        dx = trace[above].dx + trace[above + 1].dx
        for part, d in ((ahead, dx[:, :6]), (back, dx[:, 6:])):
            assert largest((part.dh - d)[part.distance > 0]) > 0.1  # what comes from later steps
    values = x.values.clone().requires_grad_()
    Random()(layer(Ragged(values, x.offsets))).backward()
    close("dx", trace[0].dx + trace[1].dx, values.grad.numpy(), torch.float64)
    grads = {name: p.grad.numpy() for name, p in layer.named_parameters()}
    close("dW", trace[5].dweights["W"], grads["weight_ih_l2_reverse"], torch.float64)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "rnn_tanh"])
def test_all_layouts_give_the_same_trace(cell):
    layer, ragged = made(cell), batch()
    own = timelike.trace(layer, ragged)[0]
    parts = [ragged.values[own.rows(b)] for b in range(5)]
    mask = torch.zeros(9, 5, dtype=torch.bool)
    padded = torch.full((9, 5, 3), torch.nan, dtype=torch.float64)
    for b, part in enumerate(parts):
        padded[9 - len(part) :, b] = part
        mask[9 - len(part) :, b] = True
    sequences = Sequences(ragged.values.numpy(), ragged.offsets.numpy(), names=["a", "b", "c"])
    jagged = torch.nested.nested_tensor_from_jagged(ragged.values, ragged.offsets)
    for input, more in ((sequences, {}), (jagged, {}), (padded, {"mask": mask})):
        other = timelike.trace(layer, input, **more)[0]
        np.testing.assert_array_equal(other.offsets, own.offsets)
        for name, values in own.arrays().items():
            close(name, other.arrays()[name], values, torch.float64)
    packed = nn.utils.rnn.pack_sequence([parts[b] for b in (3, 0, 4, 1)])
    other = timelike.trace(layer, packed)[0]
    np.testing.assert_array_equal(other.lengths, [9, 5, 4, 1])
    close("dx", other.dx[:9], own.dx[own.rows(3)], torch.float64)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below, self.above, self.head = LSTM(3, 6), GRU(6, 5), nn.Linear(5, 1)

    def forward(self, ragged: Ragged) -> torch.Tensor:
        return self.head(self.above(self.below(ragged)[0])[1][-1])


def test_a_module_is_left_as_it_was_and_a_training_step_is_not_disturbed():
    torch.manual_seed(5)
    module, x = Tagger(), batch(torch.float32)
    trace = timelike.trace(module, x, loss=lambda out: (out**2).sum())
    assert [found.name for found in trace.layers] == ["below", "above"]
    assert all(p.grad is None for p in module.parameters())
    (module(x) ** 2).sum().backward()
    plain = {name: p.grad.clone() for name, p in module.named_parameters()}
    np.testing.assert_array_equal(trace["below"].dweights["W"], plain["below.weight_ih_l0"].numpy())
    np.testing.assert_array_equal(trace["above"].dweights["U"], plain["above.weight_hh_l0"].numpy())
    module.zero_grad()
    with recording() as kept:
        (module(x) ** 2).sum().backward()
    assert len(kept) == 2
    for name, p in module.named_parameters():
        assert torch.equal(p.grad, plain[name]), name


def test_frozen_layers_are_traced_too():
    module = Tagger().requires_grad_(False)
    trace = timelike.trace(module, batch(torch.float32), loss=lambda out: out.sum())
    assert largest(trace["below"].dweights["W"]) > 0
    assert largest(trace["below"].dx) > 0


def test_a_trace_stays_what_it_was_when_the_weights_change():
    layer, x = made("lstm_projected"), batch()
    trace, again = (timelike.trace(layer, x, loss=Random())[0] for _ in range(2))
    expected = {name: values.copy() for name, values in again.arrays().items()}
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1.0)
    for name, values in trace.arrays().items():  # some of them worked out only now
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_layer_that_runs_twice_has_two_names():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = made("rnn_tanh")

        def forward(self, ragged: Ragged) -> torch.Tensor:
            first = self.layer(ragged)[1]
            return (first * self.layer(Ragged(ragged.values.flip(0), ragged.offsets))[1]).sum()

    trace = timelike.trace(Twice(), batch(), loss=lambda out: out)
    assert [layer.name for layer in trace.layers] == ["layer", "layer#2"]
    assert len(trace.to_numpy()) == 2


def test_it_needs_no_graph_of_the_caller():
    layer, x = made("lstm"), batch()
    with torch.no_grad():
        found = timelike.trace(layer, x, loss=Random())[0].arrays()
    for name, values in timelike.trace(layer, x, loss=Random())[0].arrays().items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_outputs_that_were_changed_in_place_are_refused_as_without_a_record():
    def changed(output):
        return output[0].values.mul_(2).sum()

    layer, x = made("gru"), batch()
    for run in (lambda: timelike.trace(layer, x, loss=changed), lambda: changed(layer(x)).backward()):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run()


def test_recompute_is_traced_with_a_tape():
    layer, x = made("lstm", recompute=True), batch()
    plain = made("lstm")
    got, expected = (timelike.trace(one, x, loss=Random())[0].arrays() for one in (layer, plain))
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_out_of_it(tmp_path):
    ak, pq = pytest.importorskip("awkward"), pytest.importorskip("pyarrow.parquet")
    trace = timelike.trace(made("lstm", bidirectional=True), batch(), names=["pt", "eta", "phi"])
    assert list(trace.to_numpy()) == ["forward", "reverse"]
    own = trace[1].arrays()
    lists = trace.to_awkward()["reverse"]
    assert ak.num(lists["gate_f"], axis=1).tolist() == LENGTHS
    np.testing.assert_array_equal(ak.to_numpy(ak.flatten(lists["dgate_f"], axis=1)), own["dgate_f"])
    table = pq.read_table(trace.to_parquet(tmp_path / "trace.parquet"))
    assert table.num_rows == 2 * sum(LENGTHS)
    lines = [line for line in table.to_pylist() if line["direction"] == "reverse"]
    assert [line["step"] for line in lines[:6]] == [0, 1, 2, 3, 4, 0]
    assert [line["sequence"] for line in lines[5:7]] == [1, 3]
    np.testing.assert_array_equal([line["dh"] for line in lines], own["dh"])
    np.testing.assert_array_equal([line["norm_dW"] for line in lines], own["norm_dW"])


def test_to_xarray():
    pytest.importorskip("xarray")
    trace = timelike.trace(made("lstm_projected"), batch(), names=["pt", "eta", "phi"])
    data = trace.to_xarray()["forward"]
    assert data["gate_f"].dims == ("row", "unit")
    assert data["h"].dims == ("row", "state")
    assert data["norm_dW"].dims == ("row",)
    assert data["input"].values.tolist() == ["pt", "eta", "phi"]
    assert data["x"].sel(input="eta").values.tolist() == trace[0].x[:, 1].tolist()
    assert data["step"].values[:6].tolist() == [0, 1, 2, 3, 4, 0]


def test_wrong_use():
    layer, x = made("lstm"), batch()
    for wrong, message in (
        (lambda: timelike.trace(nn.Linear(3, 3), x), "Linear has no recurrent layer of timelike.nn"),
        (lambda: timelike.trace("model", x), "a str cannot be traced"),
        (lambda: timelike.trace(Tagger(), x), "Tagger: no loss was given"),
        (lambda: timelike.trace(layer, x, loss="top"), "loss 'top': a name stands for a class"),
        (lambda: timelike.trace(layer, x, loss=lambda out: out[0].values), "the loss gave a tensor of shape"),
        (lambda: timelike.trace(layer, x, loss=lambda out: 1.0), "the loss gave 1.0"),
        (lambda: timelike.trace(layer, x, names=["a"]), "1 names for 3 inputs: 'a'"),
        (lambda: timelike.trace(layer, x)["above"], "no layer 'above' in the trace"),
        (lambda: timelike.trace(layer, x)[1], "layer 1: the trace has the layers 0..0"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()
    for wrong, message in (
        (lambda: timelike.trace(layer, x)[0].rows(5), "sequence 5: the trace has the sequences 0..4"),
        (lambda: timelike.trace(layer, x, loss=lambda out: torch.zeros(())), "does not depend on the layers"),
    ):
        with pytest.raises(DataError, match=message):
            wrong()
