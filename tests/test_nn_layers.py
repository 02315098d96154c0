"""timelike.nn in place of torch.nn: the same values, gradients, parameters, states and layouts.

What torch does not have is held to the reference.
"""

import inspect
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import timelike.nn
from layer_cases import (
    F32,
    F64,
    IN_TORCH,
    KINDS,
    assert_close,
    assert_same_bits,
    by_reference,
    everything,
    flat,
    layer,
    leaf,
    normal,
    offsets_of,
    pair,
    state_sizes,
    states,
    torch_layer,
)
from timelike.composition import composition
from timelike.nn import GRU, LSTM, RNN, Ragged

LENGTHS = [5, 2, 5, 1]
T, B, D, H = 5, 4, 3, 6
LAYOUTS = ("time_major", "batch_first", "unbatched", "packed_sorted", "packed_unsorted")


def case(kind, layout, *, num_layers=1, bidirectional=False, with_hx=False, dtype=F64, seed=3):
    """Input and initial states of a layout, as fresh leaves."""
    axes = (num_layers * (1 + bidirectional), *(() if layout == "unbatched" else (B,)))
    hx = states(kind, *axes, H=H, dtype=dtype) if with_hx else None
    shape = {"batch_first": (B, T, D), "unbatched": (T, D)}.get(layout, (T, B, D))
    x = normal(*shape, seed=seed, dtype=dtype)
    if layout.startswith("packed"):
        ordered = layout == "packed_sorted"
        lengths = sorted(LENGTHS, reverse=True) if ordered else LENGTHS
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)
        return packed._replace(data=leaf(packed.data)), hx
    return leaf(x), hx


STACKS = [(1, False), (1, True), (3, False), (2, True)]
GRID = list(itertools.product(IN_TORCH, STACKS, (True, False), LAYOUTS, (False, True)))


@pytest.mark.parametrize(("kind", "stack", "bias", "layout", "with_hx"), GRID)
def test_equals_torch_in_float64(kind, stack, bias, layout, with_hx):
    num_layers, both = stack
    theirs, ours = pair(
        D, H, num_layers, bias=bias, batch_first=layout == "batch_first", bidirectional=both, kind=kind
    )
    options = {"num_layers": num_layers, "bidirectional": both, "with_hx": with_hx}
    got, expected = (everything(module, *case(kind, layout, **options)) for module in (ours, theirs))
    assert_close(got, expected)


def larger_errors(got, others, reference, n):
    """Names of what errs by more than twice as much as the other."""
    # torch's error is one draw of a random walk and may be small by luck: half a unit in the last place for
    # each of the n additions of the longest sum, which add up as sqrt(n), is what any order of sums has.
    assert list(got) == list(reference)
    found = []
    for name, expected in reference.items():
        unit = torch.finfo(F32).eps * expected.abs().max()
        error, other_error = ((values[name] - expected).abs().max() for values in (got, others))
        if not error <= 2 * other_error + 0.5 * math.sqrt(n) * unit:
            found.append(f"{name}: {error / unit:.1f} units, torch {other_error / unit:.1f}")
    return found


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch of itself
@pytest.mark.parametrize(("kind", "stack", "bias", "layout", "with_hx"), GRID)
def test_float32_errs_at_most_twice_as_much_as_torch(kind, stack, bias, layout, with_hx):
    num_layers, both = stack
    arguments = {
        "num_layers": num_layers,
        "bias": bias,
        "batch_first": layout == "batch_first",
        "bidirectional": both,
    }
    options = {"num_layers": num_layers, "bidirectional": both, "with_hx": with_hx}
    theirs, ours = pair(D, H, kind=kind, dtype=F32, **arguments)
    exact = torch_layer(kind, D, H, **arguments)
    exact.load_state_dict(theirs.state_dict())
    # Rounding is blown up by chance where a network is badly conditioned, near the kink of a relu above all:
    # of 1,200 gradients of biases of two rnn_relu layers both we and torch erred by 0.7 units in the middle,
    # and at worst we by 15 and torch by 19. So one input of three may be such a one.
    seen = []
    for seed in (3, 4, 5):
        reference = everything(exact, *case(kind, layout, **options, seed=seed))
        got, by_torch = (
            everything(module, *case(kind, layout, **options, seed=seed, dtype=F32))
            for module in (ours, theirs)
        )
        seen.append(larger_errors(got, by_torch, reference, num_layers * (D + 2 * H + T * B)))
        if seen.count([]) == 2:
            return
    raise AssertionError(seen)


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", KINDS)
def test_ragged_batches_equal_the_reference(kind, stack, bias, with_hx):
    num_layers, both = stack
    lengths = [3, 0, 5, 1, 0, 5]
    module = layer(kind, D, H, num_layers, bias=bias, bidirectional=both)
    x = Ragged(leaf(normal(sum(lengths), D, seed=3)), offsets_of(lengths))
    hx = states(kind, num_layers * (1 + both), len(lengths), H=H) if with_hx else None
    assert_close(everything(module, x, hx), by_reference(kind, module, x, hx))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_errs_at_most_twice_as_much_as_torchs_operations(kind):
    lengths = [3, 0, 9, 1, 9]
    module = layer(kind, D, H, bidirectional=True, dtype=F32)
    x = Ragged(leaf(normal(sum(lengths), D, seed=3, dtype=F32)), offsets_of(lengths))
    hx = states(kind, 2, len(lengths), H=H, dtype=F32)

    class ByTorch(torch.nn.Module):
        def forward(self, x, hx):
            rows = timelike.kernels.Rows.ragged(x.offsets)
            h0, c0 = (*flat(hx), None)[:2]
            y, *last = composition(module._cell, rows, 2, x.values, h0, c0, *module.parameters())
            return y, tuple(s for s in last if s is not None)

        def named_parameters(self):
            return module.named_parameters()

    reference = by_reference(kind, module, x, hx)
    found = everything(module, x, hx), everything(ByTorch(), x, hx)
    assert larger_errors(*found, reference, D + 2 * H + sum(lengths)) == []


def test_packed_sequences_come_back_as_they_came():
    theirs, ours = pair(D, H)
    x, _ = case("lstm", "packed_unsorted")
    expected, got = theirs(x)[0], ours(x)[0]
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(got, field), getattr(expected, field))
    assert ours(case("lstm", "packed_sorted")[0])[0].sorted_indices is None


@given(
    kind=st.sampled_from(IN_TORCH),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    D=st.integers(1, 20),
    H=st.integers(2, 20),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
)
def test_ragged_of_any_shape_equals_torch_sequence_by_sequence(
    kind, lengths, D, H, num_layers, bidirectional
):
    theirs, ours = pair(D, H, num_layers, bidirectional=bidirectional, kind=kind)
    hx = states(kind, num_layers * (1 + bidirectional), len(lengths), H=H)
    x = normal(sum(lengths), D, seed=3)
    with torch.no_grad():
        output, last = ours(Ragged(x, offsets_of(lengths)), hx)
        assert output.values.shape == (sum(lengths), state_sizes(kind, H)[0] * (1 + bidirectional))
        for b, (steps, start) in enumerate(zip(lengths, offsets_of(lengths).tolist(), strict=False)):
            mine = [s[:, b] for s in flat(hx)]
            if steps == 0:
                for got, expected in zip(flat(last), mine, strict=True):
                    assert torch.equal(got[:, b], expected)
                continue
            y, alone = theirs(x[start : start + steps], tuple(mine) if len(mine) == 2 else mine[0])
            got = {
                "y": output.values[start : start + steps],
                **{str(k): s[:, b] for k, s in enumerate(flat(last))},
            }
            assert_close(got, {"y": y, **{str(k): s for k, s in enumerate(flat(alone))}})


@given(
    kind=st.sampled_from(IN_TORCH),
    T=st.integers(1, 9),
    B=st.integers(1, 60),
    D=st.integers(1, 20),
    H=st.integers(2, 20),
    both=st.booleans(),
)
def test_padded_of_any_shape_equals_torch(kind, T, B, D, H, both):
    theirs, ours = pair(D, H, bidirectional=both, kind=kind)
    results = [everything(module, leaf(normal(T, B, D, seed=1))) for module in (ours, theirs)]
    assert_close(*results)


@pytest.mark.parametrize("kind", IN_TORCH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_draws_what_torch_draws(layout, kind):
    theirs, ours = pair(
        D, H, 3, batch_first=layout == "batch_first", dropout=0.4, bidirectional=True, kind=kind
    )
    results = []
    for module in (ours, theirs):
        torch.manual_seed(5)
        results.append(everything(module, case(kind, layout)[0]))
    assert_close(*results)


def test_dropout_is_drawn_anew_in_training_and_absent_otherwise():
    theirs, ours = pair(D, H, 3, dropout=0.4)
    x, _ = case("lstm", "time_major")
    assert not torch.equal(ours(x)[0], ours(x)[0])
    assert_close(everything(ours.eval(), x), everything(theirs.eval(), x))
    assert torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("kind", IN_TORCH)
def test_parameters_are_torchs(kind, bidirectional, bias, dtype):
    arguments = {"num_layers": 2, "bias": bias, "bidirectional": bidirectional, "dtype": dtype}
    theirs, ours = (make(kind, D, H, **arguments) for make in (torch_layer, layer))  # drawn from one seed
    named = list(zip(theirs.named_parameters(), ours.named_parameters(), strict=True))
    assert all(n == m and torch.equal(p, q) and q.requires_grad for (n, p), (m, q) in named)
    assert ours._all_weights == theirs._all_weights
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    torch.manual_seed(4)
    fresh = layer(kind, D, H, **arguments)
    for p in fresh.parameters():
        torch.nn.init.zeros_(p)
    fresh.load_state_dict(theirs.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), theirs.parameters(), strict=True))
    for p in ours.parameters():
        p.data.add_(1.0)
    theirs.load_state_dict(ours.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours(normal(1, 1, D, seed=1, dtype=dtype))  # what is packed for the kernels is no state
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("lstm_peephole", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole"]),
        ("lstm_coupled", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]),
        ("gru_reset_before", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]),
        ("gru_single_bias", ["weight_ih", "weight_hh", "bias_ih"]),
    ],
)
def test_parameters_that_torch_does_not_have(kind, names):
    module = layer(kind, D, H, 2, bidirectional=True)
    expected = [name + end for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse") for name in names]
    assert [name for name, _ in module.named_parameters()] == expected
    assert [len(weights) for weights in module.all_weights] == [len(names)] * 4
    bound = 1 / math.sqrt(H)
    assert all(p.abs().max() <= bound and p.abs().max() > 0.5 * bound for p in module.parameters())


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU])
def test_arguments_are_torchs_in_their_order(ours):
    theirs = getattr(torch.nn, ours.__name__)
    # torch's own __init__ is (*args, **kwargs); the names and their order are those of its attributes.
    order = {
        "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional",
        "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size",
        "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional",
    }[ours.__name__].split()
    given = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "nonlinearity": "relu", "bias": False}
    given |= {"batch_first": True, "dropout": 0.5, "bidirectional": True, "proj_size": 2}
    by_position = [kind(*(given[name] for name in order)) for kind in (theirs, ours)]
    by_name = [kind(**{name: given[name] for name in order}) for kind in (theirs, ours)]
    for module in (*by_position, *by_name):
        assert {name: getattr(module, name) for name in order} == {name: given[name] for name in order}
        assert module.mode == by_position[0].mode
        assert repr(module) == repr(by_position[0])
    defaults = {p.name: p.default for p in inspect.signature(ours).parameters.values() if p.name in order[2:]}
    assert defaults == {name: getattr(theirs(3, 4), name) for name in order[2:]}


@pytest.mark.parametrize("kind", IN_TORCH)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_layers": 2, "dropout": 0.25}, {"bias": False, "batch_first": True}, {"bidirectional": True}],
)
def test_repr_is_torchs(kind, arguments):
    assert repr(layer(kind, 3, 4, **arguments)) == repr(torch_layer(kind, 3, 4, **arguments))


def test_repr_names_what_torch_does_not_have():
    assert repr(LSTM(3, 4, peephole=True)) == "LSTM(3, 4, peephole=True)"
    assert repr(LSTM(3, 4, coupled=True)) == "LSTM(3, 4, coupled=True)"
    assert (
        repr(GRU(3, 4, reset_after=False, inner_bias=False))
        == "GRU(3, 4, reset_after=False, inner_bias=False)"
    )


@pytest.mark.parametrize("made", [RNN, LSTM, GRU])
def test_dropout_without_a_second_layer_warns_where_it_is_asked_for(made):
    with pytest.warns(UserWarning, match="num_layers greater than 1") as caught:
        made(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert made(3, 4, dropout=0.5).dropout == 0.5


@pytest.mark.parametrize("kind", IN_TORCH)
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.cat([x, x], dim=2)[..., :D],
        lambda x: x.repeat_interleave(2, dim=2)[..., ::2],
        lambda x: x.repeat_interleave(2, dim=0)[::2],
        lambda x: torch.cat([x, x], dim=0)[T:],
        lambda x: torch.cat([x, x], dim=1)[:, B:],
        lambda x: x.flip(0).flip(0),
        lambda x: torch._neg_view(-x),
    ],
    ids=["transposed", "columns of wider", "strided columns", "strided steps", "later steps",
         "some of the batch", "flipped", "negated view"],
)  # fmt: skip
def test_memory_layout_of_the_input_changes_no_bit(arrange, kind):
    _, ours = pair(D, H, bidirectional=True, kind=kind)
    results = []
    for arranged in (lambda x: x, arrange):
        x = leaf(normal(T, B, D, seed=1))
        given = arranged(x)
        assert torch.equal(given, x)
        y, last = ours(given)
        assert y.is_contiguous()
        leaves = (x, *ours.parameters())
        gradients = torch.autograd.grad(
            (y, *flat(last)), leaves, [normal(*t.shape, seed=5) for t in (y, *flat(last))]
        )
        results.append((y.detach(), *(s.detach() for s in flat(last)), *gradients))
    for got, expected in zip(*results, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_input_that_is_the_same_for_the_whole_batch_may_be_expanded(batch_first):
    _, ours = pair(D, H, batch_first=batch_first)
    results = []
    for arranged in (torch.Tensor.contiguous, lambda x: x):
        x = leaf(normal(1, T, D, seed=1) if batch_first else normal(T, 1, D, seed=1))
        y, _ = ours(arranged(x.expand(B, T, D) if batch_first else x.expand(T, B, D)))
        results.append(
            (y.detach(), *torch.autograd.grad(y, (x, *ours.parameters()), normal(*y.shape, seed=2)))
        )
    for got, expected in zip(*results, strict=True):
        assert_same_bits(got, expected)


def test_columns_of_a_wider_tensor_are_not_copied():
    _, ours = pair(D, H)
    wide = normal(T, B, D + 4, seed=1)
    for x in (wide[..., :D], wide[..., 2 : D + 2], wide[1:, :, :D], wide.view(T * B, -1)[:, :D]):
        y, _ = ours(x)
        assert any(t is not None and t.data_ptr() == x.data_ptr() for t in y.grad_fn.saved_tensors)
        assert_same_bits(y, ours(x.contiguous())[0])


@pytest.mark.parametrize("kind", IN_TORCH)
def test_initial_states_may_be_expanded(kind):
    results = []
    for module in pair(D, H, kind=kind):
        starts = flat(states(kind, 1, 1, H=H))
        hx = tuple(s.expand(1, B, -1) for s in starts)
        y, last = module(normal(T, B, D, seed=1), hx if len(hx) == 2 else hx[0])
        loss = (y * normal(*y.shape, seed=3)).sum() + sum(s.sum() for s in flat(last))
        gradients = torch.autograd.grad(loss, starts)
        results.append({str(k): t for k, t in enumerate((y, *flat(last), *gradients))})
    assert_close(results[1], results[0])


@pytest.mark.parametrize("recompute", [True, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("rnn")])
def test_recomputing_changes_no_result(kind, recompute):
    found = []
    for option in (False, recompute):
        module = layer(kind, D, H, 2, bidirectional=True, recompute=option)
        x = Ragged(leaf(normal(14, D, seed=3)), offsets_of([3, 0, 9, 2]))
        found.append(everything(module, x, states(kind, 4, 4, H=H)))
    for name in ("y", "h_n"):
        assert_same_bits(found[1][name], found[0][name], name)
    assert_close(found[1], found[0])
    assert f"recompute={recompute}" in repr(module)


@pytest.mark.parametrize("recompute", [-1, 2.5, "yes", None])
def test_recompute_is_a_bool_or_a_number_of_steps(recompute):
    with pytest.raises(ValueError, match="recompute should be a bool or a positive number of steps"):
        GRU(3, 4, recompute=recompute)


def test_flatten_parameters_does_nothing():
    _, ours = pair(D, H)
    before = [p.data_ptr() for p in ours.parameters()]
    assert ours.flatten_parameters() is None
    assert [p.data_ptr() for p in ours.parameters()] == before
