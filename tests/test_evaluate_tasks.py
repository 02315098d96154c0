"""Judging numbers and labels: against plain formulas, with errors that hold what they promise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from timelike.errors import ConfigError, DataError
from timelike.evaluate import evaluate
from timelike.merits import lines_of_merit
from timelike.multilabel import evaluate_multilabel, of_label
from timelike.predictions import Estimates, Predictions
from timelike.regression import evaluate_regression, middle
from timelike.statistics import bootstrap_weights


def numbers(n: int = 500, *, seed: int = 0, k: int = 2, negative: bool = True, **more: Any) -> Estimates:
    rng = np.random.default_rng(seed)
    t = rng.normal(50.0, [2.0, 5.0][:k], (n, k))
    weights = np.where(rng.random(n) < 0.1, -0.5, 1.5) if negative else np.ones(n)
    return Estimates(t + rng.normal(0.3, 1.0, (n, k)), t, weights, np.arange(n), **more)


def plain(found: Estimates, k: int) -> dict[str, float]:
    """Compute what `timelike.regression` describes, one formula at a time."""
    t, p, w = found.targets[:, k], found.values[:, k], found.weights
    mean = np.average(t, weights=w)
    variance = np.average((t - mean) ** 2, weights=w)
    cross = np.average((t - mean) * (p - np.average(p, weights=w)), weights=w)
    variance_p = np.average((p - np.average(p, weights=w)) ** 2, weights=w)
    return {
        "rmse": np.sqrt(np.average((p - t) ** 2, weights=w)),
        "mae": np.average(np.abs(p - t), weights=w),
        "bias": np.average(p - t, weights=w),
        "r2": 1 - np.average((p - t) ** 2, weights=w) / variance,
        "correlation": cross / np.sqrt(variance * variance_p),
        "mean": mean,
        "spread": np.sqrt(variance),
    }


def test_figures_by_plain_formulas() -> None:
    found = numbers()
    metrics = evaluate_regression({"test": found}, ["a", "b"], n_bootstrap=0)
    for k, name in enumerate("ab"):
        for key, value in plain(found, k).items():
            got = metrics["test"]["targets"][name][key]
            # Sums of 500 numbers about their middle, and one difference of means that are 50 times larger.
            assert got["value"] == pytest.approx(value, rel=1e-11), key
            assert got["error"] is None
    assert metrics["overtraining"] is None
    json.dumps(metrics, allow_nan=False)


def test_numbers_far_from_zero_keep_their_digits() -> None:
    found = numbers(negative=False)
    far = Estimates(found.values + 1e9, found.targets + 1e9, found.weights, found.events)
    near, there = (evaluate_regression({"test": e}, ["a", "b"], n_bootstrap=0) for e in (found, far))
    for key in ("rmse", "bias", "r2", "correlation", "resolution"):
        one, other = (m["test"]["targets"]["a"][key]["value"] for m in (near, there))
        assert other == pytest.approx(one, abs=1e-6), key  # a number of 1e9 has 1e-7


def test_the_resolution_is_the_standard_deviation_of_a_normal_residual_and_blind_to_outliers() -> None:
    rng = np.random.default_rng(3)
    t = rng.normal(size=(40_000, 1))
    p = t + rng.normal(0.2, 0.5, t.shape)
    p[:40] += 1000.0
    found = Estimates(p, t, np.ones(len(t)), np.arange(len(t)))
    a = evaluate_regression({"test": found}, ["a"], n_bootstrap=40)["test"]["targets"]["a"]
    assert abs(a["resolution"]["value"] - 0.5) < 4 * a["resolution"]["error"] < 0.03
    assert abs(a["median"]["value"] - 0.2) < 4 * a["median"]["error"] < 0.03
    assert a["rmse"]["value"] > 10


def test_the_error_of_the_root_mean_square_is_that_of_theory() -> None:
    """Of n normal residuals without bias, sigma / sqrt(2 n)."""
    rng = np.random.default_rng(4)
    t = rng.normal(size=(2000, 1))
    found = Estimates(t + rng.normal(size=t.shape), t, np.ones(2000), np.arange(2000))
    rmse = evaluate_regression({"test": found}, ["a"], n_bootstrap=400)["test"]["targets"]["a"]["rmse"]
    assert rmse["error"] == pytest.approx(1 / np.sqrt(4000), rel=0.15)  # 400 replicas know it to 3.5 %


def test_steps_of_an_event_are_drawn_together() -> None:
    """Steps that repeat the same numbers tell no more than one of them: the error stays that of events."""
    one = numbers(400, k=1, negative=False)
    times = 5
    repeated = Estimates(
        np.repeat(one.values, times, axis=0),
        np.repeat(one.targets, times, axis=0),
        np.ones(400 * times),
        np.repeat(one.events, times),
        np.repeat(np.arange(400), times),
    )
    apart = Estimates(repeated.values, repeated.targets, repeated.weights, repeated.events)
    error = [
        evaluate_regression({"test": e}, ["a"], n_bootstrap=300)["test"]["targets"]["a"]["rmse"]["error"]
        for e in (one, repeated, apart)
    ]
    assert error[1] == pytest.approx(error[0], rel=0.2)
    assert error[2] < 0.6 * error[0]  # 1 / sqrt(5) of it
    metrics = evaluate_regression({"test": repeated}, ["a"], n_bootstrap=0)
    assert (metrics["unit"], metrics["test"]["events"], metrics["test"]["rows"]) == ("step", 400, 2000)


def test_replicas_of_groups() -> None:
    weights = np.array([1.0, 2.0, -3.0, 4.0, 5.0])
    groups = np.array([0, 0, 1, 2, 2])
    rows = np.concatenate(list(bootstrap_weights(weights, None, 50, 1, groups)))
    np.testing.assert_array_equal(rows[0], weights)
    times = rows / weights
    for first, second in ((0, 1), (3, 4)):
        np.testing.assert_array_equal(times[:, first], times[:, second])
    np.testing.assert_array_equal(times[:, [0, 2, 3]].sum(axis=1), 3)
    assert len(np.unique(times[1:], axis=0)) > 5


def test_quantiles() -> None:
    rng = np.random.default_rng(5)
    t = rng.normal(size=(5000, 1))
    shares = (0.1, 0.45, 0.9)
    at = np.array([-1.2815515655446004, -0.12566134685507402, 1.2815515655446004])
    found = Estimates(np.tile(at, (5000, 1)), t, np.ones(5000), np.arange(5000))
    a = evaluate_regression({"test": found}, ["a"], quantiles=shares, n_bootstrap=50)["test"]["targets"]["a"]
    for q, share in zip(at, shares, strict=True):
        one = a["quantiles"][f"{share:g}"]
        assert one["coverage"]["value"] == pytest.approx((t <= q).mean(), rel=1e-12)
        assert abs(one["coverage"]["value"] - share) < 4 * one["coverage"]["error"] < 0.04
        d = t - q
        assert one["pinball"]["value"] == pytest.approx(
            np.maximum(share * d, (share - 1) * d).mean(), rel=1e-12
        )
    inside = ((t > at[0]) & (t <= at[2])).mean()
    assert a["interval"]["coverage"]["value"] == pytest.approx(inside, rel=1e-12)
    assert a["interval"]["nominal"] == pytest.approx(0.8)
    assert a["interval"]["width"]["value"] == pytest.approx(2 * at[2], rel=1e-12)
    assert a["bias"]["value"] == pytest.approx((at[1] - t).mean(), rel=1e-11)
    assert middle(shares) == 1


def test_the_deviance_of_counts() -> None:
    t = np.array([[0.0], [3.0], [2.0]])
    p = np.array([[0.5], [2.0], [2.0]])
    found = Estimates(p, t, np.array([1.0, 2.0, 1.0]), np.arange(3))
    a = evaluate_regression({"test": found}, ["a"], counts=True, n_bootstrap=0)["test"]["targets"]["a"]
    expected = 2 * (1 * 0.5 + 2 * (3 * np.log(1.5) - 1)) / 4
    assert a["deviance"]["value"] == pytest.approx(expected, rel=1e-14)


def test_the_comparison_with_training_tells_a_network_that_knows_its_events() -> None:
    test = numbers(800, seed=1)
    known = numbers(800, seed=2)
    better = Estimates(
        known.targets + (known.values - known.targets) / 2, known.targets, known.weights, known.events
    )
    told = evaluate_regression({"train": better, "test": test}, ["a", "b"], n_bootstrap=50)["overtraining"]
    assert told["status"] == "gap"
    assert "a, b" in told["verdict"]
    told = evaluate_regression({"train": known, "test": test}, ["a", "b"], n_bootstrap=50)["overtraining"]
    assert told["status"] == "none"


def test_a_target_without_spread() -> None:
    t = np.full((6, 1), 3.0)
    found = Estimates(t + 0.5, t, np.ones(6), np.arange(6))
    a = evaluate_regression({"test": found}, ["a"], n_bootstrap=10)["test"]["targets"]["a"]
    assert a["r2"] == {"value": None, "error": None}
    assert a["correlation"]["value"] is None
    assert a["rmse"]["value"] == 0.5


def test_an_error_that_negative_weights_forbid() -> None:
    t = np.arange(4.0)[:, None]
    off = Estimates(t + np.array([[0], [0], [0], [9]]), t, np.array([1.0, 1.0, 1.0, -1.0]), np.arange(4))
    near = Estimates(t + 0.5, t, np.ones(4), np.arange(4))
    metrics = evaluate_regression({"train": near, "test": off}, ["a"], n_bootstrap=0)
    assert metrics["test"]["targets"]["a"]["rmse"] == {"value": None, "error": None}
    assert metrics["overtraining"]["rmse_difference"]["a"] == {"value": None, "error": None}
    assert lines_of_merit(metrics)[0].startswith("a: RMSE – (train 0.500)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.zeros((4, 3))}, r"test: values have shape \(4, 3\); \(4, 2\) is needed"),
        ({"weights": np.array([1.0, np.nan, 1, 1])}, "test: weight of event 8 is nan"),
        ({"weights": -np.ones(4)}, "test: the weights sum to -4; a positive sum is needed"),
        (
            {"targets": np.array([[1.0, 2], [3, 4], [5, np.inf], [7, 8]])},
            "target of 'b' in event 9 is inf",
        ),
    ],
)
def test_what_cannot_be_judged(changes: Any, message: str) -> None:
    given = {"values": np.ones((4, 2)), "targets": np.ones((4, 2)), "weights": np.ones(4)}
    found = Estimates(**given | changes, events=np.arange(7, 11))
    with pytest.raises(DataError, match=message):
        evaluate_regression({"test": found}, ["a", "b"])


def test_nothing_to_judge() -> None:
    with pytest.raises(ConfigError, match="given -1, 0 or more"):
        evaluate_regression({"test": numbers()}, ["a", "b"], n_bootstrap=-1)
    with pytest.raises(DataError, match="no split"):
        evaluate_multilabel({}, ["a"])


# -- labels -------------------------------------------------------------------------------------------------


def labels(n: int = 400, *, seed: int = 0) -> Estimates:
    rng = np.random.default_rng(seed)
    holds = (rng.random((n, 3)) < [0.2, 0.5, 0.7]).astype(float)
    p = 1 / (1 + np.exp(-(rng.normal(size=(n, 3)) + 2 * holds - 1)))
    return Estimates(p, holds, np.where(rng.random(n) < 0.1, -0.5, 1.5), np.arange(n))


def test_a_label_is_judged_as_a_task_of_two_classes() -> None:
    found = labels()
    metrics = evaluate_multilabel({"test": found}, ["a", "b", "c"], n_bootstrap=0)["test"]
    for k, name in enumerate("abc"):
        own = evaluate({"test": of_label(found, k)}, ["no", "yes"], signal="yes", n_bootstrap=0)["test"]
        for key in ("auc", "signal_efficiency", "rejection", "separation", "roc"):
            assert metrics["labels"][name][key] == own[key]
    areas = [metrics["labels"][name]["auc"]["value"] for name in "abc"]
    assert metrics["auc_macro"]["value"] == pytest.approx(np.mean(areas), rel=1e-15)


def test_decisions_by_plain_formulas() -> None:
    found = labels()
    metrics = evaluate_multilabel({"test": found}, ["a", "b", "c"], n_bootstrap=20)["test"]
    said, holds, w = found.values > 0.5, found.targets == 1, found.weights
    right = said == holds
    assert metrics["accuracy"]["value"] == pytest.approx(np.average(right.mean(axis=1), weights=w), rel=1e-12)
    assert metrics["subset_accuracy"]["value"] == pytest.approx(
        np.average(right.all(axis=1), weights=w), rel=1e-12
    )
    b = metrics["labels"]["b"]
    precision = np.average(holds[said[:, 1], 1], weights=w[said[:, 1]])
    recall = np.average(said[holds[:, 1], 1], weights=w[holds[:, 1]])
    assert b["precision"]["value"] == pytest.approx(precision, rel=1e-12)
    assert b["recall"]["value"] == pytest.approx(recall, rel=1e-12)
    assert b["f1"]["value"] == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-12)
    assert b["prevalence"]["value"] == pytest.approx(np.average(holds[:, 1], weights=w), rel=1e-12)
    assert b["precision"]["error"] > 0


def test_a_label_that_is_never_decided_has_no_precision() -> None:
    found = labels()
    low = Estimates(found.values / 3, found.targets, found.weights, found.events)
    a = evaluate_multilabel({"test": low}, ["a", "b", "c"], n_bootstrap=5)["test"]["labels"]["a"]
    assert a["precision"] == {"value": None, "error": None}
    assert a["recall"]["value"] == 0


def test_a_label_that_always_holds_is_left_out() -> None:
    found = labels()
    always = found.targets.copy()
    always[:, 1] = 1
    given = Estimates(found.values, always, found.weights, found.events)
    metrics = evaluate_multilabel({"train": found, "test": given}, ["a", "b", "c"], n_bootstrap=5)
    assert (metrics["labels"], metrics["left_out"]) == (["a", "c"], ["b"])
    both = [metrics["test"]["labels"][name]["auc"]["value"] for name in "ac"]
    assert metrics["test"]["auc_macro"]["value"] == pytest.approx(np.mean(both), rel=1e-15)
    whole = evaluate_multilabel({"test": found}, ["a", "b", "c"], n_bootstrap=0)["test"]["labels"]
    assert metrics["test"]["labels"]["c"]["auc"]["value"] == whole["c"]["auc"]["value"]
    right = (found.values > 0.5) == (always == 1)  # decisions are of all labels
    accuracy = np.average(right.mean(axis=1), weights=found.weights)
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(accuracy, rel=1e-12)
    assert lines_of_merit(metrics)[-1] == "without b, of which train or test has none, or nothing else"
    alone = Estimates(found.values[:, 1:2], always[:, 1:2], found.weights, found.events)
    with pytest.raises(DataError, match="each label holds for every row of test, or for none"):
        evaluate_multilabel({"test": alone}, ["b"])


def test_train_and_test_are_compared_label_by_label() -> None:
    both = {"train": labels(seed=1), "test": labels(seed=2)}
    told = evaluate_multilabel(both, ["a", "b", "c"], n_bootstrap=30)["overtraining"]
    assert told["status"] == "none"
    own = evaluate(
        {split: of_label(found, 2) for split, found in both.items()},
        ["no", "yes"],
        signal="yes",
        n_bootstrap=0,
    )["overtraining"]
    assert told["one_vs_rest"]["c"]["ks_class"] == own["ks_signal"]
    assert told["ks_level"] == pytest.approx(0.05 / 6)


def test_classes_of_steps_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(60)
    said = Predictions(
        np.stack([1 - p, p], axis=1),
        rng.integers(0, 2, 60),
        np.ones(60),
        np.repeat(np.arange(20), 3),
        np.repeat(np.arange(20), 3),
    )
    metrics = evaluate({"train": said, "test": said}, ["a", "b"], signal="b", n_bootstrap=5)
    assert metrics["overtraining"] is None
    assert (metrics["unit"], metrics["test"]["events"], metrics["test"]["rows"]) == ("step", 20, 60)


def test_lines_of_merit() -> None:
    both = {"train": labels(seed=1), "test": labels(seed=2)}
    lines = lines_of_merit(evaluate_multilabel(both, ["a", "b", "c"], n_bootstrap=5))
    assert len(lines) == 6
    assert lines[0].startswith("AUC, mean of labels 0.")
    two = {"train": numbers(seed=1), "test": numbers(seed=2)}
    lines = lines_of_merit(evaluate_regression(two, ["a", "b"], n_bootstrap=5))
    assert [line.partition(":")[0] for line in lines] == ["a", "b"]
    assert "R2" in lines[0]
