"""Figures: what is drawn is what was given, nothing global changes, files are the same in every run."""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from timelike.canvas import PALETTE, class_colours, render, subplots
from timelike.errors import MissingExtraError
from timelike.evaluate import Predictions, evaluate
from timelike.plots import (
    best_epoch,
    plot_auc,
    plot_confusion,
    plot_cut,
    plot_loss,
    plot_overtraining,
    plot_roc,
)
from timelike.roc import roc_curve

NAMES = ["qcd", "top"]
HISTORY = [
    {"epoch": 1, "train_loss": 0.6, "validation_loss": 0.5, "validation_auc": 0.8},
    {"epoch": 2, "train_loss": 0.4, "validation_loss": 0.3, "validation_auc": 0.9},
    {"epoch": 3, "train_loss": 0.2, "validation_loss": 0.35, "validation_auc": None},
]


def sample(n=400, seed=0, negative=0.0, n_classes=2):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    z = rng.normal(size=(n, n_classes)) + 2.0 * np.eye(n_classes)[labels]
    scores = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    weights = np.where(rng.random(n) < negative, -1.0, 1.0)
    return Predictions(scores, labels, weights, np.arange(n))


def curve(given):
    return roc_curve(given.scores[:, 1], given.labels == 1, given.weights)


CONFUSION = {"fractions": [[0.75, 0.25], [0.125, 0.875]], "counts": [[1500, 500], [10, 70]]}
EVERY = {
    "roc": lambda ax: plot_roc(curve(sample()), points=(0.3, 0.5), ax=ax),
    "overtraining": lambda ax: plot_overtraining(
        sample(), sample(200, 1), NAMES, "top", ks=(0.5, 1e-9), ax=ax
    ),
    "loss": lambda ax: plot_loss(HISTORY, ax=ax),
    "auc": lambda ax: plot_auc(HISTORY, ax=ax),
    "confusion": lambda ax: plot_confusion(CONFUSION, NAMES, ax=ax),
    "cut": lambda ax: plot_cut(curve(sample()), (200.0, 200.0), ax=ax),
}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# All of them


@pytest.mark.parametrize("plot", EVERY.values(), ids=EVERY)
def test_files_are_the_same_in_every_run_and_nothing_global_changes(plot):
    before = dict(matplotlib.rcParams)
    ax = plot(None)
    files = render(ax, "svg", "png", "pdf")
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []
    assert files["svg"].startswith(b"<?xml")
    assert files["png"].startswith(b"\x89PNG")
    assert files["pdf"].startswith(b"%PDF")
    assert render(plot(None), "svg", "png", "pdf") == files


@pytest.mark.parametrize("plot", EVERY.values(), ids=EVERY)
def test_a_given_ax_keeps_its_own_style(plot):
    with matplotlib.rc_context({"font.size": 7.0, "axes.labelsize": 7.0}):
        ax = Figure(layout="constrained").add_subplot()
        assert plot(ax) is ax
        assert ax.xaxis.label.get_size() == 7.0
    assert plot(None).xaxis.label.get_size() == 13.0
    assert len(render(ax, "png")["png"]) > 1000
    assert ax.figure.get_layout_engine() is not None


def test_the_users_settings_do_not_reach_our_figures():
    usual = render(plot_loss(HISTORY), "svg")
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.grid": True, "font.size": 30.0}):
        assert render(plot_loss(HISTORY), "svg") == usual


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="format 'jpg': possible are png, pdf, svg"):
        render(plot_loss(HISTORY), "png", "jpg")


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mplhep", None)
    with pytest.raises(MissingExtraError, match=r"needs mplhep, .* pip install 'timelike\[train\]'"):
        plot_loss(HISTORY)


def test_importing_needs_numpy_alone():
    code = (
        "import sys, timelike.evaluate, timelike.plots, timelike.report\n"
        "found = {'matplotlib', 'mplhep', 'jinja2', 'scipy', 'sklearn', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_colours_belong_to_classes():
    names = ["a", "b", "c"]
    colours = class_colours(names, "c")
    assert [colours[name] for name in ("c", "a", "b")] == list(PALETTE[:3])
    # The same in every figure: line, histogram.
    roc = plot_roc(curve(sample()), colour=colours["c"])
    overlay = plot_overtraining(sample(n_classes=3), sample(n_classes=3), names, "c", colours=colours)
    assert roc.lines[-1].get_color() == colours["c"]
    assert matplotlib.colors.to_hex(overlay.patches[0].get_edgecolor()) == colours["c"]


@pytest.mark.parametrize("name", ["$H$", "_hidden", "τ → 3μ", "$", "a_b^c", "<b>", "50 %"])
def test_any_class_name_is_shown_letter_by_letter(name):
    names = ["other", name]
    ax = plot_overtraining(sample(), sample(), names, name)
    plot_confusion(CONFUSION, names)
    assert len(legend(ax)) == 4
    render(ax, "svg")
    shown = ax.xaxis.label.get_text().replace("\\$", "$")
    assert name in shown
    # Mathematics would have been parsed and drawn as such.
    for text in [ax.xaxis.label, *ax.get_legend().get_texts()]:
        assert text._preprocess_math(text.get_text())[1] is False


# ROC


def test_roc_draws_the_rejection_of_the_curve():
    given = sample()
    measured = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=50)["test"]
    roc = curve(given)
    ax = plot_roc(roc, measured, label="test", points=(0.9,), signal="top")
    guess, line, marks = ax.lines
    np.testing.assert_allclose(guess.get_ydata() * guess.get_xdata(), 1.0)
    seen = roc.background_efficiency > 0
    np.testing.assert_array_equal(line.get_xdata(), roc.signal_efficiency[seen])
    np.testing.assert_array_equal(line.get_ydata(), 1 / roc.background_efficiency[seen])
    assert marks.get_ydata() == [1 / roc.background_efficiency_at(0.9)]
    assert legend(ax)[1].startswith(f"test  AUC {roc.auc:.3f}")
    assert "±" in legend(ax)[1]
    assert ax.get_yscale() == "log"
    # The band holds the curve at half of the signal and goes past the figure where no background is left.
    band = ax.collections[0].get_paths()[0].vertices
    low, high = measured["roc"]["low"], measured["roc"]["high"]
    assert low[0] == 0
    at_ninety = band[np.isclose(band[:, 0], 0.9), 1]
    np.testing.assert_allclose(np.unique(at_ninety), [1 / high[89], 1 / low[89]])
    assert band[:, 1].max() > ax.get_ylim()[1]


def test_curves_are_overlaid_in_one_ax():
    ax = plot_roc(curve(sample(seed=1)), label="one")
    assert plot_roc(curve(sample(seed=2)), label="two", ax=ax) is ax
    assert [text.split()[0] for text in legend(ax)] == ["random", "one", "two"]
    assert ax.get_legend().get_frame_on() is False  # our style for the second curve too


# Overtraining


def test_overtraining_histograms_have_area_one_and_errors_from_squared_weights():
    given = sample(600, negative=0.2)
    ax = plot_overtraining(given, given, NAMES, "top", ks=(0.25, 1e-9))
    assert legend(ax) == ["top, train", "qcd, train", "top, test  (KS p = 0.25)", "qcd, test  (KS p < 0.001)"]
    for patch in ax.patches:
        assert patch.get_data().values.sum() / 40 == pytest.approx(1.0)
    points, _, (bars,) = ax.containers[0].lines
    x, y = points.get_data()
    members = given.labels == 1
    for k in (0, len(x) // 2, len(x) - 1):
        inside = members & (np.abs(given.scores[:, 1] - x[k]) < 0.0125)
        scale = 40 / given.weights[members].sum()
        assert y[k] == pytest.approx(scale * given.weights[inside].sum())
        low, high = bars.get_segments()[k][:, 1]
        assert (high - low) / 2 == pytest.approx(scale * np.sqrt((given.weights[inside] ** 2).sum()))


def test_overtraining_of_many_classes_takes_all_others_together():
    given = sample(600, n_classes=4)
    axes = subplots(4)
    for name, ax in zip("abcd", axes, strict=True):
        plot_overtraining(given, given, list("abcd"), name, compact=True, ax=ax)
    assert legend(axes[1])[:2] == ["b, train", "all others, train"]
    assert len({ax.figure for ax in axes}) == 1


# Training


def test_training_curves_mark_the_epoch_that_was_kept():
    ax = plot_loss(HISTORY)
    best, train, validation = ax.lines
    assert list(best.get_xdata()) == [2, 2]
    assert list(train.get_ydata()) == [0.6, 0.4, 0.2]
    assert list(validation.get_ydata()) == [0.5, 0.3, 0.35]
    assert legend(ax) == ["kept: epoch 2", "train", "validation"]
    assert list(plot_loss(HISTORY, best=3).lines[0].get_xdata()) == [3, 3]
    assert plot_loss(HISTORY, unit="step").get_ylabel() == "Loss per step"


def test_best_epoch_is_the_first_of_equal_ones():
    assert (
        best_epoch([{"epoch": k, "validation_loss": loss} for k, loss in [(1, 0.4), (2, 0.3), (3, 0.3)]]) == 2
    )


def test_epochs_without_an_area_are_left_out():
    assert list(plot_auc(HISTORY).lines[1].get_xdata()) == [1, 2]


def test_one_epoch_is_enough():
    render(plot_loss(HISTORY[:1]), "png")


# Decisions


def test_confusion_shows_shares_and_numbers():
    ax = plot_confusion(CONFUSION, NAMES)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["75.0 %", "1\u2009500", "25.0 %", "500", "12.5 %", "10", "87.5 %", "70"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == NAMES
    assert ax.patches[0].get_facecolor()[3] > ax.patches[1].get_facecolor()[3]


def test_confusion_of_many_classes_is_legible():
    n = 12
    matrix = {"fractions": np.eye(n).tolist(), "counts": np.eye(n, dtype=int).tolist()}
    ax = plot_confusion(matrix, [f"class number {k}" for k in range(n)])
    assert [text.get_text() for text in ax.texts[:2]] == ["100", "0"]
    render(ax, "png")


def test_cut_draws_efficiencies_and_purity():
    roc = roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
    ax = plot_cut(roc, (30.0, 10.0), signal="top", background="qcd")
    signal, background, purity = ax.lines
    np.testing.assert_allclose(signal.get_xdata(), [1, 0.9, 0.8, 0.7, 0.1, 0])
    np.testing.assert_allclose(signal.get_ydata(), [0, 0.5, 0.5, 1, 1, 1])
    np.testing.assert_allclose(background.get_ydata(), [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(purity.get_ydata(), [np.nan, 1, 15 / 20, 30 / 35, 30 / 40, 30 / 40])
    # An efficiency holds from its cut down to the next: y[k] from x[k] to x[k + 1].
    assert [line.get_drawstyle() for line in ax.lines] == ["steps-post"] * 3
    assert legend(ax) == ["top efficiency", "qcd efficiency", "purity of top"]
