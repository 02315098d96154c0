"""What X may be for the estimators, and what it may not be."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest

from sklearn_cases import FORMS, QUICK, rows, sample
from timelike import Sequences
from timelike.errors import DataError
from timelike.sklearn import SequenceClassifier


@pytest.fixture(scope="module")
def fitted() -> SequenceClassifier:
    return SequenceClassifier(**QUICK).fit(*sample())


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_the_same_sequences(form: str, fitted: SequenceClassifier) -> None:
    X, y = sample()
    if form == "awkward rows":
        X[5], fitted = X[5][:0], fitted
    other = SequenceClassifier(**QUICK).fit(FORMS[form](X), y)
    assert other.n_features_in_ == 2
    assert hasattr(other, "feature_names_in_") == ("records" in form)
    new = sample(seed=1)[0]
    np.testing.assert_array_equal(
        other.predict_proba(FORMS[form](new)), fitted.predict_proba(new), strict=True
    )


def test_whole_numbers_become_float64() -> None:
    X, y = sample()
    X = [np.round(4 * x) for x in X]
    expected = SequenceClassifier(**QUICK).fit(X, y).predict_proba(X)
    for whole in ([x.astype(np.int16) for x in X], ak.values_astype(rows(X), np.int16)):
        found = SequenceClassifier(**QUICK).fit(whole, y)
        np.testing.assert_array_equal(found.predict_proba(whole), expected)


def test_a_row_of_a_table_is_one_step() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), np.arange(50) % 2
    flat = SequenceClassifier(**QUICK).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(
        flat, SequenceClassifier(**QUICK).fit(X[:, None, :], y).predict_proba(X[:, None, :])
    )


def test_variables_are_found_by_name() -> None:
    X, y = sample()
    s = Sequences.from_list(X, names=["pt", "eta"])
    found = SequenceClassifier(**QUICK).fit(s, y)
    assert found.feature_names_in_.tolist() == ["pt", "eta"]
    turned = Sequences(s.values[:, [1, 0, 1]], s.offsets, ["eta", "pt", "phi"])
    expected = found.predict_proba(s)
    np.testing.assert_array_equal(found.predict_proba(turned), expected)
    with pytest.raises(DataError, match="the data have no variable 'pt'"):
        found.predict(Sequences(s.values, s.offsets, ["p", "eta"]))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but SequenceClassifier was"):
        np.testing.assert_array_equal(found.predict_proba(X), expected)
    bare = SequenceClassifier(**QUICK).fit(X, y)
    with pytest.warns(UserWarning, match="X has feature names, but SequenceClassifier was fitted without"):
        np.testing.assert_array_equal(bare.predict_proba(s), expected)
    found.fit(X, y)
    assert not hasattr(found, "feature_names_in_")


BAD_X: dict[str, tuple[Any, str]] = {
    "no steps axis": (
        [np.zeros((2, 2)), np.zeros(2)],
        r"X: sequence 1 has shape \(2,\); \[steps, variables\]",
    ),
    "other width": ([np.zeros((2, 2)), np.zeros((1, 3))], r"X: sequence 1 has shape \(1, 3\); \[steps, 2\]"),
    "no numbers": ([np.zeros((2, 2)), np.full((1, 2), "a")], "X: sequence 1 is of <U1; real numbers"),
    "complex": ([np.zeros((2, 2), complex)] * 2, "X: sequence 0 is of complex128; real numbers"),
    "ragged steps": (
        [[[1.0, 2.0]], [[1.0], [2.0, 3.0]]],
        "X: the steps of sequence 1 have different numbers",
    ),
    "nan": ([np.zeros((2, 2)), np.full((1, 2), np.nan)], "X: variable 'x0' is nan in sequence 1, step 0"),
    "half a step": (
        np.array([[[0.0, 1.0]], [[0.0, np.nan]]]),
        "X: variable 'x1' is nan in sequence 1, step 0",
    ),
    "infinite": (np.full((2, 1, 2), np.inf), "X: variable 'x0' is inf in sequence 0"),
    "no variables": (Sequences(np.zeros((2, 0)), [0, 1, 2]), r"X has 0 feature\(s\)"),
    "no steps": ([np.zeros((0, 2))] * 2, "no training event has a step"),
    "weights": (
        Sequences(np.zeros((2, 1)), [0, 1, 2], weights=[1, 2]),
        "X has weights; give them as sample_weight",
    ),
    "too many": (np.zeros((3, 2, 2)), "inconsistent numbers of samples"),
    "four axes": (np.zeros((2, 1, 1, 1)), "Found array with dim 4"),
    "one axis": (np.zeros(2), "Reshape your data"),
    "missing in awkward": (ak.Array([[1.0, None], [2.0]]), "the array: event 0, step 1 has no value"),
}


@pytest.mark.parametrize("case", BAD_X)
def test_what_x_cannot_be(case: str) -> None:
    X, message = BAD_X[case]
    with pytest.raises(ValueError, match=message):
        SequenceClassifier(**QUICK, validation_fraction=0).fit(X, [0, 1])


def test_another_number_of_variables_is_refused(fitted: SequenceClassifier) -> None:
    with pytest.raises(ValueError, match="X has 3 features, but SequenceClassifier is expecting 2 features"):
        fitted.predict([np.zeros((4, 3))])
