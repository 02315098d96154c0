"""Scores without PyTorch: those of PyTorch, for every network, transform, layout and file."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tests.scorer_cases import NAMES, NETWORKS, TRANSFORMS, bound, ensemble, events, made, saved

import timelike
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.model import load_model, predict
from timelike.modelfile import read_model_file, write_model_file
from timelike.network import pool
from timelike.nn import Ragged
from timelike.scorer import prepared
from timelike.scorer.head import ACTIVATIONS, RESULTS
from timelike.sequences import Sequences

DTYPES = ["float32", "float64"]
LSTM = {"recurrent": [{"units": 5}], "head": {"units": [6]}}


def assert_close(found, expected, dtype):
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max(initial=0.0) <= bound(expected, dtype)


def steps_for(network):
    return np.full(9, network["steps"]) if "steps" in network else None


# What it computes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_pytorch(tmp_path, name, dtype):
    network = NETWORKS[name]
    file = saved(made(network, dtype=dtype), tmp_path)
    lengths = steps_for(network)
    some = events(25 if lengths is None else len(lengths), lengths=lengths, dtype=dtype)
    model = timelike.load(file)
    assert model.dtype == dtype
    assert_close(model.predict(some), predict(load_model(file), some), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_applied_first(tmp_path, name, given, dtype):
    """To values of either type, whatever that of the weights is."""
    file = saved(made(LSTM, transforms=TRANSFORMS[name], dtype=dtype), tmp_path)
    some = events(missing=bool(TRANSFORMS[name].get("missing")), dtype=given)
    found = timelike.load(file).predict(some)
    assert_close(found, predict(load_model(file), some), dtype)
    assert np.ptp(found[some.lengths > 0], axis=0).min() > 1e-3  # it depends on the events


@pytest.mark.parametrize("name", ["gru", "pooling mean, mixed", "pooling none, one layer", "sigmoid"])
def test_an_ensemble_gives_the_mean_or_who_has_not_seen_the_event(tmp_path, name):
    file, some = saved(ensemble(NETWORKS[name]), tmp_path), events()
    model, law = timelike.load(file), load_model(file)
    assert model.n_networks == 3
    assert_close(model.predict(some), predict(law, some), "float64")
    if name != "pooling none, one layer":
        assert_close(model.predict(some, out_of_fold=True), predict(law, some, out_of_fold=True), "float64")


@pytest.mark.parametrize("how", ["mean", "max", "flatten"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling_is_that_of_pytorch(how, dtype):
    lengths = [3] * 5 if how == "flatten" else [0, 4, 0, 0, 1, 30, 0]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.random.default_rng(1).normal(size=(offsets[-1], 4)).astype(dtype)
    law = pool(Ragged(torch.from_numpy(rows), torch.from_numpy(offsets)), None, how, 3).numpy()
    found = prepared.pool(rows, offsets, how, 3)
    assert found.dtype == dtype
    assert found.shape == law.shape
    # a sum of 30 terms in PyTorch, of which ours is summed in float64
    assert np.abs(found - law).max() <= (8 + np.sqrt(30)) * np.finfo(dtype).eps * np.abs(rows).max()


def test_numbers_far_from_zero_neither_overflow_nor_vanish():
    far = np.array([[-800.0, 0.0, 3.0], [800.0, -3.0, 0.0]])
    for rows in (far, far[:1], far[1:]):
        for name in ("softmax", "multilabel"):
            law = torch.from_numpy(rows)
            expected = (law.softmax(-1) if name == "softmax" else law.sigmoid()).numpy()
            np.testing.assert_allclose(RESULTS[name](rows), expected, rtol=4e-16, atol=1e-300)
    for name, function in ACTIVATIONS.items():
        assert np.isfinite(function(far)).all(), name


def test_a_value_that_is_not_a_number_is_seen_in_the_score_of_its_sequence_alone(tmp_path):
    file, some = saved(made(LSTM), tmp_path), events()
    values = some.values.copy()
    values[some.offsets[3]] = np.nan
    found = timelike.load(file).predict(some.replace(values=values))
    assert some.lengths[3] > 0
    assert np.isnan(found[3]).all()
    assert (np.isnan(found).any(axis=1) == (np.arange(len(some)) == 3)).all()


# Ways to give sequences


@pytest.mark.parametrize(
    "name", ["lstm", "lstm, bidirectional", "pooling mean, alike", "pooling none, alike"]
)
def test_every_layout_gives_the_same_scores(tmp_path, name):
    model, some = (
        timelike.load(saved(made(NETWORKS[name], dtype="float32"), tmp_path)),
        events(dtype="float32"),
    )
    expected = model.predict(some)
    per_step = name.startswith("pooling none")
    np.testing.assert_array_equal(model.predict(list(some)), expected)
    np.testing.assert_array_equal(model.predict(tuple(some)), expected)
    padded, mask = some.to_padded(9, fill=np.nan)
    np.testing.assert_array_equal(model.predict(padded, lengths=mask.sum(1)), expected)
    extra = Sequences(
        np.column_stack([some.values[:, 2], some.values[:, 0], some.values[:, :2]]),
        some.offsets,
        ("phi", "other", "pt", "eta"),
    )
    np.testing.assert_array_equal(model.predict(extra), expected)
    for b, one in enumerate(some):
        own = expected[some.offsets[b] : some.offsets[b + 1]] if per_step else expected[b]
        alone = model.predict(one)
        assert alone.shape == own.shape
        assert np.abs(alone - own).max(initial=0.0) <= bound(expected, "float32")
    equal = np.stack([some.values[:6].reshape(2, 3, 3), some.values[6:12].reshape(2, 3, 3)]).reshape(4, 3, 3)
    np.testing.assert_array_equal(model.predict(equal), model.predict(list(equal)))


def test_rows_may_lie_apart(tmp_path):
    model, some = timelike.load(saved(made(LSTM), tmp_path)), events()
    rows = some[3]
    for apart in (np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2], rows[::-1].copy()[::-1]):
        np.testing.assert_array_equal(model.predict(apart), model.predict(rows))


def test_no_sequences_have_no_scores(tmp_path):
    for name in ("lstm", "pooling max, mixed", "pooling none, no layer"):
        model = timelike.load(saved(made(NETWORKS[name]), tmp_path))
        for nothing in ([], np.zeros((0, 4, 3)), events()[:0]):
            assert model.predict(nothing).shape == (0, 3)


def test_many_rows_are_taken_in_parts(tmp_path, monkeypatch):
    for name in ("lstm", "pooling max, mixed", "pooling none, one layer"):
        model, some = timelike.load(saved(made(NETWORKS[name]), tmp_path)), events()
        expected = model.predict(some)
        with monkeypatch.context() as patch:
            patch.setattr(prepared, "_ROWS_AT_ONCE", 10)
            assert_close(model.predict(some), expected, "float64")


# Without what it does not need


ALONE = """
import json, os, sys
blocked = "torch pydantic yaml pyarrow awkward uproot h5py typer rich matplotlib jinja2 sklearn scipy".split()
sys.modules.update(dict.fromkeys(blocked))
import numpy as np, timelike
model = timelike.load(sys.argv[1])
x = np.load(sys.argv[2])
scores = [model.predict(x).tolist()]
session = model.stream()
scores += [session.step(step).tolist() for step in x][-1:]
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, json.dumps(model.predict(x).tolist()).encode())
    os._exit(0)
os.close(write)
scores.append(json.loads(os.read(read, 100_000)))
print(json.dumps(scores))
"""


def test_numpy_and_safetensors_are_enough_also_in_a_child_process(tmp_path):
    file, rows = saved(made(LSTM), tmp_path), events()[3]
    np.save(tmp_path / "x.npy", rows)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, file, tmp_path / "x.npy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = predict(load_model(file), Sequences.from_list([rows], names=NAMES))[0]
    for found in json.loads(done.stdout):
        assert_close(np.array(found), expected, "float64")


def test_loading_imports_nothing_that_takes_long():
    code = "import sys, timelike; timelike.load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    there = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"timelike", "numpy"} <= there
    assert not there & {"torch", "pydantic", "pyarrow", "awkward", "yaml", "scipy", "decimal", "asyncio"}
    assert "timelike.data.reading" not in done.stdout.split()


# Many threads


@pytest.mark.parametrize("name", ["lstm", "pooling max, mixed", "batch norm"])
def test_one_model_serves_sixteen_threads_at_once(tmp_path, name):
    model = timelike.load(saved(made(NETWORKS[name], dtype="float32"), tmp_path))
    batches = [events(20, seed=seed, dtype="float32") for seed in range(16)]
    expected = [model.predict(batch) for batch in batches]

    def work(k):
        session, one = model.stream(), batches[k][3]
        for _ in range(30):
            np.testing.assert_array_equal(model.predict(batches[k]), expected[k])
            session.reset()
            found = [session.step(step) for step in one]
            np.testing.assert_array_equal(found[-1:], [model.predict(one)][: len(one)])
        return k

    assert all(len(batch[3]) for batch in batches[:1])
    with ThreadPoolExecutor(16) as pool_of_threads:
        assert sorted(pool_of_threads.map(work, range(16))) == list(range(16))


def test_threads_within_a_call_do_not_change_the_layers(tmp_path):
    network = {"recurrent": [{"units": 40}], "head": {"units": []}}
    model = timelike.load(saved(made(network), tmp_path))
    some = events(400)
    first = model.predict(some, threads=1)
    for n in (2, 3):
        np.testing.assert_array_equal(model.predict(some, threads=n), first)
    with pytest.raises(ConfigError, match="threads: 0; at least 1"):
        model.predict(some, threads=0)


def test_it_survives_pickling_and_copying(tmp_path):
    for kind in (made(NETWORKS["batch norm"]), ensemble(LSTM)):
        model, some = timelike.load(saved(kind, tmp_path)), events()
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            np.testing.assert_array_equal(again.predict(some), model.predict(some))
            assert repr(again) == repr(model)


# What is known of it


def test_it_says_what_it_is(tmp_path):
    model = timelike.load(saved(made(NETWORKS["quantiles"], sequence={"keep_first": 5}), tmp_path))
    assert model.variables == NAMES
    assert model.class_names == ("mass", "tau")
    assert model.output_names == tuple(f"{t}_q{q}" for t in ("mass", "tau") for q in (0.16, 0.5, 0.84))
    assert model.training == {"seed": 3}
    assert model.sequence["keep_first"] == 5
    assert list(model.data["targets"]) == ["mass", "tau"]
    assert (model.n_networks, model.per_step) == (1, False)
    assert repr(model) == (
        "Scorer(pt, eta, phi -> lstm 5, last -> mass_q0.16, mass_q0.5, mass_q0.84, tau_q0.16, tau_q0.5, "
        f"tau_q0.84; {model.n_parameters} parameters of float64)"
    )
    assert repr(timelike.load(saved(ensemble(LSTM), tmp_path))).startswith("Scorer(ensemble of 3: pt, eta")


# Mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 2)), r"x has 2 columns; the model reads 3: pt, eta, phi"),
        (np.zeros((4, 3), "int64"), r"x is int64; possible: float32, float64"),
        (np.zeros(3), r"\[sequences, steps, variables\] is needed|either a mask or lengths"),
        (np.zeros((1, 1, 1, 3)), r"has shape \(1, 1, 1, 3\)"),
        ([np.zeros((4, 3)), np.zeros((4, 2))], r"sequence 1 has shape \(4, 2\)"),
        ([np.zeros((4, 2))], r"x has 2 columns"),
        (Sequences(np.zeros((2, 2)), [0, 2], ("pt", "eta_")), r"no variable 'eta'; nearest: 'eta_'"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_named(tmp_path, given, message):
    model = timelike.load(saved(made(LSTM), tmp_path))
    with pytest.raises(DataError, match=message):
        model.predict(given)


def test_other_mistakes_are_named(tmp_path):
    model = timelike.load(saved(made(LSTM), tmp_path))
    with pytest.raises(DataError, match="lengths belong to an array"):
        model.predict(np.zeros((4, 3)), lengths=[4])
    with pytest.raises(DataError, match="sequence 1 has length 5; 0 to 4 is possible"):
        model.predict(np.zeros((2, 4, 3)), lengths=[4, 5])
    with pytest.raises(ConfigError, match="out_of_fold needs the ensemble"):
        model.predict(events(), out_of_fold=True)
    shuffled = timelike.load(saved(ensemble(LSTM, by=None), tmp_path))
    with pytest.raises(ConfigError, match="the folds were shuffled"):
        shuffled.predict(events(), out_of_fold=True)
    flat = timelike.load(saved(made(NETWORKS["pooling flatten, one layer"]), tmp_path))
    with pytest.raises(DataError, match="sequence 1 has 3 steps; the network takes 4"):
        flat.predict([np.zeros((4, 3)), np.zeros((3, 3))])


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere\.safetensors: no such file or directory"):
        timelike.load("nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(saved(made(LSTM), tmp_path).read_bytes()[:500])
    with pytest.raises(ModelFileError, match="damaged or cut short"):
        timelike.load(tmp_path / "cut.safetensors")


def leaves(value, path=()):
    """Give the places of all values of a header."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def refusal(file):
    """Say why a file is refused; anything but a `ModelFileError` is a defect of ours."""
    try:
        timelike.load(file)
    except ModelFileError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["one", "ensemble"])
def test_a_spoilt_header_is_refused_in_one_line_or_harmless(tmp_path, kind):
    network = {"recurrent": [{"units": 2}], "head": {"units": [2], "batch_norm": {"before": [0]}}}
    missing = TRANSFORMS["missing, mixed"]
    spoil = made(network, transforms=missing) if kind == "one" else ensemble(network, transforms=missing)
    file = read_model_file(saved(spoil, tmp_path))
    kept = {key: file.meta[key] for key in ("network", "transforms", "ensemble") if key in file.meta}
    other, refused, n = tmp_path / "spoilt.safetensors", 0, 0
    places = [place for place in leaves(kept) if place]
    for place in places[:: 2 if kind == "one" else 7]:
        for wrong in (None, "no such", -1, [], {"a": 1}):
            meta = copy.deepcopy(file.meta)
            inner = meta
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            write_model_file(other, file.weights, meta)
            n += 1
            if said := refusal(other):
                refused += 1
                assert "\n" not in said, place
                assert str(other) in said
    assert refused > 0.5 * n
