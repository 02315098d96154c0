"""Prepared inference: against the reference, and to the bit against timelike.nn, whole and step by step."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import timelike.nn
from runtime_cases import (
    ARGUMENT,
    DTYPES,
    LENGTHS,
    OFFSETS,
    assert_same_bits,
    flat,
    normal,
    of_padded,
    random_weights,
    session_of,
    states_of,
)
from timelike import kernels, reference
from timelike.cells import CELLS
from timelike.errors import DataError
from timelike.runtime import Recurrent

# What it computes


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("n_biases", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_computes_what_the_reference_says(cell, dtype, n_biases, isa):
    D, H = 5, 9
    weights = random_weights(cell, D, H, R=4, n_biases=n_biases, dtype=dtype)
    session, x = Recurrent(weights, cell, instruction_set=isa), normal(OFFSETS[-1], D, dtype=dtype)
    state = states_of(session, len(LENGTHS))
    law = reference.forward(
        cell,
        x,
        OFFSETS,
        h0=flat(state)[0][0],
        c0=state[1][0] if isinstance(state, tuple) else None,
        **{ARGUMENT[name.removesuffix("_l0")]: values for name, values in weights.items()},
    )
    y, last = session.run(x, offsets=OFFSETS, state=state)
    expected = [law.y, law.h_T[None]] + ([law.c_T[None]] if law.c_T is not None else [])
    for got, exact in zip((y, *flat(last)), expected, strict=True):
        assert got.dtype == dtype
        assert np.isfinite(got).all()
        error = np.abs(got - exact).max()
        # as in test_kernels: a sum of D + H + 2 terms, and a handful of elementwise operations
        assert error <= (8 + np.sqrt(D + H + 2)) * np.finfo(dtype).eps * np.abs(exact).max()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_stand_one_upon_the_other(cell, layers, bidirectional):
    """A stack is its layers by themselves; the second direction is the first one on mirrored time."""
    weights = random_weights(cell, 5, 9, R=4, layers=layers, bidirectional=bidirectional)
    session = Recurrent(weights, cell)
    x, state = normal(7, 3, 5), states_of(session, 3)
    y, last = session.run(x, state=state)
    found = []
    for layer in range(layers):
        outputs = []
        for k, suffix in enumerate(("", "_reverse")[: 1 + bidirectional]):
            end = f"_l{layer}{suffix}"
            own = {f"{n[: -len(end)]}_l0": w for n, w in weights.items() if n.endswith(end)}
            at = slice(len(found), len(found) + 1)
            given = tuple(s[at] for s in state) if isinstance(state, tuple) else state[at]
            of_layer, of_layer_last = Recurrent(own, cell).run(x[::-1] if k else x, state=given)
            outputs.append(of_layer[::-1] if k else of_layer)
            found.append(flat(of_layer_last))
        x = np.concatenate(outputs, axis=2)
    assert_same_bits(y, x)
    assert_same_bits(flat(last), tuple(np.concatenate(parts) for parts in zip(*found, strict=True)))


MODULES = {
    "rnn_tanh": (timelike.nn.RNN, {}),
    "rnn_relu": (timelike.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (timelike.nn.LSTM, {}),
    "lstm_peephole": (timelike.nn.LSTM, {"peephole": True}),
    "lstm_coupled": (timelike.nn.LSTM, {"coupled": True}),
    "lstm_projected": (timelike.nn.LSTM, {"proj_size": 4}),
    "gru": (timelike.nn.GRU, {}),
    "gru_reset_before": (timelike.nn.GRU, {"reset_after": False}),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_bits_are_those_of_the_torch_layer(cell, options, dtype, batch_first):
    torch.manual_seed(1)
    kind, own = MODULES[cell]
    module = kind(5, 9, batch_first=batch_first, dtype=getattr(torch, dtype), **own, **options)
    session = Recurrent.from_module(module)
    assert session.cell == cell
    x, state = normal(6, 7, 5, dtype=dtype), states_of(session, 6 if batch_first else 7)
    hx = tuple(torch.tensor(s) for s in flat(state))
    with torch.inference_mode():
        expected = module(torch.tensor(x), hx if isinstance(state, tuple) else hx[0])
        ragged = module(timelike.nn.Ragged(torch.tensor(x[0]), torch.tensor([0, 5, 5, 7])))
    y, last = session.run(x, state=state)
    assert_same_bits(y, expected[0].numpy())
    assert_same_bits(flat(last), tuple(t.numpy() for t in flat(expected[1])))
    assert_same_bits(session.run(x[0], offsets=[0, 5, 5, 7])[0], ragged[0].values.numpy())


def test_a_gru_with_one_bias_has_the_bits_of_the_torch_layer():
    torch.manual_seed(1)
    module, x = timelike.nn.GRU(5, 9, num_layers=2, inner_bias=False), normal(6, 7, 5)
    with torch.inference_mode():
        expected, _ = module(torch.tensor(x))
    assert_same_bits(Recurrent.from_module(module).run(x)[0], expected.numpy())


@pytest.mark.parametrize("mode", ["RNN", "LSTM", "GRU"])
def test_layers_of_torch_are_taken(mode):
    torch.manual_seed(1)
    module = getattr(torch.nn, mode)(5, 9, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = normal(7, 3, 5, dtype="float64")
    with torch.inference_mode():
        expected, last = module(torch.tensor(x))
    y, state = Recurrent.from_module(module).run(x)
    for got, law in zip((y, *flat(state)), (expected, *flat(last)), strict=True):
        assert np.abs(got - law.numpy()).max() <= 1e-14  # of numbers up to 1, summed in another order


def test_threads_do_not_change_the_bits():
    x = normal(20, 150, 16)
    runs = [Recurrent(random_weights("lstm", 16, 64), threads=n).run(x) for n in (1, 2, 3, 8)]
    for y, last in runs[1:]:
        assert_same_bits(y, runs[0][0])
        assert_same_bits(last, runs[0][1])


# Layouts


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_has_the_same_bits_in_every_layout(cell, bidirectional):
    options = {"layers": 2, "bidirectional": bidirectional}
    session = session_of(cell, **options)
    padded = normal(7, len(LENGTHS), 5)
    padded[np.arange(7)[:, None] >= np.array(LENGTHS)] = np.nan  # must not be read
    x, state = of_padded(padded), states_of(session, len(LENGTHS))
    y, last = session.run(x, offsets=OFFSETS, state=state)

    time_major, time_major_last = session.run(padded, lengths=LENGTHS, state=state)
    assert_same_bits(of_padded(time_major), y)
    assert_same_bits(time_major_last, last)
    assert (time_major[np.arange(7)[:, None] >= np.array(LENGTHS)] == 0).all()

    batch_major = session_of(cell, batch_first=True, **options)
    found, batch_major_last = batch_major.run(padded.swapaxes(0, 1), lengths=LENGTHS, state=state)
    assert_same_bits(of_padded(found, batch_first=True), y)
    assert_same_bits(batch_major_last, last)

    for b, (begin, end) in enumerate(pairwise(OFFSETS)):
        alone = tuple(s[:, b] for s in flat(state))
        one, one_last = session.run(x[begin:end], state=alone if isinstance(state, tuple) else alone[0])
        assert_same_bits(one, y[begin:end])
        assert_same_bits(flat(one_last), tuple(s[:, b] for s in flat(last)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_state_alone_has_the_same_bits(cell):
    session, x = session_of(cell, layers=2, bidirectional=True), normal(OFFSETS[-1], 5)
    assert_same_bits(session.last_state(x, offsets=OFFSETS), session.run(x, offsets=OFFSETS)[1])


@pytest.mark.parametrize(
    "kind", ["columns", "transposed", "reversed", "every other", "misaligned", "Fortran"]
)
def test_inputs_may_lie_in_memory_in_any_way(kind):
    session, x = session_of(), normal(6, 4, 5)
    expected = session.run(x)[0]
    if kind == "columns":
        view = np.full((6, 4, 8), np.nan, "float32")[:, :, 2:7]
    elif kind == "transposed":
        view = np.empty((4, 6, 5), "float32").swapaxes(0, 1)
    elif kind == "reversed":
        view = np.empty((6, 4, 5), "float32")[::-1, :, ::-1]
    elif kind == "every other":
        view = np.full((12, 4, 10), np.nan, "float32")[::2, :, ::2]
    elif kind == "misaligned":
        view = np.empty(6 * 4 * 5 * 4 + 1, "uint8")[1:].view("float32").reshape(6, 4, 5)
    else:
        view = np.empty((6, 4, 5), "float32", order="F")
    view[...] = x
    assert_same_bits(session.run(view)[0], expected)
    state = states_of(session, 4)
    spread = tuple(np.repeat(s, 2, axis=1)[:, ::2] for s in state)
    assert_same_bits(session.run(view, state=spread)[0], session.run(x, state=state)[0])
    assert_same_bits(session.stream(4).step(view[0]), expected[0])


@pytest.mark.parametrize("dtype", ["int32", "uint8", ">i8"])
def test_offsets_and_lengths_of_any_integers(dtype):
    session, x = session_of(), normal(OFFSETS[-1], 5)
    expected = session.run(x, offsets=OFFSETS)[0]
    assert_same_bits(session.run(x, offsets=np.array(OFFSETS, dtype))[0], expected)
    assert_same_bits(session.run(x, offsets=np.repeat(np.array(OFFSETS, dtype), 2)[::2])[0], expected)
    padded = normal(7, len(LENGTHS), 5)
    expected = session.run(padded, lengths=LENGTHS)[0]
    assert_same_bits(session.run(padded, lengths=np.array(LENGTHS, dtype))[0], expected)


@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 0, 5), (0, 5)])
def test_batches_without_steps_hand_the_state_on(shape):
    session = session_of(layers=2)
    state = states_of(session, shape[1] if len(shape) == 3 else None)
    y, last = session.run(np.empty(shape, "float32"), state=state)
    assert y.shape == (*shape[:-1], 9)
    assert_same_bits(last, state)
    no_sequences = session.run(np.empty((0, 5), "float32"), offsets=[0])
    assert no_sequences[1][0].shape == (2, 0, 9)


def test_results_go_where_one_says():
    session, x = session_of(), normal(6, 4, 5)
    out = np.full((6, 4, 9), np.nan, "float32")
    y, _ = session.run(x, out=out)
    assert y is out
    assert_same_bits(out, session.run(x)[0])
    stream, row = session.stream(4), np.full((4, 9), np.nan, "float32")
    assert stream.step(x[0], row) is row
    assert_same_bits(row, out[0])


def test_what_somebody_holds_is_not_written_to_again():
    """Arrays that were handed out are handed out again, once nobody holds them or a view of them."""
    session, batches = session_of(), [normal(4, 5, seed=k) for k in range(12)]
    stream = session.stream()
    expected = [session_of().run(x) for x in batches]  # each from a session that has handed out nothing yet
    held = [session.run(x) for x in batches]
    views = [memoryview(session.run(x)[0])[1:] for x in batches]
    steps = [stream.step(x[0]) for x in batches]
    kept = [step.copy() for step in steps]
    states = [stream.state for _ in range(12)]
    for got, view, law in zip(held, views, expected, strict=True):
        assert_same_bits(got[0], law[0])
        assert_same_bits(got[1], law[1])
        assert_same_bits(np.asarray(view), law[0][1:])
    assert_same_bits(np.array(steps), np.array(kept))
    assert len({id(a) for a in [*steps, *(a for state in states for a in state)]}) == 36


def test_a_view_of_a_large_result_keeps_its_memory():
    session, x = session_of(H=40), normal(60, 9, 5)
    kept = [session.run(k * x)[0][-1] for k in range(8)]
    session.run(100 * x)
    fresh = session_of(H=40)
    for k, last in enumerate(kept):
        assert_same_bits(last, fresh.run(k * x)[0][-1].copy())


@pytest.mark.parametrize(
    "axes", [(1, 4, 5), (6, 1, 5), (6, 4, 1), (1, 1, 5), (6, 1, 1), (1, 4, 1), (1, 1, 1)]
)
def test_broadcast_arrays_are_read_as_what_they_are(axes):
    session, x = session_of(layers=2), np.broadcast_to(normal(*axes), (6, 4, 5))
    h, c = (np.broadcast_to(normal(2, 1, 9, seed=k), (2, 4, 9)) for k in (1, 2))
    expected = session.run(x.copy(), state=(h.copy(), c.copy()))
    got = session.run(x, state=(h, c))
    assert_same_bits(got[0], expected[0])
    assert_same_bits(got[1], expected[1])


def test_an_array_that_was_changed_is_not_handed_out_again():
    session, x = session_of(), normal(4, 5)
    expected = session.run(x)[0].copy()
    y = session.run(x)[0]
    y.resize((900, 4), refcheck=False)
    del y
    assert_same_bits(session.run(x)[0], expected)
    y = session.run(x)[0]
    y.flags.writeable = False
    del y
    y = session.run(x)[0]
    assert y.flags.writeable
    assert_same_bits(y, expected)


# Step by step


@pytest.mark.parametrize("B", [None, 1, 4, 70])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_have_the_bits_of_the_whole(cell, dtype, layers, B):
    session = session_of(cell, layers=layers, dtype=dtype)
    x = normal(6, *(() if B is None else (B,)), 5, dtype=dtype)
    y, last = session.run(x)
    stream = session.stream(B)
    assert_same_bits(np.array([stream.step(step) for step in x]), y)
    assert_same_bits(stream.state, last)

    state = states_of(session, B)
    y, last = session.run(x, state=state)
    stream.reset(state)
    assert_same_bits(stream.state, state)
    assert_same_bits(np.array([stream.step(step) for step in x]), y)
    assert_same_bits(stream.state, last)

    stream.reset()
    assert all((s == 0).all() for s in flat(stream.state))


def test_a_wide_layer_step_by_step():
    """One that is large enough for other threads to go on meanwhile."""
    session, x = session_of(D=40, H=300, layers=2), normal(3, 4, 40)
    stream = session.stream(4)
    assert_same_bits(np.array([stream.step(step) for step in x]), session.run(x)[0])


def test_the_state_is_a_copy_and_goes_back_in():
    session, x = session_of(), normal(4, 5)
    stream = session.stream()
    stream.step(x[0])
    before = stream.state
    kept = tuple(s.copy() for s in before)
    y = stream.step(x[1])
    assert_same_bits(before, kept)
    stream.reset(before)
    before[0][:] = np.nan
    assert_same_bits(stream.step(x[1]), y)


def test_windows_with_the_state_carried_on_are_the_whole():
    session, x = session_of(layers=2), normal(10, 3, 5)
    expected, last = session.run(x)
    first, state = session.run(x[:4])
    second, state = session.run(x[4:], state=state)
    assert_same_bits(np.concatenate([first, second]), expected)
    assert_same_bits(state, last)


def test_streams_are_independent_and_outlive_their_session():
    x = normal(5, 5)
    session = session_of()
    expected = session.run(x)[0]
    one, two = session.stream(), session.stream()
    del session
    gc.collect()
    assert_same_bits(np.array([(one.step(x[t]), two.step(x[t]))[1] for t in range(5)]), expected)


# Threads, processes, copies


def test_threads_share_a_session():
    session = session_of(H=64, layers=2)
    batches = [normal(20, 16 + k, 5, seed=k) for k in range(4)]  # large enough to give up the GIL
    expected = [session.run(x) for x in batches]
    found = [[] for _ in batches]

    def work(k):
        found[k] = [session.run(batches[k]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for runs, (y, last) in zip(found, expected, strict=True):
        assert len(runs) == 5
        for run in runs:
            assert_same_bits(run[0], y)
            assert_same_bits(run[1], last)


FORK = """
import os
import numpy as np
from timelike.runtime import Recurrent
rng = np.random.default_rng(1)
shapes = {"weight_ih_l0": (256, 8), "weight_hh_l0": (256, 64)}
session = Recurrent({name: rng.normal(size=shape) for name, shape in shapes.items()})
x = rng.normal(size=(30, 60, 8))
expected = session.run(x)[0]
stream = session.stream(60)
stream.step(x[0])
child = os.fork()
same = (session.run(x)[0] == expected).all() and (stream.step(x[1]) == expected[1]).all()
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""


def test_a_session_goes_on_after_fork():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_copies_and_pickles(again):
    session = session_of(batch_first=True, layers=2, bidirectional=True, n_biases=1)
    other, x = again(session), normal(3, 7, 5)
    assert repr(other) == repr(session)
    assert_same_bits(other.run(x)[0], session.run(x)[0])


def test_weights_are_copied():
    weights, x = random_weights("lstm", 5, 9), normal(7, 5)
    session = Recurrent(weights)
    expected = session.run(x)[0]
    for values in weights.values():
        values[...] = np.nan
    assert_same_bits(session.run(x)[0], expected)
    assert_same_bits(copy.deepcopy(session).run(x)[0], expected)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the memory of the process from /proc"
)
def test_nothing_is_left_behind_by_a_call():
    session = session_of(layers=2)
    x, ragged, stream = normal(3, 2, 5), normal(OFFSETS[-1], 5), session.stream(2)
    state, lengths, strided = states_of(session, 2), [3, 1], normal(6, 2, 5)[::2, :, :]

    def calls(n):
        for _ in range(n):
            session.run(x, state=state, lengths=lengths)
            session.run(ragged, offsets=OFFSETS)
            session.last_state(strided)
            stream.step(x[0])
            stream.reset(stream.state)
            for wrong in ({"x": x[0, 0]}, {"x": x, "out": x}, {"x": x, "state": x}):
                with pytest.raises((TypeError, ValueError)):
                    session.run(**wrong)

    calls(100)
    gc.collect()
    before = resident_bytes()
    tracemalloc.start()
    calls(10)
    gc.collect()
    first = tracemalloc.get_traced_memory()[0]
    calls(1000)
    gc.collect()
    growth = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert growth < 1000  # below a byte per call
    calls(9000)
    assert resident_bytes() - before < 2**20  # of native memory, too


# Mistakes


def test_unknown_cell():
    with pytest.raises(ValueError, match=r"^no cell 'lstn'; nearest: 'lstm'"):
        Recurrent(random_weights("lstm", 5, 9), "lstn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh_l0": None}, "weight_hh_l0: missing; given are weight_ih_l0, bias_ih_l0, bias_hh_l0"),
        (
            {"bias_hh_l0": None, "bias_ih_l0": None, "bias_ih_l1": (36,)},
            "weight_ih_l1: missing, of 2 layers of lstm",
        ),
        ({"weight_hh_l0_reverse": (36, 9)}, "weight_ih_l0_reverse: missing"),
        ({"bias_ih_l0": None}, "bias_ih_l0: missing"),
        ({"weight_ih_l0": (35, 5)}, r"weight_ih_l0: 35 rows, expected a multiple of the 4 gates of lstm"),
        ({"weight_ih_l0": (36,)}, r"weight_ih_l0: shape \(36,\), expected two axes"),
        ({"weight_hh_l0": (36, 8)}, r"weight_hh_l0: shape \(36, 8\), expected \(36, 9\)"),
        ({"bias_ih_l0": (9,)}, r"bias_ih_l0: shape \(9,\), expected \(36,\)"),
        (
            {"head.weight": (9,)},
            r"head.weight: no parameter of a recurrent layer \(is there a prefix to give\?\)",
        ),
    ],
)
def test_wrong_weights(change, message):
    weights = random_weights("lstm", 5, 9)
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = normal(*shape)
    with pytest.raises(DataError, match=f"^{message}") as error:
        Recurrent(weights)
    assert "\n" not in str(error.value)


def test_wrong_types_of_weights():
    weights = random_weights("lstm", 5, 9)
    with pytest.raises(DataError, match=r"^bias_ih_l0: float64, but weight_ih_l0 is float32$"):
        Recurrent(weights | {"bias_ih_l0": weights["bias_ih_l0"].astype("float64")})
    with pytest.raises(DataError, match=r"^weight_ih_l0: float16; possible: float32, float64$"):
        Recurrent({name: values.astype("float16") for name, values in weights.items()})
    with pytest.raises(TypeError, match=r"^Linear: expected RNN, LSTM or GRU of torch.nn or timelike.nn$"):
        Recurrent.from_module(torch.nn.Linear(2, 3))


def test_a_prefix_picks_the_weights_of_a_layer():
    weights = random_weights("lstm", 5, 9)
    model = {f"recurrent.0.{name}": values for name, values in weights.items()} | {
        "head.weight": normal(2, 9)
    }
    x = normal(7, 5)
    assert_same_bits(Recurrent(model, prefix="recurrent.0.").run(x)[0], Recurrent(weights).run(x)[0])
    with pytest.raises(DataError, match=r"^recurrent.1.weight_ih_l0: missing; given are no weights$"):
        Recurrent(model, prefix="recurrent.1.")


X = normal(7, 3, 5)
WRONG_INPUT = {
    "list": ([[1.0]], {}, TypeError, "x: list, expected a NumPy array of float32"),
    "precision": (
        X.astype("float64"),
        {},
        TypeError,
        "x: ndarray of float64, expected a NumPy array of float32",
    ),
    "byte order": (X.astype(">f4"), {}, TypeError, "x: ndarray of >f4, expected a NumPy array of float32"),
    "objects": (X.astype(object), {}, TypeError, "x: ndarray of object, expected a NumPy array of float32"),
    "axes": (X[0, 0], {}, ValueError, r"x: shape (5,), expected (T, B, 5), or (T, 5) for one sequence"),
    "inputs": (X[..., :4], {}, ValueError, "x: shape (7, 3, 4), but a step has 5 inputs"),
    "number": (np.float32(1), {}, ValueError, "x: shape (), expected (T, B, 5), or (T, 5) for one sequence"),
    "offsets of padded": (
        X,
        {"offsets": [0, 7]},
        ValueError,
        "x: shape (7, 3, 5), expected (N, 5) with offsets",
    ),
    "lengths of one": (
        X[0],
        {"lengths": [3]},
        ValueError,
        "x: shape (3, 5), expected (T, B, 5) with lengths",
    ),
    "both": (
        X,
        {"lengths": [3], "offsets": [0, 7]},
        ValueError,
        "offsets and lengths: give offsets for steps (N, D), lengths for a padded batch",
    ),
    "fraction": (X[0], {"offsets": [0, 1.5, 3]}, TypeError, "offsets: float64, expected integers"),
    "offsets axes": (X[0], {"offsets": [[0, 3]]}, ValueError, "offsets: shape (1, 2), expected one axis"),
    "offsets end": (X[0], {"offsets": [0, 2]}, ValueError, "offsets: must go from 0 to the 3 rows of x"),
    "offsets begin": (X[0], {"offsets": [1, 3]}, ValueError, "offsets: must go from 0 to the 3 rows of x"),
    "no offsets": (X[0], {"offsets": []}, ValueError, "offsets: must go from 0 to the 3 rows of x"),
    "offsets fall": (X[0], {"offsets": [0, 2, 1, 3]}, ValueError, "offsets: fall from 2 to 1"),
    "too many lengths": (X, {"lengths": [1] * 4}, ValueError, "lengths: 4 numbers for 3 sequences"),
    "too long": (X, {"lengths": [7, 8, 0]}, ValueError, "lengths: 8, expected 0 to the 7 steps of x"),
    "negative": (X, {"lengths": [7, -1, 0]}, ValueError, "lengths: -1, expected 0 to the 7 steps of x"),
    "state": (X, {"state": X}, TypeError, "state: ndarray, expected a tuple (h, c) of two arrays"),
    "h": (X, {"state": (X, X)}, ValueError, "h of state: shape (7, 3, 5), expected (1, 3, 9)"),
    "c": (
        X,
        {"state": (np.zeros((1, 3, 9), "f"), X)},
        ValueError,
        "c of state: shape (7, 3, 5), expected (1, 3, 9)",
    ),
    "h of one": (X[0], {"state": (X, X)}, ValueError, "h of state: shape (7, 3, 5), expected (1, 9)"),
    "precision of h": (
        X,
        {"state": (np.zeros((1, 3, 9)), np.zeros((1, 3, 9)))},
        TypeError,
        "h of state: ndarray of float64, expected a NumPy array of float32",
    ),
    "out": (X, {"out": np.empty((7, 3, 8), "f")}, ValueError, "out: shape (7, 3, 8), expected (7, 3, 9)"),
    "out apart": (
        X,
        {"out": np.empty((7, 3, 10), "f")[..., :9]},
        ValueError,
        "out: must be contiguous, since it is written to",
    ),
    "read-only": (
        X,
        {"out": np.broadcast_to(np.float32(0), (7, 3, 9))},
        ValueError,
        "out: is read-only, but is written to",
    ),
    "precision of out": (
        X,
        {"out": np.empty((7, 3, 9))},
        TypeError,
        "out: ndarray of float64, expected a NumPy array of float32",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUT)
def test_wrong_input(case):
    x, options, kind, message = WRONG_INPUT[case]
    with pytest.raises(kind) as error:
        session_of().run(x, **options)
    assert str(error.value) == message


def test_outputs_over_inputs_are_refused():
    session, x = session_of(D=9), normal(7, 3, 9)
    with pytest.raises(ValueError, match=r"^out: shares memory with x or the state$"):
        session.run(x, out=x)
    state = tuple(np.zeros((1, 3, 9), "float32") for _ in range(2))
    with pytest.raises(ValueError, match=r"^out: shares memory with x or the state$"):
        session.run(x[:1], state=state, out=state[1])
    with pytest.raises(ValueError, match=r"^out: shares memory with x$"):
        session.stream(3).step(x[0], x[0])


def test_no_threads():
    with pytest.raises(
        ValueError, match=r"^threads: 0; at least 1, or None for timelike.get_num_threads\(\)$"
    ):
        Recurrent(random_weights("lstm", 5, 9), threads=0)


def test_mistakes_with_streams():
    session = session_of()
    with pytest.raises(
        ValueError, match=r"^a stream cannot walk back: these layers are bidirectional; use run$"
    ):
        session_of(bidirectional=True).stream()
    with pytest.raises(ValueError, match=r"^n_sequences: -1; at least 0, or None for one without an axis$"):
        session.stream(-1)
    with pytest.raises(ValueError, match=r"^x: shape \(3, 5\), expected \(5,\)$"):
        session.stream().step(X[0])
    with pytest.raises(ValueError, match=r"^x: shape \(5,\), expected \(3, 5\)$"):
        session.stream(3).step(X[0, 0])
    with pytest.raises(TypeError, match=r"^x: ndarray of float64, expected a NumPy array of float32$"):
        session.stream(3).step(X[0].astype("float64"))
    with pytest.raises(TypeError, match=r"^x: NoneType, expected a NumPy array of float32$"):
        session.stream(3).step(None)
    with pytest.raises(TypeError, match=r"^state: ndarray, expected a tuple \(h, c\) of two arrays$"):
        session.stream(3).reset(X)
