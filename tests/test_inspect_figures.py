"""Figures of traces show the numbers of the trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import timelike
from timelike.errors import ConfigError, DataError
from timelike.inspect.figures import plot_gate_gradients, plot_gates, plot_gradient_flow, plot_states
from timelike.inspect.flow import gradient_flow, memory
from timelike.nn import LSTM, RNN, Ragged


@pytest.fixture
def layer():
    torch.manual_seed(1)
    return timelike.trace(LSTM(3, 4), torch.randn(7, 2, 3))[0]


def test_gates_and_gradients(layer):
    image = plot_gates(layer, 1).images[0]
    assert np.array_equal(image.get_array(), layer.gates["f"][layer.rows(1)].T)
    assert image.get_clim() == (0, 1)
    assert plot_gates(layer, 1, "g").images[0].get_clim() == (-1, 1)
    image = plot_gate_gradients(layer, 1).images[0]
    assert np.array_equal(image.get_array(), layer.dgates["f"][layer.rows(1)].T)
    assert image.get_clim()[0] == -image.get_clim()[1]
    with pytest.raises(ConfigError, match="no such gate"):
        plot_gates(layer, gate="q")
    empty = timelike.trace(LSTM(3, 4), Ragged(torch.randn(2, 3), torch.tensor([0, 2, 2])))[0]
    for plot in (plot_gates, plot_gate_gradients):
        with pytest.raises(DataError, match="sequence 1 has no step"):
            plot(empty, 1)


def test_the_values_of_a_rectifier_start_at_zero():
    layer = timelike.trace(RNN(3, 4, nonlinearity="relu"), torch.randn(7, 2, 3))[0]
    assert plot_gates(layer, 1, "h").images[0].get_clim() == (0, layer.h[layer.rows(1)].max())


def test_flow(layer):
    flow, found = gradient_flow(layer), memory(layer)
    ax = plot_gradient_flow(flow, found)
    assert np.array_equal(ax.lines[0].get_ydata(), flow.dh_quantiles[1])
    assert np.array_equal(ax.lines[1].get_ydata(), flow.dc_quantiles[1])
    assert ax.lines[2].get_xdata()[0] == found.horizon
    behind = next(axes for axes in ax.figure.axes if axes is not ax)
    heights = behind.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == 2  # sequences, all of 7 steps


@pytest.mark.parametrize("state", ["c", "h"])
@pytest.mark.parametrize("k", [0, 1])
def test_states_are_drawn_from_the_initial_one_on(state, k):
    torch.manual_seed(1)
    net, start = LSTM(3, 10, bidirectional=True), [torch.randn(2, 2, 10) for _ in range(2)]
    layer = timelike.trace(net, torch.randn(7, 2, 3), hx=tuple(start))[k]
    ax = plot_states(layer, 1, state)
    values = (layer.c if state == "c" else layer.h)[layer.rows(1)]
    first = start[state == "c"][k, 1].numpy()
    course = np.vstack([first, values]) if k == 0 else np.vstack([values, first])
    named = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len(named) == 8
    for line in named:
        unit = int(line.get_label())
        order = np.argsort(line.get_xdata())
        assert np.array_equal(line.get_ydata()[order], course[:, unit])
        assert sorted(line.get_xdata()) == list(range(8)) if k == 0 else list(range(1, 9))
    quiet = {int(line.get_label()) for line in named} ^ set(range(10))
    moves = np.ptp(course, axis=0)
    assert moves[list(quiet)].max() <= min(moves[int(line.get_label())] for line in named)


def test_states_of_chosen_units(layer):
    ax = plot_states(layer, units=[2])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["2"]
    assert ax.get_ylabel() == "Cell state"
    assert plot_states(timelike.trace(RNN(3, 4), torch.randn(7, 2, 3))[0]).get_ylabel() == "Hidden state"
    with pytest.raises(ConfigError, match=r"unit 4: the layer has the units 0\.\.3"):
        plot_states(layer, units=[4])
    with pytest.raises(ConfigError, match="state 'q'"):
        plot_states(layer, state="q")
    empty = timelike.trace(LSTM(3, 4), Ragged(torch.randn(2, 3), torch.tensor([0, 2, 2])))[0]
    with pytest.raises(DataError, match="sequence 1 has no step"):
        plot_states(empty, 1)
