"""What comes in a file is data: none of it is run, no other file is read for it, no size is believed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from tests.model_file_changes import changed, checked_line, put_together, taken_apart, used
from tests.scorer_cases import made, saved

from timelike.apply import apply
from timelike.checkpoint import read_snapshot
from timelike.cli import main
from timelike.data.expressions import Expression
from timelike.data.numpy import open_numpy
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.model import load_model
from timelike.modelfile import write_model_file
from timelike.modelheader import DEPTH, LENGTH
from timelike.yamlfile import parse_yaml

FUZZ = Path(__file__).parent / "fuzz"

# Corpora of the fuzzers


def target(name: str):
    """Import a fuzzer, with nothing in the place of atheris, which only changes what is imported."""
    stub = types.ModuleType("atheris")
    stub.instrument_imports = lambda **_: contextlib.nullcontext()
    before = sys.modules.get("atheris")
    sys.modules["atheris"] = stub
    try:
        spec = importlib.util.spec_from_file_location(name, FUZZ / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del sys.modules["atheris"]
        if before is not None:
            sys.modules["atheris"] = before
    return module


TARGETS = sorted(path.stem for path in FUZZ.glob("fuzz_*.py"))


def test_each_fuzzer_has_a_corpus():
    assert TARGETS
    assert {f"fuzz_{folder.name}" for folder in (FUZZ / "corpus").iterdir()} == set(TARGETS)


@pytest.mark.filterwarnings(
    "ignore:overflow encountered|invalid value encountered|divide by zero:RuntimeWarning"
)
@pytest.mark.parametrize("name", TARGETS)
def test_a_corpus_goes_through_its_fuzzer(name):
    """What was found once is not found again."""
    inputs = sorted((FUZZ / "corpus" / name.removeprefix("fuzz_")).iterdir())
    assert inputs
    one_input = target(name).one_input
    for path in inputs:
        one_input(path.read_bytes())


# Model files

MODELS = {path.stem: path.read_bytes() for path in sorted((FUZZ / "corpus" / "model_file").iterdir())}
WHOLE = {name: content for name, content in MODELS.items() if not name.startswith("found_")}


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("trust") / "m.safetensors"


@pytest.mark.parametrize("name", WHOLE)
def test_seeds_are_models(somewhere, name):
    somewhere.write_bytes(WHOLE[name])
    assert used(somewhere) == ""
    load_model(somewhere)


@pytest.mark.filterwarnings(
    "ignore:overflow encountered|invalid value encountered|divide by zero:RuntimeWarning"
)
@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(WHOLE)), seed=st.integers(0, 2**32 - 1))
def test_a_changed_header_gives_a_model_or_one_line(somewhere, name, seed):
    somewhere.write_bytes(changed(WHOLE[name], random.Random(seed)))
    used(somewhere)
    try:
        load_model(somewhere)
    except ModelFileError as error:
        checked_line(error, somewhere)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10**6), new=st.binary(min_size=1, max_size=8), cut=st.integers(0, 10**6))
@example(at=0, new=b"\xff" * 8, cut=0)  # a header longer than any file
def test_changed_bytes_give_a_model_or_one_line(somewhere, at, new, cut):
    content = bytearray(WHOLE["gru"])
    at %= len(content)
    content[at : at + len(new)] = new
    somewhere.write_bytes(content[: len(content) - cut % len(content)] if cut % 3 == 0 else content)
    used(somewhere)


def with_text(somewhere: Path, change) -> str:
    """Change what the header of a model says, and give the line with which it is refused."""
    header, text, body = taken_apart(WHOLE["gru"])
    text = change(text) or text
    somewhere.write_bytes(put_together(header, text, bytes(body)))
    line = used(somewhere)
    assert line.startswith(f"{somewhere}: "), line
    return line.removeprefix(f"{somewhere}: ")


REFUSED = {
    "a size beyond memory": (
        {"recurrent": [{"units": 10**12}]},
        "recurrent.0.units: 1000000000000; a whole number",
    ),
    "a size of many digits": ({"recurrent": [{"units": 10**3000}]}, "recurrent.0.units: 1000"),
    "no size": ({"recurrent": [{"units": 0}]}, "recurrent.0.units: 0; a whole number from 1"),
    "a size that is true": ({"recurrent": [{"units": True}]}, "recurrent.0.units: True; a whole number"),
    "half a size": ({"recurrent": [{"units": 2.0}]}, "recurrent.0.units: 2.0; a whole number"),
    "text for a size": ({"recurrent": [{"units": "ab"}]}, "recurrent.0.units: 'ab'; a whole number"),
    "steps": ({"pooling": "flatten", "steps": 2**40}, "steps: 1099511627776; a whole number"),
    "another pooling": ({"pooling": "__class__"}, "no pooling '__class__'; known: 'last'"),
    "an activation": ({"head": {"units": [2], "activation": "os.system"}}, "no activation 'os.system'"),
    "activations": (
        {"head": {"units": [2], "activation": []}},
        "head.activation: []; one, or one for each of 1",
    ),
    "normalised": (
        {"head": {"units": [2], "batch_norm": {"before": [9], "epsilon": 1e-5}}},
        "head.batch_norm.before: 9; layers 0..1 is needed",
    ),
}


@pytest.mark.parametrize(("network", "said"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_cannot_be_is_refused(somewhere, network, said):
    def change(text):
        for key, value in network.items():
            old = text["network"][key]
            text["network"][key] = [old[0] | value[0]] if key == "recurrent" else value

    assert said in with_text(somewhere, change)


def test_a_header_within_itself_many_times_is_refused(somewhere):
    def change(text):
        for _ in range(DEPTH):
            text["training"] = {"deeper": [text["training"]]}

    assert with_text(somewhere, change) == f"the header is nested more than {DEPTH} deep"


@pytest.mark.parametrize("text", ["NaN", "Infinity", r'"\ud800"'])
def test_a_header_that_is_json_to_python_alone_is_refused(somewhere, text):
    somewhere.write_bytes(save({"x": np.zeros(2)}, metadata={"timelike": f'{{"format_version": {text}}}'}))
    assert "the header is not valid JSON" in used(somewhere)


def test_a_header_longer_than_any_of_ours_is_neither_read_nor_written(somewhere, tmp_path):
    header, text, body = taken_apart(WHOLE["gru"])
    text["training"]["note"] = "n" * LENGTH
    somewhere.write_bytes(put_together(header, text, bytes(body)))
    assert used(somewhere).endswith(f"characters; {LENGTH} are read")
    with pytest.raises(ConfigError, match="its header would have"):
        write_model_file(tmp_path / "m.safetensors", {}, text)
    assert not list(tmp_path.iterdir())


def test_transforms_of_other_shapes_are_refused(somewhere):
    def several(text):
        text["transforms"]["steps"][0] = [{"kind": "standardise", "mean": [0.0, 1.0], "scale": 1.0}]

    assert "transforms: TypeError" in with_text(somewhere, several)

    def infinite(text):
        text["transforms"]["steps"][0] = [{"kind": "uniform", "values": [0.0, "inf"], "to": [0.0, 1.0]}]

    assert "not finite" in with_text(somewhere, infinite)


def test_a_long_name_is_not_said_in_full(somewhere):
    def change(text):
        text["signal"] = "s" * 10_000

    assert len(with_text(somewhere, change)) < 300


def test_what_is_applied_is_what_was_given_not_what_the_file_names(tmp_path, monkeypatch):
    """A header that names other files, a folder to write into and code as names: none is touched."""
    model = saved(made({"recurrent": [{"units": 2}]}), tmp_path)
    header, text, body = taken_apart(model.read_bytes())
    secret = tmp_path / "secret.npz"
    secret.write_bytes(b"not to be read")
    text["data"] |= {"files": [str(secret)], "treename": None, "labels": {"a": "1", "b": "1", "c": "1"}}
    text["data"]["stream"] = {
        "spool": str(tmp_path / "spool"),
        "buffer": 1,
        "read_ahead": 0,
        "on_error": "stop",
    }
    model.write_bytes(put_together(header, text, bytes(body)))
    rng = np.random.default_rng(0)
    names = np.array(["pt", "eta", "phi"])
    np.savez(tmp_path / "e.npz", values=rng.normal(size=(5, 3)), offsets=[0, 2, 5], names=names)
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(str(self)) or real(self, *a, **k))
    done = apply(model, [tmp_path / "e.npz"], tmp_path / "out.npz")
    assert done.n_events == 2
    assert str(tmp_path / "e.npz") in opened
    assert str(secret) not in opened
    assert not (tmp_path / "spool").exists()


def test_a_model_cannot_hold_code_as_an_expression(tmp_path):
    model = saved(made({"recurrent": [{"units": 2}]}), tmp_path)
    header, text, body = taken_apart(model.read_bytes())
    text["data"]["new_variables"] = {"pt": f"open('{tmp_path / 'ran'}', 'w')"}
    model.write_bytes(put_together(header, text, bytes(body)))
    np.savez(tmp_path / "e.npz", values=np.zeros((2, 2)), offsets=[0, 2], names=np.array(["eta", "phi"]))
    with pytest.raises(DataError, match="has no meaning"):
        apply(model, [tmp_path / "e.npz"], tmp_path / "out.npz")
    assert not (tmp_path / "ran").exists()


# Expressions


@pytest.mark.parametrize(
    "text",
    [
        "().__class__.__bases__[0].__subclasses__()",
        "__import__",
        "pt.__class__.__init__",
        "(lambda: pt)()",
        "[x for x in pt]",
        "f'{pt}'",
        "sum.__globals__",
        "(pt := 3)",
        "getattr(pt, n)",
        "open(pt)",
        "log(*pt)",
        "log(pt, out=pt)",
        "await pt",
        "yield",
        "b''",
        "...",
        "1j",
        "-" * 9_000 + "pt",
        "(" * 5_000 + "pt" + ")" * 5_000,
        "pt" + ".a" * 4_000,
        "pt + " * 4_000 + "pt",
        "9" * 5_000,
    ],
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(DataError) as caught:
        Expression.parse(text)
    assert "\n" not in str(caught.value)


def test_powers_of_powers_are_numbers():
    """Python's integers would fill the memory; these are 64 bits, or floats."""
    found = Expression.parse("10**10**10**10 + 9**9**9").evaluate({}.__getitem__)
    assert found.values.dtype == np.float64
    assert np.isinf(found.values)


# Configs


def test_aliases_of_aliases_are_refused():
    """Nine lines that stand for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 200000 values, aliases included"):
        parse_yaml("\n".join(lines), "config.yaml")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!x 1"])
def test_tags_make_nothing(tag):
    with pytest.raises(ConfigError, match="has no meaning in a config"):
        parse_yaml(f"a: {tag}", "config.yaml")


def test_an_error_does_not_speak_to_the_terminal(capsys):
    assert main(["info", "\x1b[2Jx\x07"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said


# Data files


@pytest.mark.parametrize("n", [10**9, 10**12, 2**63, 2**70])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_is_as_large_as_its_file_not_as_it_says(tmp_path, n, suffix):
    shape = (n, 3, 1) if suffix == ".npy" else (n,)
    content = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, about)
    content.write(bytes(64))
    path = tmp_path / f"e{suffix}"
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content.getvalue())
    else:
        path.write_bytes(content.getvalue())
    with pytest.raises(DataError, match="cannot be read as NumPy"), open_numpy(path, None):
        pass


@pytest.mark.parametrize("text", ["[" * 100_000, "3", '{"version": 2, "values": [], "about": {}}', "{}"])
def test_a_checkpoint_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save({"x": np.zeros(2)}, metadata={"timelike checkpoint": text}))
    with pytest.raises(ModelFileError, match="not a checkpoint, or damaged") as caught:
        read_snapshot(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    text = '{"version": 1, "values": {}, "about": {}}'
    path.write_bytes(save({"x": np.zeros(2)}, metadata={"timelike checkpoint": text}))
    with pytest.raises(ModelFileError, match="a checkpoint of version 1; this timelike reads 2"):
        read_snapshot(path)


def test_names_do_not_speak_to_the_terminal(tmp_path, capsys):
    model = saved(made({"recurrent": [{"units": 2}]}), tmp_path)
    header, text, body = taken_apart(model.read_bytes())
    text["classes"][0] = "\x1b[2Jred"
    model.write_bytes(put_together(header, text, bytes(body)))
    names = np.array(["pt", "eta", "phi"])
    np.savez(tmp_path / "e.npz", values=np.ones((2, 3)), offsets=[0, 2], names=names)
    given = ["apply", str(model), "--input", str(tmp_path / "e.npz"), "-o", str(tmp_path / "out.npz")]
    assert main(given) == 0
    assert "score_\\x1b[2Jred" in capsys.readouterr().out
