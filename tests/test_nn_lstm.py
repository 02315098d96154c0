"""timelike.nn.LSTM in place of torch.nn.LSTM: the same values, gradients, parameters, states and layouts."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_cases import F32, F64, assert_close, assert_same_bits, everything, leaf, normal, offsets_of, pair
from timelike.nn import LSTM, Ragged

LENGTHS = [5, 2, 5, 1]
T, B, D, H = 5, 4, 3, 6
LAYOUTS = ("time_major", "batch_first", "unbatched", "packed_sorted", "packed_unsorted")


def case(layout, *, num_layers, bidirectional, with_hx, dtype, seed=0):
    """Input and initial states of a layout, as fresh leaves."""
    layers = num_layers * (1 + bidirectional)
    states = (layers, H) if layout == "unbatched" else (layers, B, H)
    hx = tuple(leaf(normal(*states, seed=seed + k, dtype=dtype)) for k in (1, 2)) if with_hx else None
    shape = {"batch_first": (B, T, D), "unbatched": (T, D)}.get(layout, (T, B, D))
    x = normal(*shape, seed=seed + 3, dtype=dtype)
    if layout.startswith("packed"):
        ordered = layout == "packed_sorted"
        lengths = sorted(LENGTHS, reverse=True) if ordered else LENGTHS
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)
        return packed._replace(data=leaf(packed.data)), hx
    return leaf(x), hx


GRID = list(itertools.product((1, 2, 3), (False, True), (True, False), LAYOUTS, (False, True)))


@pytest.mark.parametrize(("num_layers", "bidirectional", "bias", "layout", "with_hx"), GRID)
def test_equals_torch_in_float64(num_layers, bidirectional, bias, layout, with_hx):
    theirs, ours = pair(D, H, num_layers, bias, layout == "batch_first", bidirectional=bidirectional)
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "with_hx": with_hx, "dtype": F64}
    assert_close(everything(ours, *case(layout, **options)), everything(theirs, *case(layout, **options)))


@pytest.mark.parametrize(("num_layers", "bidirectional", "bias", "layout", "with_hx"), GRID)
def test_float32_errs_at_most_twice_as_much_as_torch(num_layers, bidirectional, bias, layout, with_hx):
    arguments = (D, H, num_layers, bias, layout == "batch_first")
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "with_hx": with_hx}
    theirs, ours = pair(*arguments, bidirectional=bidirectional, dtype=F32)
    exact, _ = pair(*arguments, bidirectional=bidirectional)
    exact.load_state_dict(theirs.state_dict())
    reference = everything(exact, *case(layout, **options, dtype=F64))
    got = everything(ours, *case(layout, **options, dtype=F32))
    by_torch = everything(theirs, *case(layout, **options, dtype=F32))
    # torch's error is one draw of a random walk and may be small by luck: half a unit in the last place for
    # each of the n additions of the longest sum, which add up as sqrt(n), is what any order of sums has.
    n = num_layers * (D + 2 * H + T * B)
    for name, expected in reference.items():
        unit = torch.finfo(F32).eps * expected.abs().max()
        error, torch_error = ((found[name] - expected).abs().max() for found in (got, by_torch))
        assert error <= 2 * torch_error + 0.5 * math.sqrt(n) * unit, name


def test_packed_sequences_come_back_as_they_came():
    theirs, ours = pair(D, H)
    x, _ = case("packed_unsorted", num_layers=1, bidirectional=False, with_hx=False, dtype=F64)
    expected, got = theirs(x)[0], ours(x)[0]
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(got, field), getattr(expected, field))
    x, _ = case("packed_sorted", num_layers=1, bidirectional=False, with_hx=False, dtype=F64)
    assert ours(x)[0].sorted_indices is None


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    D=st.integers(1, 20),
    H=st.integers(1, 20),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
)
def test_ragged_of_any_shape_equals_torch_sequence_by_sequence(lengths, D, H, num_layers, bidirectional):
    theirs, ours = pair(D, H, num_layers, bidirectional=bidirectional)
    layers = num_layers * (1 + bidirectional)
    h0, c0 = normal(layers, len(lengths), H, seed=1), normal(layers, len(lengths), H, seed=2)
    x = normal(sum(lengths), D, seed=3)
    with torch.no_grad():
        output, (h_n, c_n) = ours(Ragged(x, offsets_of(lengths)), (h0, c0))
        assert output.values.shape == (sum(lengths), H * (1 + bidirectional))
        for b, (steps, start) in enumerate(zip(lengths, offsets_of(lengths).tolist(), strict=False)):
            if steps == 0:
                assert torch.equal(h_n[:, b], h0[:, b])
                assert torch.equal(c_n[:, b], c0[:, b])
                continue
            y, (h, c) = theirs(x[start : start + steps], (h0[:, b], c0[:, b]))
            got = {"y": output.values[start : start + steps], "h_n": h_n[:, b], "c_n": c_n[:, b]}
            assert_close(got, {"y": y, "h_n": h, "c_n": c})


@given(
    T=st.integers(1, 9), B=st.integers(0, 60), D=st.integers(1, 20), H=st.integers(1, 20), both=st.booleans()
)
def test_padded_of_any_shape_equals_torch(T, B, D, H, both):
    theirs, ours = pair(D, H, bidirectional=both)
    results = [everything(lstm, leaf(normal(T, B, D, seed=1))) for lstm in (ours, theirs)]
    assert_close(*results)


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_what_torch_draws(packed):
    theirs, ours = pair(D, H, 3, dropout=0.4)
    results = []
    for lstm in (ours, theirs):
        x, _ = case("packed_unsorted" if packed else "time_major", num_layers=3, bidirectional=False,
                    with_hx=False, dtype=F64)  # fmt: skip
        torch.manual_seed(5)
        results.append(everything(lstm, x))
    assert_close(*results)
    x, _ = case("time_major", num_layers=3, bidirectional=False, with_hx=False, dtype=F64)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    assert_close(everything(ours.eval(), x), everything(theirs.eval(), x))
    assert torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_parameters_are_torchs(bidirectional, bias, dtype):
    arguments = {"num_layers": 2, "bias": bias, "bidirectional": bidirectional, "dtype": dtype}
    layers = []
    for kind in (torch.nn.LSTM, LSTM):
        torch.manual_seed(3)
        layers.append(kind(D, H, **arguments))
    theirs, ours = layers
    named = list(zip(theirs.named_parameters(), ours.named_parameters(), strict=True))
    assert all(n == m and torch.equal(p, q) and q.requires_grad for (n, p), (m, q) in named)
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    torch.manual_seed(4)
    fresh = LSTM(D, H, **arguments)
    fresh.load_state_dict(theirs.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), theirs.parameters(), strict=True))
    theirs.load_state_dict(LSTM(D, H, **arguments).state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours(normal(1, 1, D, seed=1, dtype=dtype))  # what is packed for the kernels is no state
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 2, "dropout": 0.25},
        {"bias": False, "batch_first": True},
        {"num_layers": 3, "bidirectional": True},
    ],
)
def test_repr_is_torchs(arguments):
    assert repr(LSTM(3, 4, **arguments)) == repr(torch.nn.LSTM(3, 4, **arguments))


def test_dropout_without_a_second_layer_warns_where_it_is_asked_for():
    with pytest.warns(UserWarning, match="num_layers greater than 1") as caught:
        LSTM(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert LSTM(3, 4, dropout=0.5).dropout == 0.5


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.cat([x, x], dim=2)[..., :D],
        lambda x: x.repeat_interleave(2, dim=2)[..., ::2],
        lambda x: x.repeat_interleave(2, dim=0)[::2],
        lambda x: x.flip(0).flip(0),
        lambda x: torch._neg_view(-x),
    ],
    ids=["transposed", "columns of wider", "strided columns", "strided steps", "flipped", "negated view"],
)
def test_memory_layout_of_the_input_changes_no_bit(arrange):
    _, ours = pair(D, H, bidirectional=True)
    x = normal(T, B, D, seed=1)
    y, (h, c) = ours(x)
    got_y, (got_h, got_c) = ours(arrange(x))
    assert torch.equal(arrange(x), x)
    for got, expected in ((got_y, y), (got_h, h), (got_c, c)):
        assert_same_bits(got, expected)
    assert got_y.is_contiguous()


def test_initial_states_may_be_expanded():
    theirs, ours = pair(D, H)
    x, learned = normal(T, B, D, seed=1), normal(1, 1, H, seed=2)
    results = []
    for lstm in (ours, theirs):
        start = leaf(learned)
        y, (h, c) = lstm(x, (start.expand(1, B, H), start.expand(1, B, H)))
        (gradient,) = torch.autograd.grad((y * normal(T, B, H, seed=3)).sum() + c.sum(), start)
        results.append({"y": y, "h": h, "c": c, "dstart": gradient})
    assert_close(*results)


def test_flatten_parameters_does_nothing():
    _, ours = pair(D, H)
    before = [p.data_ptr() for p in ours.parameters()]
    assert ours.flatten_parameters() is None
    assert [p.data_ptr() for p in ours.parameters()] == before
