"""Small networks in model files, and their scores by ONNX Runtime: what the tests of ONNX share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.model import Model, load_model, predict, save_model
from timelike.network import Network, logits
from timelike.sequences import Sequences

NAMES = ("pt", "eta", "mass")
MISSING = {"eta": "indicator", "mass": "fill"}
Array = npt.NDArray[Any]


def events(lengths: Sequence[int], *, seed: int = 0, missing: bool = False) -> Sequences:
    """Make events with a variable that is far from 0, and nan in those that may be missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal([50.0, 0.5, -3.0], [2.0, 1.0, 0.3], (int(np.sum(lengths)), 3)).astype(np.float32)
    if missing:
        values[::4, 1], values[1::5, 2] = np.nan, np.nan
    return Sequences(values, np.concatenate([[0], np.cumsum(lengths)]), names=NAMES)


def model(network: Mapping[str, Any], *, dtype: str = "float32", seed: int = 3, **data: Any) -> Model:
    """Make a network with random weights, two classes and fitted transforms; `data` as in a config."""
    given = {"files": ["e.root"], "variables": NAMES, "labels": {"qcd": "y == 0", "top": "y == 1"}} | data
    about = DataConfig.model_validate_json(json.dumps(given))
    fitted = FittedTransforms.fit(events([5] * 60, seed=7, missing="missing" in data), about)
    config = NetworkConfig.model_validate_json(json.dumps(network))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(config, len(fitted.outputs), 2, dtype=getattr(torch, dtype))
        with torch.no_grad():  # larger than at the start of a training
            for weight in made.parameters():
                weight.mul_(2.0)
        for norm in made.norms.values():
            norm(2 * torch.randn(40, norm.num_features, dtype=getattr(torch, dtype)) + 1)
    # What the last layer gives differs by 1 or so from event to event, and no output is saturated.
    shown = fitted.apply(events([3] * 40, seed=8, missing="missing" in data))
    raw = logits(made, shown).double().numpy()[:, -made.head[-1].out_features :]
    made.rescale(-raw.mean(axis=0) / raw.std(axis=0), 1 / raw.std(axis=0))
    return Model(made.eval(), fitted, about, SequenceConfig())


def saved(folder: Path, network: Mapping[str, Any], **how: Any) -> Path:
    """Write such a model, and give its file."""
    path = folder / "model.safetensors"
    save_model(model(network, **how), path)
    return path


def onnx_scores(path: Path, given: Sequences, *, padding: float = np.nan, beyond: int = 0) -> Array:
    """Score events with ONNX Runtime, padded to their longest and `beyond`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    dtype = np.float64 if "double" in session.get_inputs()[0].type else np.float32
    T = max(1, int(given.lengths.max())) + beyond
    x = np.full((len(given), T, len(NAMES)), padding, dtype)
    for b, rows in enumerate(given):
        x[b, : len(rows)] = rows
    found: Array = session.run(None, {"x": x, "lengths": given.lengths.astype(np.int32)})[0]
    return found


def own_scores(path: Path, given: Sequences) -> Array:
    """Score events with the model itself."""
    return predict(load_model(path), given)
