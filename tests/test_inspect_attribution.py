"""Attributions against what they are: sums, other libraries, differences, and sequences one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attribution_cases import Linear, events, model
from timelike.errors import ConfigError, DataError
from timelike.inspect import importance as importance_module
from timelike.inspect import scoring
from timelike.inspect.attribution import gradient_times_input, integrated_gradients
from timelike.inspect.importance import occlusion, permutation_importance
from timelike.model import predict
from timelike.nn import Ragged
from timelike.sequences import Sequences
from timelike.statistics import bootstrap_weights

EPS = np.finfo(np.float64).eps
OF = pytest.mark.parametrize("of", ["logit", "probability"])
CLASSES = pytest.mark.parametrize("n_classes", [2, 3])


def score_one(made, values, target, of="logit"):
    """Score one transformed sequence by itself, from the definition."""
    offsets = torch.tensor([0, len(values)])
    with torch.no_grad():
        z = made.network(Ragged(torch.tensor(values), offsets))[0].numpy()
    if of == "probability":
        return np.exp(z[target]) / np.exp(z).sum()
    return z[target] - z[1 - target] if len(z) == 2 else z[target]


def close(got, expected, tolerance):
    """Compare within a tolerance; NaN fails."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max(initial=0.0) <= tolerance


# Scores


@OF
@CLASSES
def test_scores_are_those_of_each_event_and_its_baseline(n_classes, of):
    made, given = model(n_classes), events(n_classes=n_classes)
    found = integrated_gradients(made, given, of=of, n_steps=2)
    ready = made.transforms.apply(given)
    last = n_classes - 1
    # A few operations on logits of order 1; the same bits in company but for the last subtraction.
    close(found.score, [score_one(made, x, last, of) for x in ready], 1e-13)
    close(found.baseline_score, [score_one(made, 0.0 * x, last, of) for x in ready], 1e-13)
    assert found.target == made.signal == made.class_names[last]
    if of == "probability":
        close(found.score, predict(made, given)[:, last], 1e-13)


# Integrated gradients


@OF
@CLASSES
def test_integrated_gradients_are_complete_the_better_the_more_points(n_classes, of):
    made, given = model(n_classes), events(n_classes=n_classes)
    errors = [
        np.abs(integrated_gradients(made, given, n_steps=n, of=of).completeness_error).max()
        for n in (1, 2, 5, 80)
    ]
    # A rule of n points converges faster than any power of n for a smooth network, down to rounding.
    assert errors[0] > 1e-3
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[3] < 1e-9


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_linear_network_is_attributed_exactly(n_steps):
    given, weights, start = events(), np.array([0.5, -2.0, 0.0]), np.array([1.0, 2.0, 3.0])
    found = integrated_gradients(Linear(*weights), given, n_steps=n_steps, baseline=start)
    # n weights of the rule sum to 1 to n eps.
    close(found.values, (given.values - start) * weights, 8 * (n_steps + 1) * EPS * 30)
    close(found.completeness_error, np.zeros(len(given)), 64 * EPS * np.abs(found.score).max())
    close(gradient_times_input(Linear(*weights), given).values, given.values * weights, 4 * EPS * 30)


@pytest.mark.parametrize("n_steps", [1, 7, 50])
@pytest.mark.parametrize("rounded", [True, False], ids=["same weights", "as it is"])
def test_integrated_gradients_equal_those_of_captum(monkeypatch, n_steps, rounded):
    from captum.attr import IntegratedGradients

    leggauss = np.polynomial.legendre.leggauss

    def in_single_precision(n):  # Captum rounds the weights of its points; here both work with such ones
        nodes, weights = leggauss(n)
        return nodes, weights.astype(np.float32).astype(np.float64)

    if rounded:
        monkeypatch.setattr(np.polynomial.legendre, "leggauss", in_single_precision)
    made, given = model(3), events(n_classes=3)
    found = integrated_gradients(made, given, target="top", n_steps=n_steps)
    ready = made.transforms.apply(given)

    def forward(padded):  # [points, T, D], of one sequence at many points
        points, T, D = padded.shape
        return made.network(Ragged(padded.reshape(-1, D), torch.arange(points + 1) * T))

    method = IntegratedGradients(forward)
    for b, x in enumerate(ready):
        if len(x) == 0:
            assert found.at(b).shape == (0, 3)
            continue
        expected = method.attribute(torch.tensor(x)[None], target=1, n_steps=n_steps, method="gausslegendre")
        # Sums of n terms, each of a chain of some hundred roundings.
        unit = (100 + n_steps) * EPS if rounded else np.finfo(np.float32).eps
        close(found.at(b), expected[0].numpy(), unit * max(1.0, np.abs(expected.numpy()).max()))


def test_batches_do_not_change_attributions(monkeypatch):
    made, given = model(), events(30)
    whole = integrated_gradients(made, given, n_steps=9)
    whole_occlusion = occlusion(made, given)
    for rows in (1, 5, 17):
        monkeypatch.setattr("timelike.inspect.attribution.ROWS_AT_ONCE", rows)
        monkeypatch.setattr(importance_module, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(scoring, "ROWS_AT_ONCE", rows)
        found = integrated_gradients(made, given, n_steps=9)
        close(
            found.values, whole.values, 16 * EPS * np.abs(whole.values).max()
        )  # another order of nine terms
        close(occlusion(made, given).effect, whole_occlusion.effect, 16 * EPS * np.abs(whole.score).max())


def test_a_baseline_of_its_own_is_where_the_way_starts():
    made, given = model(), events()
    start = np.array([0.3, -0.2, 0.1])
    found = integrated_gradients(made, given, baseline=start, n_steps=80)
    ready = made.transforms.apply(given)
    close(found.baseline_score, [score_one(made, np.tile(start, (len(x), 1)), 1) for x in ready], 1e-13)
    close(found.completeness_error, np.zeros(len(given)), 1e-9)


def test_classes_by_name_and_number_and_two_logits_are_opposite():
    made, given = model(), events()
    top, qcd = (integrated_gradients(made, given, target=name, n_steps=4) for name in ("top", 0))
    assert qcd.target == "qcd"
    close(top.values, -qcd.values, 4 * EPS * np.abs(top.values).max())


# Gradient times input


@OF
@CLASSES
def test_gradient_times_input_equals_finite_differences(n_classes, of):
    made, given = model(n_classes), events(n_classes=n_classes)
    found = gradient_times_input(made, given, of=of)
    ready = made.transforms.apply(given)
    h = EPS ** (1 / 3)  # least sum of truncation, h^2, and rounding, eps / h
    for b, x in enumerate(ready):
        expected = np.empty_like(x)
        for place in np.ndindex(*x.shape):
            ends = []
            for step in (h, -h):
                moved = x.copy()
                moved[place] += step
                ends.append(score_one(made, moved, n_classes - 1, of))
            expected[place] = x[place] * (ends[0] - ends[1]) / (2 * h)
        close(found.at(b), expected, 100 * h**2)


def test_gradient_times_input_says_that_it_is_not_complete():
    found = gradient_times_input(model(), events())
    assert np.abs(found.completeness_error).max() > 1e-2
    assert "completeness error" in repr(found)


# What an attribution gives


def test_sums_by_step_and_by_variable():
    found = integrated_gradients(model(), events(), n_steps=3)
    each = [found.at(b) for b in range(len(found))]
    np.testing.assert_array_equal(found.by_step(), np.concatenate([a.sum(axis=1) for a in each]))
    close(found.by_variable(), np.stack([a.sum(axis=0) for a in each]), 1e-14)
    np.testing.assert_array_equal(found.at(-1), each[-1])
    with pytest.raises(DataError, match=r"event 7: there are the events 0..6"):
        found.at(7)


def test_averages_by_class_with_negative_weights():
    # Steps of one variable sum to 1, 5 and 3; weights 2, -1 and 1.
    given = Sequences(
        np.array([[1.0], [2.0], [3.0], [3.0]]),
        [0, 1, 3, 4],
        ("x",),
        labels=[1, 1, 0],
        weights=[2.0, -1.0, 1.0],
    )
    found = integrated_gradients(Linear(1.0), given, n_steps=1)
    means = found.averages()
    assert means.class_names == ("0", "1")
    close(means.mean, [[3.0], [2 * 1.0 - 5.0]], 1e-13)
    close(means.error, [[0.0], [np.sqrt(4 * 4.0**2 + 8.0**2)]], 1e-12)
    close(means.magnitude, [[3.0], [-3.0]], 1e-13)
    same = found.averages([1, 1, 1], [1.0, 1.0, 1.0])
    assert same.class_names == ("1",)
    close(same.mean, [[3.0]], 1e-13)
    with pytest.raises(DataError, match="event weights sum to 0"):
        found.averages(weights=[1.0, -1.0, 1.0])
    with pytest.raises(DataError, match="event 0 has label 2"):
        found.averages([2, 0, 0])
    with pytest.raises(DataError, match="3 events"):
        found.averages([0, 0])


def test_networks_are_left_as_they_were():
    made, given = model(head={"units": (4,), "dropout": 0.5}), events()
    made.network.train()
    made.network.head[0].eval()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    weights = [p.detach().clone() for p in made.network.parameters()]
    first = integrated_gradients(made, given, n_steps=3).values
    np.testing.assert_array_equal(first, integrated_gradients(made, given, n_steps=3).values)  # no dropout
    occlusion(made, given)
    permutation_importance(made, given, n_repeats=1, n_bootstrap=0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert made.network.training
    assert not made.network.head[0].training
    assert made.network.head[1].training
    for p, w in zip(made.network.parameters(), weights, strict=True):
        assert p.grad is None
        assert torch.equal(p, w)


def test_float32_models_agree_with_float64():
    given = events(20)
    exact = integrated_gradients(model(), given, n_steps=20)
    single = model(dtype=torch.float32)
    for p, q in zip(single.network.parameters(), model().network.parameters(), strict=True):
        p.data.copy_(q.data)
    found = integrated_gradients(single, given, n_steps=20)
    assert found.values.dtype == np.float64
    # Roundings of weights and of some hundred operations.
    close(found.values, exact.values, 1000 * np.finfo(np.float32).eps * np.abs(exact.values).max())


# Occlusion


@OF
@CLASSES
def test_occlusion_equals_scoring_shortened_sequences_one_at_a_time(n_classes, of):
    made, given = model(n_classes), events(n_classes=n_classes)
    found = occlusion(made, given, of=of)
    ready = made.transforms.apply(given)
    last = n_classes - 1
    for b, x in enumerate(ready):
        whole = score_one(made, x, last, of)
        without = [score_one(made, np.delete(x, t, axis=0), last, of) - whole for t in range(len(x))]
        close(found.at(b), np.array(without).reshape(len(x)), 1e-13)
    assert len(found.at(1)) == 0  # no step
    assert len(found.at(2)) == 1  # its only step: the score of nothing


def test_occlusion_of_a_linear_network_is_minus_each_step():
    given = events()
    found = occlusion(Linear(1.0, 2.0, 3.0), given)
    close(found.effect, -given.values @ [1.0, 2.0, 3.0], 1e-12)


# Permutation importance


def pairs(scores, labels, weights):
    """The AUC from all pairs."""
    signal, background = labels == 1, labels == 0
    right = np.sign(scores[signal][:, None] - scores[background][None]) / 2 + 0.5
    w = weights[signal][:, None] * weights[background][None]
    return (w * right).sum() / w.sum()


def test_importance_by_hand_with_a_negative_weight():
    # Signal 2 (weight 1), background 1 (weight 2) and 3 (weight -1): the AUC is 2 [s > b1] - [s > b2] = 2.
    # The six orders give 2, 0, 1, 1, 0, -1, so that 0, 2, 1, 1, 2, 3 is lost, 1.5 in the mean.
    given = Sequences(
        np.array([[2.0], [1.0], [3.0]]), [0, 1, 2, 3], ("x",), labels=[1, 0, 0], weights=[1.0, 2.0, -1.0]
    )
    found = permutation_importance(Linear(1.0), given, n_repeats=400, n_bootstrap=0)
    assert found.reference == 2.0
    assert set(found.repeats[0]) == {0.0, 1.0, 2.0, 3.0}
    variance = (0 + 4 + 1 + 1 + 4 + 9) / 6 - 1.5**2
    assert abs(found.importance[0] - 1.5) < 5 * np.sqrt(variance / 400)
    assert found.error is None
    close(found.spread, [np.std(found.repeats, ddof=1)], 1e-14)


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_importance_is_the_loss_of_the_metric(metric):
    given, weights = events(60), np.array([1.0, -0.3, 0.2])
    found = permutation_importance(Linear(*weights), given, n_repeats=2, seed=5, metric=metric, n_bootstrap=0)
    labels, w = given.labels, given.weights

    def measured(values):
        scores = np.array([x.sum() for x in np.split(values @ weights, given.offsets[1:-1])])
        if metric == "auc":
            return pairs(scores, labels, w)
        surprise = np.logaddexp(0.0, np.where(labels == 1, -scores, scores))
        return (w * surprise).sum() / w.sum()

    sign = 1 if metric == "auc" else -1
    assert found.reference == pytest.approx(measured(given.values), rel=1e-12)
    for d in range(3):
        rng = np.random.default_rng((5, d))
        for r in range(2):
            shuffled = given.values.copy()
            shuffled[:, d] = shuffled[rng.permutation(len(shuffled)), d]
            lost = sign * (measured(given.values) - measured(shuffled))
            assert found.repeats[d, r] == pytest.approx(lost, rel=1e-9, abs=1e-12)


def test_importance_of_several_classes_is_the_mean_over_classes():
    given, made = events(60, n_classes=3), model(3)
    found = permutation_importance(made, given, n_repeats=1, n_bootstrap=5)
    p = predict(made, given)
    areas = [pairs(p[:, c], (given.labels == c).astype(int), given.weights) for c in range(3)]
    assert found.reference == pytest.approx(np.mean(areas), rel=1e-12)
    assert found.error.shape == (3,)


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_a_variable_that_the_network_ignores_has_exactly_no_importance(metric):
    made, given = model(), events(60)
    with torch.no_grad():
        made.network.recurrent[0].weight_ih_l0[:, 1] = 0.0
    found = permutation_importance(made, given, n_repeats=3, metric=metric)
    assert (found.repeats[1] == 0).all()
    assert found.error[1] == 0
    assert (found.repeats[[0, 2]] != 0).any(axis=1).all()


def test_importance_is_the_same_for_the_same_seed():
    made, given = model(), events(60)
    first, second, other = (permutation_importance(made, given, n_repeats=3, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(first.repeats, second.repeats)
    np.testing.assert_array_equal(first.error, second.error)
    assert (first.repeats != other.repeats).any()


def test_the_table_is_sorted():
    found = permutation_importance(Linear(0.1, 3.0, -1.0), events(100), n_repeats=3)
    table = found.table()
    assert [row[1] for row in table] == sorted(found.importance, reverse=True)
    assert table[0][0] == found.names[int(np.argmax(found.importance))]
    assert str(found).splitlines()[0].startswith(table[0][0])
    assert "±" in str(found)


def test_errors_are_of_the_mean_over_shuffles_in_replicas_of_the_events():
    given, weights, R = events(60), np.array([1.0, -0.3, 0.2]), 3
    found = permutation_importance(Linear(*weights), given, n_repeats=R, seed=5, n_bootstrap=20)
    replicas = np.concatenate(list(bootstrap_weights(given.weights, given.labels, 20, (5, *b"bootstrap"))))[
        1:
    ]

    def measured(values):
        scores = np.array([x.sum() for x in np.split(values @ weights, given.offsets[1:-1])])
        return np.array([pairs(scores, given.labels, w) for w in replicas])

    whole = measured(given.values)
    assert found.reference_error == pytest.approx(np.std(whole, ddof=1), rel=1e-9)
    for d in range(3):
        rng, lost = np.random.default_rng((5, d)), []
        for _ in range(R):
            shuffled = given.values.copy()
            shuffled[:, d] = shuffled[rng.permutation(len(shuffled)), d]
            lost.append(whole - measured(shuffled))
        assert found.error[d] == pytest.approx(np.std(np.mean(lost, axis=0), ddof=1), rel=1e-9)


def test_the_uncertainty_is_the_spread_over_samples():
    def sample(seed):
        rng = np.random.default_rng(seed)
        labels = np.arange(200) % 2
        values = rng.normal(size=(200, 2)) + labels[:, None] * [1.0, 0.5]
        return Sequences(values, np.arange(201), labels=labels)

    found = [permutation_importance(Linear(1.0, 1.0), sample(s), n_repeats=3, seed=s) for s in range(60)]
    values = np.array([one.importance for one in found])
    errors = np.array([one.error for one in found])
    # The standard deviation of 60 values is known to 1 / sqrt(2 * 59) = 9 %: four of these.
    ratio = errors.mean(axis=0) / values.std(axis=0, ddof=1)
    assert ((ratio > 0.63) & (ratio < 1.37)).all()


# Mistakes


class Constant(nn.Module):
    def forward(self, batch):
        return torch.zeros(len(batch.offsets) - 1, 2)


class Wrong(nn.Module):
    def forward(self, batch):
        return batch.values.sum(dim=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tops"}, r"target 'tops': no such class; nearest: 'top'"),
        ({"target": 2}, r"target 2: there are the classes 0..1"),
        ({"of": "odds"}, r"of='odds': possible are 'logit', 'probability'"),
        ({"n_steps": 0}, r"n_steps=0: an integer of 1 or more"),
        ({"baseline": [0.0]}, r"baseline has shape \(1,\); \[3\] finite numbers are needed: pt, eta, phi"),
        ({"baseline": [0.0, np.nan, 0.0]}, r"baseline has values \[0.0, nan, 0.0\]"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        integrated_gradients(model(), events(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_repeats": 0}, "n_repeats=0"),
        ({"n_bootstrap": -1}, "n_bootstrap=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"metric": "accuracy"}, "metric='accuracy': possible are 'auc', 'log_loss'"),
    ],
)
def test_mistakes_of_importance_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        permutation_importance(model(), events(), **options)


def test_what_cannot_be_attributed_is_said():
    given = events()
    with pytest.raises(ConfigError, match="a str cannot be looked into"):
        integrated_gradients("model", given)
    with pytest.raises(ConfigError, match="Sequences are needed, got ndarray"):
        integrated_gradients(model(), given.values)
    with pytest.raises(ConfigError, match=r"Wrong gave shape \(19,\); logits"):
        integrated_gradients(Wrong(), given)
    with pytest.raises(DataError, match="without a graph"):
        integrated_gradients(Constant(), given)
    with pytest.raises(DataError, match="no sequences"):
        integrated_gradients(model(), given[:0])
    with pytest.raises(DataError, match="variable 'pt' is nan in sequence 0, step 0"):
        integrated_gradients(model(), given.replace(values=np.full_like(given.values, np.nan)))
    with pytest.raises(DataError, match="needs labels"):
        permutation_importance(model(), given.replace(labels=None))
    with pytest.raises(DataError, match="has label 2"):
        permutation_importance(model(), given.replace(labels=[2] * 7))
    with pytest.raises(DataError, match="needs a positive sum"):
        permutation_importance(model(), given.replace(weights=[-1.0] * 7))
    with pytest.raises(DataError, match="event weights sum to -7"):
        permutation_importance(model(), given.replace(weights=[-1.0] * 7), metric="log_loss")
