"""Networks as ONNX files: ONNX Runtime gives Timelike's own scores, and the file tells what they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.onnx_cases import MISSING, NAMES, events, model, onnx_scores, own_scores, saved

import timelike
from timelike.config import FoldsConfig
from timelike.interop.onnx_export import export_onnx
from timelike.model import Ensemble, save_model
from timelike.sequences import Sequences

CELLS = {
    "lstm": {"cell": "lstm"},
    "peephole": {"cell": "lstm", "peephole": True},
    "coupled": {"cell": "lstm", "coupled": True},
    "gru": {"cell": "gru"},
    "gru, one bias": {"cell": "gru", "inner_bias": False},
    "gru, reset before": {"cell": "gru", "reset_after": False},
    "tanh": {"cell": "rnn_tanh"},
    "relu": {"cell": "rnn_relu"},
}
POOLING = ("last", "mean", "max", "none", "flatten")
LENGTHS = [4, 0, 1, 9, 2, 0, 30, 5]


def network(cell="lstm", *, bidirectional=False, pooling="last", **head):
    layers = [{**CELLS[cell], "units": units, "bidirectional": bidirectional} for units in (5, 4)]
    made = {"recurrent": layers, "pooling": pooling, "head": {"units": [6]} | head}
    return made | ({"steps": 3} if pooling == "flatten" else {})


def compare(tmp_path, given_network, lengths=LENGTHS, **how):
    """Export, score by both, and hold the difference to the bound of the export."""
    file = saved(tmp_path, given_network, **how)
    done = export_onnx(file, tmp_path / "model.onnx")
    given = events(lengths, missing="missing" in how)
    given = given.replace(values=given.values.astype(how.get("dtype", "float32")))
    found, expected = onnx_scores(done.path, given), own_scores(file, given)
    if found.ndim == 3:
        there = np.arange(found.shape[1]) < given.lengths[:, None]
        assert (found[~there] == 0.0).all()
        found = found[there]
    assert found.shape == expected.shape
    assert expected.std(axis=0).max() > max(0.01, 100 * done.bound)  # or nothing is seen of a wrong weight
    np.testing.assert_allclose(found, expected, rtol=0, atol=done.bound)
    assert done.difference <= done.bound
    return done


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both directions"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_direction_and_pooling(tmp_path, cell, bidirectional, pooling):
    lengths = [3] * 8 if pooling == "flatten" else LENGTHS
    compare(tmp_path, network(cell, bidirectional=bidirectional, pooling=pooling), lengths)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pooling", POOLING[1:])
def test_networks_without_recurrent_layers(tmp_path, pooling, dtype):
    given = network(pooling=pooling) | {"recurrent": []}
    done = compare(tmp_path, given, [3] * 8 if pooling == "flatten" else LENGTHS, dtype=dtype)
    assert (done.bound < 1e-13) == (dtype == "float64")


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "multilabel", "linear", "exponential"])
@pytest.mark.parametrize("pooling", ["last", "none"])
def test_every_output(tmp_path, output, pooling):
    compare(tmp_path, network(pooling=pooling, output=output))


@pytest.mark.parametrize(
    "activation",
    ["relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "symmrelu", "gauss", "linear"],
)
def test_every_activation_and_normalisation(tmp_path, activation):
    head = {"units": [6, 5], "activation": [activation, "tanh"], "batch_norm": {"before": [0, 2]}}
    compare(tmp_path, network(**head))


@pytest.mark.parametrize("mix", [None, "decorrelate", "pca"])
@pytest.mark.parametrize(
    "transforms",
    [
        {"default": "none"},
        {"default": "standardise"},
        {"default": "robust", "pt": "minmax"},
        {"default": ["log", "standardise"], "pt": ["clip", "minmax"]},
        {"default": "uniform", "pt": "gauss", "eta": "none"},
    ],
    ids=lambda given: " ".join(str(kind) for kind in given.values()),
)
def test_transforms_and_missing_values(tmp_path, transforms, mix):
    compare(tmp_path, network("gru"), transforms=transforms, mix=mix, missing=MISSING)


@pytest.mark.parametrize("kind", ["minmax", "uniform", "clip"])
def test_a_variable_that_never_changes(tmp_path, kind, monkeypatch):
    constant = events([5] * 60)
    constant.values[:, 1] = 2.5
    monkeypatch.setattr("tests.onnx_cases.events", lambda *args, **how: constant)
    compare(tmp_path, network(), transforms={"default": "standardise", "eta": kind})


def test_a_large_mean_costs_no_digits(tmp_path, monkeypatch):
    far = events([5] * 60)
    far.values[:] = 1e6 + far.values.round() * 4  # whole numbers, exact in float32
    monkeypatch.setattr("tests.onnx_cases.events", lambda *args, **how: far)
    file = saved(tmp_path, network())
    monkeypatch.undo()
    done = export_onnx(file, tmp_path / "model.onnx")
    assert done.bound < 1e-5
    np.testing.assert_allclose(onnx_scores(done.path, far), own_scores(file, far), rtol=0, atol=done.bound)


def test_an_ensemble_gives_the_mean_of_its_networks(tmp_path):
    members = [model(network("gru", pooling="mean"), seed=seed) for seed in (1, 2, 3)]
    file = tmp_path / "ensemble.safetensors"
    save_model(Ensemble(members, FoldsConfig(number=3), {}), file)
    done = export_onnx(file, tmp_path / "model.onnx")
    given = events(LENGTHS)
    np.testing.assert_allclose(
        onnx_scores(done.path, given), own_scores(file, given), rtol=0, atol=done.bound
    )
    assert "mean of 3 networks" in str(done)


def test_float64_is_rounded_where_it_is_asked_for(tmp_path):
    file = saved(tmp_path, network(), dtype="float64")
    done = export_onnx(file, tmp_path / "model.onnx", dtype="float32")
    given = events(LENGTHS)
    np.testing.assert_allclose(
        onnx_scores(done.path, given), own_scores(file, given), rtol=0, atol=2 * done.bound
    )


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "none"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", ""])
def test_what_stands_behind_a_sequence_changes_nothing(tmp_path, cell, pooling):
    if not cell and pooling == "last":
        return
    given = network(cell or "lstm", bidirectional=True, pooling=pooling)
    if not cell:
        given["recurrent"] = []
    path = export_onnx(saved(tmp_path, given, missing=MISSING), tmp_path / "model.onnx").path
    sequences = events(LENGTHS, missing=True)
    first = onnx_scores(path, sequences)
    for padding in (0.0, np.inf, -1e30):
        np.testing.assert_array_equal(onnx_scores(path, sequences, padding=padding), first)
    more = onnx_scores(path, sequences, beyond=7)
    np.testing.assert_array_equal(more[:, : first.shape[1]] if pooling == "none" else more, first)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_sequences_without_steps_have_states_of_zero(tmp_path, pooling):
    file = saved(tmp_path, network(pooling=pooling, output="linear", units=[]))
    path = export_onnx(file, tmp_path / "model.onnx").path
    bias = timelike.model.load_model(file).network.head[0].bias.detach().numpy()
    np.testing.assert_array_equal(onnx_scores(path, events([0, 0])), [bias, bias])


def test_a_flattening_network_gives_nan_for_another_number_of_steps(tmp_path):
    path = export_onnx(saved(tmp_path, network(pooling="flatten")), tmp_path / "model.onnx").path
    found = onnx_scores(path, events([3, 2, 3, 0]))
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False, True]
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        onnx_scores(path, events([4]))


def test_the_file_is_valid_and_tells_what_it_holds(tmp_path):
    path = export_onnx(saved(tmp_path, network("peephole", bidirectional=True)), tmp_path / "m.onnx").path
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    assert {node.domain for node in made.graph.node} == {""}
    assert [node.op_type for node in made.graph.node].count("LSTM") == 2
    about = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(about["variables"]) == list(NAMES)
    assert json.loads(about["scores"]) == json.loads(about["classes"]) == ["qcd", "top"]
    assert about["output"] == "softmax"
    assert about["signal"] == "top"
    assert about["timelike_version"] == timelike.__version__
    assert [entry.name for entry in made.graph.input] == ["x", "lengths"]
    axes = [axis.dim_param or axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["B", "T", 3]


def test_the_least_that_a_file_asks_of_a_runtime(tmp_path):
    path = export_onnx(saved(tmp_path, network("gru")), tmp_path / "m.onnx").path
    used = {node.op_type for node in onnx.load(path).graph.node}
    standardised = {"Sub", "Div", "Transpose"}
    assert used == standardised | {"GRU", "Reshape", "MatMul", "Add", "Relu", "Softmax", "Identity"}


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    file = saved(tmp_path, network())
    done = export_onnx(file, tmp_path / "jets.onnx")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "docs" / "onnx.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    shown: dict = {}
    exec(code, shown)
    offsets = np.concatenate([[0], np.cumsum(shown["lengths"])])
    given = Sequences(np.concatenate(shown["jets"]), offsets, names=tuple(shown["variables"]))
    np.testing.assert_allclose(shown["scores"], own_scores(file, given), rtol=0, atol=done.bound)
    for entry in onnx.load(done.path).metadata_props:
        assert f"`{entry.key}`" in page.read_text()
