"""Statistics of weighted events against SciPy, hand-made cases and repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from timelike import statistics
from timelike.statistics import (
    bootstrap_weights,
    effective_events,
    efficiency_upper_limit,
    format_measurement,
    kolmogorov,
    ks_test,
)

EPS = np.finfo(np.float64).eps


def test_effective_events():
    assert effective_events(np.full(50, 0.2)) == pytest.approx(50, rel=50 * EPS)
    for scale in (1e-200, 1e200):
        assert effective_events(np.full(50, scale)) == pytest.approx(50, rel=50 * EPS)
    assert effective_events(np.array([3.0, 1.0])) == 1.6
    assert effective_events(np.zeros(4)) == 0.0


@pytest.mark.parametrize("z", [0.0, 0.05, 0.3, 0.7, 0.999, 1.0, 1.001, 1.5, 3.0, 8.0])
def test_kolmogorov_distribution(z):
    # Absolute near 1, where the tail is one minus a small number; relative in the tail.
    assert kolmogorov(z) == pytest.approx(special.kolmogorov(z), rel=1e-13, abs=4 * EPS if z < 1 else 0)


@pytest.mark.parametrize("decimals", [15, 1])
def test_ks_distance_is_scipys_for_unit_weights(decimals):
    rng = np.random.default_rng(2)
    first, second = np.round(rng.normal(size=83), decimals), np.round(rng.normal(0.3, size=47), decimals)
    ours = ks_test(first, np.ones(83), second, np.ones(47))
    reference = stats.ks_2samp(first, second, method="exact")
    assert abs(ours.distance - reference.statistic) <= 130 * EPS
    assert ours.n_effective == (83.0, 47.0)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (100, 151), (600, 2100)])
def test_ks_probability_is_near_scipys_exact_one(n, m):
    rng = np.random.default_rng(3)
    for _ in range(20):
        first, second = rng.normal(size=n), rng.normal(0.1, size=m)
        exact = stats.ks_2samp(first, second, method="exact").pvalue
        assert abs(ks_test(first, np.ones(n), second, np.ones(m)).p_value - exact) <= 0.35 / np.sqrt(n)


def test_ks_distance_with_weights_is_that_of_repeated_events():
    first, second = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5])
    weighted = ks_test(first, np.array([1.0, 3.0, 2.0]), second, np.array([2.0, 1.0]))
    repeated = stats.ks_2samp(np.repeat(first, [1, 3, 2]), np.repeat(second, [2, 1]))
    assert weighted.distance == pytest.approx(repeated.statistic, abs=10 * EPS)
    assert weighted.n_effective == pytest.approx((36 / 14, 9 / 5))


def test_ks_probability_is_uniform_for_weighted_samples_of_one_distribution():
    rng = np.random.default_rng(4)
    trials, level = 600, 0.2
    low = 0
    for _ in range(trials):
        weights = rng.uniform(0.2, 2.0, size=450)
        values = rng.normal(size=450)
        low += ks_test(values[:200], weights[:200], values[200:], weights[200:]).p_value < level
    # Binomial, four standard deviations.
    assert abs(low / trials - level) < 4 * np.sqrt(level * (1 - level) / trials)


def test_limit_where_nothing_is_left():
    limit = efficiency_upper_limit(np.full(40, 2.5), np.zeros(40, dtype=bool))
    assert (1 - limit) ** 40 == pytest.approx(0.05, rel=1e-12)
    # Twenty passing weights that cancel: their fluctuation, 1.645 sqrt(20) / 1000, is the larger scale.
    weights = np.append(np.ones(1000), np.tile([1.0, -1.0], 10))
    passing = np.arange(1020) >= 1000
    assert efficiency_upper_limit(weights, passing) == pytest.approx(
        stats.norm.isf(0.05) * np.sqrt(20) / 1000
    )
    assert efficiency_upper_limit(np.ones(1), np.zeros(1, dtype=bool)) == pytest.approx(0.95)


def test_bootstrap_rows(monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK", 1000)
    rng = np.random.default_rng(6)
    weights, classes = rng.normal(1.0, 0.5, size=300), rng.integers(0, 3, size=300)
    blocks = list(bootstrap_weights(weights, classes, 10, 1))
    assert [len(block) for block in blocks] == [3, 3, 3, 2]
    rows = np.concatenate(blocks)
    np.testing.assert_array_equal(rows[0], weights)
    times = rows[1:] / weights
    np.testing.assert_allclose(times, np.round(times), rtol=0, atol=100 * EPS)
    for c in range(3):
        np.testing.assert_allclose(times[:, classes == c].sum(axis=1), (classes == c).sum(), rtol=1e-12)
    assert len(np.unique(rows, axis=0)) == 11


def test_bootstrap_draws_are_binomial():
    rows = np.concatenate(list(bootstrap_weights(np.ones(50), np.zeros(50, dtype=np.int64), 4000, 7)))[1:]
    # Each event is drawn Binomial(50, 1/50) times: mean 1, variance 0.98; errors over 4,000 x 50 draws.
    assert abs(rows.var(axis=0).mean() - 0.98) < 4 * np.sqrt(2 / rows.size) * 2
    assert np.abs(rows.mean(axis=0) - 1).max() < 5 / np.sqrt(4000)
    assert np.corrcoef(rows[:, 0], rows[:, 1])[0, 1] == pytest.approx(-1 / 49, abs=4 / np.sqrt(4000))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.9523, 0.0041, "0.952 ± 0.004"),
        (0.9523, 0.00354, "0.9523 ± 0.0035"),
        (0.9523, 0.00355, "0.952 ± 0.004"),
        (0.9523, 0.00951, "0.952 ± 0.010"),
        (0.9995, 0.00098, "0.9995 ± 0.0010"),
        (38.46, 4.26, "38 ± 4"),
        (138.46, 12.6, "138 ± 13"),
        (1384.6, 126.0, "1380 ± 130"),
        (-0.00145, 0.00583, "-0.001 ± 0.006"),
        (0.0, 0.1, "0.00 ± 0.10"),
        (1.0, 0.0, "1.00"),
        (0.0, None, "0"),
        (0.27391, None, "0.274"),
        (206.67, None, "207"),
        (None, None, "–"),
    ],
)
def test_rounding_follows_the_uncertainty(value, error, text):
    assert format_measurement(value, error) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e4))
def test_written_uncertainty_is_within_rounding_of_the_true_one(value, error):
    shown_value, shown_error = (float(part) for part in format_measurement(value, error).split(" ± "))
    assert abs(shown_error - error) <= error * 0.15  # 0.355 -> 0.4 is the coarsest rounding there is
    assert abs(shown_value - value) <= error * 0.5 / 3.55 * 4
