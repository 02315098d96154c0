"""What cannot be an ONNX file, what is not written, and the command."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from tests.onnx_cases import saved

from timelike.cli import main
from timelike.errors import ConfigError, ExportError, MissingExtraError, ModelFileError
from timelike.exportcommands import FORMATS
from timelike.interop import onnx_export
from timelike.interop.onnx_export import export_onnx
from timelike.model import load_model, save_model

SMALL = {"recurrent": [{"cell": "gru", "units": 4, "bidirectional": True}], "pooling": "mean"}


@pytest.mark.parametrize(
    ("network", "how", "options", "message"),
    [
        (
            {"recurrent": [{"units": 4, "projection": 2}]},
            {},
            {},
            "ONNX has no LSTM with a projection, which this network has (4 units to 2)",
        ),
        (SMALL, {"dtype": "float64"}, {}, "float64: ONNX Runtime has recurrent layers in float32 only"),
        (SMALL, {}, {"dtype": "float64"}, "float64: ONNX Runtime has recurrent layers in float32 only"),
        (SMALL, {}, {"longest": 0}, "longest: 0; at least 1"),
        (SMALL, {}, {"dtype": "float16"}, "dtype: 'float16'; possible: float32, float64"),
        (
            {"recurrent": [], "pooling": "mean", "head": {"units": [3], "activation": ["gelu"]}},
            {"dtype": "float64"},
            {},
            "gelu in float64: ONNX Runtime has the error function in float32 only",
        ),
    ],
)
def test_what_cannot_be_expressed(tmp_path, network, how, options, message):
    file = saved(tmp_path, network, **how)
    with pytest.raises(ExportError) as raised:
        export_onnx(file, tmp_path / "m.onnx", **options)
    assert message in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def changed(model, change):
    """Plant a mistake in an ONNX model."""
    nodes = {node.op_type: node for node in reversed(model.graph.node)}  # the first of each
    constants = {constant.name: constant for constant in model.graph.initializer}

    def put(name, function):
        values = onnx.numpy_helper.to_array(constants[name])
        constants[name].CopyFrom(onnx.numpy_helper.from_array(function(values.copy()), name))

    gru = nodes["GRU"]
    if change == "one weight of 1 %":
        put(gru.input[2], lambda U: np.where(np.arange(U.size).reshape(U.shape) == U.size - 1, U * 1.01, U))
    elif change == "gates in another order":
        put(gru.input[1], lambda W: np.roll(W, 4, axis=1))
    elif change == "no lengths":
        gru.input[4] = ""
    elif change == "the other reset":
        next(a for a in gru.attribute if a.name == "linear_before_reset").i = 0
    elif change == "mean over two steps at least":
        put(nodes["Max"].input[1], lambda one: one + 1)
    elif change == "no mean of variables":
        put(nodes["Sub"].input[1], np.zeros_like)
    return model


CHANGES = ["one weight of 1 %", "gates in another order", "no lengths", "the other reset"]
CHANGES += ["mean over two steps at least", "no mean of variables"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch, change):
    file = saved(tmp_path, SMALL)
    make = onnx_export.onnx_model
    monkeypatch.setattr(onnx_export, "onnx_model", lambda *args, **how: changed(make(*args, **how), change))
    (tmp_path / "m.onnx").write_text("an older one")
    with pytest.raises(ExportError, match=r"not written: ONNX Runtime gives (other scores|nan)"):
        export_onnx(file, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "an older one"


def test_a_network_whose_scores_tell_nothing(tmp_path):
    file = saved(tmp_path, {"recurrent": [{"cell": "rnn_relu", "units": 24}]})
    model = load_model(file)
    with torch.no_grad():
        model.network.recurrent[0].weight_hh_l0.abs_().mul_(4)
    save_model(model, file)
    with pytest.raises(ExportError, match=r"of up to 120 steps are not finite; .*--longest N"):
        export_onnx(file, tmp_path / "m.onnx")
    assert "0 to 4 steps" in str(export_onnx(file, tmp_path / "m.onnx", longest=4))


def test_a_network_that_amplifies_rounding(tmp_path):
    file = saved(tmp_path, {"recurrent": [{"cell": "rnn_tanh", "units": 24}]})
    model = load_model(file)
    with torch.no_grad():
        model.network.recurrent[0].weight_hh_l0.mul_(30)
    save_model(model, file)
    with pytest.raises(ExportError, match="rounding alone changes scores"):
        export_onnx(file, tmp_path / "m.onnx")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        export_onnx(tmp_path / "none.safetensors", tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="cannot write"):
        export_onnx(saved(tmp_path, SMALL), tmp_path / "none" / "m.onnx")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch, library):
    file = saved(tmp_path, SMALL)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"this needs {library}, .*pip install 'timelike\[onnx\]'"):
        export_onnx(file, tmp_path / "m.onnx")


def test_the_command_writes_and_says_so(tmp_path, capsys):
    file = saved(tmp_path, SMALL)
    assert main(["export", str(file), "--to", "onnx", "-o", str(tmp_path / "m.onnx")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    for words in (
        "m.onnx: float32, opset 17",
        "by ONNX Runtime",
        "sequences of 0 to 120 steps, scores from 0.",
        "bound",
    ):
        assert words in out
    assert onnx.load(tmp_path / "m.onnx").producer_name == "timelike"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no format: timelike export MODEL --to FORMAT -o FILE; possible: " + ", ".join(FORMATS)),
        (["--to", "onx"], "no format 'onx'; nearest: 'onnx'"),
        (["--to", "onnx"], "no output: timelike export MODEL --to onnx -o FILE"),
        (["--to", "onnx", "-o", "m.bin"], "m.bin: a model for ONNX is written as .onnx"),
        (["--to", "onnx", "-o", "m.onnx", "--dtype", "half"], "dtype: 'half'; possible: float32, float64"),
        (["--to", "onnx", "-o", "m.onnx", "--longest", "0"], "--longest"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path, SMALL)
    assert main(["export", str(file), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
