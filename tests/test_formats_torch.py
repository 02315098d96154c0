"""Networks for PyTorch alone: what `to_torch` builds computes what the model does, without timelike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.formats_cases import model_file

import timelike.nn
from timelike.errors import ConfigError, ModelFileError
from timelike.interop.checks import probe
from timelike.interop.source import network_of
from timelike.interop.torch_weights import export_torch, to_torch
from timelike.modelfile import read_model_file

LAYERS = {
    "lstm": [{"cell": "lstm", "units": 5}],
    "gru": [{"cell": "gru", "units": 5}],
    "gru, one bias": [{"cell": "gru", "units": 5, "inner_bias": False}],
    "rnn_tanh": [{"cell": "rnn_tanh", "units": 5}],
    "rnn_relu": [{"cell": "rnn_relu", "units": 5}],
    "projected": [{"cell": "lstm", "units": 5, "projection": 2, "bidirectional": True}],
    "stack": [{"cell": "gru", "units": 4, "bidirectional": True}, {"cell": "lstm", "units": 3}],
}
NETWORKS = {name: {"recurrent": layers} for name, layers in LAYERS.items()} | {
    "mean": {"recurrent": LAYERS["stack"], "pooling": "mean"},
    "max": {"recurrent": LAYERS["stack"], "pooling": "max"},
    "flatten": {"recurrent": LAYERS["lstm"], "pooling": "flatten", "steps": 4},
    "none": {"recurrent": LAYERS["stack"], "pooling": "none"},
    "no layers": {"recurrent": [], "pooling": "max"},
    "head": {
        "recurrent": LAYERS["lstm"],
        "head": {
            "units": [4, 3, 3],
            "activation": ["gelu", "symmrelu", "gauss"],
            "batch_norm": {"before": [0, 2]},
        },
    },
}
TRANSFORMS = {
    "default": {},
    "steps": {"transforms": {"pt": ["log", "standardise"], "eta": "uniform", "phi": ["clip", "gauss"]}},
    "mixed": {"transforms": {"pt": "robust", "default": "minmax"}, "mix": "decorrelate"},
    "missing": {"missing": {"pt": "indicator", "phi": "fill"}, "transforms": {"default": "none"}},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_what_is_exported_computes_the_same(tmp_path, name, dtype):
    path = model_file(tmp_path, NETWORKS[name], dtype=dtype)
    assert "largest difference" in export_torch(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_come_along(tmp_path, transforms):
    path = model_file(tmp_path, {}, transforms=transforms)
    assert "largest difference" in export_torch(path, tmp_path / "out.safetensors")


OUTPUTS = {
    "sigmoid": ({"head": {"output": "sigmoid"}}, {"labels": {"b": "y == 0", "s": "y == 1"}}),
    "multilabel": ({"head": {"output": "multilabel"}}, {"multilabel": {"b": "y == 0", "s": "y == 1"}}),
    "linear": ({"head": {"output": "linear", "quantiles": [0.2, 0.8]}}, {"targets": {"m": "m"}}),
    "exponential": ({"head": {"output": "exponential"}}, {"targets": {"n": "n"}}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_come_along(tmp_path, name):
    network, data = OUTPUTS[name]
    assert "largest" in export_torch(model_file(tmp_path, network, data=data), tmp_path / "out.safetensors")


def test_a_changed_weight_is_noticed(tmp_path):
    """The check can fail: one weight a hundredth off is not the same network."""
    path = model_file(tmp_path, NETWORKS["stack"])
    file, description, _ = network_of(path)
    network, tried = to_torch(path), probe(file, description)
    with torch.no_grad():
        network.recurrent[0].weight_hh_l0[0, 0] += 0.01
        lengths = torch.from_numpy(tried.sequences.lengths.copy())
        rows = torch.from_numpy(tried.sequences.values.copy()).split(lengths.tolist())
        got = network(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)
    with pytest.raises(RuntimeError, match="computes something else"):
        tried.check(got.numpy(), "PyTorch")


def test_nan_is_noticed(tmp_path):
    file, description, _ = network_of(model_file(tmp_path, {}))
    tried = probe(file, description)
    with pytest.raises(RuntimeError, match="computes something else"):
        tried.check(np.full(tried.expected.shape, np.nan), "PyTorch")


def test_the_code_runs_without_timelike(tmp_path):
    path = model_file(tmp_path, NETWORKS["stack"], transforms=TRANSFORMS["steps"])
    export_torch(path, tmp_path / "out.safetensors")
    code = (
        "import sys; sys.modules['timelike'] = None; import torch; from out import load\n"
        "x = torch.arange(24.0).view(2, 4, 3); n = load('out.safetensors')\n"
        "print(n(x, torch.tensor([4, 0])).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    x = torch.arange(24.0).view(2, 4, 3)
    assert done.stdout.strip() == str(to_torch(path)(x, torch.tensor([4, 0])).tolist())


def test_names_are_those_of_torch(tmp_path):
    export_torch(model_file(tmp_path, NETWORKS["stack"]), tmp_path / "out.safetensors")
    weights = load_file(tmp_path / "out.safetensors")
    own = {
        n.removeprefix("recurrent.0."): torch.from_numpy(w) for n, w in weights.items() if "recurrent.0." in n
    }
    for module in (torch.nn.GRU, timelike.nn.GRU):
        module(3, 4, bidirectional=True).load_state_dict(own)
    assert sorted({n.split(".")[0] for n in weights}) == ["head", "recurrent"]


def test_no_steps_at_all(tmp_path):
    network = to_torch(model_file(tmp_path, NETWORKS["stack"]))
    got = network(torch.zeros(2, 0, 3))
    assert torch.equal(got, network(torch.full((2, 1, 3), torch.nan), torch.zeros(2, dtype=torch.long)))
    assert got.isfinite().all()


def test_an_ensemble_or_a_model_itself_is_refused(tmp_path):
    path = model_file(tmp_path, {})
    with pytest.raises(ConfigError, match=r"this is the model itself"):
        export_torch(path, path)
    with pytest.raises(ConfigError, match=r"written as \.safetensors"):
        export_torch(path, tmp_path / "x.pt")
    with pytest.raises(ModelFileError, match=r"none.safetensors: no such file"):
        export_torch(tmp_path / "none.safetensors", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("layer", "cell"),
    [
        ({"cell": "lstm", "peephole": True}, "lstm_peephole"),
        ({"cell": "lstm", "coupled": True}, "lstm_coupled"),
        ({"cell": "gru", "reset_after": False}, "gru_reset_before"),
    ],
)
def test_what_torch_lacks_is_refused(tmp_path, layer, cell):
    path = model_file(tmp_path, {"recurrent": [layer]})
    with pytest.raises(ConfigError, match=rf"torch\.nn has no cell {cell}; possible: rnn_tanh"):
        export_torch(path, tmp_path / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_flatten_takes_its_steps_alone(tmp_path):
    network = to_torch(model_file(tmp_path, NETWORKS["flatten"]))
    with pytest.raises(ValueError, match="must have 4 steps"):
        network(torch.zeros(2, 5, 3))
    assert read_model_file(tmp_path / "model.safetensors").meta["network"]["steps"] == 4


def test_a_single_precision_of_a_path(tmp_path):
    """Paths may be text, and a model file that was read already."""
    path = model_file(tmp_path, {})
    one, two = to_torch(str(path)), to_torch(read_model_file(path))
    x = torch.randn(2, 3, 3)
    assert torch.equal(one(x), two(x))
    assert Path(path).exists()
