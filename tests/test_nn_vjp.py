"""The way back without autograd: its numbers, in every layout, to the bit, and what it refuses."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from layer_cases import (
    F32,
    F64,
    KINDS,
    assert_same_bits,
    everything,
    flat,
    layer,
    leaf,
    normal,
    offsets_of,
    states,
    values,
)
from timelike.nn import GRU, LSTM, Ragged
from timelike.recording import recording

D, H = 3, 5
LENGTHS = [3, 0, 6, 2]
N = sum(LENGTHS)


def padded(dtype):
    return leaf(normal(6, 4, D, seed=1, dtype=dtype))


def ragged(dtype):
    return Ragged(leaf(normal(N, D, seed=1, dtype=dtype)), offsets_of(LENGTHS))


def packed(dtype):
    lengths = (2, 5, 3)  # not in order
    made = pack_sequence([normal(n, D, seed=n, dtype=dtype) for n in lengths], enforce_sorted=False)
    return made._replace(data=leaf(made.data))


def strided(dtype):
    return leaf(normal(6, 4, 2 * D, seed=1, dtype=dtype))[..., ::2].detach().requires_grad_()


LAYOUTS = {  # input, options of the layer, options of the call, axes of states behind that of layers
    "time major": (padded, {}, {}, (4,)),
    "batch first": (padded, {"batch_first": True}, {}, (6,)),
    "unbatched": (lambda dtype: leaf(normal(7, D, seed=1, dtype=dtype)), {}, {}, ()),
    "holes": (padded, {}, {"mask": normal(6, 4, seed=2) > 0}, (4,)),
    "ragged": (ragged, {}, {}, (4,)),
    "packed": (packed, {}, {}, (3,)),
    "strided": (strided, {}, {}, (4,)),
}


def by_vjp(module, x, hx=None, **options):
    """What `everything` gives, by vjp."""
    (output, last), pullback = module.vjp(x, hx, **options)
    found = {"y": values(output)} | dict(zip(("h_n", "c_n"), flat(last), strict=False))
    dy, *d_last = (normal(*t.shape, seed=11 + k, dtype=t.dtype) for k, t in enumerate(found.values()))
    back = pullback(in_layout_of(output, dy), tuple(d_last) if len(d_last) == 2 else d_last[0])
    assert type(back.input) is type(output)
    found["dx"] = values(back.input)
    found |= {f"d{name}": d for name, d in zip(("h0", "c0"), flat(back.hx), strict=False)}
    return found | {f"d{name}": back.parameters[name] for name, _ in module.named_parameters()}


def in_layout_of(output, rows):
    if isinstance(output, PackedSequence):
        return output._replace(data=rows)
    return Ragged(rows, output.offsets) if isinstance(output, Ragged) else rows


@pytest.mark.parametrize("recompute", [False, 2])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_bits_of_autograd(kind, layout, with_hx, recompute):
    dtype = F32 if kind in ("lstm", "gru") else F64
    made, options, call, axes = LAYOUTS[layout]
    x = made(dtype)
    module = layer(kind, D, H, 2, bidirectional=True, recompute=recompute, dtype=dtype, **options)
    hx = states(kind, 4, *axes, H=H, dtype=dtype) if with_hx else None
    expected = everything(module, x, hx, **call)
    got = by_vjp(module, x, hx, **call)
    assert list(got) == list(expected)
    for name in expected:
        assert not got[name].requires_grad
        assert_same_bits(got[name], expected[name], name)


def test_jagged_tensors_come_back_jagged():
    module, rows, offsets = layer("gru", D, H), leaf(normal(N, D, seed=1)), offsets_of(LENGTHS)
    (expected, _), back = module.vjp(Ragged(rows, offsets))
    (output, _), jagged_back = module.vjp(torch.nested.nested_tensor_from_jagged(rows, offsets))
    assert_same_bits(output.values(), expected.values)
    dy = normal(*expected.values.shape, seed=2)
    got = jagged_back(torch.nested.nested_tensor_from_jagged(dy, output.offsets())).input
    assert got.is_nested
    assert_same_bits(got.values(), back(Ragged(dy, offsets)).input.values)


def test_dropout_draws_what_a_call_draws():
    module, x = layer("lstm", D, H, 3, dropout=0.4), padded(F64)
    torch.manual_seed(3)
    expected = everything(module, x)
    torch.manual_seed(3)
    got = by_vjp(module, x)
    for name in expected:
        assert_same_bits(got[name], expected[name], name)


def assert_same_gradients(got, expected):
    assert_same_bits(got.input, expected.input)
    for name, gradient in expected.parameters.items():
        assert_same_bits(got.parameters[name], gradient, name)


@pytest.mark.parametrize("given", ["output", "h_n", "c_n"])
def test_what_is_not_given_counts_as_zero(given):
    """With two layers the gradient by the last states of the first alone leaves the second none."""
    module, x = layer("lstm", D, H, 2), padded(F64)
    (output, _), pullback = module.vjp(x)
    d = normal(2, 4, H, seed=5)
    d[1] = 0
    dy = normal(*output.shape, seed=6)
    zeros = torch.zeros_like(dy), (torch.zeros_like(d), torch.zeros_like(d))
    sparse, full = {
        "output": ((dy,), (dy, zeros[1])),
        "h_n": ((None, (d, None)), (zeros[0], (d, zeros[1][1]))),
        "c_n": ((None, (None, d)), (zeros[0], (zeros[1][0], d))),
    }[given]
    assert_same_gradients(pullback(*sparse), pullback(*full))


def test_a_second_way_back_and_changed_weights_give_the_same_bits():
    module, x = layer("gru", D, H), padded(F64)
    (output, _), pullback = module.vjp(x)
    dy = normal(*output.shape, seed=2)
    first = pullback(dy)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(2)
    assert_same_gradients(pullback(dy), first)


def test_only_what_is_wanted_is_given():
    module, x = layer("lstm", D, H), padded(F64)
    (output, _), pullback = module.vjp(x)
    whole = pullback(output)
    module.bias_ih_l0.requires_grad_(False)
    some = pullback(output, wrt_input=False)
    assert some.input is None
    assert some.hx is None
    assert list(some.parameters) == ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"]
    for name, gradient in some.parameters.items():
        assert_same_bits(gradient, whole.parameters[name], name)
    for weight in module.parameters():
        weight.requires_grad_(False)
    none = pullback(output)
    assert none.parameters == {}
    assert_same_bits(none.input, whole.input)


def test_zero_steps_and_zero_sequences():
    module = layer("lstm", D, H)
    (output, (h, _)), pullback = module.vjp(Ragged(torch.empty(0, D, dtype=F64), offsets_of([])))
    back = pullback(output, (h, None))
    assert back.input.values.shape == (0, D)
    assert all((gradient == 0).all() for gradient in back.parameters.values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_does_not_matter_whether_gradients_are_on(mode):
    module, x = layer("gru", D, H), padded(F64)
    expected = by_vjp(module, x)
    with mode():
        got = by_vjp(module, x)
    for name in expected:
        assert_same_bits(got[name], expected[name], name)


def test_under_autocast_gradients_have_the_type_of_the_parameters():
    module, x = layer("gru", D, H, dtype=F32), padded(F32)
    with torch.autocast("cpu"):
        (output, _), pullback = module.vjp(x.bfloat16())
        back = pullback(output.bfloat16())
    assert back.input.dtype is F32
    assert back.parameters["weight_hh_l0"].dtype is F32


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("victim", ["input", "output", "initial state"])
def test_what_was_changed_in_place_is_refused(victim, recompute):
    module, x, hx = (
        layer("gru", D, H, recompute=recompute),
        padded(F64).detach(),
        torch.zeros(1, 4, H, dtype=F64),
    )
    (output, _), pullback = module.vjp(x, hx)
    changed = {"input": x, "output": output, "initial state": hx}[victim]
    changed.add_(1)
    if recompute and victim == "output":  # it is computed again
        pullback(output)
        return
    with pytest.raises(RuntimeError, match=r"shape .* that the way back needs has been changed in place"):
        pullback(output.clone())


def refused(*gradients):
    module = LSTM(D, H, dtype=F64)
    _, pullback = module.vjp(Ragged(torch.zeros(N, D, dtype=F64), offsets_of(LENGTHS)))
    return pullback(*gradients)


ROWS, STATE = torch.zeros(N, H, dtype=F64), torch.zeros(1, 4, H, dtype=F64)


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        ((), ValueError, "LSTM: gradients are given of neither the output nor the last states"),
        ((None, (None, None)), ValueError, "neither the output nor"),
        ((ROWS,), TypeError, "LSTM: d_output is Tensor, but the output is Ragged"),
        ((3,), TypeError, "d_output is int"),
        ((Ragged(ROWS[1:], offsets_of(LENGTHS)),), ValueError, r"shape \(10, 5\), expected \(11, 5\)"),
        ((Ragged(ROWS.float(), offsets_of(LENGTHS)),), ValueError, "d_output dtype .*float32"),
        ((Ragged(ROWS, offsets_of([0, 3, 6, 2])),), ValueError, "d_output has other sequences"),
        ((Ragged(3, offsets_of(LENGTHS)),), TypeError, "d_output is int; a Tensor is needed"),
        ((Ragged(ROWS, [0, 3, 3, 9, 11]),), ValueError, "d_output has other sequences"),
        ((None, STATE), TypeError, r"d_states is Tensor, expected a tuple \(d_h, d_c\)"),
        ((None, (STATE, STATE, STATE)), TypeError, "d_states is tuple"),
        ((None, (STATE, STATE[:, 1:])), ValueError, r"d_states\[1\] has shape \(1, 3, 5\)"),
        ((None, (STATE.numpy(), None)), TypeError, r"d_states\[0\] is ndarray"),
    ],
)
def test_wrong_gradients_are_refused(gradients, error, message):
    with pytest.raises(error, match=message):
        refused(*gradients)


def test_a_nested_gradient_of_a_padded_output_is_refused():
    module = GRU(D, H, dtype=F64)
    _, pullback = module.vjp(torch.zeros(2, 4, D, dtype=F64))
    with pytest.raises(
        TypeError, match=r"d_output is a nested tensor of layout torch\.jagged, but the output"
    ):
        pullback(torch.nested.nested_tensor_from_jagged(ROWS, offsets_of(LENGTHS)))


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


def test_tensors_of_other_classes_are_tensors():
    module, x = layer("gru", D, H), padded(F64).detach()
    (output, _), pullback = module.vjp(x.as_subclass(Marked))
    expected = module.vjp(x)[1](output.as_subclass(torch.Tensor))
    assert_same_bits(
        pullback(output.as_subclass(torch.Tensor)).input.as_subclass(torch.Tensor), expected.input
    )


def test_offsets_that_were_changed_are_refused():
    module, offsets = layer("gru", D, H), offsets_of(LENGTHS)
    (output, _), pullback = module.vjp(Ragged(torch.zeros(N, D, dtype=F64), offsets))
    offsets[1] += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        pullback(output)


@pytest.mark.parametrize("by", ["vjp", "autograd"])
def test_weights_of_another_type_do_not_matter_to_a_run_that_is_over(by):
    """Gradients are those of the weights that forward used, in their type, or are refused."""
    module, x = layer("lstm", D, H), padded(F64)
    (output, _), pullback = module.vjp(x) if by == "vjp" else (module(x), None)
    expected = layer("lstm", D, H).vjp(x)[1](torch.ones_like(output)).parameters
    module.float()
    if pullback is not None:
        found = pullback(torch.ones_like(output)).parameters
    else:
        output.sum().backward()
        found = {name: weight.grad for name, weight in module.named_parameters()}
    for name, gradient in expected.items():
        assert_same_bits(found[name], gradient, name)


@pytest.mark.parametrize("recompute", [False, True])
def test_inputs_that_became_others_are_refused(recompute):
    module, x = layer("lstm", D, H, recompute=recompute), padded(F64)
    (output, _), pullback = module.vjp(x)
    y, _ = module(x)
    x.data = torch.zeros(2, D, dtype=F64)
    for back in (lambda: pullback(output), lambda: y.sum().backward()):
        with pytest.raises(
            RuntimeError, match=r"x has become \(2, 3\), torch\.float64, since forward; 72 numbers"
        ):
            back()


def tied(module):
    module.weight_hh_l1 = module.weight_hh_l0
    return module


class Doubled(torch.nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


def hooked(module):
    module.register_forward_pre_hook(lambda _module, _given: None)
    return module


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (tied, "some of its parameters are the same tensor"),
        (hooked, "the module has hooks, which it would not run"),
        (
            lambda module: parametrize.register_parametrization(module, "weight_hh_l0", Doubled()),
            "weight_hh_l0 is made of other parameters",
        ),
        (lambda module: prune.random_unstructured(module, "weight_ih_l1", 0.5), "the module has hooks"),
    ],
)
def test_modules_that_only_autograd_can_differentiate_are_refused(change, why):
    module = change(layer("gru", D, D, 2))
    with pytest.raises(RuntimeError, match=rf"^GRU\.vjp: {why}.*; call the layer itself, under autograd$"):
        module.vjp(padded(F64))


def test_a_trace_refuses_it():
    module = GRU(D, H)
    with (
        pytest.raises(RuntimeError, match=r"GRU\.vjp: it would leave nothing in the trace"),
        recording(),
    ):
        module.vjp(torch.zeros(2, 4, D))


def test_transforms_of_functions_are_refused():
    module = GRU(D, H)
    with pytest.raises(NotImplementedError, match=r"transforms of torch\.func"):
        torch.func.grad(lambda x: module.vjp(x)[0][0].sum())(torch.zeros(2, 4, D))
    (output, _), pullback = module.vjp(torch.zeros(2, 4, D))
    with pytest.raises(NotImplementedError, match=r"transforms of torch\.func"):
        torch.func.vmap(lambda d: pullback(d).input)(output[None])
    with forward_ad.dual_level():
        for call in (lambda: module.vjp(torch.zeros(2, 4, D)), lambda: pullback(output)):
            with pytest.raises(NotImplementedError, match=r"GRU\.vjp: forward mode"):
                call()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler, of its own tensors
def test_a_compiled_function_goes_back_between_its_graphs():
    module, x = layer("gru", D, H), padded(F64).detach()

    def gradient(x):
        (output, _), pullback = module.vjp(2 * x)
        return 2 * pullback(2 * output).input

    assert_same_bits(torch.compile(gradient, backend="eager")(x), gradient(x))
