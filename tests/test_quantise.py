"""Small weights: what they are, the file that has them, and the command that asks what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cpp_cases import LAYERS, make_ensemble, make_model, save, sequences
from test_cli import failure
from timelike.cli import main
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.interop.cpp import export_cpp
from timelike.model import load_model, predict, save_model
from timelike.modelfile import read_model_file, write_model_file
from timelike.quantise import quantise
from timelike.smallweights import SMALL, decoded, encoded, float16_of, int8_of
from timelike.train import train
from toys import TOY_CONFIG


def matrix(rows=40, columns=30, seed=0):
    """Rows of all magnitudes that float32 has."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-44, 37, (rows, 1))
    return (rng.normal(size=(rows, columns)) * size).astype(np.float32)


# -- the weights --------------------------------------------------------------------------------------------


def test_a_weight_is_off_by_half_a_step_of_its_row():
    given = matrix()
    numbers, scale = int8_of(given)
    assert np.abs(numbers).max() <= 127
    # a scale is at most 2^-15 larger than largest / 127, or the smallest there is
    largest = np.abs(given).max(axis=1).astype(np.float64)
    assert (scale <= np.maximum(largest / 127 * (1 + 2.0**-15), 2.0**-126)).all()
    off = np.abs(given.astype(np.float64) - numbers * scale.astype(np.float64)[:, None])
    assert (off <= scale[:, None] / 2).all()


@pytest.mark.parametrize("to", SMALL)
def test_small_weights_stay_what_they_are(to):
    """What is read and made small again has the same bits, in float32 and in float64."""
    given = {"a": matrix() if to == "int8" else matrix().clip(-6e4, 6e4), "b": matrix()[:, 0]}
    small = encoded(given, to)
    for dtype in (np.float32, np.float64):
        full = decoded(small, dtype)
        again = encoded(full, to)
        assert again.keys() == small.keys()
        for name in small:
            np.testing.assert_array_equal(again[name], small[name], err_msg=name)
    np.testing.assert_array_equal(decoded(small, np.float32)["a"], decoded(small, np.float64)["a"])


def test_a_row_of_zeros_stays_one():
    numbers, scale = int8_of(np.zeros((2, 3), np.float32))
    assert not numbers.any()
    assert (scale > 0).all()


def test_weights_that_have_no_small_form():
    with pytest.raises(DataError, match=r"1e\+39 has no int8"):
        int8_of(np.array([[1e39]]))
    with pytest.raises(DataError, match="70000 has no float16: the largest is 65504; use int8"):
        float16_of(np.array([[7e4]]))
    with pytest.raises(ConfigError, match="'int4'; nearest: 'int8'"):
        encoded({}, "int4")


# -- the file -----------------------------------------------------------------------------------------------

NETWORK = {"recurrent": [LAYERS["gru"]], "head": {"units": [6], "batch_norm": {"before": [0]}}}


@pytest.mark.parametrize("to", SMALL)
@pytest.mark.parametrize("ensemble", [False, True])
def test_a_small_file_is_read_like_any_other(tmp_path, to, ensemble):
    model = make_ensemble(NETWORK) if ensemble else make_model(NETWORK)
    full = read_model_file(save(model, tmp_path, "full"))
    path = tmp_path / "small.safetensors"
    write_model_file(path, full.weights, full.meta, store=to)
    small = read_model_file(path)
    assert (small.stored, small.meta["network"]) == (to, full.meta["network"])
    assert "stored" not in small.meta
    assert {name: (w.shape, w.dtype) for name, w in small.weights.items()} == {
        name: (w.shape, w.dtype) for name, w in full.weights.items()
    }
    for name, weight in full.weights.items():
        if weight.ndim == 1:
            np.testing.assert_array_equal(small.weights[name], weight)
    # the model that is made of it can be written as any other, and then again small, with the same bytes
    loaded = load_model(path)
    given = sequences(NETWORK)
    assert np.isfinite(predict(loaded, given)).all()
    save_model(loaded, tmp_path / "again.safetensors")
    again = read_model_file(tmp_path / "again.safetensors")
    assert again.stored == ""
    write_model_file(tmp_path / "twice.safetensors", again.weights, small.meta, store=to)
    first, second = load_file(path), load_file(tmp_path / "twice.safetensors")
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor)


@pytest.mark.parametrize("to", SMALL)
def test_a_header_has_the_same_small_weights(tmp_path, to):
    """Made of the full file or of the small one, the text is the same."""
    path = save(make_model(NETWORK), tmp_path, "full")
    full = read_model_file(path)
    write_model_file(tmp_path / "small.safetensors", full.weights, full.meta, store=to)
    texts = [
        export_cpp(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.h", namespace="m", weights=to)
        .path.read_text()
        .partition("#ifndef")[2]
        for name in ("full", "small")
    ]
    assert texts[0] == texts[1]


def damaged(path: Path, change) -> Path:
    """Change tensors and header of a model file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        meta = json.loads(file.metadata()["timelike"])
    tensors = load_file(path)
    change(tensors, meta)
    save_file(tensors, path, metadata={"timelike": json.dumps(meta)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("head.0.weight.scale"), "'head.0.weight' of int8 has no scale"),
        (
            lambda t, m: t.update({"head.0.weight.scale": np.float32([1.0])}),
            "has no scale for each of its rows",
        ),
        (lambda t, m: t["head.0.weight.scale"].fill(np.nan), "numbers of float32 above 0"),
        (lambda t, m: t["head.0.weight.scale"].fill(-1), "numbers of float32 above 0"),
        (
            lambda t, m: m.update(stored={"as": "int4", "dtype": "float32"}),
            "does not say how weights are stored",
        ),
        (lambda t, m: m.update(stored=3), "does not say how weights are stored"),
        (lambda t, m: m.pop("stored"), "is int8, expected float32|does not belong"),
        (lambda t, m: t.update(more=np.int8([[1]])), "'more' of int8 has no scale"),
    ],
)
def test_a_damaged_small_file(tmp_path, change, message):
    full = read_model_file(save(make_model(NETWORK), tmp_path, "full"))
    path = tmp_path / "small.safetensors"
    write_model_file(path, full.weights, full.meta, store="int8")
    with pytest.raises(ModelFileError, match=message) as caught:
        read_model_file(damaged(path, change))
    assert str(path) in str(caught.value)


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_root):
    folder = tmp_path_factory.mktemp("quantise")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG, encoding="utf-8")
    return train(folder / "toy.yaml").folder / "model.safetensors"


def test_the_command_says_what_small_weights_cost(trained, toy_root, tmp_path, capsys):
    output = tmp_path / "small.safetensors"
    argv = ["quantise", str(trained), "--to", "int8", "--input", str(toy_root), "--limit", "0.1", "-o"]
    assert main([*argv, str(output)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("240 events: scores change by at most 0.0")
    assert out[1].startswith("AUC 0.")
    assert out[1].endswith("with weights in int8")
    assert out[2].startswith("size: ")
    done = quantise(trained, tmp_path / "other.safetensors", [toy_root], to="float16", limit=0.01)
    assert 0 < done.rms <= done.largest <= 0.01
    assert done.auc is not None
    assert 0.5 < done.auc[0] < 1
    assert done.auc[1] == pytest.approx(done.auc[0], abs=0.01)
    assert read_model_file(done.output).stored == "float16"


def test_beyond_the_limit_nothing_is_written(trained, toy_root, tmp_path, capsys):
    output = tmp_path / "small.safetensors"
    argv = ["quantise", trained, "--input", toy_root, "--limit", "1e-6", "-o", output]
    assert "more than the limit of 1e-06; nothing was written; float16 is nearer" in failure(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_of_the_command(trained, toy_root, tmp_path, capsys):
    output = tmp_path / "small.safetensors"
    assert failure(capsys, "quantise", trained, "--to", "int4", "--input", toy_root, "-o", output) == (
        "--to int4: possible: int8, float16"
    )
    assert failure(capsys, "quantise", trained, "-o", output).startswith("no input: timelike quantise")
    assert failure(capsys, "quantise", trained, "--input", toy_root).startswith(
        "no output: timelike quantise"
    )
    assert "it is an input file" in failure(capsys, "quantise", trained, "--input", toy_root, "-o", toy_root)
    argv = ["quantise", trained, "--input", toy_root, "-o", output, "--limit", "0"]
    assert failure(capsys, *argv) == "limit: 0; a number above 0 is needed"
    assert list(tmp_path.iterdir()) == []
