"""lwtnn's JSON, run by an evaluator of its own: lwtnn itself cannot be had here.

The evaluator is written from lwtnn's sources (parse_json.cxx, Graph.tcc, Stack.tcc, InputPreprocessor.tcc):
it knows nothing of ours.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.formats_cases import model_file

from timelike.errors import ConfigError
from timelike.interop.checks import probe
from timelike.interop.lwtnn import export_lwtnn
from timelike.interop.source import network_of


def sigmoid(x):
    return np.where(x < -30, 0.0, np.where(x > 30, 1.0, 1 / (1 + np.exp(-np.clip(x, -30, 30)))))


FUNCTIONS = {
    "linear": lambda x: x,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "rectified": lambda x: np.where(x > 0, x, 0.0),
    "abs": np.abs,
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
}


def activation(given):
    if isinstance(given, str):
        return FUNCTIONS[given]
    alpha = given["alpha"]
    return {
        "elu": lambda x: np.where(x >= 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
        "swish": lambda x: x * sigmoid(alpha * x),
    }[given["function"]]


def matrix(weights, n_inputs):
    assert len(weights) % n_inputs == 0
    return np.array(weights).reshape(-1, n_inputs)


def dense(layer, x):
    assert layer["architecture"] == "dense"
    W = matrix(layer["weights"], len(x))
    assert len(W) == len(layer["bias"])
    return activation(layer["activation"])(W @ x + np.array(layer["bias"]))


def scan(layer, x):
    """Hidden states [H, T] of inputs [D, T]."""
    part = {}
    for name, c in layer["components"].items():
        W = matrix(c["weights"], len(x))
        part[name] = (W, matrix(c["U"], len(W)), np.array(c["bias"]))
        assert part[name][1].shape == (len(W), len(W))
    act = activation(layer["activation"])
    inner = activation(layer["inner_activation"]) if "inner_activation" in layer else None
    H = len(next(iter(part.values()))[0])
    h, c, states = np.zeros(H), np.zeros(H), np.zeros((H, x.shape[1]))

    def z(name, x_t, h):
        W, U, b = part[name]
        return W @ x_t + b + U @ h

    for t, x_t in enumerate(x.T):
        if layer["architecture"] == "lstm":
            i, f, o = (inner(z(name, x_t, h)) for name in "ifo")
            c = f * c + i * act(z("c", x_t, h))
            h = o * act(c)
        elif layer["architecture"] == "gru":
            update, reset = (inner(z(name, x_t, h)) for name in "zr")
            h = update * h + (1 - update) * act(z("h", x_t, reset * h))
        else:
            assert layer["architecture"] == "simplernn"
            h = act(z("h", x_t, h))
        states[:, t] = h
    return states


def run(graph, sequence):
    """Compute the output for a map of names to values at all steps: labels to numbers, or rows of them."""
    (given,) = graph["input_sequences"]
    x = np.array([sequence[v["name"]] for v in given["variables"]])
    offset, scale = (np.array([[v[key]] for v in given["variables"]]) for key in ("offset", "scale"))
    done = []
    for node in graph["nodes"]:
        (source,) = node["sources"]
        if node["type"] == "input_sequence":
            assert node["size"] == len(x)
            done.append(("sequence", (x + offset) * scale))
            continue
        layer, (kind, before) = graph["layers"][node["layer_index"]], done[source]
        if node["type"] == "sequence":
            assert kind == "sequence"
            done.append(("sequence", scan(layer, before)))
        elif node["type"] == "time_distributed":
            assert kind == "sequence"
            steps = [dense(layer, step) for step in before.T]
            done.append(("sequence", np.reshape(steps, (len(steps), len(layer["bias"]))).T))
        else:
            assert node["type"] == "feed_forward"
            # a recurrent node is asked for its last column; of no steps it gives zeros
            column = (
                before if kind == "vector" else before[:, -1] if before.shape[1] else np.zeros(len(before))
            )
            done.append(("vector", dense(layer, column)))
    ((name, output),) = graph["outputs"].items()
    assert name == "scores"
    values = done[output["node_index"]][1]
    assert len(values) == len(output["labels"])
    return dict(zip(output["labels"], values, strict=True))


def answers(graph, sequences):
    rows = []
    for b in range(len(sequences)):
        values = sequences[b : b + 1].values
        got = run(graph, {name: values[:, d] for d, name in enumerate(sequences.names)})
        rows.append(np.atleast_2d(np.array(list(got.values())).T))
    return np.concatenate(rows)


CELLS = {
    "lstm": [{"cell": "lstm", "units": 4}],
    "gru": [{"cell": "gru", "units": 4, "reset_after": False}],
    "gru, one bias": [{"cell": "gru", "units": 4, "reset_after": False, "inner_bias": False}],
    "rnn_tanh": [{"cell": "rnn_tanh", "units": 4}],
    "rnn_relu": [{"cell": "rnn_relu", "units": 4}],
    "stack": [{"cell": "lstm", "units": 4}, {"cell": "gru", "units": 3, "reset_after": False}],
}
HEADS = {
    "elu": {"units": [4, 3], "activation": ["elu", "silu"], "batch_norm": {"before": [0, 1]}},
    "abs": {"units": [4], "activation": "symmrelu"},
    "bare": {"units": []},
}
NETWORKS = {name: {"recurrent": cells} for name, cells in CELLS.items()} | {
    name: {"recurrent": CELLS["lstm"], "head": head} for name, head in HEADS.items()
}


@pytest.mark.parametrize("pooling", ["last", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_the_model_does(tmp_path, name, pooling):
    """In float64, as lwtnn computes: the weights of the file stand in the JSON to the bit."""
    transforms = {"transforms": {"pt": "minmax", "eta": ["robust", "standardise"]}}
    transforms |= {"mix": "pca"} if name == "stack" else {}
    path = model_file(
        tmp_path, NETWORKS[name] | {"pooling": pooling}, transforms=transforms, dtype=torch.float64
    )
    assert export_lwtnn(path, tmp_path / "nn.json").endswith("not run by lwtnn itself")
    file, description, _ = network_of(path)
    tried = probe(file, description, empty=pooling == "last")
    got = answers(json.loads((tmp_path / "nn.json").read_text()), tried.sequences)
    assert "0 to 40" in tried.check(got, "lwtnn") or pooling == "none"


def test_one_number_has_the_name_of_the_last_class(tmp_path):
    network = {"recurrent": CELLS["lstm"], "head": {"output": "sigmoid"}}
    path = model_file(tmp_path, network, data={"labels": {"b": "y == 0", "s": "y == 1"}})
    export_lwtnn(path, tmp_path / "nn.json")
    file, description, _ = network_of(path)
    tried = probe(file, description)
    graph = json.loads((tmp_path / "nn.json").read_text())
    assert graph["outputs"]["scores"]["labels"] == ["s"]
    s = answers(graph, tried.sequences)
    tried.check(np.concatenate([1 - s, s], axis=1), "lwtnn")


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        ({"recurrent": [{"cell": "gru"}]}, {}, r"lwtnn has no cell gru \(reset after\)"),
        ({"recurrent": [{"peephole": True}]}, {}, "no cell lstm_peephole"),
        ({"recurrent": [{"projection": 2}]}, {}, "no cell lstm_projected"),
        ({"recurrent": [{"coupled": True}]}, {}, "no cell lstm_coupled"),
        ({"recurrent": [{"bidirectional": True}]}, {}, "no layer in both directions"),
        ({"pooling": "mean"}, {}, "no pooling: mean; possible: last, none"),
        ({"head": {"activation": "gelu"}}, {}, "no activation gelu"),
        ({}, {"transforms": {"eta": "log"}}, "no transform log of variable 'eta'"),
        ({}, {"missing": {"eta": "fill"}}, "no missing values"),
    ],
)
def test_what_lwtnn_lacks_is_refused(tmp_path, network, data, message):
    path = model_file(tmp_path, network, transforms=data)
    with pytest.raises(ConfigError, match=message):
        export_lwtnn(path, tmp_path / "nn.json")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_outputs(tmp_path):
    counts = model_file(tmp_path, {"head": {"output": "exponential"}}, data={"targets": {"n": "n"}})
    with pytest.raises(ConfigError, match="no output: exponential"):
        export_lwtnn(counts, tmp_path / "nn.json")
    with pytest.raises(ConfigError, match=r"written as \.json"):
        export_lwtnn(counts, tmp_path / "nn.txt")
