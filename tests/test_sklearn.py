"""The estimators keep scikit-learn's rules."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_cases import FORMS, QUICK, rows, same, sample
from timelike import Sequences
from timelike.errors import ConfigError
from timelike.model import load_model, predict
from timelike.sklearn import SequenceClassifier, SequenceRegressor

ONE_BATCH = {"validation_fraction": 0, "dtype": "float64", "batch_size": 1000, "learning_rate": 0.02}


# -- scikit-learn's own checks ------------------------------------------------------------------------------


def expected_failures(estimator: Any) -> dict[str, str]:
    """What does not hold, or not on every machine, unless all of a fit is one batch in float64."""
    if estimator.batch_size == ONE_BATCH["batch_size"]:
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": "a repeated sequence comes in several batches",
        "check_methods_subset_invariance": "sums of dense layers in float32 depend on the number of rows",
    }


@parametrize_with_checks(
    [
        SequenceClassifier(),
        SequenceClassifier(**ONE_BATCH),
        SequenceClassifier(cell="gru", layers=2, bidirectional=True, pooling="mean", patience=5),
        SequenceRegressor(),
        SequenceRegressor(**ONE_BATCH),
    ],
    expected_failed_checks=expected_failures,
    xfail_strict=False,  # where the sums of dense layers are done in another order, the second may pass
)
def test_estimator_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        # Of scikit-learn's checks on themselves.
        warnings.simplefilter("default")
        check(estimator)


def test_the_check_that_is_skipped_without_array_api_passes_with_it() -> None:
    code = (
        "from sklearn.utils.estimator_checks import check_array_api_input as check\n"
        "from timelike.sklearn import SequenceClassifier, SequenceRegressor\n"
        "for estimator in (SequenceClassifier(), SequenceRegressor()):\n"
        "    check('it', estimator, array_namespace='numpy', check_values=False)\n"
        "print('passed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "passed\n"


# -- classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "a", "a", "a"], "y has one class only, 'a'; two or more are needed"),
        (["a", "a", "a", "b"], "y: only one sample of class 'b', and one is needed for validation"),
        ([0.5, 1.5, 0.1, 0.2], "Unknown label type: continuous"),
        ([0.0, 1.0, np.nan, 1.0], "Input y contains NaN"),
        (None, "requires y to be passed, but the target y is None"),
        ([0, 1, 1], "inconsistent numbers of samples"),
    ],
)
def test_what_y_cannot_be(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceClassifier(**QUICK).fit(sample()[0][:4], y)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([False, True], ("False", "True")),
        ([-1, 3, 7], ("-1", "3", "7")),
        (["top", "w "], ("top", "w")),
        (["", "x"], ("class 0", "class 1")),
        ([" x", "x"], ("class 0", "class 1")),
    ],
)
def test_classes_give_the_model_its_names(classes: list[Any], names: tuple[str, ...]) -> None:
    X = sample()[0]
    y = np.array(classes)[np.arange(60) % len(classes)]
    found = SequenceClassifier(**QUICK).fit(X, y)
    assert found.model_.class_names == names
    assert found.classes_.tolist() == sorted(classes)
    assert found.predict(X).dtype == y.dtype
    assert found.predict_proba(X).shape == (60, len(classes))
    assert found.decision_function(X).shape == ((60,) if len(classes) == 2 else (60, len(classes)))


# -- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"units": 0}, "network.recurrent.0.units: given 0; it must be greater than 0"),
        ({"units": 2.5}, "network.recurrent.0.units: given 2.5; a whole number is needed"),
        ({"cell": "lsmt"}, "network.recurrent.0.cell: given 'lsmt'; nearest: 'lstm'"),
        ({"layers": -1}, "layers: given -1; a whole number, 0 or more, is needed"),
        ({"layers": True}, "layers: given True; a whole number"),
        ({"layers": 0}, "network: without recurrent layers there is no last state"),
        ({"head": 5}, "network.head.units: given 5; a list is needed"),
        ({"pooling": "first"}, "network.pooling: given 'first'; known"),
        ({"loss": "hinge"}, "training.loss: given 'hinge'"),
        ({"learning_rate": -1.0}, "training.optimiser.learning_rate: given -1.0"),
        ({"patience": 0}, "training.early_stopping.patience: given 0"),
        ({"standardise": "yes"}, "standardise: given 'yes'; True or False is needed"),
        ({"validation_fraction": 1.0}, "validation_fraction: given 1.0; a number from 0 to below 1"),
        ({"random_state": "x"}, "random_state: given 'x'; a whole number"),
        ({"random_state": -1}, "training.seed: given -1"),
        ({"threads": 0}, "training.threads: given 0"),
        ({"config": 3}, "config: given 3; a mapping of sections"),
        ({"config": {"netwrk": {}}}, "config: 'netwrk' is no section of it; nearest: 'network'"),
        (
            {"config": {"data": {"files": "x"}}},
            "config: data.files cannot be given; known: 'transforms', 'mix'",
        ),
        ({"config": {"training": {"epoch": 3}}}, "training.epoch: unknown key; nearest: 'epochs'"),
    ],
)
def test_parameters_that_cannot_be_used(parameters: dict[str, Any], message: str) -> None:
    found = SequenceClassifier(**QUICK | parameters)  # no error before the fit
    with pytest.raises(ConfigError) as caught:
        found.fit(*sample())
    text = str(caught.value)
    assert text.startswith(f"SequenceClassifier: {message}")
    assert "\n" not in text


def test_the_config_says_what_parameters_do_not() -> None:
    config = {
        "network": {
            "recurrent": [{"cell": "lstm", "units": 4, "peephole": True}],
            "head": {"activation": "tanh"},
        },
        "training": {"schedule": {"name": "cosine"}, "optimiser": {"beta1": 0.5}},
        "data": {"transforms": {"x0": "minmax"}},
    }
    found = SequenceClassifier(**QUICK, config=config).fit(*sample())
    network = found.model_.network.config
    assert network.recurrent[0].peephole
    assert network.head.units == (5,)
    assert network.head.activation == ("tanh",)
    training = found.model_.training["config"]
    assert training["optimiser"]["beta1"] == 0.5
    assert training["optimiser"]["learning_rate"] == 0.003
    assert found.history_[-1]["learning_rate"] < 1e-9
    assert [steps[0].kind for steps in found.model_.transforms.steps] == ["minmax", "standardise"]


def test_numbers_of_numpy_are_good_for_parameters() -> None:
    wanted = {"units": np.int64(6), "learning_rate": np.float64(0.003), "head": (np.int32(5),)}
    wanted |= {"standardise": np.bool_(True), "layers": np.int64(1), "random_state": np.int64(3)}
    assert same(
        SequenceClassifier(**QUICK | wanted).fit(*sample()), SequenceClassifier(**QUICK).fit(*sample())
    )


# -- what scikit-learn does with estimators -----------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> SequenceClassifier:
    return SequenceClassifier(**QUICK).fit(*sample())


def test_what_is_kept_of_the_fit(fitted: SequenceClassifier) -> None:
    assert [epoch["epoch"] for epoch in fitted.history_] == [1, 2, 3]
    best = min(fitted.history_, key=lambda epoch: epoch["validation_loss"])
    assert fitted.best_epoch_ == best["epoch"]
    assert fitted.n_iter_ == 3
    json.dumps(fitted.history_)


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_shows_the_epochs(verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    SequenceClassifier(**QUICK, verbose=verbose).fit(*sample())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("epoch") == 3 * verbose


def test_nothing_is_asked_of_one_that_is_not_fitted() -> None:
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError, match="This SequenceClassifier instance is not fitted yet"):
            getattr(SequenceClassifier(), method)(sample()[0])
    with pytest.raises(NotFittedError):
        SequenceRegressor().predict(sample()[0])


def test_copies_and_files(fitted: SequenceClassifier, tmp_path: Path) -> None:
    X = sample(seed=2)[0]
    joblib.dump(fitted, tmp_path / "it.joblib")
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "it.joblib")):
        np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
        assert same(copy.fit(*sample()), fitted)
    again = clone(fitted)
    assert not hasattr(again, "model_")
    assert again.get_params() == fitted.get_params()
    assert clone(fitted).set_params(units=9).get_params()["units"] == 9


@pytest.mark.parametrize("form", ["list", "sequences", "awkward records", "padded"])
def test_a_search_over_parameters(form: str) -> None:
    X, y = sample()
    given = X if form == "list" else FORMS[form](X)
    grid = {"units": [2, 6], "config": [None, {"network": {"head": {"activation": "tanh"}}}]}
    search = GridSearchCV(SequenceClassifier(**QUICK), grid, cv=3, error_score="raise")
    search.fit(given, y, sample_weight=np.ones(60))
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(given).shape == (60,)
    assert hasattr(search.best_estimator_, "feature_names_in_") == (form == "awkward records")


def test_cross_validation_sees_every_sequence_once() -> None:
    X, y = sample(200)
    quick = SequenceClassifier(**QUICK | {"epochs": 15, "learning_rate": 0.01})
    found = cross_val_predict(quick, rows(X), y, cv=4)
    assert np.mean(found == y) > 0.75


def test_in_a_pipeline() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(100.0, 30.0, size=(200, 3))
    y = X[:, 0] + X[:, 1] > 200
    net = SequenceClassifier(**QUICK | {"standardise": False, "learning_rate": 0.02, "epochs": 10})
    assert make_pipeline(StandardScaler(), net).fit(X, y).score(X, y) > 0.9


# -- without scikit-learn -----------------------------------------------------------------------------------


def test_without_scikit_learn_its_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import timelike\n"
        "try:\n    import timelike.sklearn\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'timelike[sklearn]'" in done.stdout


# -- docs/sklearn.md ----------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "sklearn.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {"folder": tmp_path_factory.mktemp("docs")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found["folder"])
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(code, found)
    return found


def test_the_page_is_run_and_true(shown: dict[str, Any]) -> None:
    assert shown["accuracy"] > 0.8
    assert shown["p_top"].shape == (500,)
    assert shown["peeping"].model_.network.config.recurrent[0].peephole
    assert [step.kind for step in shown["peeping"].model_.transforms.steps[0]] == ["log", "standardise"]
    assert shown["table"].n_features_in_ == 3
    assert shown["of_pt"].n_features_in_ == 1
    assert shown["search"].best_score_ > 0.6
    assert shown["out_of_fold"].shape == (1000, 2)
    assert shown["r2"] > 0.9
    kept = load_model(shown["folder"] / "tagger.safetensors")
    np.testing.assert_array_equal(
        predict(kept, Sequences.from_awkward(shown["X_test"]))[:, 1], shown["p_top"]
    )


def test_the_page_names_every_check_that_is_expected_to_fail() -> None:
    for check in expected_failures(SequenceClassifier()):
        assert f"`{check}`" in PAGE
