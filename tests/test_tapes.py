"""The memory of a layer's tape: kept for the next step, and never lent twice."""

import threading

import pytest
import torch

from timelike.nn import LSTM
from timelike.tapes import TapeMemory

X = torch.empty(0)
LARGE = 1 << 19  # float32 numbers: 2 MiB


def test_memory_is_used_again():
    tapes = TapeMemory()
    first = tapes.empty(LARGE, X)
    address = first.data_ptr()
    del first
    second = tapes.empty(LARGE - 100, X)
    assert second.data_ptr() == address
    assert second.shape == (LARGE - 100,)
    assert second.dtype == torch.float32


def test_memory_is_not_lent_twice():
    tapes = TapeMemory()
    first, second = tapes.empty(LARGE, X), tapes.empty(LARGE, X)
    assert abs(first.data_ptr() - second.data_ptr()) >= first.nbytes


@pytest.mark.parametrize("hold", [lambda t: t[5:], lambda t: t.detach(), lambda t: t.numpy()])
def test_a_view_keeps_the_memory(hold):
    tapes = TapeMemory()
    first = tapes.empty(LARGE, X)
    address, view = first.data_ptr(), hold(first)
    del first
    assert tapes.empty(LARGE, X).data_ptr() != address
    del view
    assert tapes.empty(LARGE, X).data_ptr() != 0


def test_one_tape_is_kept_and_no_more():
    tapes = TapeMemory()
    many = [tapes.empty(LARGE, X) for _ in range(5)]
    del many
    assert len(tapes._spare) == 1


def test_memory_that_is_far_too_large_is_given_back():
    tapes = TapeMemory()
    del (_ := [tapes.empty(8 * LARGE, X)])[:]
    small = tapes.empty(LARGE, X)
    assert small.untyped_storage().nbytes() == small.nbytes
    del small
    assert [m.nbytes for m in tapes._spare] == [4 * LARGE]


def test_small_tapes_are_left_to_malloc():
    tapes = TapeMemory()
    del (_ := [tapes.empty(100, X)])[:]
    assert tapes._spare == []


def test_doubles():
    tape = TapeMemory().empty(LARGE, X.double())
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
