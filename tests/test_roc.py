"""ROC curves against hand-made cases, an explicit sum over pairs, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from timelike.errors import DataError
from timelike.roc import TieGroups, nearest_monotone, roc_curve, separation, x_to_y

EPS = np.finfo(np.float64).eps


def pairwise_auc(scores, is_signal, weights):
    """Sum over all signal-background pairs, ties counting half: the definition, one pair at a time."""
    right, pairs = 0.0, 0.0
    for s, ws in zip(scores[is_signal], weights[is_signal], strict=True):
        for b, wb in zip(scores[~is_signal], weights[~is_signal], strict=True):
            pairs += ws * wb
            right += ws * wb * (1.0 if s > b else 0.5 if s == b else 0.0)
    return right / pairs


def rounding_bound(is_signal, weights):
    """Give the rounding error of sums over n events, relative to sums of weights that may cancel."""
    growth = 1.0
    for members in (is_signal, ~is_signal):
        growth *= np.abs(weights[members]).sum() / weights[members].sum()
    return 4 * len(weights) * EPS * growth**2


@st.composite
def weighted_events(draw):
    n = draw(st.integers(2, 40))
    scores = draw(hnp.arrays(np.float64, n, elements=st.integers(0, 7).map(lambda k: k / 7)))
    weights = draw(hnp.arrays(np.float64, n, elements=st.integers(-2, 6).map(lambda k: k / 4)))
    is_signal = draw(hnp.arrays(np.bool_, n))
    is_signal[:2] = True, False
    for members in (is_signal, ~is_signal):
        weights[np.flatnonzero(members)[0]] += 0.25 + max(0.0, -weights[members].sum())
    return scores, is_signal, weights


def test_four_events_by_hand():
    roc = roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
    assert roc.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.1]
    assert roc.signal_efficiency.tolist() == [0, 0.5, 0.5, 1, 1]
    assert roc.background_efficiency.tolist() == [0, 0, 0.5, 0.5, 1]
    assert roc.auc == 0.75


def test_tied_events_make_one_point():
    # Two signal and one background at 0.5: the curve goes straight from (0, 0.5) to (0.5, 1).
    roc = roc_curve([0.9, 0.9, 0.5, 0.5, 0.5, 0.1], [True, True, True, True, False, False])
    assert roc.thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert roc.signal_efficiency.tolist() == [0, 0.5, 1, 1]
    assert roc.background_efficiency.tolist() == [0, 0, 0.5, 1]
    assert roc.auc == 0.5 * 0.75 + 0.5
    assert roc.signal_efficiency_at(0.25) == 0.75
    assert roc.background_efficiency_at(0.75) == 0.25


def test_all_scores_equal_is_chance():
    roc = roc_curve(np.full(7, 0.3), np.arange(7) < 3)
    assert roc.auc == 0.5
    assert len(roc.thresholds) == 2
    assert roc.signal_efficiency_at(0.1) == pytest.approx(0.1, abs=2 * EPS)


def test_negative_weight_by_hand():
    # Falling: signal 1, background 1, background -0.5, signal 1, background 1.5: B = 2, S = 2.
    roc = roc_curve([5, 4, 3, 2, 1], [True, False, False, True, False], [1, 1, -0.5, 1, 1.5])
    # The first signal is above all background (sum 2), the second above the last alone (1.5).
    assert roc.auc == (2 + 1.5) / 4
    # Background efficiencies as they are: 0, 0, 1/2, 1/4, 1/4, 1. The peak and what follows meet half-way.
    assert roc.background_efficiency.tolist() == [0, 0, 0.375, 0.375, 0.375, 1]
    assert roc.signal_efficiency.tolist() == [0, 0.5, 0.5, 0.5, 1, 1]


@given(weighted_events())
def test_area_is_the_sum_over_pairs(events):
    scores, is_signal, weights = events
    roc = roc_curve(scores, is_signal, weights)
    assert abs(roc.auc - pairwise_auc(scores, is_signal, weights)) <= rounding_bound(is_signal, weights)
    for efficiency in (roc.signal_efficiency, roc.background_efficiency):
        assert (np.diff(efficiency) >= 0).all()
        assert efficiency.min() >= 0
        assert efficiency.max() <= 1


@given(weighted_events())
def test_only_the_order_of_scores_counts(events):
    scores, is_signal, weights = events
    roc = roc_curve(scores, is_signal, weights)
    stretched = roc_curve(np.exp(5 * scores), is_signal, weights)
    assert stretched.auc == roc.auc
    np.testing.assert_array_equal(stretched.signal_efficiency, roc.signal_efficiency)


@given(weighted_events(), st.randoms(use_true_random=False))
def test_a_pair_of_opposite_weights_and_the_order_of_events_change_nothing(events, random):
    scores, is_signal, weights = events
    order = list(range(len(scores)))
    random.shuffle(order)
    padded = roc_curve(
        np.append(scores[order], [0.5, 0.5]),
        np.append(is_signal[order], [False, False]),
        np.append(weights[order], [2.0, -2.0]),
    )
    bound = rounding_bound(is_signal, weights) + rounding_bound(
        np.append(is_signal, [False, False]), np.append(weights, [2.0, -2.0])
    )
    assert abs(padded.auc - roc_curve(scores, is_signal, weights).auc) <= bound


@pytest.mark.parametrize("tied", [False, True])
def test_agrees_with_scikit_learn_for_positive_weights(tied):
    rng = np.random.default_rng(5)
    is_signal = rng.random(3000) < 0.4
    scores = rng.normal(is_signal * 1.5)
    if tied:
        scores = np.round(scores, 1)
    weights = rng.exponential(size=3000)
    ours = roc_curve(scores, is_signal, weights)
    eps_b, eps_s, cuts = sk.roc_curve(is_signal, scores, sample_weight=weights, drop_intermediate=False)
    bound = 2 * len(scores) * EPS
    np.testing.assert_array_equal(ours.thresholds, cuts)
    np.testing.assert_allclose(ours.signal_efficiency, eps_s, rtol=0, atol=bound)
    np.testing.assert_allclose(ours.background_efficiency, eps_b, rtol=0, atol=bound)
    assert abs(ours.auc - sk.roc_auc_score(is_signal, scores, sample_weight=weights)) <= bound


def test_working_points_take_the_better_end_of_a_step():
    # Signal at 10, 8, 6, 4; background at 9, 7, 5, 3: a staircase of steps of 1/4.
    roc = roc_curve([10, 9, 8, 7, 6, 5, 4, 3], [True, False] * 4)
    np.testing.assert_array_equal(
        roc.signal_efficiency_at([0.0, 0.24, 0.25, 0.26, 1.0]), [0.25, 0.25, 0.5, 0.5, 1]
    )
    np.testing.assert_array_equal(
        roc.background_efficiency_at([0.0, 0.25, 0.26, 0.5, 1.0]), [0, 0, 0.25, 0.25, 0.75]
    )


def test_a_point_at_the_target_up_to_rounding_counts_as_at_it():
    # Ten weights of 0.1 sum to 1 - eps/2: the tenth point must not be missed at eps_b = 0.1 of 1.0.
    weights = np.full(200, 0.1)
    is_signal = np.arange(200) % 2 == 0
    roc = roc_curve(-np.arange(200.0), is_signal, weights)
    np.testing.assert_allclose(roc.signal_efficiency_at(np.arange(1, 10) / 10), np.arange(1, 10) / 10 + 0.01)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 16).map(lambda k: k / 16)))
def test_nearest_monotone_is_the_nearest(values):
    got = nearest_monotone(values)
    assert (np.diff(got) >= 0).all()
    # No rising function can be nearer than half the deepest fall.
    fall = max((values[i] - values[j] for j in range(len(values)) for i in range(j + 1)), default=0.0)
    assert np.max(np.abs(got - values)) == fall / 2
    np.testing.assert_array_equal(nearest_monotone(got), got)


def test_rows_of_weights_are_independent():
    rng = np.random.default_rng(8)
    scores, is_signal = np.round(rng.random(200), 2), rng.random(200) < 0.5
    weights = rng.normal(1.0, 0.8, size=(5, 200))
    eps_s, eps_b = TieGroups.of(scores, is_signal).efficiencies(weights)
    for k, row in enumerate(weights):
        alone = TieGroups.of(scores, is_signal).efficiencies(row[None])
        np.testing.assert_array_equal(eps_s[k], alone[0][0])
        np.testing.assert_array_equal(eps_b[k], alone[1][0])


def test_a_row_without_positive_sum_gives_nan_and_spares_the_others():
    groups = TieGroups.of(np.array([0.9, 0.1, 0.5]), np.array([True, False, False]))
    eps_s, eps_b = groups.efficiencies(np.array([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0]]))
    assert np.isnan(eps_b[0]).all()
    assert np.isfinite(eps_b[1]).all()
    assert np.isfinite(eps_s).all()
    values, _ = x_to_y([0.5], eps_b, eps_s, side="right")
    assert np.isnan(values[0, 0])
    assert values[1, 0] == 1.0


def test_separation_of_straight_lines():
    # s = 2x, b = 2(1-x): 1/3 in the continuum; the midpoint rule of 40 bins lacks 1/4 * 16/12 / 40^2.
    x = (np.arange(40) + 0.5) / 40
    scores, is_signal = np.tile(x, 2), np.arange(80) < 40
    groups = TieGroups.of(scores, is_signal)
    got = separation(groups.thresholds, *groups.efficiencies(np.concatenate([2 * x, 2 * (1 - x)])[None]))
    assert abs(got[0] - (1 / 3 - 1 / 4800)) <= 80 * EPS


def test_separation_at_its_ends():
    scores = np.array([0.0, 0.2, 0.9, 1.0])
    apart = TieGroups.of(scores, np.array([False, False, True, True]))
    assert separation(apart.thresholds, *apart.efficiencies(np.ones((1, 4)))) == [1.0]
    same = TieGroups.of(np.tile(scores, 2), np.arange(8) < 4)
    assert separation(same.thresholds, *same.efficiencies(np.ones((1, 8)))) == [0.0]


def test_a_replica_without_efficiencies_has_no_separation():
    groups = TieGroups.of(np.array([0.1, 0.2, 0.8, 0.9]), np.arange(4) >= 2)
    weights = np.array([[1.0, 1.0, 1.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
    assert np.isnan(groups.efficiencies(weights)[0]).all(axis=1).tolist() == [True, False]
    np.testing.assert_array_equal(separation(groups.thresholds, *groups.efficiencies(weights)), [np.nan, 1.0])


@pytest.mark.parametrize(
    ("scores", "is_signal", "weights", "message"),
    [
        ([0.1, np.nan], [True, False], None, "roc_curve: score of event 1 is nan, not a finite number"),
        (
            [0.1, 0.2],
            [True, False],
            [1.0, np.inf],
            "roc_curve: weight of event 1 is inf, not a finite number",
        ),
        ([0.1, 0.2], [True, True], None, "roc_curve: the 0 background events have weights that sum to 0;"),
        ([0.1, 0.2], [True, False], [0.0, 1.0], "roc_curve: the 1 signal events have weights that sum to 0;"),
        ([1, 2, 3], [True, False, False], [1, 1, -2], "the 2 background events have weights that sum to -1;"),
        ([0.1, 0.2], [True, False, True], None, "given shapes (2,), (3,), (2,)"),
    ],
)
def test_what_cannot_be_a_curve_is_refused(scores, is_signal, weights, message):
    with pytest.raises(DataError) as caught:
        roc_curve(scores, is_signal, weights)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
