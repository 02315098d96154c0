"""The LSTM as a citizen of autograd: what is asked for and no more, and derivatives of derivatives."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from lstm_cases import (
    F64,
    assert_close,
    assert_same_bits,
    everything,
    leaf,
    new_memory_full_of_nan,
    normal,
    offsets_of,
    pair,
)
from timelike.nn import Ragged

T, B, D, H = 3, 2, 2, 3
PACKED = torch.tensor([3, 2, 2, 1])  # sequences of 4, 3 and 1 steps
KINDS = {
    "padded": lambda x: x.view(4, 2, D),
    "packed": lambda x: PackedSequence(x, PACKED),
    "ragged": lambda x: Ragged(x, offsets_of([3, 0, 5])),
}
N_SEQUENCES = {"padded": 2, "packed": 3, "ragged": 3}


def function_of_all(kind, *, num_layers, bidirectional, bias, with_hx):
    """The layer as a function of all that it may be differentiated by, and a point."""
    _, lstm = pair(D, H, num_layers, bias, bidirectional=bidirectional)
    names = [name for name, _ in lstm.named_parameters()]
    states = (num_layers * (1 + bidirectional), N_SEQUENCES[kind], H)
    point = [leaf(normal(8, D, seed=1)), *(leaf(normal(*states, seed=k)) for k in (2, 3) if with_hx)]
    n = len(point)

    def run(*inputs):
        hx = inputs[1:3] if with_hx else None
        parameters = dict(zip(names, inputs[n:], strict=True))
        output, last = torch.func.functional_call(lstm, parameters, (KINDS[kind](inputs[0]), hx))
        y = output if isinstance(output, torch.Tensor) else output[0]
        return y, *last

    return run, (*point, *map(leaf, lstm.parameters()))


OPTIONS = [
    pytest.param({"num_layers": num_layers, "bidirectional": both, "bias": bias, "with_hx": with_hx}, id=name)
    for num_layers, both, bias, with_hx, name in [
        (1, False, True, False, "plain"),
        (1, False, False, True, "no bias, states"),
        (1, True, True, True, "both directions, states"),
        (2, False, True, True, "two layers, states"),
        (2, True, True, False, "two layers, both directions"),
        (2, True, False, True, "two layers, both directions, no bias, states"),
    ]
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_pass_gradcheck(kind, options):
    assert gradcheck(*function_of_all(kind, **options), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_second_derivatives_pass_gradgradcheck(kind, options):
    assert gradgradcheck(*function_of_all(kind, **options), fast_mode=True)


def test_full_jacobians_pass():
    run, point = function_of_all("packed", num_layers=1, bidirectional=False, bias=True, with_hx=True)
    assert gradcheck(run, point)
    assert gradgradcheck(run, point)


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_third_derivatives_equal_torch(num_layers, bidirectional):
    results = []
    for lstm in pair(D, H, num_layers, bidirectional=bidirectional):
        states = (num_layers * (1 + bidirectional), B, H)
        x = leaf(normal(T, B, D, seed=1))
        # The initial states depend on the input, so that a derivative that takes a wrong way shows.
        h0 = (x.mean() * normal(*states, seed=2)).sin()
        y, (h, c) = lstm(x, (h0, h0 * h0))
        loss = sum((t * normal(*t.shape, seed=3)).sum() for t in (y, h, c))
        leaves = dict(lstm.named_parameters()) | {"x": x}
        found = {}
        for order in (1, 2, 3):
            gradients = torch.autograd.grad(loss, tuple(leaves.values()), create_graph=order < 3)
            found |= {f"{order} {name}": g.detach() for name, g in zip(leaves, gradients, strict=True)}
            loss = sum((g * normal(*g.shape, seed=4)).sum() for g in gradients)
        results.append(found)
    theirs, ours = results
    assert_close(ours, theirs)


def test_creating_a_graph_does_not_change_the_first_derivatives():
    _, lstm = pair(D, H, 2, bidirectional=True)
    x = leaf(normal(T, B, D, seed=1))
    y, _ = lstm(x)
    upstream = normal(T, B, 2 * H, seed=2)
    leaves = (x, *lstm.parameters())
    plain = torch.autograd.grad(y, leaves, upstream, retain_graph=True)
    for got, expected in zip(torch.autograd.grad(y, leaves, upstream, create_graph=True), plain, strict=True):
        assert got.requires_grad
        assert_same_bits(got.detach(), expected)


def test_a_second_walk_over_a_retained_graph_gives_the_same_bits():
    _, lstm = pair(D, H, 2, bidirectional=True)
    x = leaf(normal(T, B, D, seed=1))
    y, (h, c) = lstm(x)
    upstream = [normal(*t.shape, seed=2) for t in (y, h, c)]
    leaves = (x, *lstm.parameters())
    first, second = (torch.autograd.grad((y, h, c), leaves, upstream, retain_graph=True) for _ in range(2))
    for got, expected in zip(second, first, strict=True):
        assert_same_bits(got, expected)
    torch.autograd.grad((y, h, c), leaves, upstream)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad((y, h, c), leaves, upstream)


@pytest.mark.parametrize("which", [{"y"}, {"h"}, {"c"}, {"y", "c"}, {"h", "c"}])
def test_outputs_that_are_not_used_count_as_zero(which):
    results = []
    for lstm in pair(D, H, 2, bidirectional=True):
        x = leaf(normal(T, B, D, seed=1))
        y, (h, c) = lstm(x)
        used = [t for name, t in (("y", y), ("h", h), ("c", c)) if name in which]
        leaves = dict(lstm.named_parameters()) | {"x": x}
        upstream = [normal(*t.shape, seed=2) for t in used]
        gradients = torch.autograd.grad(used, tuple(leaves.values()), upstream, allow_unused=True)
        results.append(dict(zip(leaves, gradients, strict=True)))
    theirs, ours = results
    assert_close(ours, theirs)


def test_expanded_and_strided_upstream_gradients():
    results = []
    for lstm in pair(D, H, bidirectional=True):
        x = leaf(normal(T, B, D, seed=1))
        y, (h, c) = lstm(x)
        loss = y.sum() + h.transpose(0, 2)[::2].sum() + c[:, 1:].sum() + y[..., ::2].square().sum()
        results.append({"dx": torch.autograd.grad(loss, x)[0]})
    theirs, ours = results
    assert_close(ours, theirs)


LEAVES = ["x", "h0", "c0", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0_reverse"]


@pytest.mark.parametrize(
    "wanted", [[name] for name in LEAVES] + [["x", "bias_hh_l0"], ["h0", "weight_hh_l0"]]
)
def test_only_what_is_asked_for_is_given_and_it_is_the_same(wanted):
    _, lstm = pair(D, H, bidirectional=True)
    states = [leaf(normal(2, B, H, seed=k)) for k in (2, 3)]
    full = everything(lstm, leaf(normal(T, B, D, seed=1)), tuple(states))
    leaves = {"x": normal(T, B, D, seed=1)} | dict(
        zip(("h0", "c0"), (s.detach() for s in states), strict=True)
    )
    for name, t in (leaves | dict(lstm.named_parameters())).items():
        t.requires_grad_(name in wanted)
    part = everything(lstm, leaves["x"], (leaves["h0"], leaves["c0"]))
    assert {name for name in part if name[0] == "d"} == {f"d{name}" for name in wanted}
    for name, got in part.items():
        assert_same_bits(got, full[name], name)


def test_no_tape_is_kept_when_no_gradient_is_needed():
    _, lstm = pair(D, H)
    x = normal(T, B, D, seed=1)
    assert len(lstm(x)[0].grad_fn.saved_tensors) == 9  # y, tape, x, h0, c0 and the weights
    with torch.no_grad():
        assert lstm(leaf(x))[0].grad_fn is None
    lstm.requires_grad_(False)
    assert lstm(x)[0].grad_fn is None
    with torch.inference_mode():
        assert lstm(x)[0].is_inference()


@pytest.mark.parametrize(
    "victim", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "x", "y", "h0", "c0"]
)
def test_changing_what_backward_needs_raises(victim):
    _, lstm = pair(D, H)
    x, h0, c0 = (leaf(normal(*s, seed=1)) * 1 for s in ((T, B, D), (1, B, H), (1, B, H)))
    y, _ = lstm(x, (h0, c0))
    with torch.no_grad():
        ({"x": x, "y": y, "h0": h0, "c0": c0} | dict(lstm.named_parameters()))[victim].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_both_biases_share_no_memory():
    _, lstm = pair(D, H)
    y, _ = lstm(normal(T, B, D, seed=1))
    g_ih, g_hh = torch.autograd.grad(y.sum(), (lstm.bias_ih_l0, lstm.bias_hh_l0))
    assert torch.equal(g_ih, g_hh)
    assert g_ih.data_ptr() != g_hh.data_ptr()


def test_gradients_accumulate_over_calls():
    _, lstm = pair(D, H)
    xs = [normal(T, B, D, seed=k) for k in (1, 2)]
    for x in xs:
        lstm(x)[0].square().sum().backward()
    together = [p.grad.clone() for p in lstm.parameters()]
    lstm.zero_grad()
    loss = sum(lstm(x)[0].square().sum() for x in xs)
    for got, expected in zip(together, torch.autograd.grad(loss, tuple(lstm.parameters())), strict=True):
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_bits(use_reentrant):
    _, lstm = pair(D, H, bidirectional=True)
    gradients = []
    for run in (lstm, lambda x: checkpoint(lstm, x, use_reentrant=use_reentrant)):
        x = leaf(normal(T, B, D, seed=1))
        lstm.zero_grad()
        run(x)[0].square().sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in lstm.parameters())])
    for got, expected in zip(*gradients, strict=True):
        assert_same_bits(got, expected)


def test_saved_tensors_pass_through_hooks():
    _, lstm = pair(D, H)
    x = leaf(normal(T, B, D, seed=1))
    expected = torch.autograd.grad(lstm(x)[0].square().sum(), x)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        y = lstm(x)[0]
    assert_same_bits(torch.autograd.grad(y.square().sum(), x)[0], expected)


ENTERING_A_TRANSFORM = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"  # torch warns of itself


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "vmap"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("by", ["input", "weights"])
def test_transforms_of_functions_are_refused(transform, frozen, by):
    _, lstm = pair(D, H)
    lstm.requires_grad_(not frozen)
    x, weight = normal(T, B, D, seed=1), lstm.weight_hh_l0.detach()
    if by == "input":
        run, point = lambda x: lstm(x)[0].sum(), x
    else:
        run, point = lambda w: torch.func.functional_call(lstm, {"weight_hh_l0": w}, x)[0].sum(), weight
    with pytest.raises(NotImplementedError, match=r"LSTM.*torch\.func"):
        getattr(torch.func, transform)(run)(point)


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize("no_grad", [False, True])
def test_forward_mode_is_refused(no_grad):
    _, lstm = pair(D, H)
    lstm.requires_grad_(not no_grad)
    x = normal(T, B, D, seed=1)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        lstm(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("rows", [1, 40])
def test_no_output_is_left_unwritten(rows):
    _, lstm = pair(D, H, 2, bidirectional=True)
    hx = tuple(leaf(normal(4, 2, H, seed=k)) for k in (1, 2))
    x = Ragged(leaf(normal(rows, D, seed=3)), torch.tensor([0, 0, rows]))
    with new_memory_full_of_nan():
        found = everything(lstm, x, hx)
    assert all(t.isfinite().all() for t in found.values())
    assert found["y"].dtype == F64
