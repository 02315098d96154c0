"""A trained network as a project of hls4ml, which makes firmware for FPGAs of it.

The way is by Keras: `timelike.interop.keras_weights` builds the model with a fixed number of steps, hls4ml
converts it, the project's C++ is compiled with g++ and run on sequences, and the largest difference from our
float64 is measured. Fixed-point numbers and tables of activations make it large, so it is reported, never
judged: choose a precision with which it is small enough for what the network is for.

References
----------
J. Duarte et al., Fast inference of deep neural networks in FPGAs for particle physics, JINST 13 (2018) P07027,
arXiv:1804.06913; E. Khoda et al., Ultra-low latency recurrent neural network inference on FPGAs for physics
applications with hls4ml, arXiv:2207.00559.
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

    Returns
    -------
    str
        What came out, in a line.

    Raises
    ------
    ModelFileError, ConfigError
        As `timelike.interop.keras_weights.to_keras`; and if there are no `steps`, the folder exists, there is no
        g++, or hls4ml refuses the model.
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
    if path.exists():
        raise ConfigError(f"cannot write {path}: it exists already")
    if shutil.which("g++") is None:
        raise ConfigError("hls4ml compiles its projects with g++, which is not installed")
    keras_module()
    hls4ml = require("hls4ml", "hls4ml")
    built = to_keras(model, steps=steps)
    tried = probe(file, description, steps=steps, dtype="float32")
    try:
        config = hls4ml.utils.config_from_keras_model(
            built, granularity="name", default_precision=precision, backend=backend
        )
        converted = hls4ml.converters.convert_from_keras_model(
            built, hls_config=config, output_dir=str(path), backend=backend
        )
        converted.compile()
        got = converted.predict(np.ascontiguousarray(padded(tried.sequences, PAD), np.float32))
    except Exception as error:  # of whatever kind hls4ml raises, for what it cannot do
        shutil.rmtree(path, ignore_errors=True)
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: hls4ml cannot convert it ({type(error).__name__}: {said})") from error
    found = np.asarray(got, np.float64).reshape(len(tried.expected), -1)
    if description.output == "sigmoid":
        found = np.concatenate([1 - found, found], axis=1)
    difference = np.abs(found - tried.expected).max()
    return (
        f"hls4ml {hls4ml.__version__}, {backend}, {precision}: {len(found)} sequences of {steps} steps, "
        f"largest difference {difference:.1e}"
    )
