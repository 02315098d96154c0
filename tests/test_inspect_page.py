"""The page: complete, self-contained, safe, and written whole or not at all."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import timelike
from test_trace import CELLS, Random, batch, made
from timelike.cli import main
from timelike.errors import ConfigError, DataError
from timelike.inspect import example_page, inspect_events, write_page
from timelike.inspect.example import run_example
from timelike.model import load_model, predict
from timelike.nn import LSTM
from timelike.sequences import Sequences
from timelike.train import train
from toys import TOY_CONFIG, toy_columns, write_root

HOSTILE = '</script><script>alert("1")</script><!--'


def content(page: Path) -> dict:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    return json.loads(text)


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<" + kind)


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_root):
    """Folder of a trained model, beside its events."""
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG.replace("epochs: 3", "epochs: 1"), encoding="utf-8")
    return train(folder / "toy.yaml").folder


@pytest.fixture
def command(run, toy_root, tmp_path):
    """The words of a command, all but the numbers of events."""
    return ["inspect", str(run / "model.safetensors"), "-i", str(toy_root), "-o", str(tmp_path / "page.html")]


def failure(capsys, *argv) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("timelike: error: ").strip()


# What is in a page


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_the_numbers_of_the_trace_are_in_the_page_bit_by_bit(cell, dtype, tmp_path):
    found = timelike.trace(made(cell, dtype, bidirectional=True), batch(dtype), loss=Random())
    held = content(write_page(found, tmp_path / "page.html"))
    assert [layer["reverse"] for layer in held["layers"]] == [False, True]
    kind = "f8" if dtype == torch.float64 else "f4"
    for layer, packed in zip(found.layers, held["layers"], strict=True):
        assert packed["type"] == kind
        expected = {"x": layer.x, "h": layer.h, "dh": layer.dh, "h0": layer.h0, **layer.weights}
        expected |= {f"gate_{g}": v for g, v in layer.gates.items()}
        expected |= {f"da_{g}": v for g, v in layer.dgates.items()}
        expected |= {} if layer.c is None else {"c": layer.c, "dc": layer.dc, "c0": layer.c0}
        assert packed["arrays"].keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(numbers(packed["arrays"][name], kind), array.ravel(), err_msg=name)


def test_a_page_refers_to_nothing_outside_and_is_small(tmp_path):
    page = example_page(tmp_path / "example.html")
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=(?!["']?#)|https?:|@import|url\((?!#)""", text)
    assert page.stat().st_size < 3e6


def test_names_are_escaped(tmp_path):
    torch.manual_seed(1)
    sequences = Sequences(np.ones((2, 1)), [0, 2], names=[HOSTILE], events=[7], labels=[0])
    found = timelike.trace(LSTM(1, 2, dtype=torch.float64), sequences)
    object.__setattr__(found, "output", np.array([[0.25, 0.75]]))
    page = write_page(
        found,
        tmp_path / "page.html",
        sequences=sequences,
        title=HOSTILE,
        class_names=[HOSTILE, "b"],
        loss=HOSTILE,
    )
    text = page.read_text(encoding="utf-8")
    assert "alert(" in text
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    assert "<!--" not in text
    held = content(page)
    assert held["layers"][0]["inputs"] == [HOSTILE]
    assert held["sequences"] == [{"name": "event 7", "truth": HOSTILE, "scores": [0.25, 0.75]}]


def test_what_does_not_fit_is_refused(tmp_path):
    page = tmp_path / "page.html"
    found = timelike.trace(made("lstm"), batch(), loss=Random())
    with pytest.raises(DataError, match="1 sequences are given, the trace has 5"):
        write_page(found, page, sequences=Sequences(np.ones((2, 3)), [0, 2]))
    with pytest.raises(DataError, match=r"losses have shape \(2,\); one number for each of the 5"):
        write_page(found, page, losses=[1.0, 2.0])
    with pytest.raises(DataError, match="the loss of sequence 2 is nan"):
        write_page(found, page, losses=[1.0, np.nan, 2.0, 3.0, 4.0])
    found.layers[0].h[3, 2] = np.nan
    with pytest.raises(DataError, match=r"layer, forward: h has numbers that are not finite"):
        write_page(found, page)
    assert list(tmp_path.iterdir()) == []


def test_an_older_page_stays_whole_where_a_new_one_cannot_be_written(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    found = timelike.trace(made("gru"), batch(), loss=Random())
    found.layers[0].x[0, 0] = np.inf
    with pytest.raises(DataError):
        write_page(found, page)
    assert page.read_text() == "old"
    with pytest.raises(ConfigError, match="cannot write"):
        example_page(tmp_path / "no" / "page.html")


# The worked example: the numbers that were published with it


def test_the_example_has_the_published_numbers():
    done = run_example()
    before, after = done.before[0], done.after[0]
    # Published to 8 decimals, and the losses in full: then ten roundings or so of numbers below 1.
    np.testing.assert_allclose(before.h[:, 0], [0.5363134, 0.77198111], rtol=0, atol=5e-9)
    assert abs(done.before.loss - 0.11491036305861509) < 16 * np.finfo(float).eps
    assert abs(done.after.loss - 0.11088080130722884) < 16 * np.finfo(float).eps
    _, _, g, o = range(4)
    np.testing.assert_allclose(after.weights["W"][g], [0.45267162, 0.25922011], rtol=0, atol=5e-9)
    assert abs(after.weights["b_ih"][o] - 0.1053613) < 5e-9
    assert not after.weights["b_hh"].any()


# Events of files


def test_events_are_found_by_their_numbers(command, run, toy_root, tmp_path, capsys):
    assert main([*command, "--event", "1017", "1003"]) == 0
    out = capsys.readouterr().out
    assert "page of 2 events: " in out
    assert "gradients are of the cross entropy of the true class\n" in out
    held = content(tmp_path / "page.html")
    assert [one["name"] for one in held["sequences"]] == ["event 1017", "event 1003"]
    columns = toy_columns()
    names = ["background", "signal"]
    assert [one["truth"] for one in held["sequences"]] == [names[columns["label"][k]] for k in (17, 3)]
    model = load_model(run / "model.safetensors")
    done = inspect_events(model, [toy_root], tmp_path / "again.html", events=[1017, 1003])
    expected = predict(model, done.events)
    np.testing.assert_array_equal([one["scores"] for one in held["sequences"]], expected)
    truth = [expected[k, names.index(one["truth"])] for k, one in enumerate(held["sequences"])]
    # The logits are float32, of order 1; from then on everything is float64.
    np.testing.assert_allclose([s["loss"] for s in held["sequences"]], -np.log(truth), rtol=0, atol=1e-6)
    first = held["layers"][0]
    assert first["inputs"] == ["part_logpt", "part_eta"]
    assert content(tmp_path / "again.html")["layers"] == held["layers"]
    read = numbers(held["raw"], "f8").reshape(-1, 2)
    np.testing.assert_array_equal(read, done.events.values)


def test_by_default_the_first_events_are_shown(command, tmp_path):
    assert main(command) == 0
    assert [s["name"] for s in content(tmp_path / "page.html")["sequences"]] == [
        f"event {1000 + k}" for k in range(5)
    ]


def test_files_and_events_may_follow_their_options_in_any_number(run, tmp_path, capsys):
    for k in range(2):
        columns = toy_columns(20, seed=k)
        columns["eventNumber"] = columns["eventNumber"] + 100 * k
        write_root(tmp_path / f"{k}.root", columns)
    files = [str(tmp_path / f"{k}.root") for k in range(2)]
    model, page = str(run / "model.safetensors"), str(tmp_path / "page.html")
    assert main(["inspect", model, "-e", "1101", "1002", "-i", *files, "-o", page]) == 0
    assert [s["name"] for s in content(tmp_path / "page.html")["sequences"]] == ["event 1101", "event 1002"]


def test_without_labels_the_gradients_are_of_the_signals_logit_and_it_says_so(run, tmp_path, capsys):
    columns = toy_columns(20)
    del columns["label"], columns["weight"], columns["jet_pt"]
    file = write_root(tmp_path / "data.root", columns)
    words = ["inspect", run / "model.safetensors", "-i", file, "-o", tmp_path / "page.html", "-e", "1002"]
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "gradients are of the logit of signal (no labels: " in out
    assert "data.labels" in out
    assert "label" in out
    (one,) = content(tmp_path / "page.html")["sequences"]
    assert "truth" not in one


def test_events_of_one_class_have_labels_too_and_a_strange_label_is_said(run, tmp_path, capsys):
    columns = toy_columns(20)
    columns["label"] = np.where(np.arange(20) == 4, 9, 1).astype(np.int32)
    file = write_root(tmp_path / "data.root", columns)
    words = [
        str(w) for w in ("inspect", run / "model.safetensors", "-i", file, "-o", tmp_path / "page.html", "-e")
    ]
    assert main([*words, "1002"]) == 0
    assert content(tmp_path / "page.html")["sequences"][0]["truth"] == "signal"
    assert main([*words, "1004"]) == 0
    assert "(no labels: event 1004: none of the labels holds)" in capsys.readouterr().out


def test_a_class_may_be_chosen(command, run, toy_root, tmp_path, capsys):
    assert main([*command, "--event", "1017", "--class", "background"]) == 0
    assert "gradients are of the logit of background" in capsys.readouterr().out
    held = content(tmp_path / "page.html")
    assert held["loss"] == held["sequences"][0]["loss"]
    assert held["sequences"][0]["truth"] in ("background", "signal")
    assert "no such class; nearest: 'background'" in failure(capsys, *command, "--class", "backgruond")


def test_an_event_that_is_not_there_is_refused_with_its_neighbours(command, tmp_path, capsys):
    said = failure(capsys, *command, "--event", "1500")
    assert said == "event 1500: not among the 240 events; the nearest numbers are 1237, 1238, 1239"
    said = failure(capsys, *command, "--event", "9223372036854775807")
    assert said.endswith("the nearest numbers are 1237, 1238, 1239")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["inspect"], "no output"),
        (["inspect", "-o", "p.html"], "no model"),
        (["inspect", "m.safetensors", "-o", "p.html"], "no input"),
        (["inspect", "m.safetensors", "-i", "a.root", "-o", "p.html"], "m.safetensors: no such file"),
        (["inspect", "m.safetensors", "-i", "a.root", "-o", "a.root"], "the page is an HTML file"),
        (
            ["inspect", "m", "-i", "a.root", "-e", "x", "-o", "p.html"],
            "given 'x'; it must be a valid integer",
        ),
        (["inspect", "--example", "-o", "no/p.html"], "cannot write no/p.html"),
        (["inspect", "--example", "-i", "a.root", "-o", "p.html"], "leave out --input"),
    ],
)
def test_a_wrong_command_is_refused(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in failure(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


def test_the_example_from_the_command_line(tmp_path, capsys):
    assert main(["inspect", "--example", "-o", str(tmp_path / "e.html")]) == 0
    assert "page of the worked example" in capsys.readouterr().out
    assert content(tmp_path / "e.html")["update"]["rate"] == 0.1
