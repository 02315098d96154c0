"""The report: complete, self-contained, safe, and written whole or not at all."""

from __future__ import annotations

import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from timelike.canvas import INK, OTHERS, PALETTE, REST
from timelike.errors import ConfigError
from timelike.evaluate import Predictions, evaluate
from timelike.report import write, write_report
from timelike.report.page import Cell
from timelike.report.typography import measurement, rejection_cell

HOSTILE = ["<b>qcd</b>", 'top "&" co']
CONFIG = "data: {files: x.root}\n# </code></pre><script>alert(1)</script>\n"
SUMMARY = {"network": "lstm 32", "n_parameters": 6337, "n_train": 600, "seconds": 1.25, "note": "<i>"}


def sample(n, seed, n_classes=2, negative=0.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    z = rng.normal(size=(n, n_classes)) + 1.8 * np.eye(n_classes)[labels]
    scores = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return Predictions(scores, labels, np.where(rng.random(n) < negative, -1.0, 1.0), np.arange(n))


def history(n):
    return [
        {
            "epoch": k,
            "train_loss": 0.5 / k,
            "validation_loss": 0.5 / k + 0.01 * k,
            "validation_auc": 1 - 0.2 / k,
        }
        for k in range(1, n + 1)
    ]


def written(folder, names=("qcd", "top"), splits=("train", "test"), **changes):
    sizes = {"train": 600, "test": 300, "validation": 90}
    predictions = {split: sample(sizes[split], k, len(names)) for k, split in enumerate(splits)}
    metrics = evaluate(predictions, names, signal=names[-1], n_bootstrap=30)
    given = {"history": history(4), "config_text": CONFIG, "summary": SUMMARY} | changes
    path = write_report(folder, metrics=metrics, predictions=predictions, **given)
    return path, metrics


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path, metrics = written(tmp_path_factory.mktemp("runs") / "jets", HOSTILE)
    return path, metrics, path.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the drawing out where a test is about words: it takes the longest."""
    drawing = {"svg": b'<svg viewBox="0 0 1 1"><path d="M0 0"/></svg>', "png": b"png", "pdf": b"pdf"}
    monkeypatch.setattr(write, "render", lambda ax, *forms: {form: drawing[form] for form in forms})


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order, and remembers what is in it."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.text.append(data)

    def shown(self):
        return re.sub(r"\s+", " ", " ".join(self.text).replace("\u00a0", " ").replace("\u202f", " "))


# The page


def test_the_page_needs_nothing_but_itself(hostile):
    _, _, text = hostile
    page = Page(text)
    # Not even a namespace is left: inline drawings need none.
    assert "http" not in text
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}


def test_what_is_referred_to_exists_and_identifiers_are_unique(hostile):
    _, _, text = hostile
    page = Page(text)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(identifiers)


def test_class_names_and_config_are_shown_as_they_are(hostile):
    _, _, text = hostile
    page = Page(text)
    assert "b" not in {tag for tag, _ in page.elements}
    shown = page.shown()
    for name in HOSTILE:
        assert name in shown
    assert "</code></pre><script>alert(1)</script>" in shown
    assert "<i>" in shown


def test_the_page_is_fit_for_all_readers(hostile):
    _, _, text = hostile
    page = Page(text)
    assert ("html", {"lang": "en"}) in page.elements
    names = [attributes.get("name") for tag, attributes in page.elements if tag == "meta"]
    assert "viewport" in names
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 6
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
        assert "viewbox" in attributes
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    # Colours of classes and text follow the page's theme.
    drawn = re.sub(r"<style>.*?</style>", "", text, count=1, flags=re.DOTALL)
    for colour in (INK, OTHERS, REST, *PALETTE):
        assert colour not in drawn


def test_the_numbers_of_the_file_are_on_the_page(hostile):
    path, metrics, text = hostile
    assert json.loads((path.parent / "metrics.json").read_text(encoding="utf-8")) == metrics
    shown = Page(text).shown()
    for split in ("train", "test"):
        found = metrics[split]
        measured = [found["auc"], *found["signal_efficiency"].values()]
        measured += [found[key] for key in ("separation", "accuracy", "balanced_accuracy", "log_loss")]
        for one in measured:
            assert measurement(one).replace("\u00a0", " ") in shown
        for one in found["rejection"].values():
            cell = rejection_cell(one)
            for part in (cell.value, cell.error, cell.note):
                assert part.replace("\u00a0", " ").replace("\u202f", " ") in shown
    assert metrics["overtraining"]["verdict"] in shown
    for kind in ("signal", "background"):
        assert f"{metrics['overtraining'][f'ks_{kind}']:.2f}" in shown
    for fact in ("6 337", "lstm 32", "30 replicas, seed 0", "epoch 4 of 4"):
        assert fact in shown


def test_a_rejection_is_written_by_what_is_behind_it():
    many = {"value": 38.46, "error": 4.26, "interval_68": [34.0, 43.0], "background_events": 40, "cut": 0.5}
    assert rejection_cell(many) == Cell("38", "±\u00a04")
    few = many | {"background_events": 3}
    assert rejection_cell(few) == Cell("38", "34 to 43", "3 background events left")
    one = {"value": 1852.0, "error": 900.0, "interval_68": [926.0, None], "background_events": 1, "cut": 0.5}
    assert rejection_cell(one) == Cell("1\u202f900", "over 930", "1 background event left")
    none = {
        "value": None,
        "error": None,
        "lower_limit": 207.3,
        "background_events": 0,
        "reason": "",
        "cut": 0.5,
    }
    assert rejection_cell(none) == Cell("> 210", "95\u202f% CL", "no background left")
    assert rejection_cell(none | {"background_events": 2}).note == "background weights cancel"
    without_errors = many | {"error": None, "interval_68": None}
    assert rejection_cell(without_errors) == Cell("38.5")


# What a report can be about


def headings(path):
    return re.findall(r"<h2>(.*?)</h2>", path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("undrawn")
def test_sections_without_substance_are_left_out(tmp_path):
    path, _ = written(tmp_path / "run", splits=("test",), history=(), summary=None, config_text="")
    assert headings(path) == [
        "Separation power",
        "Decisions",
        "Model, and how to reproduce it",
        "Definitions",
    ]
    assert sorted(p.name for p in (tmp_path / "run" / "figures").iterdir()) == [
        f"{name}.{form}" for name in ("confusion", "cut", "roc") for form in ("pdf", "png")
    ]


@pytest.mark.usefixtures("undrawn")
def test_three_splits_and_one_epoch(tmp_path):
    path, metrics = written(tmp_path / "run", splits=("train", "validation", "test"), history=history(1))
    shown = Page(path.read_text(encoding="utf-8")).shown()
    assert "epoch 1 of 1" in shown
    assert measurement(metrics["validation"]["accuracy"]).replace("\u00a0", " ") in shown


def test_many_classes(tmp_path):
    names = ["<qcd>", "W", "top"]
    path, metrics = written(tmp_path / "run", names)
    page = Page(path.read_text(encoding="utf-8"))
    shown = page.shown()
    assert measurement(metrics["test"]["auc_macro"], 4).replace("\u00a0", " ") in shown
    for name in names:
        assert measurement(metrics["test"]["one_vs_rest"][name]["auc"], 4).replace("\u00a0", " ") in shown
        assert name in shown
    assert metrics["overtraining"]["ks_level"] == pytest.approx(0.05 / 6)
    for one in metrics["overtraining"]["one_vs_rest"].values():
        assert f"{one['ks_class']:.2f}" in shown


@pytest.mark.usefixtures("undrawn")
def test_negative_weights(tmp_path):
    predictions = {"test": sample(400, 1, negative=0.2)}
    metrics = evaluate(predictions, ["qcd", "top"], signal="top", n_bootstrap=20)
    path = write_report(tmp_path, metrics=metrics, predictions=predictions)
    negative = metrics["test"]["classes"]["top"]["negative_weights"]
    assert negative > 0
    assert f'<td class="value">{negative}</td>' in path.read_text(encoding="utf-8")


# Writing


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_run_gives_the_same_files(hostile, tmp_path):
    path, _, _ = hostile
    written(tmp_path / "jets", HOSTILE)
    first = contents(path.parent)
    assert len(first) == 2 + 2 * 6
    assert contents(tmp_path / "jets") == first


@pytest.mark.usefixtures("undrawn")
def test_an_error_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    written(tmp_path / "run", splits=("test",))
    before = contents(tmp_path)

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(write, "render", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        written(tmp_path / "run", splits=("test",))
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch):
    path, _ = written(tmp_path / "run", splits=("test",))
    before = path.read_bytes()
    write_bytes = Path.write_bytes

    def half(self, content):
        if not self.name.startswith("report.html"):
            return write_bytes(self, content)
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(ConfigError, match=r"cannot write .*report\.html: No space left on device"):
        written(tmp_path / "run", splits=("test",))
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.usefixtures("undrawn")
def test_numbers_that_are_none_are_refused(tmp_path):
    predictions = {"test": sample(100, 1)}
    metrics = evaluate(predictions, ["qcd", "top"], signal="top", n_bootstrap=0)
    metrics["test"]["log_loss"]["extra"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(
            tmp_path / "run",
            metrics=metrics,
            predictions=predictions,
        )
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("undrawn")
def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*run/figures"):
        written(tmp_path / "run", splits=("test",))
    assert contents(tmp_path) == {"run": b"mine"}


def test_numbers_files_are_legible(hostile):
    path, _, _ = hostile
    lines = (path.parent / "metrics.json").read_text(encoding="utf-8").splitlines()
    assert '  "auc": {' in lines
    assert sum('signal_efficiency": [' in line for line in lines) == 2  # a curve is one line
