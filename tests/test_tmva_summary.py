"""Summary variables of sequences, their bins, separation and correlation, against loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timelike.sequences import Sequences
from timelike.tmva.summary import binned, clean, correlation, edges_of, separation, summarise, unique

EPS = np.finfo(np.float64).eps


def ragged(seed=3, n=50, names=("x", "y")):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, n)
    lengths[[0, 7, -1]] = 0  # at both ends and within
    return Sequences.from_list([rng.normal(size=(t, 2)) for t in lengths], names=names)


def test_sequences_are_summed_up_as_by_a_loop():
    sequences = ragged()
    found = summarise(sequences)
    assert found.names == ("length", "x_mean", "x_first", "x_last", "y_mean", "y_first", "y_last")
    for event, values in zip(sequences, found.values, strict=True):
        expected = [float(len(event))]
        for d in range(2):
            steps = event[:, d].tolist()
            expected += [math.fsum(steps) / len(steps), steps[0], steps[-1]] if steps else [0.0] * 3
        np.testing.assert_allclose(values, expected, rtol=8 * EPS, atol=8 * EPS)


def test_events_without_any_step_are_summed_up():
    assert summarise(Sequences(np.zeros((0, 1)), [0, 0, 0])).values.tolist() == [[0.0] * 4] * 2


def test_names_of_summary_variables_are_good_for_branches_and_different():
    found = summarise(ragged(names=("a/b", "a_D_b"))).names
    assert found == ("length", "a_D_b_mean", "a_D_b_first", "a_D_b_last", *found[4:])
    assert found[4:] == ("a_D_b_mean_2", "a_D_b_first_2", "a_D_b_last_2")
    assert [clean(name) for name in ("1x", "", "x[2]*y-z", "ünder")] == ["_1x", "_", "x_2__T_y_M_z", "_nder"]
    assert unique(["a", "a", "a_2"], taken=["a"]) == ("a_2", "a_3", "a_2_2")


def test_outliers_beyond_eight_deviations_are_left_out_of_the_range():
    x = np.append(np.random.default_rng(1).normal(size=1000), 1e6)
    w = np.append(np.ones(1000), 1e-9)
    edges = edges_of(x, w)
    mean = np.average(x, weights=w)
    deviation = math.sqrt(np.average((x - mean) ** 2, weights=w))
    assert edges[-1] == pytest.approx(mean + 8 * deviation)
    assert edges[0] == x.min()
    filled = binned(x, w, [np.ones(1001, dtype=bool)], edges)
    assert filled.sums[0, -1] == 1e-9
    assert filled.sums[0, 1:-1].sum() == pytest.approx(1000)


@pytest.mark.parametrize("constant", [0.0, 0.5, -3.25, 1e30, -1e30])
def test_a_constant_has_bins_of_some_width(constant):
    edges = edges_of(np.full(5, constant), np.ones(5))
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= constant < edges[-1]


def test_a_bin_of_negative_sum_counts_as_empty_and_nothing_separates_nothing():
    assert separation(np.array([2.0, -1.0]), np.array([-1.0, 2.0])) == 1.0
    assert math.isnan(separation(np.array([-1.0, 0.0]), np.array([1.0, 1.0])))


def test_what_does_not_vary_is_not_correlated():
    x = np.random.default_rng(2).normal(size=(6, 3))
    x[:, 1] = 0.1  # whose mean of six is not 0.1 to the bit
    w = np.array([1.0, 1.0, 1.0, 1.0, 1.0, -4.9])
    matrix = correlation(x, np.ones(6))
    assert matrix[1].tolist() == [0.0, 1.0, 0.0]
    assert matrix[0, 2] == pytest.approx(np.corrcoef(x[:, 0], x[:, 2])[0, 1])
    # With such weights the variance is negative.
    assert np.array_equal(correlation(x, w), np.eye(3))
