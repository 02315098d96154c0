"""Layers as citizens of autograd: what is asked for and no more, and derivatives of derivatives."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from layer_cases import (
    F64,
    IN_TORCH,
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
    states,
)
from timelike.nn import Ragged

T, B, D, H = 3, 2, 2, 3
PACKED = torch.tensor([3, 2, 2, 1])  # sequences of 4, 3 and 1 steps
LAYOUTS = {
    "padded": lambda x: x.view(4, 2, D),
    "packed": lambda x: PackedSequence(x, PACKED),
    "ragged": lambda x: Ragged(x, offsets_of([3, 0, 5])),
}
N_SEQUENCES = {"padded": 2, "packed": 3, "ragged": 3}


def function_of_all(layout, *, kind="lstm", num_layers, bidirectional, bias, with_hx):
    """The layer as a function of all that it may be differentiated by, and a point."""
    module = layer(kind, D, H, num_layers, bias=bias, bidirectional=bidirectional)
    names = [name for name, _ in module.named_parameters()]
    initial = (
        flat(states(kind, num_layers * (1 + bidirectional), N_SEQUENCES[layout], H=H)) if with_hx else ()
    )
    point = [leaf(normal(8, D, seed=1)), *initial]
    n = len(point)

    def run(*inputs):
        hx = (inputs[1:n] if n == 3 else inputs[1]) if with_hx else None
        parameters = dict(zip(names, inputs[n:], strict=True))
        output, last = torch.func.functional_call(module, parameters, (LAYOUTS[layout](inputs[0]), hx))
        y = output if isinstance(output, torch.Tensor) else output[0]
        return y, *flat(last)

    return run, (*point, *map(leaf, module.parameters()))


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_pass_gradcheck(layout, options):
    assert gradcheck(*function_of_all(layout, **options), fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_second_derivatives_pass_gradgradcheck(layout, options):
    assert gradgradcheck(*function_of_all(layout, **options), fast_mode=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_all_cells_pass(kind, bias):
    options = {"num_layers": 1, "bidirectional": True, "bias": bias, "with_hx": True}
    run, point = function_of_all("ragged", kind=kind, **options)
    assert gradcheck(run, point, fast_mode=True)
    assert gradgradcheck(run, point, fast_mode=True)


def test_full_jacobians_pass():
    run, point = function_of_all("packed", num_layers=1, bidirectional=False, bias=True, with_hx=True)
    assert gradcheck(run, point)
    assert gradgradcheck(run, point)


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("kind", IN_TORCH)
def test_third_derivatives_equal_torch(kind, num_layers, bidirectional):
    results = []
    for module in pair(D, H, num_layers, bidirectional=bidirectional, kind=kind):
        x = leaf(normal(T, B, D, seed=1))
        # The initial states depend on the input, so that a derivative that takes a wrong way shows.
        noise = flat(states(kind, num_layers * (1 + bidirectional), B, H=H))
        hx = tuple((x.mean() * s.detach()).sin() for s in noise)
        y, last = module(x, hx if len(hx) == 2 else hx[0])
        loss = sum((t * normal(*t.shape, seed=3)).sum() for t in (y, *flat(last)))
        leaves = dict(module.named_parameters()) | {"x": x}
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_walk_over_a_retained_graph_gives_the_same_bits(kind):
    module = layer(kind, D, H, 2, bidirectional=True)
    x = leaf(normal(T, B, D, seed=1))
    y, last = module(x)
    outputs = (y, *flat(last))
    upstream = [normal(*t.shape, seed=2) for t in outputs]
    leaves = (x, *module.parameters())
    first, second = (torch.autograd.grad(outputs, leaves, upstream, retain_graph=True) for _ in range(2))
    for got, expected in zip(second, first, strict=True):
        assert_same_bits(got, expected)
    torch.autograd.grad(outputs, leaves, upstream)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(outputs, leaves, upstream)


@pytest.mark.parametrize(
    ("kind", "which"),
    [("lstm", which) for which in ("y", "h", "c", "yc", "hc")]
    + [("lstm_projected", which) for which in ("y", "h", "c")]
    + [(kind, which) for kind in ("gru", "rnn_tanh") for which in ("y", "h")],
)
def test_outputs_that_are_not_used_count_as_zero(kind, which):
    results = []
    for module in pair(D, H, 2, bidirectional=True, kind=kind):
        x = leaf(normal(T, B, D, seed=1))
        y, last = module(x)
        used = [t for name, t in zip("yhc", (y, *flat(last)), strict=False) if name in which]
        leaves = dict(module.named_parameters()) | {"x": x}
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


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_asked_for_is_given_and_it_is_the_same(kind):
    module = layer(kind, D, H, bidirectional=True)
    initial = states(kind, 2, B, H=H)
    full = everything(module, leaf(normal(T, B, D, seed=1)), initial)
    x, hx = normal(T, B, D, seed=1), tuple(s.detach() for s in flat(initial))
    leaves = {"x": x} | dict(zip(("h0", "c0"), hx, strict=False)) | dict(module.named_parameters())
    for wanted in [*([name] for name in leaves), ["x", "bias_ih_l0"], ["h0", "weight_hh_l0"]]:
        for name, t in leaves.items():
            t.requires_grad_(name in wanted)
        part = everything(module, x, hx if len(hx) == 2 else hx[0])
        assert {name for name in part if name[0] == "d"} == {f"d{name}" for name in wanted}
        for name, got in part.items():
            assert_same_bits(got, full[name], f"{name} where {wanted} are asked for")


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


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_without_autograd_have_the_same_bits(kind):
    module, x = layer(kind, D, H, 2, bidirectional=True), normal(T, B, D, seed=1)
    y, last = module(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            alone, last_alone = module(x)
            for got, expected in zip((alone, *flat(last_alone)), (y, *flat(last)), strict=True):
                assert got.grad_fn is None
                assert_same_bits(got, expected)


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


@pytest.mark.parametrize("kind", IN_TORCH)
def test_gradients_of_both_biases_share_no_memory(kind):
    module = layer(kind, D, H)
    y, _ = module(normal(T, B, D, seed=1))
    g_ih, g_hh = torch.autograd.grad(y.sum(), (module.bias_ih_l0, module.bias_hh_l0))
    assert torch.equal(g_ih, g_hh) == (kind != "gru")  # whose second bias stands inside the reset
    assert g_ih.untyped_storage().data_ptr() != g_hh.untyped_storage().data_ptr()


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
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_bits(kind, use_reentrant):
    module = layer(kind, D, H, bidirectional=True)
    gradients = []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=use_reentrant)):
        x = leaf(normal(T, B, D, seed=1))
        module.zero_grad()
        run(x)[0].square().sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in module.parameters())])
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


TRANSFORMS = {
    "grad": torch.func.grad,
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "vmap": torch.func.vmap,
    "jvp": lambda run: lambda point: torch.func.jvp(run, (point,), (point,)),
    "vjp": lambda run: lambda point: torch.func.vjp(run, point),
    "hessian": torch.func.hessian,
}


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("by", ["input", "weights"])
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "lstm_peephole", "gru", "gru_reset_before"])
def test_transforms_of_functions_are_refused(kind, transform, frozen, by):
    module = layer(kind, D, H)
    module.requires_grad_(not frozen)
    x, weight = normal(T, B, D, seed=1), module.weight_hh_l0.detach()
    if by == "input":
        run, point = lambda x: module(x)[0].sum(), x
    else:
        run, point = lambda w: torch.func.functional_call(module, {"weight_hh_l0": w}, x)[0].sum(), weight
    with pytest.raises(NotImplementedError, match=rf"{KINDS[kind].name}.*torch\.func"):
        TRANSFORMS[transform](run)(point)


@pytest.mark.filterwarnings(ENTERING_A_TRANSFORM)
@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_is_refused(kind, no_grad):
    module = layer(kind, D, H)
    module.requires_grad_(not no_grad)
    x = normal(T, B, D, seed=1)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        module(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_no_output_is_left_unwritten(kind, rows):
    module = layer(kind, D, H, 2, bidirectional=True)
    hx = states(kind, 4, 2, H=H)
    x = Ragged(leaf(normal(rows, D, seed=3)), torch.tensor([0, 0, rows]))
    with new_memory_full_of_nan():
        found = everything(module, x, hx)
    assert all(t.isfinite().all() for t in found.values())
    assert found["y"].dtype == F64
