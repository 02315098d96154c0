"""Scores step by step: those of the steps so far, of any streams in any order."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from tests.scorer_cases import CELLS, NETWORKS, bound, ensemble, events, made, saved

import timelike
from timelike.errors import ConfigError, DataError

LSTM = {"recurrent": [{"units": 5}], "head": {"units": [6]}}
STREAMED = {
    name: network
    for name, network in NETWORKS.items()
    if not name.startswith("pooling flatten")
    and not any(layer.get("bidirectional") for layer in network.get("recurrent", []))
}
MISSING = {"missing": {"eta": "indicator"}, "transforms": {"pt": ["log", "standardise"]}}


def loaded(tmp_path, network=LSTM, **options):
    return timelike.load(saved(made(network, **options), tmp_path))


def of_prefix(model, rows):
    """The scores that a stream is to give after these steps."""
    found = model.predict(rows)
    return found[-1] if model.per_step else found


def test_there_are_networks_of_every_kind():
    assert set(CELLS) <= set(STREAMED)
    assert {"pooling mean, mixed", "pooling none, no layer", "quantiles", "batch norm"} <= set(STREAMED)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STREAMED)
def test_the_score_after_a_step_is_that_of_the_steps_so_far(tmp_path, name, dtype):
    model, rows = loaded(tmp_path, STREAMED[name], dtype=dtype), events(lengths=[6], dtype=dtype)[0]
    session = model.stream()
    for t, row in enumerate(rows):
        found = session.step(row)
        expected = of_prefix(model, rows[: t + 1])
        assert found.shape == expected.shape == (len(model.output_names),)
        if model.per_step or "mean" in name:  # the head sees more rows at once; NumPy sums in another order
            assert np.abs(found - expected).max() <= bound(expected, dtype)
        else:
            np.testing.assert_array_equal(found, expected)
    assert session.n_steps == [6]


def test_transforms_and_missing_values_are_those_of_whole_sequences(tmp_path):
    model, rows = loaded(tmp_path, transforms=MISSING), events(lengths=[7], missing=True)[0]
    assert np.isnan(rows).any()
    session = model.stream()
    for t, row in enumerate(rows):
        np.testing.assert_array_equal(session.step(row), model.predict(rows[: t + 1]))


def test_an_ensemble_gives_the_mean(tmp_path):
    model = timelike.load(saved(ensemble(NETWORKS["pooling mean, mixed"]), tmp_path))
    rows, session = events(lengths=[5])[0], model.stream()
    for t, row in enumerate(rows):
        np.testing.assert_array_equal(session.step(row), model.predict(rows[: t + 1]))
    assert {name for name in session.state() if name.startswith("fold.2.")} == {
        f"fold.2.{name}" for name in ("h.0", "h.1", "h.2", "c.2", "pooled.mean")
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["lstm", "gru", "pooling mean, mixed", "pooling max, alike", "lstm_projected"]
)
def test_many_streams_go_their_own_ways(tmp_path, name, dtype):
    """Steps of all, of some, of one, resets in between: each stream is alone."""
    model = loaded(tmp_path, NETWORKS[name], dtype=dtype)
    rng, S = np.random.default_rng(1), 5
    session, so_far = model.stream(S), [[] for _ in range(S)]
    for turn in range(40):
        kind = turn % 4
        if kind == 3:
            which = int(rng.integers(S))
            session.reset(which)
            so_far[which] = []
            continue
        chosen = [range(S), rng.permutation(S)[:3].tolist(), [int(rng.integers(S))]][kind]
        rows = rng.normal(3.0, 2.0, (len(chosen), 3)).astype(dtype)
        if kind == 0:
            found = session.step(rows)
        elif kind == 1:
            found = session.step(rows, chosen)
        else:
            found = session.step(rows[0], chosen[0])[None]
        for score, b, row in zip(found, chosen, rows, strict=True):
            so_far[b].append(row)
            expected = model.predict(np.array(so_far[b]))
            assert np.abs(score - expected).max() <= bound(expected, dtype)
    assert session.n_steps.tolist() == [len(rows) for rows in so_far]
    assert max(session.n_steps) > 5


@pytest.mark.parametrize(
    "name", ["lstm", "gru", "pooling mean, mixed", "pooling max, alike", "pooling none, no layer"]
)
def test_a_state_is_kept_in_a_file_and_taken_back(tmp_path, name):
    model, some = loaded(tmp_path, NETWORKS[name]), events(lengths=[6, 6, 6])
    rows = some.values.reshape(3, 6, 3)
    session = model.stream(3)
    for t in range(3):
        session.step(rows[:, t])
    file = io.BytesIO()
    np.savez(file, **session.state())
    expected = [session.step(rows[:, t]) for t in range(3, 6)]
    file.seek(0)
    again = timelike.load(tmp_path / "model.safetensors").stream(3)
    again.restore(np.load(file))
    assert again.n_steps.tolist() == [3, 3, 3]
    np.testing.assert_array_equal([again.step(rows[:, t]) for t in range(3, 6)], expected)

    file.seek(0)  # single streams change their places
    session.restore(np.load(file))
    swapped = model.stream(2)
    swapped.restore(session.state([2, 0]))
    moved = model.stream(4)
    moved.restore(session.state(1), 3)
    assert moved.n_steps.tolist() == [0, 0, 0, 3]
    for t in range(3, 6):
        found = swapped.step(rows[[2, 0], t])
        assert np.abs(found - expected[t - 3][[2, 0]]).max() <= bound(expected, "float64")
        one = moved.step(rows[1, t], 3)
        assert np.abs(one - expected[t - 3][1]).max() <= bound(expected, "float64")


def test_a_state_is_a_copy(tmp_path):
    model, rows = loaded(tmp_path), events(lengths=[6])[0]
    session = model.stream()
    for row in rows[:3]:
        session.step(row)
    state = session.state()
    expected = session.step(rows[3])
    for name in ("h.0", "c.0"):
        kept = state[name].copy()
        session.step(rows[4])
        np.testing.assert_array_equal(state[name], kept)
    session.restore(state)
    for array in state.values():
        if array.flags.writeable:
            array[...] = 0
    np.testing.assert_array_equal(session.step(rows[3]), expected)


def test_scores_are_not_written_to_by_later_steps(tmp_path):
    for name in ("no dense layer", "linear", "pooling max, one layer"):
        model, rows = loaded(tmp_path, NETWORKS[name]), events(lengths=[6])[0]
        session = model.stream()
        found = [session.step(row) for row in rows]
        for t, score in enumerate(found):
            np.testing.assert_array_equal(score, model.predict(rows[: t + 1]))


# Mistakes


def test_what_cannot_be_streamed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="bidirectional layer reads the last step first"):
        loaded(tmp_path, NETWORKS["gru, bidirectional"]).stream()
    with pytest.raises(ConfigError, match="flatten reads a fixed number of steps"):
        loaded(tmp_path, NETWORKS["pooling flatten, one layer"]).stream(ordered=True)
    for order in ({"sort_by": "pt"}, {"keep_last": 3}, {"keep_first": 3}, {"direction": "backward"}):
        model = loaded(tmp_path, sequence=order)
        (key, value), *_ = order.items()
        with pytest.raises(ConfigError, match=rf"sequence\.{key}: {value}, and a stream .* ordered=True"):
            model.stream()
        assert model.stream(ordered=True).step(np.zeros(3)).shape == (3,)
    for n in (0, -1):
        with pytest.raises(ConfigError, match=f"streams: {n}; at least 1"):
            loaded(tmp_path).stream(n)
    with pytest.raises(ConfigError, match="threads: 0"):
        loaded(tmp_path).stream(threads=0)


@pytest.mark.parametrize(
    ("x", "which", "message"),
    [
        (np.zeros(2), None, r"x has shape \(2,\); expected \[3\], or \[streams, 3\]: pt, eta, phi"),
        (np.zeros((1, 2, 3)), None, r"x has shape \(1, 2, 3\)"),
        (np.zeros(3), None, "x is of 1 streams, expected 2"),
        (np.zeros((3, 3)), None, "x is of 3 streams, expected 2"),
        (np.zeros((2, 3)), [1], "x is of 2 streams, expected 1"),
        (np.zeros((2, 3), int), None, "x is int64; possible: float32, float64"),
        (np.zeros(3), 2, r"stream 2; there are 0\.\.1"),
        (np.zeros(3), -1, r"stream -1; there are 0\.\.1"),
        (np.zeros((2, 3)), [1, 1], "a stream is given twice"),
        (np.zeros((2, 3)), [True, False], "numbers of streams are needed"),
        (np.zeros((2, 3)), [0.0, 1.0], "numbers of streams are needed"),
    ],
    ids=str,
)
def test_a_wrong_step_is_named_and_changes_nothing(tmp_path, x, which, message):
    session = loaded(tmp_path).stream(2)
    session.step(np.ones((2, 3)))
    before = session.state()
    with pytest.raises(DataError, match=message):
        session.step(x, which)
    after = session.state()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_wrong_state_is_named_and_changes_nothing(tmp_path):
    session = loaded(tmp_path).stream(2)
    session.step(np.ones((2, 3)))
    state = session.state()
    other = loaded(tmp_path, seed=4).stream(2).state()
    wrong = {
        "'c.0' is missing": {name: array for name, array in state.items() if name != "c.0"},
        "'extra' is not part of it": state | {"extra": np.zeros(2)},
        r"'h.0' is float64 of shape \(1, 1, 5\), expected float64 of shape \(1, 2, 5\)": state
        | {"h.0": state["h.0"][:, :1]},
        "'h.0' is float32": state | {"h.0": state["h.0"].astype("float32")},
        "taken with another model": other,
        "'n_steps' holds -1": state | {"n_steps": np.array([1, -1])},
    }
    for message, given in wrong.items():
        with pytest.raises(DataError, match=message):
            session.restore(given)
    with pytest.raises(DataError, match="shape"):
        session.restore(state, 1)
    for name, array in session.state().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_stream_that_is_busy_refuses_others(tmp_path):
    session = loaded(tmp_path).stream()
    with session._alone:
        for call in (lambda: session.step(np.zeros(3)), session.reset, session.state):
            with pytest.raises(RuntimeError, match="streams serve one thread at a time"):
                call()
    session.step(np.zeros(3))


def test_streams_are_not_pickled(tmp_path):
    session = loaded(tmp_path).stream(2)
    with pytest.raises(TypeError, match=r"state\(\) gives what they carry"):
        pickle.dumps(session)
    assert repr(session).startswith("Streams(2 of Scorer(pt, eta, phi -> lstm 5")
