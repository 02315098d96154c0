"""Figures of traces show the numbers of the trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import timelike
from timelike.errors import ConfigError, DataError
from timelike.inspect.figures import plot_gate_gradients, plot_gates, plot_gradient_flow
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
