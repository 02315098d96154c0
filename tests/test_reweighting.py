"""Kinematic reweighting: flat in each class, with the sum of weights as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timelike.config import FlattenConfig, load_config
from timelike.errors import DataError
from timelike.reweighting import Flattening
from timelike.sequences import Sequences
from timelike.train import read_splits, train

NAMES = ("qcd", "top")


def events(n: int = 4000, *, weights: bool = True, seed: int = 1) -> Sequences:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pt = 500 + 100 * rng.beta(np.where(labels, 1, 3), 2)
    w = np.where(rng.random(n) < 0.1, -0.5, 1.5) if weights else None
    return Sequences(np.zeros((0, 1)), np.zeros(n + 1, int), labels=labels, weights=w, observers={"pt": pt})


@pytest.mark.parametrize("weights", [False, True])
def test_every_class_is_flat_and_weighs_what_it_weighed(weights: bool) -> None:
    s = events(weights=weights)
    flat = Flattening.fit(s, FlattenConfig(observer="pt", bins=10), NAMES).apply(s)
    edges = np.linspace(s.observers["pt"].min(), s.observers["pt"].max(), 11)
    for c in (0, 1):
        of_class = s.labels == c
        before = of_class.sum() if s.weights is None else s.weights[of_class].sum()
        sums = np.histogram(s.observers["pt"][of_class], edges, weights=flat.weights[of_class])[0]
        np.testing.assert_allclose(sums, before / 10, rtol=1e-12)
        negative = np.zeros(len(s), bool) if s.weights is None else s.weights < 0
        assert np.array_equal(flat.weights < 0, negative)


def test_beyond_the_range_nothing_counts() -> None:
    s = events()
    flat = Flattening.fit(s, FlattenConfig(observer="pt", bins=4, low=520.0, high=560.0), NAMES).apply(s)
    pt = s.observers["pt"]
    assert not flat.weights[(pt < 520) | (pt > 560)].any()
    assert flat.weights[(pt >= 520) & (pt <= 560)].all()


def test_factors_are_those_of_the_events_they_were_found_with() -> None:
    flat = Flattening.fit(events(), FlattenConfig(observer="pt", bins=2, low=500.0, high=600.0), NAMES)
    pt = np.array([500.0, 549.9, 550.0, 600.0])
    other = Sequences(
        np.zeros((0, 1)), np.zeros(5, int), labels=[0, 0, 0, 0], weights=[1, 2, 3, 4], observers={"pt": pt}
    )
    first, second = flat.factors[0]
    assert flat.apply(other).weights.tolist() == [first, 2 * first, 3 * second, 4 * second]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"observer": "p"}, "no observer 'p' .data.observers.; nearest: 'pt'"),
        ({"observer": "pt", "low": 600.0, "high": 600.0}, "'pt' has no range: from 600 to 600"),
        ({"observer": "pt", "low": 400.0}, "class 'qcd' has a sum of weights of 0 where 'pt' is from 400 to"),
    ],
)
def test_what_cannot_be_flat(given: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Flattening.fit(events(), FlattenConfig(**given), NAMES)
    broken = events()
    broken.observers["pt"][3] = np.nan
    with pytest.raises(DataError, match="'pt' is not a finite number in every event"):
        Flattening.fit(broken, FlattenConfig(observer="pt"), NAMES)


def test_a_training_is_reweighted_and_its_test_events_are_not(toy_config: Path) -> None:
    flatten = {"observer": "jet_pt", "bins": 3}
    config = load_config(toy_config, overrides={"training.flatten": flatten})
    plain = train(load_config(toy_config, overrides={"output": "plain"}))
    result = train(config)
    assert result.history[-1].train_loss != plain.history[-1].train_loss
    before = read_splits(config)["test"].weights
    assert np.array_equal(before, read_splits(load_config(toy_config))["test"].weights)
