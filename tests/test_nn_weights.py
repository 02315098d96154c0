"""Weights are packed once per change, whoever changes them and however, and never stale."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context

import pytest
import torch
from torch.nn.utils import parameters_to_vector, parametrizations, parametrize, prune, vector_to_parameters

from layer_cases import (
    IN_TORCH,
    KINDS,
    assert_close,
    assert_same_bits,
    everything,
    flat,
    layer,
    leaf,
    normal,
    pair,
)
from timelike import layerweights
from timelike.nn import LSTM
from timelike.threads import set_num_threads

T, B, D, H = 4, 3, 3, 6


def optimiser(kind, **options):
    def step(lstm):
        for k, p in enumerate(lstm.parameters()):
            p.grad = normal(*p.shape, seed=k, dtype=p.dtype)
        kind(lstm.parameters(), lr=0.1, **options).step()

    return step


def each(change):
    def run(lstm):
        for p in lstm.parameters():
            change(p)

    return run


def new_state(lstm):
    return {name: normal(*p.shape, seed=7, dtype=p.dtype) for name, p in lstm.state_dict().items()}


def no_grad(change):
    def run(p):
        with torch.no_grad():
            change(p)

    return run


def swap_two_rows_of_data(p):
    p.data[[0, 1]] = p.data[[1, 0]]


def replace_parameters(lstm):
    for name, p in list(lstm.named_parameters()):
        setattr(lstm, name, torch.nn.Parameter(p.detach() * 2))


def double_as_vector(lstm):
    vector_to_parameters(2 * parameters_to_vector(lstm.parameters()), lstm.parameters())


def write_one_number(lstm):
    lstm.bias_hh_l1_reverse.data[-1] += 1e-6


def move_memory_from_under(p):
    p.data = p.data.clone().mul_(2)


CHANGES = {
    "SGD": optimiser(torch.optim.SGD),
    "SGD momentum, foreach": optimiser(torch.optim.SGD, momentum=0.9, foreach=True),
    "SGD fused": optimiser(torch.optim.SGD, fused=True),
    "Adam": optimiser(torch.optim.Adam, foreach=False),
    "Adam foreach": optimiser(torch.optim.Adam, foreach=True),
    "Adam fused": optimiser(torch.optim.Adam, fused=True),
    "AdamW foreach": optimiser(torch.optim.AdamW, foreach=True),
    "AdamW fused": optimiser(torch.optim.AdamW, fused=True),
    "RMSprop": optimiser(torch.optim.RMSprop),
    "copy_": each(no_grad(lambda p: p.copy_(normal(*p.shape, seed=7)))),
    "foreach mul": lambda lstm: no_grad(lambda ps: torch._foreach_mul_(ps, 2))(list(lstm.parameters())),
    "data.mul_": each(lambda p: p.data.mul_(2)),
    "data, rows swapped": each(swap_two_rows_of_data),
    "data, one number": write_one_number,
    "data = ": each(move_memory_from_under),
    "set_": each(no_grad(lambda p: p.set_(p.clone().mul_(2)))),
    "NumPy view": each(lambda p: p.detach().numpy().__imul__(2)),
    "vector_to_parameters": double_as_vector,
    "load_state_dict": lambda m: m.load_state_dict(new_state(m)),
    "load_state_dict assign": lambda m: m.load_state_dict(new_state(m), assign=True),
    "new parameters": replace_parameters,
    "reset_parameters": lambda m: m.reset_parameters(),
    "share_memory": lambda m: each(lambda p: p.data.mul_(2))(m.share_memory()),
    "to float32": lambda m: m.float(),
    "column-major": each(lambda p: setattr(p, "data", p.data.mT.contiguous().mT if p.dim() == 2 else p.data)),
}  # fmt: skip


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_the_weights_is_seen(name, grad):
    _, lstm = pair(D, H, 2, bidirectional=True)
    before = everything(lstm, leaf(normal(T, B, D, seed=1)))
    CHANGES[name](lstm)
    dtype = lstm.weight_ih_l0.dtype
    x = normal(T, B, D, seed=1, dtype=dtype)
    with torch.set_grad_enabled(grad):
        y, (h, c) = lstm(x)
    fresh = LSTM(D, H, 2, bidirectional=True, dtype=dtype)
    fresh.load_state_dict(lstm.state_dict())
    expected = everything(fresh, leaf(x))
    for what, got in {"y": y, "h_n": h, "c_n": c}.items():
        assert_same_bits(got, expected[what], what)
        assert not torch.equal(got, before[what]) or name == "column-major"
    for what, got in everything(lstm, leaf(x)).items():
        assert_same_bits(got, expected[what], what)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_any_parameter_is_seen(kind):
    module, x = layer(kind, D, H, 2, bidirectional=True), normal(T, B, D, seed=1)
    before, _ = module(x)
    for name, p in module.named_parameters():
        p.data[-1] += 1e-6  # of the biases and the peephole a number, of the matrices a row
        y, last = module(x)
        assert not torch.equal(y, before), name
        fresh = layer(kind, D, H, 2, bidirectional=True)
        fresh.load_state_dict(module.state_dict())
        expected, expected_last = fresh(x)
        for got, wanted in zip((y, *flat(last)), (expected, *flat(expected_last)), strict=True):
            assert_same_bits(got, wanted, name)
        before = y


def test_negated_views_of_the_weights_are_other_weights():
    _, lstm = pair(D, H)
    x = normal(T, B, D, seed=1)
    negated = {name: torch._neg_view(p.detach()) for name, p in lstm.named_parameters()}
    with torch.no_grad():
        lstm(x)
        y, _ = torch.func.functional_call(lstm, negated, (x,))
        lstm.load_state_dict({name: -p for name, p in lstm.state_dict().items()})
        assert_same_bits(y, lstm(x)[0])


@pytest.mark.parametrize("grad", [True, False])
def test_weights_are_packed_once_per_change(monkeypatch, grad):
    made = []
    original = layerweights.held_weights
    monkeypatch.setattr(
        layerweights, "held_weights", lambda dtype: lambda *a: made.append(a) or original(dtype)(*a)
    )
    layerweights._layout.cache_clear()
    _, lstm = pair(D, H, 2, bidirectional=True)
    with torch.set_grad_enabled(grad):
        for k in range(3):
            y = lstm(normal(T, B, D, seed=k))[0]
    assert len(made) == 2  # layers
    if grad:
        y.sum().backward()
    lstm.weight_hh_l1_reverse.data[0, 0] += 1
    lstm(normal(T, B, D, seed=1))
    assert len(made) == 3
    layerweights._layout.cache_clear()


def test_backward_uses_the_weights_of_its_forward():
    _, lstm = pair(D, H, 2, bidirectional=True)
    x = normal(T, B, D, seed=1)
    expected = everything(lstm, leaf(x))
    leaves = [leaf(x), *lstm.parameters()]
    y, (h, c) = lstm(leaves[0])
    for p in lstm.parameters():
        p.data.mul_(3)  # behind autograd's back: no version counter tells
    upstream = [normal(*t.shape, seed=11 + k) for k, t in enumerate((y, h, c))]
    gradients = torch.autograd.grad((y, h, c), leaves, upstream)
    for got, (name, value) in zip(gradients, list(expected.items())[3:], strict=True):
        assert_same_bits(got, value, name)
    for p in lstm.parameters():
        p.data.div_(3)
    assert_close(everything(lstm, leaf(x)), expected)


def test_weights_of_a_functional_call():
    theirs, ours = pair(D, H)
    x = normal(T, B, D, seed=1)
    weights = [leaf(p) for p in theirs.parameters()]
    results = []
    for lstm in (ours, theirs):
        named = dict(zip(dict(lstm.named_parameters()), [2 * w for w in weights], strict=True))
        y, _ = torch.func.functional_call(lstm, named, (x,))
        results.append(dict(zip(named, torch.autograd.grad(y.sum(), weights), strict=True)))
    assert_close(*results)
    with torch.no_grad():
        assert_close({"y": ours(x)[0]}, {"y": theirs(x)[0]})  # back to its own


class Doubled(torch.nn.Module):
    def forward(self, w):
        return 2 * w


MADE_OF_OTHERS = {
    "parametrize": lambda m: parametrize.register_parametrization(m, "weight_hh_l0", Doubled()),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.eval(), "weight_hh_l0"),
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_ih_l0"),
    "prune": lambda m: prune.l1_unstructured(m, "weight_hh_l0", amount=0.5),
}


@pytest.mark.parametrize("name", MADE_OF_OTHERS)
@pytest.mark.parametrize("kind", IN_TORCH)
def test_weights_that_are_made_of_other_parameters(kind, name):
    results = []
    for lstm in pair(D, H, kind=kind):
        torch.manual_seed(2)
        MADE_OF_OTHERS[name](lstm)
        for _ in range(2):
            found = everything(lstm, leaf(normal(T, B, D, seed=1)))
            optimiser(torch.optim.SGD)(lstm)
        results.append(found)
    theirs, ours = results
    assert_close(ours, {name: theirs[name] for name in ours})


def through_pickle(lstm):
    return pickle.loads(pickle.dumps(lstm))


def through_torch_save(lstm):
    file = io.BytesIO()
    torch.save(lstm, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [copy.deepcopy, copy.copy, through_pickle, through_torch_save])
def test_copies_work_and_carry_nothing_that_is_packed(by, kind):
    lstm = layer(kind, D, H, 2, bidirectional=True)
    x = normal(T, B, D, seed=1)
    before = len(pickle.dumps(lstm))
    y, _ = lstm(x)
    assert len(pickle.dumps(lstm)) == before
    other = by(lstm)
    assert_same_bits(other(x)[0], y)
    if by is not copy.copy:  # which shares the parameters
        for p in other.parameters():
            p.data.zero_()
        assert_same_bits(lstm(x)[0], y)
        assert not other(x)[0].any()


def test_threads_may_share_a_layer():
    _, lstm = pair(D, 40, 2, bidirectional=True)
    xs = [normal(30, 5, D, seed=k) for k in range(16)]
    alone = [everything(lstm, leaf(x)) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: everything(lstm, leaf(x)), xs))
    for got, expected in zip(together, alone, strict=True):
        for name in expected:
            assert_same_bits(got[name], expected[name], name)


def train(module, x):
    module(x)[0].square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    module.zero_grad()


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="there is no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "lstm_peephole", "gru", "gru_reset_before"])
def test_a_forked_child_trains_the_layer_in_shared_memory(kind):
    module, alone = (layer(kind, D, 40, 2, bidirectional=True) for _ in range(2))
    x = normal(30, 5, D, seed=1)
    set_num_threads(2)  # the child starts its own
    try:
        module.share_memory()
        for _ in range(2):
            train(module, x)
            child = get_context("fork").Process(target=train, args=(module, x))
            child.start()
            child.join(timeout=60)
            child.kill()
            assert child.exitcode == 0
        got = module(x)[0]
    finally:
        set_num_threads(None)
    for _ in range(4):
        train(alone, x)
    assert_same_bits(got, alone(x)[0])
