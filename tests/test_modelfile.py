"""The model file: what is written comes back; what is not a whole model of ours is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from timelike.errors import ConfigError, ModelFileError
from timelike.modelfile import FORMAT_VERSION, expected_shapes, read_model_file, write_model_file

NETWORK = {
    "recurrent": [
        {"cell": "lstm", "units": 3, "bidirectional": True},
        {"cell": "lstm", "units": 2, "bidirectional": False},
    ],
    "head": {"units": [4]},
}
META: dict[str, Any] = {
    "network": NETWORK,
    "variables": ["part_pt", "part_η"],
    "transforms": {},
    "classes": ["qcd", "top"],
    "signal": "top",
    "data": {},
    "sequence": {},
    "training": {"seed": 1},
}


def weights(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(dtype) for name, shape in expected_shapes(NETWORK, 2, 2).items()
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model_file(path, weights(), META)
    return path


def rewritten(path: Path, *, tensors: Any = None, **changes: Any) -> Path:
    """Write the file again with some of the header or of the tensors changed; None takes a key away."""
    meta = {**read_model_file(path).meta, **changes}
    meta = {key: value for key, value in meta.items() if value is not None}
    kept = {**load(path.read_bytes()), **(tensors or {})}
    kept = {name: value for name, value in kept.items() if value is not None}
    path.write_bytes(save(kept, metadata={"timelike": json.dumps(meta)}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        read_model_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_comes_back(tmp_path: Path, dtype: type) -> None:
    write_model_file(tmp_path / "m", weights(dtype), META)
    file = read_model_file(tmp_path / "m")
    assert {key: file.meta[key] for key in META} == META
    assert file.meta["format_version"] == 1  # what is needed to read it, not the newest there is
    assert file.weights.keys() == weights().keys()
    for name, weight in weights(dtype).items():
        assert file.weights[name].dtype == dtype
        np.testing.assert_array_equal(file.weights[name], weight)


def test_a_tensor_that_lies_across_memory_comes_back(tmp_path: Path) -> None:
    across = {name: np.asfortranarray(weight) for name, weight in weights().items()}
    write_model_file(tmp_path / "m", across, META)
    np.testing.assert_array_equal(
        read_model_file(tmp_path / "m").weights["head.0.weight"], weights()["head.0.weight"]
    )


def test_an_older_file_is_replaced_whole(path: Path) -> None:
    write_model_file(path, weights(), {**META, "training": {"seed": 2}})
    assert read_model_file(path).meta["training"] == {"seed": 2}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_cannot_be_written_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_model_file(tmp_path / "nowhere" / "m", weights(), META)


def test_reading_needs_neither_torch_nor_pydantic(path: Path) -> None:
    code = (
        "import sys; from timelike.modelfile import read_model_file; "
        f"print(len(read_model_file({str(path)!r}).weights)); "
        "assert not {'torch', 'pydantic', 'yaml', 'awkward'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(weights())}\n"), done.stderr


def test_shapes_of_stacked_and_bidirectional_layers() -> None:
    shapes = expected_shapes(NETWORK, 2, 5)
    assert shapes["recurrent.0.weight_ih_l0_reverse"] == (12, 2)
    assert shapes["recurrent.1.weight_ih_l0"] == (8, 6)
    assert shapes["recurrent.1.weight_hh_l0"] == (8, 2)
    assert shapes["head.0.weight"] == (4, 2)
    assert shapes["head.1.weight"] == (5, 4)
    assert len(shapes) == 8 + 4 + 4


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "damaged or cut short" in refusal(path) or length < 9
    path.write_bytes(whole + b"x")
    refusal(path)


def test_files_that_are_no_models_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    assert refusal(path).startswith("not a safetensors file")
    path.write_bytes(b"")
    assert refusal(path).startswith("not a safetensors file")
    path.write_bytes(save({"x": np.zeros(2)}))
    assert refusal(path).startswith("a safetensors file, but not a timelike model")
    path.write_bytes(save({"x": np.zeros(2)}, metadata={"format": "pt"}))
    assert refusal(path).startswith("a safetensors file, but not a timelike model")
    assert refusal(tmp_path / "missing") == "no such file or directory"
    assert refusal(tmp_path) == "is a directory"


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "3", "[" * 100_000], ids=range(6))
def test_a_header_that_is_no_mapping_is_refused(path: Path, text: str) -> None:
    path.write_bytes(save({"x": np.zeros(2)}, metadata={"timelike": text}))
    refusal(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    rewritten(path, format_version=FORMAT_VERSION + 1, timelike_version="99.0")
    said = refusal(path)
    assert "written by timelike 99.0 in model format" in said
    assert f"reads up to {FORMAT_VERSION}" in said


@pytest.mark.parametrize("version", ["1", True, 0, 1.0, None])
def test_a_format_that_is_no_number_is_refused(path: Path, version: Any) -> None:
    assert "no format_version" in refusal(rewritten(path, format_version=version))


@pytest.mark.parametrize("key", [*META, "timelike_version"])
def test_a_header_without_a_key_is_refused(path: Path, key: str) -> None:
    assert refusal(rewritten(path, **{key: None})) == f"the header lacks {key!r}"


HEADERS = {
    "kind": ({"variables": "part_pt"}, "'variables' in the header is no list"),
    "no variables": ({"variables": []}, "'variables' in the header is no list of names"),
    "names": ({"classes": ["a", 3]}, "'classes' in the header is no list of names"),
    "signal": ({"signal": "W"}, "signal 'W' in the header is not among the classes"),
    "network": ({"network": {"recurrent": [{}]}}, "'network' in the header is incomplete ('cell')"),
    "cell": (
        {"network": {"recurrent": [{"cell": "gru2", "units": 1, "bidirectional": False}]}},
        "'network' in the header: unknown cell 'gru2'; nearest: 'gru'",
    ),
}


@pytest.mark.parametrize(("changes", "said"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_makes_no_sense_is_refused(path: Path, changes: dict[str, Any], said: str) -> None:
    assert refusal(rewritten(path, **changes)) == said


BIAS = "head.1.bias"
TENSORS = {
    "missing": (None, f"tensor '{BIAS}' is missing"),
    "shape": (np.zeros(3, np.float32), f"tensor '{BIAS}' has shape (3,), expected (2,)"),
    "dtype": (np.zeros(2, np.int32), f"tensor '{BIAS}' is int32, expected float32 or float64"),
    "two dtypes": (np.zeros(2, np.float64), "tensors of float32 and of float64"),
    "nan": (np.array([0, np.nan], np.float32), f"tensor '{BIAS}' holds a value that is not finite"),
    "infinity": (
        np.array([np.inf, -np.inf], np.float32),
        f"tensor '{BIAS}' holds a value that is not finite",
    ),
}


@pytest.mark.parametrize(("tensor", "said"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_are_refused(path: Path, tensor: Any, said: str) -> None:
    assert said in refusal(rewritten(path, tensors={BIAS: tensor}))


def test_a_tensor_too_many_is_refused(path: Path) -> None:
    said = refusal(rewritten(path, tensors={"extra": np.zeros(1, np.float32)}))
    assert said == "tensor 'extra' does not belong to the network"
