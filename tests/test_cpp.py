"""The C++ header: it computes what Python does, on every kind of network, in any number of threads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cpp_cases import (
    LAYERS,
    NAMES,
    NETWORKS,
    STRICT,
    compile_and_run,
    compiled,
    data_config,
    double,
    make_ensemble,
    make_model,
    make_states,
    save,
    sequences,
    write_input,
    write_program,
)
from timelike import kernels
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, DataError
from timelike.interop.cpp import export_cpp
from timelike.model import load_model, predict
from timelike.modelfile import read_model_file, write_model_file
from timelike.runtime import Recurrent
from timelike.sequences import Sequences

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not there")

STACK: dict[str, Any] = {
    "recurrent": [
        {"cell": "gru", "units": 6, "bidirectional": True},
        {"cell": "lstm", "units": 7, "projection": 3},
        {"cell": "gru", "units": 5, "reset_after": False, "bidirectional": True},
    ],
    "pooling": "none",
    "head": {"units": [17], "activation": "gelu"},
}
SIMPLE: dict[str, Any] = {"recurrent": [{"cell": "lstm", "units": 7}], "head": {"units": [6]}}


class Case(NamedTuple):
    """A model, how its weights are stored, and what it reads."""

    model: Any
    network: dict[str, Any]
    given: Sequences
    weights: str | None = None


KINDS_OF_ALL = data_config(
    n=3,
    transforms={
        "a": ["log", "standardise"],
        "b": ["clip", "minmax"],
        "c": ["gauss", "robust"],
        "d": ["uniform"],
        "e": ["none"],
    },
    missing={"a": "indicator", "b": "fill", "c": "fill", "d": "fill", "e": "indicator"},
)


def transformed(mix: str | None) -> Case:
    """Every transform, missing values of every variable, and all variables together."""
    data = KINDS_OF_ALL.model_copy(update={"mix": mix})
    given = sequences(SIMPLE, missing=True)
    # fitted to a part of what they are applied to, so that there are values beyond the ends
    fitted = FittedTransforms.fit(given[:20].replace(values=given[:20].values.astype(float)), data)
    return Case(make_model(SIMPLE, transforms=fitted, data=data), SIMPLE, given)


def cases() -> dict[str, Case]:
    made = {name: Case(make_model(n), n, sequences(n)) for name, n in NETWORKS.items()}
    made |= {"transforms": transformed(None), "transforms_pca": transformed("pca")}
    each = {**SIMPLE, "pooling": "none"}
    for name, network in {"ensemble": SIMPLE, "ensemble_each": each, "ensemble_stack": STACK}.items():
        made[name] = Case(make_ensemble(network), network, sequences(network))
    for name, layer in LAYERS.items():
        network = {"recurrent": [layer], "head": {"units": []}}
        made[f"int8_{name}"] = Case(make_model(network), network, sequences(network), "int8")
        if name in ("lstm_projected", "gru"):
            made[f"float16_{name}"] = Case(make_model(network), network, sequences(network), "float16")
    return made


class Ran(NamedTuple):
    folder: Any
    cases: dict[str, Case]
    headers: dict[str, Any]
    printed: str


def run_all(folder, made: dict[str, Case], flags: list[str]) -> Ran:
    headers = {}
    for name, case in made.items():
        path = save(case.model, folder, name)
        headers[name] = export_cpp(path, folder / f"{name}.h", namespace=f"of::{name}", weights=case.weights)
        write_input(folder, name, case.given)
    program = write_program(folder, headers, {name: case.network for name, case in made.items()})
    return Ran(folder, made, headers, compile_and_run(program, flags))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    """All networks in one program."""
    return run_all(tmp_path_factory.mktemp("cpp"), cases(), ["-O1"])


def check(ran: Ran, name: str) -> None:
    """Both float32 ways are off from float64 by rounding: ours by at most twice as much.

    Python makes scores of logits in float64, the header in float32: an exponential of 1.1 ULP, a sum and a
    quotient, besides the rounding of what is given: 4 eps of the largest.
    """
    case = ran.cases[name]
    model = case.model
    if case.weights is not None:
        path = ran.folder / f"{name}.small"
        file = read_model_file(ran.folder / f"{name}.safetensors")
        write_model_file(path, file.weights, file.meta, store=case.weights)
        model = load_model(path)
    expected = predict(model, case.given)
    exact = predict(double(model), case.given.replace(values=case.given.values.astype(np.float64)))
    got = np.fromfile(ran.folder / f"{name}.out", np.float32).reshape(expected.shape)
    assert np.isfinite(got).all()
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(got - exact).max() <= 2 * np.abs(expected - exact).max() + floor


@pytest.mark.parametrize("name", cases())
def test_scores_are_those_of_python(ran, name):
    check(ran, name)


def test_nothing_is_allocated(ran):
    assert ran.printed == "0\n"


def test_who_streams_and_who_needs_memory(ran):
    headers = ran.headers
    assert {name for name, header in headers.items() if header.scratch} == {
        "both_each",
        "deep",
        "deep_each",
        "ensemble_stack",
    }
    walking = [name for name, network in NETWORKS.items() if "both" not in name and "deep" not in name]
    for name in walking:
        assert headers[name].streams == (NETWORKS[name].get("pooling") != "flatten")
    assert not any(headers[name].streams for name in NETWORKS if name not in walking)


@pytest.mark.parametrize("name", ["lstm", "mean", "largest", "each", "stack", "transforms_pca", "ensemble"])
def test_each_step_gives_the_scores_so_far(ran, name):
    """To the bit: the last step's are those of the sequence, and of a network of steps all are."""
    case = ran.cases[name]
    C = len(case.model.output_names)
    out = np.fromfile(ran.folder / f"{name}.out", np.float32).reshape(-1, C)
    steps = np.fromfile(ran.folder / f"{name}.steps", np.float32).reshape(-1, C)
    if case.network.get("pooling") == "none":
        np.testing.assert_array_equal(steps, out)
        return
    some = case.given.lengths > 0
    np.testing.assert_array_equal(steps[case.given.offsets[1:][some] - 1], out[some])


# -- to the bit ---------------------------------------------------------------------------------------------


def states_of(layer: dict[str, Any], given: Sequences, instruction_set: str) -> np.ndarray:
    """Last hidden states by the runtime."""
    module = make_states(layer).network.recurrent[0]
    session = Recurrent.from_module(module, instruction_set=instruction_set)
    state = session.last_state(given.values, offsets=given.offsets)
    return (state[0] if isinstance(state, tuple) else state)[0]


FLAGS = {
    "baseline": ["-O1", "-ffp-contract=off"],
    "avx2": ["-O1", "-ffp-contract=off", "-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-O1", "-ffp-contract=off", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mfma", "-mf16c"],
}


@pytest.mark.parametrize("instruction_set", [name for name in kernels.available() if name in FLAGS])
def test_layers_are_those_of_the_runtime_to_the_bit(tmp_path, instruction_set):
    made = {}
    for name, layer in LAYERS.items():
        network = {"recurrent": [layer], "head": {"units": [], "output": "linear"}}
        made[name] = Case(make_states(layer), network, sequences(network))
    for weights in ("int8", "float16"):
        made[f"stack_{weights}"] = Case(make_model(STACK), STACK, sequences(STACK), weights)
    ran = run_all(tmp_path, made, FLAGS[instruction_set])
    for name, layer in LAYERS.items():
        expected = states_of(layer, made[name].given, instruction_set)
        got = np.fromfile(tmp_path / f"{name}.out", np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(got, expected, err_msg=name)
    for weights in ("int8", "float16"):
        check(ran, f"stack_{weights}")


def test_nothing_is_touched_that_should_not_be(tmp_path):
    """The sanitizers of addresses and of undefined behaviour end the program, or say something."""
    made = {"stack": Case(make_model(STACK), STACK, sequences(STACK), "int8")}
    for name in ("flat", "projected", "peephole", "both_mean"):
        made[name] = Case(make_model(NETWORKS[name]), NETWORKS[name], sequences(NETWORKS[name]))
    made["transforms"] = transformed("pca")
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    ran = run_all(tmp_path, made, flags)
    for name in made:
        check(ran, name)


WITHOUT_REGISTERS = ("dense_relu", "dense_gelu", "deep")


def test_where_there_are_no_registers(tmp_path):
    made = {n: Case(make_model(NETWORKS[n]), NETWORKS[n], sequences(NETWORKS[n])) for n in WITHOUT_REGISTERS}
    for weights in ("int8", "float16"):
        made[f"stack_{weights}"] = Case(make_model(STACK), STACK, sequences(STACK), weights)
    ran = run_all(tmp_path, made, ["-O1", "-DTIMELIKE_ONE_LANE"])
    for name in made:
        check(ran, name)


def test_float64_is_off_by_as_much_less_as_its_rounding_is_finer(tmp_path):
    made = {}
    for name in WITHOUT_REGISTERS:
        given = sequences(NETWORKS[name], torch.float64)
        made[name] = Case(double(make_model(NETWORKS[name])), NETWORKS[name], given)
    run_all(tmp_path, made, ["-O1"])
    finer = np.finfo(np.float64).eps / np.finfo(np.float32).eps
    for name, (model, network, given, _) in made.items():
        exact = predict(model, given)
        narrow = predict(make_model(network), given.replace(values=given.values.astype(np.float32)))
        got = np.fromfile(tmp_path / f"{name}.out", np.float64).reshape(exact.shape)
        # Twice for either one's error; the narrow one's has the rounding of the inputs, too.
        bound = 4 * finer * (np.abs(narrow - exact).max() + 4 * np.finfo(np.float32).eps)
        assert np.abs(got - exact).max() <= bound


# -- other faces --------------------------------------------------------------------------------------------

C_MAIN = """\
#include <stdio.h>
#include <string.h>
#include "tagger.h"

int main(void) {
  float x[3 * 5], out[3], again[3];
  int k;
  tagger_state state;
  for (k = 0; k < 15; ++k) x[k] = (float)k / 8;
  if (tagger_score(x, 3, out) != 0 || tagger_score(x, -1, out) != 1) return 1;
  tagger_begin(&state);
  for (k = 0; k < 3; ++k) tagger_step(&state, x + 5 * k);
  tagger_read(&state, again);
  if (memcmp(out, again, sizeof out) != 0) return 2;
  if (tagger_input_name(5) != NULL || tagger_output_name(-1) != NULL) return 3;
  printf("%d %d ", tagger_input_count(), tagger_output_count());
  printf("%s %s", tagger_input_name(4), tagger_output_name(1));
  for (k = 0; k < 3; ++k) printf(" %.9g", out[k]);
  return 0;
}
"""


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_interface_of_c(tmp_path, ensemble):
    model = make_ensemble(SIMPLE) if ensemble else make_model(SIMPLE)
    export_cpp(save(model, tmp_path, "model"), tmp_path / "tagger.h")
    (tmp_path / "main.c").write_text(C_MAIN)
    (tmp_path / "tagger.cpp").write_text('#define TAGGER_DEFINE_C_INTERFACE\n#include "tagger.h"\n')
    objects = tmp_path / "main.o"
    subprocess.run(
        ["gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-c", "main.c", "-o", str(objects)],
        cwd=tmp_path,
        check=True,
    )
    program = compiled([tmp_path / "tagger.cpp", objects], STRICT)
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    assert said[:4] == ["5", "3", "e", "c1"]
    x = (np.arange(15, dtype=np.float32) / 8).reshape(3, 5)
    expected = predict(model, Sequences(x, [0, 3], names=NAMES))[0]
    np.testing.assert_allclose(np.float32(said[4:]), expected, rtol=0, atol=16 * np.finfo(np.float32).eps)


def test_the_header_says_what_it_is(tmp_path):
    header = export_cpp(save(make_model(SIMPLE), tmp_path, "model"), tmp_path / "my-tagger.h")
    text = header.path.read_text()
    assert (header.namespace, header.weights, header.streams, header.scratch) == (
        "my_tagger",
        "float32",
        True,
        0,
    )
    assert "lstm 7, pooling last, dense 6 relu" in text
    assert all(f"//   {name}\n" in text for name in NAMES)


def test_weights_come_back_to_the_bit(tmp_path):
    """Shortest decimals do: the header's text, read as float32, is the tensor."""
    path = save(make_model(SIMPLE), tmp_path, "model")
    text = export_cpp(path, tmp_path / "m.h").path.read_text()
    found = re.search(r"Matrix<real, 7, 32> weight_hh\{\{(.*?)\}\}", text, re.DOTALL)
    assert found
    numbers = np.array([float(word.strip().rstrip("f")) for word in found[1].split(",") if word.strip()])
    lines = numbers.astype(np.float32).reshape(7, 32)[:, :28]
    np.testing.assert_array_equal(lines.T, read_model_file(path).weights["recurrent.0.weight_hh_l0"])


@pytest.mark.parametrize("name", ["1a", "a b", "class", "a::", "a__b", "std", ""])
def test_a_namespace_that_is_none(tmp_path, name):
    with pytest.raises(ConfigError, match="not a name of C"):
        export_cpp(save(make_model(SIMPLE), tmp_path, "model"), tmp_path / "m.h", namespace=name)
    assert not (tmp_path / "m.h").exists()


def test_weights_that_cannot_be_stored(tmp_path):
    model = make_model(SIMPLE)
    path = save(model, tmp_path, "model")
    with pytest.raises(ConfigError, match="'int4' in a header; nearest: 'int8'"):
        export_cpp(path, tmp_path / "m.h", weights="int4")
    with torch.no_grad():
        model.network.head[0].weight[0, 0] = 1e5
    with pytest.raises(DataError, match="no float16: the largest is 65504"):
        export_cpp(save(model, tmp_path, "model"), tmp_path / "m.h", weights="float16")
    assert not (tmp_path / "m.h").exists()


def test_the_program_of_the_page(tmp_path):
    """It sorts its particles and prints a score of each jet."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "cpp.md").read_text()
    code = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)[0]
    names = ("pt", "eta", "phi")
    data = data_config(n=2, variables=list(names))
    model = make_model(SIMPLE, transforms=FittedTransforms.unchanged(names), data=data)
    export_cpp(save(model, tmp_path, "model"), tmp_path / "tagger.h")
    (tmp_path / "main.cpp").write_text(code)
    program = compiled([tmp_path / "main.cpp"], STRICT)
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    x = np.float32([[310, 0, 0.1], [120, 0.1, 0.2], [45, -0.2, 0.3], [500, 0, 0]])
    expected = predict(model, Sequences(x, [0, 3, 4, 4], names=names))[:, 1]
    # six decimals are printed; the rest is the rounding of scores below 1
    np.testing.assert_allclose(np.float64(said), expected, rtol=0, atol=1e-6)
