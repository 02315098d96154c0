"""The memory of a layer's large results: kept for the next step, and never lent twice."""

import threading

import pytest
import torch

from timelike.memory import SpareMemory
from timelike.nn import LSTM

X = torch.empty(0)
LARGE = 1 << 19  # float32 numbers: 2 MiB


def test_memory_is_used_again():
    memory = SpareMemory()
    first = memory.empty(X, LARGE)
    address = first.data_ptr()
    del first
    second = memory.empty(X, LARGE - 100)
    assert second.data_ptr() == address
    assert second.shape == (LARGE - 100,)
    assert second.dtype == torch.float32


def test_memory_is_not_lent_twice():
    memory = SpareMemory()
    first, second = memory.empty(X, LARGE), memory.empty(X, LARGE)
    assert abs(first.data_ptr() - second.data_ptr()) >= first.nbytes


@pytest.mark.parametrize("hold", [lambda t: t[5:], lambda t: t.detach(), lambda t: t.numpy()])
def test_a_view_keeps_the_memory(hold):
    memory = SpareMemory()
    first = memory.empty(X, LARGE)
    address, view = first.data_ptr(), hold(first)
    del first
    assert memory.empty(X, LARGE).data_ptr() != address
    del view
    assert memory.empty(X, LARGE).data_ptr() != 0


def test_one_memory_is_kept_and_no_more():
    memory = SpareMemory()
    many = [memory.empty(X, LARGE) for _ in range(5)]
    del many
    assert len(memory._spare) == 1


def test_memory_that_is_far_too_large_is_given_back():
    memory = SpareMemory()
    del (_ := [memory.empty(X, 8 * LARGE)])[:]
    small = memory.empty(X, LARGE)
    assert small.untyped_storage().nbytes() == small.nbytes
    del small
    assert [m.nbytes for m in memory._spare] == [4 * LARGE]


def test_small_memory_are_left_to_malloc():
    memory = SpareMemory()
    del (_ := [memory.empty(X, 100)])[:]
    assert memory._spare == []


def test_doubles():
    tape = SpareMemory().empty(X.double(), LARGE)
    assert tape.dtype == torch.float64
    assert tape.shape == (LARGE,)


def step(lstm, x, **options):
    lstm.zero_grad()
    lstm(x)[0].square().sum().backward(**options)
    return [p.grad.clone() for p in lstm.parameters()]


def test_a_retained_graph_keeps_its_tape_through_other_steps():
    torch.manual_seed(1)
    lstm, x = LSTM(4, 64), torch.randn(50, 32, 4)
    expected = step(lstm, x)
    y = lstm(x)[0].square().sum()
    y.backward(retain_graph=True)
    step(lstm, torch.randn(50, 32, 4))
    lstm.zero_grad()
    y.backward()
    for p, g in zip(lstm.parameters(), expected, strict=True):
        assert torch.equal(p.grad, g)


def test_results_that_are_held_are_not_written_over():
    torch.manual_seed(1)
    lstm, xs = LSTM(64, 64), torch.randn(3, 50, 32, 64)
    held = []
    for x in xs:
        leaf = x.clone().requires_grad_()
        y, _ = lstm(leaf)
        y.square().sum().backward()
        held.append((y, leaf.grad, y.detach().clone(), leaf.grad.clone()))
    for y, dx, y_then, dx_then in held:
        assert torch.equal(y, y_then)
        assert torch.equal(dx, dx_then)


def test_outputs_can_be_changed_in_place():
    lstm = LSTM(4, 64)
    y, _ = lstm(torch.randn(50, 32, 4))
    expected = 2 * y.detach()
    assert torch.equal(y.mul_(2), expected)
    assert not y._is_view()


def test_padding_is_zero_in_memory_that_was_used_before():
    lstm = LSTM(4, 64)
    x, mask = torch.randn(50, 32, 4), torch.zeros(50, 32, dtype=torch.bool)
    mask[:7] = True
    lstm(x)
    y, _ = lstm(x, mask=mask)
    assert not y[7:].any()
    assert y[:7].all()


def test_threads_that_share_a_layer_do_not_share_a_tape():
    torch.manual_seed(1)
    lstm, xs = LSTM(4, 64), torch.randn(4, 50, 32, 4)
    parameters = tuple(lstm.parameters())

    def run(x):
        return torch.autograd.grad(lstm(x)[0].square().sum(), parameters)

    expected, found = [run(x) for x in xs], {}

    def work(k):
        for _ in range(10):
            found[k] = run(xs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        for got, e in zip(found[k], expected[k], strict=True):
            assert torch.equal(got, e)
