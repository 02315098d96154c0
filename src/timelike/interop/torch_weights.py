"""A trained network for PyTorch alone: its own modules, a ``state_dict``, and a file of code to build it.

`to_torch` gives the module, `export_torch` writes two files, ``NAME.safetensors`` and ``NAME.py``, for a
machine that has torch and safetensors and no timelike. The code is `timelike.interop.plain_torch`, unchanged.

Names in the ``state_dict`` are those of the model file: ``recurrent.0.weight_ih_l0``, ``head.0.weight``.
Batch normalisation is taken into the dense layers. PyTorch has no peepholes, no coupled gates and no GRU
whose reset gate acts before the state weights: these raise.

The other way needs no reader: `timelike.nn.LSTM`, ``GRU`` and ``RNN`` take a ``state_dict`` of ``torch.nn``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timelike.description import Description, Layer
from timelike.errors import ConfigError
from timelike.files import replacing, shown
from timelike.interop import plain_torch
from timelike.interop.checks import Probe, padded, probe
from timelike.interop.plain_torch import PlainNetwork
from timelike.interop.source import Source, folded, network_of, refusal

__all__ = ["export_torch", "to_torch"]

_CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm_projected", "gru")


def to_torch(model: Source) -> PlainNetwork:
    """Build a network of `torch.nn` modules that computes what a model does, transforms included.

    Parameters
    ----------
    model : path or ModelFile

    Returns
    -------
    PlainNetwork
        A `torch.nn.Module`, ready to score: ``network(x [B, T, D], lengths [B])``.

    Raises
    ------
    ModelFileError
        If the file cannot be used.
    ConfigError
        If it holds an ensemble, or a cell that `torch.nn` does not have.
    """
    _, description, name = network_of(model)
    return _built(description, name)


def export_torch(model: Source, path: str | os.PathLike[str]) -> str:
    """Write a network for PyTorch: weights as safetensors, and beside them a file of code that builds it.

    Both are written, read again, run and compared before they take their names.

    Parameters
    ----------
    model : path or ModelFile
    path : path
        The weight file, ``NAME.safetensors``; the code becomes ``NAME.py``.

    Returns
    -------
    str
        What was checked, in a line.

    Raises
    ------
    ModelFileError
        If the file cannot be used.
    ConfigError
        If it holds an ensemble, or a cell that `torch.nn` does not have, or cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: weights for PyTorch are written as .safetensors, with a .py beside them")
    file, description, name = network_of(model)
    if path.resolve() == Path(name).resolve():
        raise ConfigError(f"{path}: this is the model itself; name another file")
    network = _built(description, name)
    code = path.with_suffix(".py")
    with replacing(code) as code_part, replacing(path) as part:
        code_part.write_text(Path(plain_torch.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        save_file(network.state_dict(), part, metadata={plain_torch.KEY: json.dumps(network.spec)})
        said = _checked(plain_torch.load(part), probe(file, description))
    return f"{said}; run by {shown(code)}"


def _built(description: Description, name: str) -> PlainNetwork:
    for layer in description.layers:
        if layer.cell not in _CELLS:
            raise refusal(name, f"cell {layer.cell}", "torch.nn", ", ".join(_CELLS))
    spec: dict[str, Any] = {
        "variables": list(description.variables),
        "transforms": description.transforms.to_dict(),
        "layers": [_layer(layer) for layer in description.layers],
        "pooling": description.pooling,
        "steps": description.steps,
        "dense": [
            {"in": d.weight.shape[1], "out": d.weight.shape[0], "activation": d.activation}
            for d in description.dense
        ],
        "output": description.output,
        "names": list(description.names),
        "dtype": str(description.dtype),
    }
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn for nothing; leave no trace of it
        network = PlainNetwork(spec)
    network.load_state_dict(_weights(description, network))
    return network.eval()


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "cell": layer.cell,
        "inputs": layer.input_size,
        "units": layer.units,
        "projection": layer.state_size if layer.cell == "lstm_projected" else 0,
        "bidirectional": layer.bidirectional,
    }


def _weights(description: Description, network: PlainNetwork) -> dict[str, torch.Tensor]:
    weights = {}
    for index, layer in enumerate(description.layers):
        for end, own in zip(("_l0", "_l0_reverse"), layer.weights, strict=False):
            for name, value in own.items():
                weights[f"recurrent.{index}.{name}{end}"] = value
            # A cell with one bias is one whose other bias is 0.
            rows = len(own["weight_ih"])
            for name in {"bias_ih", "bias_hh"} - own.keys():
                weights[f"recurrent.{index}.{name}{end}"] = np.zeros(rows, description.dtype)
    for index, dense in enumerate(description.dense):
        weights[f"head.{index}.weight"], weights[f"head.{index}.bias"] = folded(dense)
    return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}


def _checked(network: PlainNetwork, tried: Probe) -> str:
    x = torch.from_numpy(padded(tried.sequences, np.nan))
    lengths = torch.from_numpy(tried.sequences.lengths.copy())
    with torch.no_grad():
        got = network(x, lengths).double().numpy()
    if network.spec["pooling"] == "none":
        got = got[np.arange(x.shape[1]) < tried.sequences.lengths[:, None]]
    return tried.check(got, "PyTorch")
