"""Figures and the section of attributions: what is drawn is what was found."""

from __future__ import annotations

import dataclasses

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure

from attribution_cases import events, model
from timelike.canvas import PALETTE, render, subplots
from timelike.errors import ConfigError, DataError
from timelike.evaluate import evaluate
from timelike.inspect import attribution_sections as sections_module
from timelike.inspect.attribution import gradient_times_input, integrated_gradients
from timelike.inspect.attribution_figures import (
    plot_permutation_importance,
    plot_step_attributions,
    plot_variable_attributions,
)
from timelike.inspect.attribution_sections import attribution_sections
from timelike.inspect.importance import permutation_importance
from timelike.model import predict
from timelike.predictions import Predictions
from timelike.report import write_report


def found(**changes):
    return dataclasses.replace(integrated_gradients(model(), events(), n_steps=5), **changes)


def test_steps_are_drawn_as_they_are():
    given = found()
    ax = plot_step_attributions(given, 3)
    np.testing.assert_array_equal(ax.collections[0].get_array(), given.at(3).T)
    low, high = ax.collections[0].get_clim()
    assert high == -low == np.abs(given.at(3)).max()
    top = ax.figure.axes[1]
    np.testing.assert_array_equal([bar.get_height() for bar in top.patches], given.at(3).sum(axis=1))
    for bar in top.patches:
        colour = PALETTE[0] if bar.get_height() >= 0 else PALETTE[1]
        assert matplotlib.colors.to_hex(bar.get_facecolor()) == colour
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(given.names)
    text = top.get_title(loc="left").replace("\u2212", "-")
    assert f"score {given.score[3]:.3f}" in text
    assert f"completeness error {given.completeness_error[3]:.1g}" in text
    render(ax, "png", "svg")


@pytest.mark.parametrize("event", [1, 2])
def test_events_of_no_step_and_of_one_can_be_drawn(event):
    render(plot_step_attributions(found(), event), "png")


def test_an_event_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"event 9: there are the events 0..6"):
        plot_step_attributions(found(), 9)


def test_axes_without_a_place_in_a_grid_are_refused():
    figure = Figure()
    with pytest.raises(ConfigError, match="put somewhere by hand"):
        plot_step_attributions(found(), 0, figure.add_axes((0, 0, 1, 1)))


def test_attributions_of_nothing_can_be_drawn():
    given = found()
    render(plot_step_attributions(dataclasses.replace(given, values=0 * given.values)), "png")


def test_variables_are_averaged_by_class():
    given = found()
    ax = plot_variable_attributions(given)
    means = given.averages()
    order = np.argsort(-means.magnitude.mean(axis=0))
    bars = [bar.get_width() for bar in ax.patches]
    np.testing.assert_array_equal(bars, [*means.mean[1, order], *means.mean[0, order]])  # the target first
    assert matplotlib.colors.to_hex(ax.patches[0].get_facecolor()) == PALETTE[0]
    assert matplotlib.colors.to_hex(ax.patches[3].get_facecolor()) == PALETTE[1]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [given.names[d] for d in order]
    render(ax, "png")


def test_events_without_labels_are_one_class():
    ax = plot_variable_attributions(found(labels=None))
    assert "all events" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_importance_is_drawn_with_its_uncertainty():
    given = permutation_importance(model(), events(60), n_repeats=4)
    ax = plot_permutation_importance(given)
    np.testing.assert_array_equal([bar.get_width() for bar in ax.patches], given.importance[given.order])
    dots = next(line for line in ax.lines if line.get_label() == "single shuffles")
    np.testing.assert_array_equal(dots.get_xdata(), given.repeats[given.order].ravel())
    lines = next(c for c in ax.collections if hasattr(c, "get_segments")).get_segments()
    half = [(line[1, 0] - line[0, 0]) / 2 for line in lines]
    np.testing.assert_allclose(half, given.error[given.order], rtol=1e-12)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [row[0] for row in given.table()]
    render(ax, "png")
    plain = permutation_importance(model(), events(60), n_repeats=1, n_bootstrap=0, metric="log_loss")
    render(plot_permutation_importance(plain), "png")


def test_names_are_shown_letter_by_letter_and_axes_can_be_given():
    axes = subplots(2)
    given = found(names=("$p_T$", "_eta", "<b>"))
    assert plot_step_attributions(given, 0, axes[0]) is axes[0]
    assert plot_variable_attributions(gradient_times_input(model(), events()), ax=axes[1]) is axes[1]
    render(axes[0], "svg")
    assert axes[0].get_yticklabels()[0].get_text() == r"\$p_T\$"


# The section


def test_the_section_is_a_part_of_the_report(tmp_path):
    made, given = model(), events(60)
    (section,) = attribution_sections(made, given)
    names = made.class_names
    predictions = {"test": Predictions(predict(made, given), given.labels, given.weights, given.events)}
    metrics = evaluate(predictions, names, signal="top", n_bootstrap=5)
    path = write_report(
        tmp_path / "run",
        metrics=metrics,
        predictions=predictions,
        more=[section],
    )
    text = path.read_text(encoding="utf-8")
    assert f'<section id="{section.anchor}">' in text
    for figure in section.figures:
        assert (path.parent / "figures" / f"{figure.name}.png").exists()
    table = permutation_importance(made, given, n_repeats=5, n_bootstrap=100).table()
    assert [row.label for row in section.tables[0].rows] == [row[0] for row in table]
    assert section.tables[0].head[2:] == ("attribution, qcd", "attribution, top")


def test_the_sample_is_bounded_and_keeps_every_class(monkeypatch):
    given = events(400, n_classes=2)
    rare = given.replace(labels=(np.arange(400) == 7).astype(int), weights=None)
    sample = sections_module._sample(rare, 50, 0)
    assert len(sample) in (50, 51)
    assert sample.labels.sum() == 1
    np.testing.assert_array_equal(sample.events, np.sort(sample.events))
    np.testing.assert_array_equal(sample.events, sections_module._sample(rare, 50, 0).events)
    monkeypatch.setattr(sections_module, "_ROWS_OF_GRADIENTS", 100)
    (section,) = attribution_sections(model(), given, n_events=50)
    assert "Of 50 events, 40 of them" in section.lead  # of 2.5 steps in the mean: 100 rows


def test_weights_that_cancel_are_said():
    given = events(20).replace(weights=np.where(np.arange(20) % 2 == 1, -1.0, 1.0))
    (section,) = attribution_sections(model(), given)
    assert "10 events of top" in section.lead
    assert not section.figures
    with pytest.raises(DataError, match="labels"):
        attribution_sections(model(), given.replace(labels=None))


def test_three_classes_have_a_section():
    (section,) = attribution_sections(model(3), events(60, n_classes=3))
    assert len(section.tables[0].head) == 5
    render(section.figures[1].axes, "svg")
