"""Trained-looking models of every kind, and their files, for whoever runs them without PyTorch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timelike.config import DataConfig, FoldsConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.model import Ensemble, Model, save_model
from timelike.network import Network
from timelike.sequences import Sequences

NAMES = ("pt", "eta", "phi")

CELLS = {
    "lstm": {"cell": "lstm"},
    "lstm, one bias": {"cell": "lstm", "inner_bias": False},
    "lstm_projected": {"cell": "lstm", "projection": 3},
    "lstm_peephole": {"cell": "lstm", "peephole": True},
    "lstm_coupled": {"cell": "lstm", "coupled": True},
    "gru": {"cell": "gru"},
    "gru, one bias": {"cell": "gru", "inner_bias": False},
    "gru_reset_before": {"cell": "gru", "reset_after": False},
    "rnn_tanh": {"cell": "rnn_tanh"},
    "rnn_relu": {"cell": "rnn_relu"},
}
ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "symmrelu", "gauss", "linear")


def _layers(*layers: dict[str, Any], units: int = 5) -> list[dict[str, Any]]:
    return [{"units": units, **layer} for layer in layers]


NETWORKS: dict[str, dict[str, Any]] = {
    **{
        f"{name}{', bidirectional' if both else ''}": {"recurrent": _layers({**cell, "bidirectional": both})}
        for (name, cell), both in itertools.product(CELLS.items(), (False, True))
    },
    **{
        f"pooling {how}, {name}": {"pooling": how, "recurrent": layers}
        | ({"steps": 4} if how == "flatten" else {})
        for how in ("last", "mean", "max", "flatten", "none")
        for name, layers in {
            "one layer": _layers({"cell": "gru"}),
            "alike": _layers({"cell": "lstm"}, {"cell": "lstm"}, {"cell": "lstm"}),
            "mixed": _layers({"cell": "gru"}, {"cell": "gru", "units": 3}, {"cell": "lstm", "units": 3}),
            "both ways": _layers({"cell": "lstm", "bidirectional": True}, {"cell": "rnn_tanh"}),
            "no layer": [],
        }.items()
        if layers or how != "last"
    },
    "many dense layers": {"head": {"units": [7, 6, 5], "activation": ["tanh", "elu", "gelu"]}},
    **{
        f"activation {activation}": {
            "recurrent": _layers({}),
            "head": {"units": [6], "activation": activation},
        }
        for activation in ACTIVATIONS
    },
    "no dense layer": {"recurrent": _layers({}), "head": {"units": []}},
    "batch norm": {"recurrent": _layers({}), "head": {"units": [6, 4], "batch_norm": {"before": [0, 2]}}},
    "sigmoid": {"recurrent": _layers({}), "head": {"output": "sigmoid"}},
    "multilabel": {"recurrent": _layers({}), "head": {"output": "multilabel"}},
    "linear": {"recurrent": _layers({}), "head": {"output": "linear"}},
    "exponential": {"recurrent": _layers({}), "head": {"output": "exponential"}},
    "quantiles": {"recurrent": _layers({}), "head": {"output": "linear", "quantiles": [0.16, 0.5, 0.84]}},
}

TRANSFORMS: dict[str, dict[str, Any]] = {
    "none": {"transforms": {"default": "none"}},
    "standardise": {},
    "some": {"transforms": {"default": "none", "eta": "standardise", "phi": "robust"}},
    "each another": {"transforms": {"pt": ["log", "standardise"], "eta": "minmax", "phi": "gauss"}},
    "clipped": {"transforms": {"pt": ["clip", "uniform"], "default": "robust"}},
    "decorrelated": {"mix": "decorrelate"},
    "principal components": {"mix": "pca", "transforms": {"default": "none"}},
    "missing": {"missing": {"eta": "indicator"}},
    "filled": {"missing": {"eta": "fill"}, "transforms": {"default": "robust"}},
    "missing, mixed": {"missing": {"eta": "indicator"}, "mix": "pca"},
}


def events(n: int = 25, *, seed: int = 0, missing: bool = False, lengths: Any = None, dtype: Any = "float64"):
    """Make sequences of 0 to 7 steps with numbers and observers; every third eta missing where asked."""
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = rng.integers(0, 8, n)
        lengths[[0, n // 2, n - 1]] = 0
    n, rows = len(lengths), int(np.sum(lengths))
    values = rng.normal(3.0, 2.0, (rows, 3)) * [1.0, 0.5, 4.0]
    if missing:
        values[::3, 1] = np.nan
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(values.astype(dtype), offsets, NAMES, events=1000 + 7 * np.arange(n))


def made(
    network: dict[str, Any],
    *,
    transforms: dict[str, Any] | None = None,
    sequence: dict[str, Any] | None = None,
    dtype: str = "float64",
    seed: int = 3,
) -> Model:
    """Make a model whose numbers are all of order one, batch normalisation included."""
    config = NetworkConfig.model_validate_json(json.dumps(network))
    kind = config.head.output
    names = ("qcd", "top") if kind == "sigmoid" else ("mass", "tau") if kind != "softmax" else ("a", "b", "c")
    said: dict[str, Any] = {"files": ["e.root"], "variables": list(NAMES), **(transforms or {})}
    if kind in ("linear", "exponential"):
        said["targets"] = {name: f"true_{name}" for name in names}
    elif kind == "multilabel":
        said["multilabel"] = {name: f"has_{name}" for name in names}
    else:
        said["labels"] = {name: f"label == {k}" for k, name in enumerate(names)}
    data = DataConfig.model_validate_json(json.dumps(said))
    fitted = FittedTransforms.fit(events(200, seed=9, missing=bool(data.missing)), data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(config, len(fitted.outputs), len(names), dtype=getattr(torch, dtype))
        for norm in made.norms.values():
            for values, low, high in ((norm.weight, 0.5, 2.0), (norm.bias, -1.0, 1.0)):
                torch.nn.init.uniform_(values, low, high)
            torch.nn.init.uniform_(norm.running_mean, -1.0, 1.0)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    order = SequenceConfig.model_validate_json(json.dumps(sequence or {}))
    return Model(made.eval(), fitted, data, order, {"seed": seed})


def ensemble(network: dict[str, Any], *, by: str | None = "event_number % folds", **options: Any) -> Ensemble:
    """Make an ensemble of three such models."""
    members = [made(network, seed=seed, **options) for seed in (1, 2, 3)]
    return Ensemble(members, FoldsConfig(number=3, by=by), {"folds": 3})


def saved(model: Model, folder: Path) -> Path:
    """Write its file."""
    save_model(model, folder / "model.safetensors")
    return folder / "model.safetensors"


def bound(expected: Any, dtype: Any) -> float:
    """Say how far scores may be from PyTorch's.

    Both sum at most 32 terms in each of at most four dense layers, in another order: (8 + sqrt(32)) eps of
    the largest number, twice, four times. Before them the layers are the same to the bit.
    """
    return float(8 * (8 + np.sqrt(32)) * np.finfo(dtype).eps * max(1.0, np.abs(expected).max(initial=0.0)))
