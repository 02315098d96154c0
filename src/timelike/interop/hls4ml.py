"""A trained network as a project of hls4ml, which makes firmware for FPGAs of it.

The way is by Keras: `timelike.interop.keras_weights` builds the model with a fixed number of steps, hls4ml
converts it, and the project's C++ is compiled with g++ and run on sequences. Fixed-point numbers and tables
of activations make it differ; the largest difference from our float64 is measured and said, and a project
that is off by more than a limit is not kept.

The firmware takes what the first layer reads: transforms are done before it, on the host. Behind another
layer an LSTM of hls4ml 1.3.0 does not compile where the types of its inputs and its states differ, and
variables as they are would need wide types anyway.

A GRU whose reset gate acts before the state weights is refused: hls4ml 1.3.0 converts it without a word to
another network.

References
----------
J. Duarte et al., Fast inference of deep neural networks in FPGAs for particle physics, JINST 13 (2018)
P07027, arXiv:1804.06913; E. Khoda et al., Ultra-low latency recurrent neural network inference on FPGAs for
physics applications with hls4ml, arXiv:2207.00559.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from timelike.errors import ConfigError, require
from timelike.interop.checks import padded, probe
from timelike.interop.keras_weights import PAD, keras_module, to_keras
from timelike.interop.source import Source, network_of, refusal

__all__ = ["export_hls4ml"]


def export_hls4ml(
    model: Source,
    path: str | os.PathLike[str],
    *,
    steps: int | None = None,
    precision: str = "ap_fixed<24,8>",
    backend: str = "Vivado",
    limit: float = 0.1,
) -> str:
    """Write a project of hls4ml, compile it and run it.

    Parameters
    ----------
    model : path or ModelFile
    path : path
        The project's folder, which must not exist yet.
    steps : int
        Number of steps that every sequence has; given by the network with ``pooling: flatten``.
    precision : str
        Type of all numbers in the firmware.
    backend : str
        Of hls4ml: "Vivado", "Vitis", "Quartus", ....
    limit : float
        Largest difference that is taken, as a share of the largest number that the network gives.

    Returns
    -------
    str
        What came out, in a line.

    Raises
    ------
    ModelFileError, ConfigError
        As `timelike.interop.keras_weights.to_keras`; and if there are no `steps`, the folder exists, there is
        no g++, hls4ml refuses the model, or what it makes of it differs too much.
    MissingExtraError
        If hls4ml or Keras is not installed.
    """
    path = Path(path)
    file, description, name = network_of(model)
    steps = steps or description.steps
    if steps is None:
        raise ConfigError(f"{name}: firmware needs a fixed number of steps; give steps")
    if description.pooling == "none":
        raise refusal(name, "scores of each step", "this way to hls4ml", "last, mean, max, flatten")
    if any(layer.cell == "gru_reset_before" for layer in description.layers):
        raise refusal(
            name, "cell gru_reset_before that is right", "hls4ml", "gru (reset after), lstm, rnn_tanh"
        )
    if path.exists():
        raise ConfigError(f"cannot write {path}: it exists already")
    if shutil.which("g++") is None:
        raise ConfigError("hls4ml compiles its projects with g++, which is not installed")
    keras_module()
    hls4ml = require("hls4ml", "hls4ml")
    built = to_keras(model, steps=steps, transforms=False)
    tried = probe(file, description, steps=steps, dtype="float32")
    try:
        config = hls4ml.utils.config_from_keras_model(
            built, granularity="name", default_precision=precision, backend=backend
        )
        converted = hls4ml.converters.convert_from_keras_model(
            built, hls_config=config, output_dir=str(path), backend=backend
        )
        converted.compile()
        inputs = description.transforms.apply(tried.sequences)
        got = converted.predict(np.ascontiguousarray(padded(inputs, PAD), np.float32))
    except Exception as error:  # of whatever kind hls4ml raises, for what it cannot do
        shutil.rmtree(path, ignore_errors=True)
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: hls4ml cannot convert it ({type(error).__name__}: {said})") from error
    found = np.asarray(got, np.float64).reshape(len(tried.expected), -1)
    if description.output == "sigmoid":
        found = np.concatenate([1 - found, found], axis=1)
    difference, largest = np.abs(found - tried.expected).max(), np.abs(tried.expected).max()
    said = (
        f"hls4ml {hls4ml.__version__}, {backend}, {precision}: {len(found)} sequences of {steps} steps, "
        f"largest difference {difference:.1e} of numbers up to {largest:.1e}"
    )
    if not difference <= limit * largest:
        shutil.rmtree(path, ignore_errors=True)
        raise ConfigError(f"{name}: {said}: more than {limit:g} of it; give more bits, or another network")
    return f"{said}; inputs are to be transformed before"
