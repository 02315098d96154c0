"""Files of Keras that are damaged, hostile or foreign: each gives one line, and nothing of them is run."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timelike.errors import ConfigError, ModelFileError, TimelikeError
from timelike.interop.keras_reader import from_keras

CORPUS = Path(__file__).parent / "fuzz" / "corpus" / "keras"
FILES = sorted(CORPUS.glob("*.keras"))


def parts(path: Path) -> tuple[dict, bytes]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json")), archive.read("model.weights.h5")


def packed(path: Path, config: object, weights: bytes, *, method: int = zipfile.ZIP_STORED) -> Path:
    text = config if isinstance(config, (str, bytes)) else json.dumps(config)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights)
    return path


def changed(weights: bytes, change) -> bytes:
    """Change an HDF5 file in memory."""
    buffer = io.BytesIO(weights)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def test_there_is_a_corpus():
    assert {path.stem for path in FILES} == {"functional", "sequential", "stacked"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_corpus_can_be_read(path):
    assert from_keras(path).n_parameters > 0


def test_a_lambda_is_not_run(tmp_path):
    """A layer whose configuration holds code: refused by its name, and the code leaves no trace."""
    config, weights = parts(CORPUS / "sequential.keras")
    code = {"class_name": "__lambda__", "config": {"code": "open('ran', 'w')"}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "l", "function": code}}
    config["config"]["layers"].insert(1, layer)
    with pytest.raises(ConfigError, match="a Lambda holds code, and code of a file is never run"):
        from_keras(packed(tmp_path / "m.keras", config, weights))
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, member):
    config, weights = parts(CORPUS / "sequential.keras")
    many = b" " * (17 << 20)
    config, weights = (many, weights) if member == "config.json" else (config, weights + many)
    path = packed(tmp_path / "m.keras", config, weights, method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelFileError, match=f"{member} unpacks to more than 1"):
        from_keras(path, max_bytes=16 << 20)


def declared(file: h5py.File, place: str, **options: object) -> None:
    shape = file[place].shape
    del file[place]
    file.create_dataset(place, shape, "f4", **options)


def elsewhere(file: h5py.File, place: str, link: object) -> None:
    del file[place]
    file[place] = link


HOSTILE = {
    "never written": lambda f, p: declared(f, p),
    "compressed": lambda f, p: declared(f, p, chunks=True, compression="gzip", fillvalue=1.0),
    "external": lambda f, p: declared(f, p, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]),
    "external link": lambda f, p: elsewhere(f, p, h5py.ExternalLink("/etc/hostname", "/x")),
    "soft link": lambda f, p: elsewhere(f, p, h5py.SoftLink("/layers")),
    "larger": lambda f, p: elsewhere(f, p, np.zeros((300, 300), "f4")),
    "whole numbers": lambda f, p: elsewhere(f, p, np.zeros(f[p].shape, "i4")),
    "nan": lambda f, p: elsewhere(f, p, np.full(f[p].shape, np.nan, "f4")),
    "text": lambda f, p: elsewhere(f, p, "text"),
    "missing": lambda f, p: f.__delitem__(p),
    "a group": lambda f, p: elsewhere(f, p, f["/layers"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_weights_that_are_no_plain_arrays_are_refused(tmp_path, name):
    config, weights = parts(CORPUS / "sequential.keras")
    weights = changed(weights, lambda file: HOSTILE[name](file, "layers/dense/vars/0"))
    with pytest.raises(ModelFileError, match=r"m\.keras: weights: layers/dense/vars/0 ") as caught:
        from_keras(packed(tmp_path / "m.keras", config, weights))
    assert "\n" not in str(caught.value)


WRONG = {
    "no json": "{",
    "deep": "[" * 100_000,
    "a list": [],
    "no layers": {"class_name": "Sequential", "config": {}},
    "subclassed": {"class_name": "Mine", "config": {"layers": []}},
    "no input": {"class_name": "Sequential", "config": {"layers": []}},
}


@pytest.mark.parametrize("name", WRONG)
def test_configurations_that_are_none_are_refused(tmp_path, name):
    _, weights = parts(CORPUS / "sequential.keras")
    with pytest.raises(TimelikeError) as caught:
        from_keras(packed(tmp_path / "m.keras", WRONG[name], weights))
    assert str(caught.value).startswith(f"{tmp_path}/m.keras: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("units", [0, -1, 1.5, "4", True, 10**30, None])
def test_units_that_are_no_number_are_refused(tmp_path, units):
    config, weights = parts(CORPUS / "sequential.keras")
    config["config"]["layers"][-1]["config"]["units"] = units
    with pytest.raises(ModelFileError, match=r"units is .*expected a number from 1"):
        from_keras(packed(tmp_path / "m.keras", config, weights))


def read_or_one_line(path: Path) -> None:
    """Read a file; an error must be ours, of one line, and begin with the file."""
    message = ""
    try:
        from_keras(path)
    except TimelikeError as error:
        message = str(error)
    assert "\n" not in message
    assert not message or message.startswith(str(path))


@settings(max_examples=50)
@given(data=st.data())
def test_changed_bytes_give_a_model_or_one_line(data, tmp_path_factory):
    content = bytearray(data.draw(st.sampled_from(FILES)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.sampled_from([len(content), len(content) // 2])) :]
    path = tmp_path_factory.getbasetemp() / "bytes.keras"
    path.write_bytes(content)
    read_or_one_line(path)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """All places in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [p for key, inner in items for p in places(inner, (*path, key))]


@settings(max_examples=50)
@given(data=st.data())
def test_changed_configurations_give_a_model_or_one_line(data, tmp_path_factory):
    config, weights = parts(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([p for p in places(config) if p]))
        inner = config
        for key in path:
            inner = inner[key]
        inner[last] = data.draw(VALUES)
    read_or_one_line(packed(tmp_path_factory.getbasetemp() / "config.keras", config, weights))
