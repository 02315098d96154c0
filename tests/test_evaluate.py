"""Metrics against hand-made cases, scikit-learn, analytic variances and repeated samples."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from timelike.errors import ConfigError, DataError
from timelike.evaluate import Predictions, evaluate
from timelike.roc import roc_curve
from timelike.statistics import bootstrap_weights

EPS = np.finfo(np.float64).eps
NAMES = ["qcd", "top"]


def predictions(probability, labels, weights=None):
    probability = np.asarray(probability, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.int64)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    scores = np.stack([1 - probability, probability], axis=1)
    return Predictions(scores, labels, weights, np.arange(100, 100 + len(labels)))


def binormal(rng, n, shift=2.0, negative=0.0):
    """n events of each class: P(signal) of two unit Gaussians `shift` apart; AUC = Phi(shift / sqrt 2)."""
    labels = np.repeat([0, 1], n)
    x = rng.normal(labels * shift)
    probability = 1 / (1 + np.exp(-shift * (x - shift / 2)))
    weights = np.where(rng.random(2 * n) < negative, -1.0, 1.0) if negative else None
    return predictions(probability, labels, weights)


def three_classes(rng, n):
    labels = rng.integers(0, 3, size=n)
    z = rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return Predictions(p, labels, rng.uniform(0.5, 1.5, size=n), np.arange(n))


# Values


def test_six_events_by_hand():
    found = evaluate(
        {"test": predictions([0.9, 0.8, 0.4, 0.3, 0.2, 0.1], [1, 1, 0, 1, 0, 0])},
        NAMES,
        signal="top",
        n_bootstrap=0,
    )["test"]
    assert found["auc"] == {"value": pytest.approx(8 / 9, abs=8 * EPS), "error": None}
    assert found["accuracy"]["value"] == pytest.approx(5 / 6)
    assert found["confusion"]["counts"] == [[3, 0], [1, 2]]
    assert found["log_loss"]["value"] == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.3, 0.8, 0.9]).mean())
    # The first background event at 0.4 is a third of the background: nothing of it may pass at 0.01 to 0.30,
    # and the curve climbs straight up to two thirds of the signal before it.
    for point in ("at_background_0.01", "at_background_0.10", "at_background_0.30"):
        assert found["signal_efficiency"][point] == {"value": pytest.approx(2 / 3), "error": None, "cut": 0.8}
    assert found["rejection"]["at_signal_0.7"]["value"] == pytest.approx(3)
    assert found["rejection"]["at_signal_0.7"]["background_events"] == 1
    assert found["rejection"]["at_signal_0.7"]["cut"] == 0.3


def test_weights_enter_everywhere():
    found = evaluate(
        {"test": predictions([0.9, 0.6, 0.7, 0.2], [1, 1, 0, 0], [3, 1, 1, 4])},
        NAMES,
        signal="top",
        n_bootstrap=0,
    )["test"]
    assert found["auc"]["value"] == pytest.approx((3 * 5 + 1 * 4) / 20)
    assert found["accuracy"]["value"] == pytest.approx(8 / 9)
    assert found["balanced_accuracy"]["value"] == pytest.approx((4 / 5 + 1) / 2)
    assert found["confusion"]["weights"] == [[4, 1], [0, 4]]
    assert found["confusion"]["fractions"] == [[0.8, 0.2], [0, 1]]
    assert found["log_loss"]["value"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.8]) @ [3, 1, 1, 4] / 9)
    assert found["classes"]["top"] == {
        "events": 2,
        "negative_weights": 0,
        "sum_of_weights": 4.0,
        "effective_events": 1.6,
    }


def test_the_signal_may_be_any_class():
    given = predictions([0.9, 0.8, 0.4, 0.3, 0.2, 0.1], [1, 1, 0, 1, 0, 0])
    top = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=20)["test"]
    qcd = evaluate({"test": given}, NAMES, signal="qcd", n_bootstrap=20)["test"]
    # In two classes 1 - p ranks the other way round, and the area is the same.
    assert qcd["auc"]["value"] == pytest.approx(top["auc"]["value"], abs=8 * EPS)
    assert qcd["auc"]["error"] == pytest.approx(top["auc"]["error"], rel=1e-12)
    assert qcd["signal_efficiency"]["at_background_0.30"]["value"] == pytest.approx(2 / 3)


def test_scikit_learn_agrees_for_positive_weights():
    given = three_classes(np.random.default_rng(1), 2000)
    found = evaluate({"test": given}, ["a", "b", "c"], signal="c", n_bootstrap=0)["test"]
    kwargs = {"sample_weight": given.weights}
    bound = 4 * len(given.labels) * EPS
    for c, name in enumerate("abc"):
        area = sk.roc_auc_score(given.labels == c, given.scores[:, c], **kwargs)
        assert abs(found["one_vs_rest"][name]["auc"]["value"] - area) <= bound
    assert found["auc"] == found["one_vs_rest"]["c"]["auc"]
    macro = sk.roc_auc_score(given.labels, given.scores, multi_class="ovr", average="macro", **kwargs)
    assert abs(found["auc_macro"]["value"] - macro) <= bound
    decided = given.scores.argmax(axis=1)
    assert abs(found["accuracy"]["value"] - sk.accuracy_score(given.labels, decided, **kwargs)) <= bound
    assert abs(found["log_loss"]["value"] - sk.log_loss(given.labels, given.scores, **kwargs)) <= 4 * bound
    matrix = sk.confusion_matrix(given.labels, decided, normalize="true", **kwargs)
    np.testing.assert_allclose(found["confusion"]["fractions"], matrix, rtol=0, atol=bound)


def test_a_probability_of_zero_does_not_make_the_loss_infinite():
    found = evaluate({"test": predictions([1.0, 0.0, 0.0], [1, 0, 1])}, NAMES, signal="top", n_bootstrap=5)[
        "test"
    ]
    assert found["log_loss"]["value"] == pytest.approx(-np.log(np.finfo(np.float64).tiny) / 3)


def test_no_background_left_gives_a_limit_and_a_reason():
    given = predictions(np.linspace(1, 0, 200), np.arange(200) < 100)
    metrics = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=50)
    rejection = metrics["test"]["rejection"]["at_signal_0.7"]
    assert rejection["value"] is rejection["error"] is None
    assert rejection["reason"] == "no background event passes the cut"
    assert (1 - 1 / rejection["lower_limit"]) ** 100 == pytest.approx(0.05)
    assert rejection["background_events"] == 0
    json.dumps(metrics, allow_nan=False)


def test_background_weights_that_cancel_give_a_limit_and_say_so():
    given = predictions([0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0, 0, 1, 1, 0, 0], [-1, 1, 1, 1, 30, 30])
    rejection = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=0)["test"]["rejection"][
        "at_signal_0.5"
    ]
    assert rejection["value"] is None
    assert rejection["reason"] == "the weights of the background events that pass the cut sum to zero or less"
    assert rejection["background_events"] == 2


def test_the_curve_is_kept_on_a_grid():
    given = binormal(np.random.default_rng(3), 500)
    found = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=100)["test"]
    curve = found["roc"]
    assert curve["signal_efficiency"][49] == 0.5
    assert curve["background_efficiency"][-1] <= 1
    assert 1 / curve["background_efficiency"][49] == pytest.approx(
        found["rejection"]["at_signal_0.5"]["value"], rel=1e-5
    )
    low, value, high = (np.array(curve[k]) for k in ("low", "background_efficiency", "high"))
    assert (low <= high).all()
    # The value lies within one standard deviation of the replicas around it, up to the steps of one event.
    assert ((low - 1 / 500 <= value) & (value <= high + 1 / 500)).all()
    interval = found["rejection"]["at_signal_0.5"]["interval_68"]
    assert interval == pytest.approx([1 / high[49], 1 / low[49]], rel=1e-5)


# Uncertainties


def delong_error(given):
    """Standard error of the AUC for unit weights: DeLong et al., Biometrics 44 (1988) 837, eq. 5."""
    s, b = given.scores[given.labels == 1, 1], given.scores[given.labels == 0, 1]
    right = (s[:, None] > b[None, :]) + 0.5 * (s[:, None] == b[None, :])
    return np.sqrt(right.mean(axis=1).var(ddof=1) / len(s) + right.mean(axis=0).var(ddof=1) / len(b))


@pytest.mark.parametrize("rounded", [False, True])
def test_bootstrap_error_of_the_area_is_the_analytic_one(rounded):
    given = binormal(np.random.default_rng(11), 600)
    if rounded:
        given = predictions(np.round(given.scores[:, 1], 1), given.labels)
    n = 800
    error = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=n)["test"]["auc"]["error"]
    # The spread of n replicas is known to 1/sqrt(2n); the two variances differ by terms of order 1/600.
    assert abs(error / delong_error(given) - 1) < 4 / np.sqrt(2 * n) + 4 / 600


def test_bootstrap_errors_are_the_spread_over_samples_with_negative_weights():
    rng = np.random.default_rng(12)
    n_samples, n_replicas = 150, 150
    paths = [("auc",), ("signal_efficiency", "at_background_0.30"), ("accuracy",), ("log_loss",)]
    values, errors = [], []
    for _ in range(n_samples):
        found = evaluate(
            {"x": binormal(rng, 400, negative=0.2)}, NAMES, signal="top", n_bootstrap=n_replicas
        )["x"]
        picked = [found[p[0]] if len(p) == 1 else found[p[0]][p[1]] for p in paths]
        values.append([p["value"] for p in picked])
        errors.append([p["error"] for p in picked])
    # Each sample's error scatters by about 10 %, the spread over samples by 1/sqrt(2 n_samples) = 6 %.
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    assert np.abs(ratio - 1).max() < 4 / np.sqrt(2 * n_samples)
    # The area needs no correction for negative weights: its mean is that of the two Gaussians.
    area, spread = np.mean(values, axis=0)[0], np.std(values, axis=0)[0] / np.sqrt(n_samples)
    assert abs(area - norm.cdf(np.sqrt(2))) < 4 * spread


@pytest.mark.parametrize("negative", [0.0, 0.3])
def test_errors_are_those_of_the_replicas_one_by_one(negative):
    given, n, seed = binormal(np.random.default_rng(14), 150, negative=negative), 9, 3
    found = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=n, seed=seed)["test"]
    rows = np.concatenate(list(bootstrap_weights(given.weights, given.labels, n, (seed, *b"test"))))
    curves = [roc_curve(given.scores[:, 1], given.labels == 1, row) for row in rows]
    areas = np.array([curve.auc for curve in curves])
    kept = np.array([curve.signal_efficiency_at(0.1) for curve in curves])
    left = np.array([curve.background_efficiency_at(0.7) for curve in curves])
    right = (given.scores.argmax(axis=1) == given.labels) @ rows.T / rows.sum(axis=1)
    rejection = found["rejection"]["at_signal_0.7"]
    for measured, values in (
        (found["auc"], areas),
        (found["signal_efficiency"]["at_background_0.10"], kept),
        (found["accuracy"], right),
    ):
        assert measured["value"] == pytest.approx(values[0], rel=1e-12)
        assert measured["error"] == pytest.approx(np.std(values[1:], ddof=1), rel=1e-9)
    assert rejection["value"] == pytest.approx(1 / left[0], rel=1e-12)
    # The error of 1/x is that of x over x squared.
    assert rejection["error"] == pytest.approx(np.std(left[1:], ddof=1) / left[0] ** 2, rel=1e-9)
    quantiles = np.quantile(left[1:], norm.cdf([1, -1]))
    assert rejection["interval_68"] == [pytest.approx(1 / q, rel=1e-9) if q > 0 else None for q in quantiles]


def test_replicas_without_a_positive_sum_are_left_out():
    # Background weights 1, 1, -1: seven of 27 replicas sum to zero or less.
    given = predictions([0.9, 0.5, 0.3, 0.1], [1, 0, 0, 0], [1, 1, 1, -1])
    metrics = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=100)
    json.dumps(metrics, allow_nan=False)
    assert metrics["test"]["auc"]["value"] == 1.0
    assert np.isfinite(metrics["test"]["accuracy"]["error"])


def test_one_replica_has_no_spread():
    given = binormal(np.random.default_rng(3), 20)
    found = evaluate({"test": given}, NAMES, signal="top", n_bootstrap=1)["test"]
    assert found["auc"]["error"] is None
    assert found["roc"]["low"] is None


def test_the_same_seed_gives_the_same_numbers_whatever_else_is_evaluated():
    rng = np.random.default_rng(13)
    test, train = binormal(rng, 200), binormal(rng, 300)
    alone = evaluate({"test": test}, NAMES, signal="top", n_bootstrap=30, seed=4)
    both = evaluate({"train": train, "test": test}, NAMES, signal="top", n_bootstrap=30, seed=4)
    other = evaluate({"test": test}, NAMES, signal="top", n_bootstrap=30, seed=5)
    assert alone["test"] == both["test"]
    assert alone["test"]["auc"]["value"] == other["test"]["auc"]["value"]
    assert alone["test"]["auc"]["error"] != other["test"]["auc"]["error"]


# Overtraining


def test_samples_of_one_kind_show_no_overtraining():
    rng = np.random.default_rng(21)
    metrics = evaluate(
        {"train": binormal(rng, 1500), "test": binormal(rng, 500)}, NAMES, signal="top", n_bootstrap=50
    )
    found = metrics["overtraining"]
    assert found["status"] == "none"
    assert min(found["ks_signal"], found["ks_background"]) > 0.025
    assert found["effective_signal"] == {"train": 1500.0, "test": 500.0}


def compared(train, test):
    metrics = evaluate({"train": train, "test": test}, NAMES, signal="top", n_bootstrap=50)
    return metrics["overtraining"]


def test_a_network_that_knows_its_training_events_is_found_out():
    rng = np.random.default_rng(22)
    found = compared(binormal(rng, 1500, shift=3.0), binormal(rng, 500))
    assert found["status"] == "overtrained"
    assert max(found["ks_signal"], found["ks_background"]) < 1e-3
    gap = norm.cdf(3 / np.sqrt(2)) - norm.cdf(2 / np.sqrt(2))
    assert abs(found["auc_difference"]["value"] - gap) < 4 * found["auc_difference"]["error"]


def test_a_small_gap_is_seen_in_the_area_first():
    def gaussians(n, shift):  # at their quantiles: samples without fluctuations
        x = norm.ppf((np.arange(n) + 0.5) / n)
        return predictions(norm.cdf(np.append(x - shift / 2, x + shift / 2)), np.arange(2 * n) >= n)

    found = compared(gaussians(1500, 2.2), gaussians(500, 2.0))
    assert found["status"] == "gap"
    assert found["auc_difference"]["value"] > 2 * found["auc_difference"]["error"]


def test_samples_that_differ_without_a_gap_are_not_called_overtrained():
    rng = np.random.default_rng(24)
    train = binormal(rng, 1500)
    moved = predictions(np.sqrt(train.scores[:, 1]), train.labels)  # other scores, the same order
    assert compared(moved, binormal(rng, 500))["status"] == "differ"


def test_without_train_and_test_there_is_nothing_to_compare():
    given = binormal(np.random.default_rng(3), 20)
    assert evaluate({"new": given}, NAMES, signal="top", n_bootstrap=0)["overtraining"] is None


# What is refused


def good():
    return predictions([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0])


def with_score(value):
    scores = good().scores.copy()
    scores[2, 1] = value
    return dataclasses.replace(good(), scores=scores)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            with_score(np.nan),
            "test: score of class 'top' in event 102 is nan; a probability from 0 to 1 is needed",
        ),
        (with_score(-np.inf), "test: score of class 'top' in event 102 is -inf;"),
        (with_score(1.5), "test: score of class 'top' in event 102 is 1.5;"),
        (
            dataclasses.replace(good(), scores=np.zeros((4, 3))),
            "test: scores have shape (4, 3); 4 labels and 2 classes",
        ),
        (dataclasses.replace(good(), scores=np.zeros(4)), "test: scores have shape (4,);"),
        (
            dataclasses.replace(good(), weights=np.ones(3)),
            "test: weights have shape (3,); 4 events need (4,)",
        ),
        (dataclasses.replace(good(), events=np.arange(5)), "test: events have shape (5,);"),
        (predictions([], []), "test: no events to evaluate"),
        (
            predictions([0.1, 0.2], [1, 1]),
            "test: no event of class 'qcd', only of 'top'; every class is needed",
        ),
        (predictions([0.1, 0.2], [1, 2]), "test: label of event 101 is 2; 2 classes have labels 0 to 1"),
        (
            predictions([0.1, 0.2], [1, 0], [1, np.nan]),
            "test: weight of event 101 is nan, not a finite number",
        ),
        (
            predictions([0.1, 0.2, 0.3], [1, 0, 0], [1, 0, 0]),
            "weights of the 2 events of class 'qcd' are all zero",
        ),
        (
            predictions([0.1, 0.2, 0.3], [1, 0, 0], [1, 2, -2]),
            "weights of the 2 events of class 'qcd' sum to 0;",
        ),
        (
            predictions([0.1, 0.2, 0.3], [1, 0, 0], [1, 2, -3]),
            "weights of the 2 events of class 'qcd' sum to -1;",
        ),
    ],
)
def test_predictions_that_cannot_be_evaluated(given, message):
    with pytest.raises(DataError) as caught:
        evaluate({"test": given}, NAMES, signal="top")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (NAMES, {"signal": "tap"}, "signal: no class 'tap'; nearest: 'top'"),
        (["top"], {}, "two or more different classes; given ['top']"),
        (["top", "top"], {}, "two or more different classes"),
        (NAMES, {"n_bootstrap": -1}, "number of bootstrap replicas: given -1, 0 or more is possible"),
    ],
)
def test_arguments_that_cannot_be(names, changes, message):
    with pytest.raises(ConfigError) as caught:
        evaluate({"test": good()}, names, **({"signal": "top", "n_bootstrap": 5} | changes))
    assert message in str(caught.value)


def test_a_split_may_not_take_a_name_of_the_file():
    with pytest.raises(ConfigError, match="a split cannot be called 'signal'"):
        evaluate({"signal": good()}, NAMES, signal="top")


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match="no split to evaluate"):
        evaluate({}, NAMES, signal="top")
