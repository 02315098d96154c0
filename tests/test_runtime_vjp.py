"""The way back of prepared layers, against the reference; test_nn_vjp has it beside that of timelike.nn.

No PyTorch here: the sanitizers run this file.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading

import numpy as np
import pytest

from runtime_cases import (
    ARGUMENT,
    DTYPES,
    LENGTHS,
    OFFSETS,
    assert_same_bits,
    flat,
    normal,
    random_weights,
    session_of,
    states_of,
    upstream_of,
)
from timelike import kernels, reference
from timelike.cells import CELLS
from timelike.errors import DataError
from timelike.runtime import Recurrent


def assert_same_gradients(got, expected):
    assert_same_bits(got.x, expected.x)
    assert (got.state is None) == (expected.state is None)
    if got.state is not None:
        assert_same_bits(got.state, expected.state)
    assert list(got.weights) == list(expected.weights)
    for name, gradient in expected.weights.items():
        assert_same_bits(got.weights[name], gradient)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("n_biases", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_the_reference(cell, dtype, n_biases, isa):
    D, H = 5, 9
    weights = random_weights(cell, D, H, R=4, n_biases=n_biases, dtype=dtype)
    session, x = Recurrent(weights, cell, instruction_set=isa), normal(OFFSETS[-1], D, dtype=dtype)
    state = states_of(session, len(LENGTHS))
    (y, last), pullback = session.vjp(x, offsets=OFFSETS, state=state)
    dy, d_last = upstream_of(y, last)
    got = pullback(dy, d_last)
    run = reference.forward(
        cell,
        x,
        OFFSETS,
        h0=flat(state)[0][0],
        c0=state[1][0] if isinstance(state, tuple) else None,
        **{ARGUMENT[name.removesuffix("_l0")]: values for name, values in weights.items()},
    )
    law = reference.backward(cell, run, dy, *(d[0] for d in flat(d_last)))
    pairs = {"x": (got.x, law.dx)}
    pairs |= {
        name: (d[0], getattr(law, name)) for name, d in zip(("dh0", "dc0"), flat(got.state), strict=False)
    }
    pairs |= {name: (d, getattr(law, "d" + ARGUMENT[name[:-3]])) for name, d in got.weights.items()}
    assert list(got.weights) == list(weights)
    for name, (d, exact) in pairs.items():
        assert d.dtype == dtype, name
        assert np.isfinite(d).all(), name
        # As in kernel_cases: products of all steps and gates, and for the weights one for each row.
        terms = max(LENGTHS) * (D + session.state_size + len(CELLS[cell].gates) * H) + len(x)
        error = np.abs(d - exact).max() / np.abs(exact).max()
        assert error <= (8 + np.sqrt(terms)) * np.finfo(dtype).eps, name


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_are_those_of_run(cell):
    session, x = session_of(cell, layers=2, bidirectional=True), normal(7, 3, 5)
    state = states_of(session, 3)
    (y, last), _ = session.vjp(x, state=state, lengths=[7, 0, 2])
    expected, expected_last = session.run(x, state=state, lengths=[7, 0, 2])
    assert_same_bits(y, expected)
    assert_same_bits(last, expected_last)


def test_gradients_of_padding_are_zero_whatever_lies_there():
    session, x = session_of(layers=2, bidirectional=True), normal(7, 6, 5)
    x[5:, 0] = np.nan
    (y, _), pullback = session.vjp(x, lengths=LENGTHS)
    dy = normal(*y.shape, seed=2)
    dy[5:, 0] = np.nan
    for _ in range(2):  # the second one in memory that was used
        got = pullback(dy)
        assert np.isfinite(got.x).all()
        for b, n in enumerate(LENGTHS):
            assert (got.x[n:, b] == 0).all()
            assert (got.x[:n, b] != 0).all()
        got.x[:] = np.nan
        del got


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_is_not_given_counts_as_zero_and_what_is_not_wanted_is_not_there(cell):
    session, x = session_of(cell, layers=2), normal(7, 3, 5)
    state = states_of(session, 3)
    (y, last), pullback = session.vjp(x, state=state)
    dy, d_last = upstream_of(y, last)
    zeros = tuple(np.zeros_like(s) for s in flat(last))
    zeros = zeros if isinstance(last, tuple) else zeros[0]
    assert_same_gradients(pullback(dy), pullback(dy, zeros))
    assert_same_gradients(pullback(None, d_last), pullback(np.zeros_like(dy), d_last))
    if isinstance(last, tuple):
        assert_same_gradients(pullback(None, (None, d_last[1])), pullback(None, (zeros[0], d_last[1])))
        assert_same_gradients(pullback(None, (d_last[0], None)), pullback(None, (d_last[0], zeros[1])))
    whole, some = pullback(dy), pullback(dy, wrt_input=False)
    assert some.x is None
    assert_same_bits(some.state, whole.state)
    for name, gradient in whole.weights.items():
        assert_same_bits(some.weights[name], gradient)
    assert session.vjp(x)[1](dy).state is None


def test_gradients_go_where_one_says():
    session, x = session_of(layers=2, bidirectional=True), normal(7, 3, 5)
    (y, _), pullback = session.vjp(x)
    dy = normal(*y.shape, seed=2)
    expected = pullback(dy)
    out = {name: np.full_like(gradient, np.nan) for name, gradient in expected.weights.items()}
    own = {name: id(array) for name, array in out.items()}
    got = pullback(dy, out=out)
    assert {name: id(array) for name, array in got.weights.items()} == own
    assert_same_gradients(got, expected)
    some = {name: np.full_like(array, np.nan) for name, array in out.items() if "bias_ih" not in name}
    got = pullback(dy, out=some)
    assert got.weights.keys() == some.keys()
    for name, gradient in got.weights.items():
        assert_same_bits(gradient, expected.weights[name])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_state_may_be_carried_on_in_place(cell):
    session, x = session_of(cell), normal(7, 3, 5)
    state = states_of(session, 3)
    (y, last), pullback = session.vjp(x, state=state)
    upstream = upstream_of(y, last)
    expected = pullback(*upstream)
    for old, new in zip(flat(state), flat(last), strict=True):
        old[...] = new
        new[...] = np.nan
    assert_same_gradients(pullback(*upstream), expected)


def test_broadcast_gradients_are_read_as_what_they_are():
    session, x = session_of(layers=2), normal(7, 3, 5)
    _, pullback = session.vjp(x)
    dy = np.broadcast_to(normal(7, 1, 9), (7, 3, 9))
    dh, dc = (np.broadcast_to(normal(2, 1, 9, seed=k), (2, 3, 9)) for k in (1, 2))
    assert_same_gradients(pullback(dy, (dh, dc)), pullback(dy.copy(), (dh.copy(), dc.copy())))


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_bit(threads):
    session, x = session_of("lstm", 20, 33, layers=2), normal(9, 150, 20)
    (y, last), pullback = session.vjp(x, threads=1)
    upstream = upstream_of(y, last)
    (other, _), other_pullback = session.vjp(x, threads=threads)
    assert_same_bits(other, y)
    assert_same_gradients(other_pullback(*upstream), pullback(*upstream))


def test_no_steps_and_no_sequences():
    session = session_of(layers=2)
    (y, last), pullback = session.vjp(
        np.empty((0, 5), "float32"), offsets=[0, 0, 0], state=states_of(session, 2)
    )
    dy, d_last = upstream_of(y, last)
    got = pullback(dy, d_last)
    assert got.x.shape == (0, 5)
    assert_same_bits(got.state, d_last)
    assert all((gradient == 0).all() for gradient in got.weights.values())
    _, pullback = session.vjp(np.empty((4, 0, 5), "float32"))
    assert all(
        (gradient == 0).all() for gradient in pullback(np.empty((4, 0, 9), "float32")).weights.values()
    )


# Other weights


def test_other_weights_take_effect_and_runs_keep_theirs():
    first, second = (random_weights("gru", 5, 9, layers=2, seed=seed) for seed in (1, 2))
    session, x = Recurrent(first, "gru"), normal(7, 3, 5)
    stream, (y, last), pullback = session.stream(3), *session.vjp(x)
    upstream = upstream_of(y, last)
    expected = pullback(*upstream)
    session.update(second)
    other = Recurrent(second, "gru")
    assert_same_gradients(pullback(*upstream), expected)
    assert_same_bits(session.run(x)[0], other.run(x)[0])
    assert_same_bits(stream.step(x[0]), other.run(x)[0][0])
    assert_same_gradients(session.vjp(x)[1](*upstream), other.vjp(x)[1](*upstream))
    for again in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert_same_bits(again.run(x)[0], other.run(x)[0])


def test_weights_come_by_their_prefix():
    weights = {f"rnn.{name}": values for name, values in random_weights("gru", 5, 9, seed=2).items()}
    session = Recurrent(
        {name: np.zeros_like(values) for name, values in weights.items()}, "gru", prefix="rnn."
    )
    x, expected = normal(7, 5), Recurrent(weights, "gru", prefix="rnn.").run(normal(7, 5))[0]
    session.update(weights | {"head.weight": None})
    assert_same_bits(session.run(x)[0], expected)
    assert_same_bits(pickle.loads(pickle.dumps(session)).run(x)[0], expected)
    with pytest.raises(ValueError, match=r"^rnn\.weight_ih_l0: shape \(27, 4\), expected \(27, 5\)$"):
        session.update(weights | {"rnn.weight_ih_l0": np.zeros((27, 4), "f")})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias_hh_l0": None}, DataError, r"bias_hh_l0: missing, of Recurrent\('gru', 5, 9\)"),
        ({"bias_hh_l0": np.zeros(26, "f")}, ValueError, r"bias_hh_l0: shape \(26,\), expected \(27,\)"),
        (
            {"weight_hh_l0": np.zeros((27, 9))},
            TypeError,
            "weight_hh_l0: ndarray of float64, expected a NumPy array of float32",
        ),
    ],
)
def test_wrong_weights_change_nothing(change, error, message):
    weights = random_weights("gru", 5, 9)
    session, x = Recurrent(weights, "gru"), normal(7, 5)
    expected = session.run(x)[0]
    other = {name: 2 * values for name, values in weights.items()} | change
    with pytest.raises(error, match=f"^{message}$"):
        session.update({name: values for name, values in other.items() if values is not None})
    assert_same_bits(session.run(x)[0], expected)


# Memory and threads


def test_runs_are_independent_and_outlive_their_session():
    batches = [normal(4 + k, 3, 5, seed=k) for k in range(5)]
    expected = []
    for x in batches:
        (y, last), pullback = session_of(layers=2).vjp(x)
        expected.append(pullback(*upstream_of(y, last)))
    session = session_of(layers=2)
    runs = [session.vjp(x) for x in batches]
    del session
    gc.collect()
    for ((y, last), pullback), gradients in reversed([*zip(runs, expected, strict=True)]):
        assert_same_gradients(pullback(*upstream_of(y, last)), gradients)


def test_threads_share_a_session():
    session = session_of(H=64, layers=2)
    batches = [normal(20, 16 + k, 5, seed=k) for k in range(4)]  # large enough to give up the GIL

    def there_and_back(x):
        (y, last), pullback = session.vjp(x)
        return pullback(*upstream_of(y, last))

    expected = [there_and_back(x) for x in batches]
    found = [[] for _ in batches]

    def work(k):
        found[k] = [there_and_back(batches[k]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradients, law in zip(found, expected, strict=True):
        assert len(gradients) == 5
        for got in gradients:
            assert_same_gradients(got, law)


# Mistakes


X = normal(7, 3, 5)
STATE = np.zeros((1, 3, 9), "float32")


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        ((), ValueError, "neither dy nor dstate is given"),
        ((None, (None, None)), ValueError, "neither dy nor dstate is given"),
        ((X,), ValueError, "dy: shape (7, 3, 5), expected (7, 3, 9)"),
        ((np.zeros((7, 3, 9)),), TypeError, "dy: ndarray of float64, expected a NumPy array of float32"),
        ((None, X), TypeError, "dstate: ndarray, expected a tuple (h, c) of two arrays"),
        ((None, (X, None)), ValueError, "h of dstate: shape (7, 3, 5), expected (1, 3, 9)"),
        ((None, (STATE, 3)), TypeError, "c of dstate: int, expected a NumPy array of float32"),
    ],
)
def test_wrong_gradients(gradients, error, message):
    _, pullback = session_of().vjp(X)
    with pytest.raises(error) as raised:
        pullback(*gradients)
    assert str(raised.value) == message


def test_wrong_places_for_gradients():
    session = session_of()
    (y, _), pullback = session.vjp(X)
    right = {name: np.empty_like(g) for name, g in pullback(y).weights.items()}
    for name, wrong, error, message in [
        ("weight_hh_l0", None, ValueError, "out: weight_hh_l0 is missing; only biases may be"),
        ("bias_ih_l0", np.empty(35, "f"), ValueError, "bias_ih_l0 of out: shape (35,), expected (36,)"),
        (
            "weight_ih_l0",
            np.empty((36, 5)),
            TypeError,
            "weight_ih_l0 of out: ndarray of float64, expected a NumPy array of float32",
        ),
        (
            "weight_ih_l0",
            np.empty((36, 6), "f")[:, :5],
            ValueError,
            "weight_ih_l0 of out: must be contiguous, since it is written to",
        ),
    ]:
        given = {key: array for key, array in (right | {name: wrong}).items() if array is not None}
        with pytest.raises(error) as raised:
            pullback(y, out=given)
        assert str(raised.value) == message
    with pytest.raises(TypeError, match=r"^out: list, expected a dictionary of arrays$"):
        pullback(y, out=[])


def test_wrong_input():
    session = session_of()
    with pytest.raises(ValueError, match=r"^x: shape \(7, 3, 4\), but a step has 5 inputs$"):
        session.vjp(X[..., :4])
    with pytest.raises(ValueError, match=r"^offsets: fall from 2 to 1$"):
        session.vjp(X[0], offsets=[0, 2, 1, 3])
    with pytest.raises(TypeError, match=r"^h of state: NoneType, expected a NumPy array of float32$"):
        session.vjp(X, state=(None, STATE))
