"""Models for tests of the formats, with random weights of order one: nothing in them is nearly linear."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.model import Model, save_model
from timelike.network import Network
from timelike.sequences import Sequences

os.environ.setdefault("KERAS_BACKEND", "torch")  # before any test imports Keras

VARIABLES = ("pt", "eta", "phi")


def model_file(
    folder: Path,
    network: dict[str, Any],
    *,
    data: dict[str, Any] | None = None,
    transforms: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    n_classes: int = 3,
    name: str = "model",
) -> Path:
    """Write a model file with random weights, three variables, and transforms fitted to random events."""
    config = NetworkConfig.model_validate_json(json.dumps(network))
    data = data or {"labels": {f"c{k}": f"y == {k}" for k in range(n_classes)}}
    values = {"files": ["e.root"], "variables": list(VARIABLES), **data, **(transforms or {})}
    data_config = DataConfig.model_validate_json(json.dumps(values))
    rng = np.random.default_rng(7)
    rows = rng.normal([40.0, 0.0, -1.0], [9.0, 1.5, 2.0], size=(400, 3))
    for d, variable in enumerate(VARIABLES):
        if variable in values.get("missing", {}):
            rows[d::9, d] = np.nan
    sequences = Sequences(rows, np.arange(0, 401, 4), names=VARIABLES)
    fitted = FittedTransforms.fit(sequences, data_config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        module = Network(config, len(fitted.outputs), len(data_config.class_names), dtype=dtype)
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    value.normal_(0.0, 0.6)
                    if "running_var" in key:
                        value.abs_().add_(0.1)
            for layer in config.recurrent:
                if not getattr(layer, "inner_bias", True) and layer.cell != "gru":
                    for key, value in module.state_dict().items():
                        if key.startswith("recurrent.") and "bias_hh" in key:
                            value.zero_()
    path = folder / f"{name}.safetensors"
    save_model(Model(module.eval(), fitted, data_config, SequenceConfig()), path)
    return path
