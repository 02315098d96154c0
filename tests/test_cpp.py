"""The C++ header: it computes what Python does, on every kind of network."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from cpp_cases import NETWORKS, compile_and_run, make_model, save, sequences, write_input, write_program
from timelike.interop.cpp import export_cpp
from timelike.model import predict

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not there")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All networks in one program, compiled without fused operations: folder, models, what was printed."""
    folder = tmp_path_factory.mktemp("cpp")
    headers, models = {}, {}
    for name, network in NETWORKS.items():
        models[name] = make_model(network)
        headers[name] = export_cpp(save(models[name], folder, name), folder / f"{name}.h", namespace=f"of::{name}")
        write_input(folder, name, sequences(network))
    printed = compile_and_run(write_program(folder, headers, NETWORKS), ["-O2"])
    return folder, models, headers, printed


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_python(ran, name):
    folder, models, _, _ = ran
    given = sequences(NETWORKS[name])
    expected = predict(models[name], given)
    got = np.fromfile(folder / f"{name}.out", np.float32).reshape(expected.shape)
    # TODO tolerance
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)
