"""Layouts of a batch: neither they nor padding nor company change a bit of what is known of a sequence."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from layer_cases import (
    F32,
    F64,
    KINDS,
    assert_close,
    assert_same_bits,
    everything,
    flat,
    layer,
    leaf,
    new_memory_full_of_nan,
    normal,
    offsets_of,
    pair,
    state_sizes,
    states,
)
from timelike.nn import LSTM, Ragged
from timelike.sequences import Sequences

D, H = 5, 9
LENGTHS = [4, 7, 1, 4, 2]  # of the sequences that are followed through all kinds of company


def sequence(kind, b, dtype):
    """Sequence b, its states [4, H] and upstream gradients [T, 2 R], [4, H]: the same in any company."""
    steps = LENGTHS[b] if b < len(LENGTHS) else 1 + 5 * b % 11
    sizes = state_sizes(kind, H)
    data = normal(steps, D, seed=b, dtype=dtype)
    upstream = normal(steps, 2 * sizes[0], seed=200 + b, dtype=dtype)
    initial = [normal(4, size, seed=100 + 7 * b + k, dtype=dtype) for k, size in enumerate(sizes)]
    d_last = [normal(4, size, seed=300 + 7 * b + k, dtype=dtype) for k, size in enumerate(sizes)]
    return data, initial, upstream, d_last


def through(module, kind, members, layout, dtype):
    """Outputs and gradients of every member of a batch in a layout, one dict per member."""
    xs, initial, dys, d_lasts = zip(*(sequence(kind, b, dtype) for b in members), strict=True)
    lengths = [len(x) for x in xs]
    states = tuple(leaf(torch.stack(s, 1)) for s in zip(*initial, strict=True))
    hx = states if len(states) == 2 else states[0]
    x, dy = torch.cat(xs), torch.cat(dys)
    d_last = [torch.stack(d, 1) for d in zip(*d_lasts, strict=True)]
    if layout == "ragged":
        x = leaf(x)
        output, last = module(Ragged(x, offsets_of(lengths)), hx)
        y, steps = output.values, torch.arange(len(x)).split(lengths)
    elif layout == "packed":
        packed = pack_sequence(list(xs), enforce_sorted=False)
        x, dy = leaf(packed.data), pack_sequence(list(dys), enforce_sorted=False).data
        output, last = module(packed._replace(data=x), hx)
        y = output.data
        at = pack_sequence(
            list(torch.arange(sum(lengths)).split(lengths)), enforce_sorted=False
        ).data.argsort()
        steps = at.split(lengths)
    elif layout == "jagged":
        x = leaf(x)
        output, last = module(torch.nested.nested_tensor_from_jagged(x, offsets_of(lengths)), hx)
        y, steps = output.values(), torch.arange(len(x)).split(lengths)
    else:
        first = layout in ("batch_first", "left padded", "holes")
        T = max(lengths) + (layout == "holes")
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]  # [B, T]
        if layout == "left padded":
            mask = mask.flip(1)
        elif layout == "holes":  # the first step of every other sequence comes a step early
            for k in range(len(lengths)):
                mask[k, : lengths[k] + 1] = True
                mask[k, k % 2] = False
        rows = torch.arange(mask.numel()).view(mask.shape)
        x, dy = (
            torch.full((*mask.shape, s.shape[1]), torch.nan, dtype=dtype).index_put((mask,), s)
            for s in (x, dy)
        )
        steps = [rows[k][mask[k]] for k in range(len(lengths))]
        if not first:
            x, dy, mask = x.transpose(0, 1).contiguous(), dy.transpose(0, 1).contiguous(), mask.T
            steps = [torch.arange(mask.numel()).view(mask.shape)[mask[:, k], k] for k in range(len(lengths))]
        x = leaf(x)
        module.batch_first = first
        y, last = module(x, hx, mask=None if mask.all() else mask)
    last = flat(last)
    gradients = torch.autograd.grad((y, *last), (x, *states), (dy, *d_last))
    y, dx = (t.detach().reshape(-1, t.shape[-1]) for t in (y, gradients[0]))
    found = {}
    for k, b in enumerate(members):
        found[b] = {"y": y[steps[k]], "dx": dx[steps[k]]}
        found[b] |= {f"last {j}": s[:, k].detach() for j, s in enumerate(last)}
        found[b] |= {f"d initial {j}": s[:, k] for j, s in enumerate(gradients[1:])}
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layout", "members"),
    [
        ("ragged", [0, 1]),
        ("ragged", [4, 2, 0, 3, 1]),
        ("ragged", [*range(40, 5, -1), 0, 3, 4, 1, 2, *range(41, 60)]),  # more than one chunk
        ("ragged", [*range(130)]),
        ("packed", [0, 3]),
        ("packed", [4, 2, 0, 3, 1]),
        ("packed", [*range(5, 60), 3, 1, 4, 0, 2]),  # padded to the longest, it would have 11 steps
        ("jagged", [2, 1, 0, 3, 4]),
        ("time_major", [0, 3]),
        ("batch_first", [3, 0]),
        ("time_major", [0, *[3] * 70]),
        ("batch_first", [3] * 50 + [0]),
        ("time_major", [0, 1, 2, 3, 4]),  # padded at the end, with a mask
        ("batch_first", [4, 2, 0, 3, *range(7, 70), 1]),
        ("left padded", [0, 1, 2, 3, 4]),
        ("left padded", [4, 2, 0, 3, *range(7, 70), 1]),
        ("holes", [0, 1, 2, 3, 4]),
    ],
)
def test_company_padding_and_layout_change_no_bit(layout, members, kind):
    dtype = F32 if kind in ("lstm", "gru") else F64
    module = layer(kind, D, H, 2, bidirectional=True, dtype=dtype)
    together = through(module, kind, members, layout, dtype)
    for b in {*members} & {*range(len(LENGTHS))}:
        alone = through(module, kind, [b], "time_major", dtype)[b]
        for name, expected in alone.items():
            assert_same_bits(together[b][name], expected, f"{name} of sequence {b}")


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_and_batched_have_the_same_bits(kind):
    module = layer(kind, D, H, 2, bidirectional=True)
    x, initial, dy, d_last = sequence(kind, 1, F64)
    results = []
    for batched in (False, True):
        at = (slice(None), None) if batched else (slice(None),)
        leaves = leaf(x), *(leaf(s) for s in initial)
        given, *hx = [t[at] for t in leaves]
        y, last = module(given, tuple(hx) if len(hx) == 2 else hx[0])
        outputs = (y, *flat(last))
        gradients = torch.autograd.grad(outputs, leaves, [t[at] for t in (dy, *d_last)])
        results.append([*gradients, *(t.squeeze(1) if batched else t for t in outputs)])
    for got, expected in zip(*results, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_length_sequences_change_nothing_of_the_others(kind):
    module = layer(kind, D, H, 2, bidirectional=True)
    x = normal(6, D, seed=1)
    dense = everything(module, Ragged(leaf(x), torch.tensor([0, 4, 6])))
    y, last = module(Ragged(x, torch.tensor([0, 0, 4, 4, 6, 6])))
    assert_same_bits(y.values, dense["y"])
    for got, name in zip(flat(last), ("h_n", "c_n"), strict=False):
        assert_same_bits(got[:, [1, 3]], dense[name])
        assert not got[:, [0, 2, 4]].any()


@pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_steps_gives_the_initial_states_and_their_gradients(kind, offsets):
    module = layer(kind, D, H, 2, bidirectional=True)
    hx = states(kind, 4, len(offsets) - 1, H=H)
    x = Ragged(leaf(torch.empty(0, D, dtype=F64)), torch.tensor(offsets))
    found = everything(module, x, hx)
    assert found["y"].shape == (0, 2 * state_sizes(kind, H)[0])
    for k, s in enumerate(flat(hx)):
        assert torch.equal(found["hc"[k] + "_n"], s)
        assert torch.equal(found["d" + "hc"[k] + "0"], normal(*s.shape, seed=12 + k))
    assert found["dx"].shape == (0, D)
    assert all(not found[f"d{name}"].any() for name, _ in module.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(kind):
    for options, shape in (({}, (3, 0, D)), ({"batch_first": True}, (0, 3, D))):
        module = layer(kind, D, H, 2, **options)
        x = leaf(torch.empty(shape, dtype=F64))
        y, last = module(x)
        assert [t.shape for t in (y, *flat(last))] == [
            (*shape[:2], state_sizes(kind, H)[0]),
            *((2, 0, size) for size in state_sizes(kind, H)),
        ]
        gradients = torch.autograd.grad(y.sum(), tuple(module.parameters()))
        assert all(not g.any() for g in gradients)


def test_ragged_comes_back_with_the_same_offsets_and_without_a_copy_of_the_input():
    _, lstm = pair(D, H)
    offsets = offsets_of([2, 3])
    x = leaf(normal(5, D, seed=1))
    output, _ = lstm(Ragged(x, offsets))
    assert output.offsets is offsets
    saved = output.values.grad_fn.saved_tensors
    assert any(t is not None and t.data_ptr() == x.data_ptr() for t in saved)


def test_offsets_that_change_before_backward_do_not_matter():
    _, lstm = pair(D, H)
    x, offsets = leaf(normal(6, D, seed=1)), offsets_of([2, 4])
    y = lstm(Ragged(x, offsets))[0].values
    expected = torch.autograd.grad(y, x, normal(6, H, seed=2), retain_graph=True)[0]
    offsets[:] = torch.tensor([0, 1 << 40, 6])
    assert_same_bits(torch.autograd.grad(y, x, normal(6, H, seed=2))[0], expected)


@pytest.mark.parametrize("writeable", [True, False])
def test_sequences_are_taken_as_they_are(writeable):
    _, lstm = pair(D, H)
    x = normal(7, D, seed=1).numpy()
    if not writeable:
        x.flags.writeable = False
    sequences = Sequences(x, np.array([0, 3, 3, 7]))
    output, (h_n, _) = lstm(sequences)
    expected, (h, _) = lstm(Ragged(torch.tensor(x), torch.tensor([0, 3, 3, 7])))
    assert isinstance(output, Ragged)
    assert_same_bits(output.values, expected.values)
    assert_same_bits(h_n, h)
    saved = output.values.grad_fn.saved_tensors
    shared = any(t is not None and t.data_ptr() == sequences.values.ctypes.data for t in saved)
    assert shared == writeable  # a tensor cannot be read-only, so that such rows are copied


def test_jagged_nested_tensors_stay_jagged_and_carry_gradients():
    _, lstm = pair(D, H)
    parts = [normal(n, D, seed=n) for n in (3, 1, 4)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    y, (h_n, _) = lstm(x)
    assert y.layout == torch.jagged
    assert y.shape[1] == x.shape[1]  # the same ragged dimension: y + lstm2(x)[0] works
    for part, got, h in zip(parts, y.unbind(), h_n[0], strict=True):
        expected, (h_alone, _) = lstm(part)
        assert_same_bits(got, expected)
        assert_same_bits(h, h_alone[0])
    (y * y).values().sum().backward()
    rows = leaf(torch.cat(parts))
    lstm(Ragged(rows, offsets_of([3, 1, 4])))[0].values.square().sum().backward()
    assert_same_bits(x.grad.values(), rows.grad)


def test_nested_tensors_may_have_int32_offsets():
    _, lstm = pair(D, H)
    x, offsets = normal(7, D, seed=1), torch.tensor([0, 2, 3, 7])
    y, _ = lstm(torch.nested.nested_tensor_from_jagged(x, offsets.int()))
    assert_same_bits(y.values(), lstm(Ragged(x, offsets))[0].values)


def test_narrowed_nested_tensors_leave_the_rows_between_their_sequences_at_zero():
    _, lstm = pair(D, H, bidirectional=True)
    padded = leaf(normal(3, 6, D, seed=1))
    starts, lengths = torch.tensor([0, 1, 2]), torch.tensor([3, 0, 4])
    x = torch.nested.narrow(padded, 1, starts, lengths, layout=torch.jagged)
    with new_memory_full_of_nan():
        y, (h_n, _) = lstm(x)
        (gradient,) = torch.autograd.grad(y.values(), padded, normal(18, 2 * H, seed=2))
    for b, (start, n) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        inside = torch.zeros(6, dtype=torch.bool)
        inside[start : start + n] = True
        assert not y.values().view(3, 6, -1)[b][~inside].any()
        assert not gradient[b][~inside].any()
        assert gradient[b][inside].all()
        if n:
            expected, (h, _) = lstm(padded[b, start : start + n])
            assert_same_bits(y.values().view(3, 6, -1)[b][inside], expected)
            assert_same_bits(h_n[:, b], h)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_the_precision_of_the_parameters(kind):
    ours = layer(kind, D, H, dtype=F32)
    x = normal(3, 2, D, seed=1, dtype=torch.bfloat16)
    hx = states(kind, 1, 2, H=H, dtype=torch.bfloat16)

    def as_given(hx, to):
        made = tuple(leaf(s.to(to)) for s in flat(hx))
        return made if len(made) == 2 else made[0]

    with pytest.raises(ValueError, match="bfloat16"):
        ours(x)
    expected = everything(ours, leaf(x.float()), as_given(hx, F32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = everything(ours, leaf(x), as_given(hx, torch.bfloat16))
    assert got["y"].dtype == got["h_n"].dtype == got["dweight_ih_l0"].dtype == F32
    assert got["dx"].dtype == torch.bfloat16
    assert_close({k: v.to(expected[k].dtype) for k, v in got.items() if k[0] != "d" or "_" in k},
                 {k: v for k, v in expected.items() if k[0] != "d" or "_" in k}, 0.0)  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler, of its own tensors
def test_a_compiled_module_runs_the_layer_between_its_graphs():
    torch.manual_seed(4)
    module = torch.nn.Sequential(LSTM(3, 4), _First(), torch.nn.Linear(4, 2))
    compiled = torch.compile(module, backend="eager")
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(compiled(x), module(x), rtol=0, atol=0)
    compiled(x).sum().backward()
    assert module[0].weight_hh_l0.grad is not None


class _First(torch.nn.Module):
    def forward(self, outputs):
        return outputs[0]
