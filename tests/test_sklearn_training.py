"""The estimators train as everything else here does: weights, seeds, the bits of the command, targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apply_cases import column, same_but_for_the_head
from sklearn_cases import QUICK, same, sample, weights_of
from timelike import Sequences, data
from timelike.apply import apply
from timelike.config import Config, load_config
from timelike.errors import ConfigError, DataError
from timelike.model import load_model, predict, save_model
from timelike.sklearn import SequenceClassifier, SequenceRegressor
from timelike.train import train


def test_class_weights_are_factors_on_sample_weights() -> None:
    X, y = sample()
    w = np.random.default_rng(0).uniform(0.5, 2.0, 60)
    by_class = SequenceClassifier(**QUICK, class_weight={"b": 4.0}).fit(X, y, w)
    assert same(by_class, SequenceClassifier(**QUICK).fit(X, y, w * np.where(y == "b", 4.0, 1.0)))
    assert not same(by_class, SequenceClassifier(**QUICK).fit(X, y, w))
    with pytest.raises(ValueError, match="class_weight"):
        SequenceClassifier(**QUICK, class_weight="equal").fit(X, y)


def test_balanced_classes_weigh_the_same() -> None:
    X, y = sample()
    w = np.where(y == "b", 0.125, 1.0)  # powers of two: what follows differs by no rounding of weights
    found = SequenceClassifier(**QUICK, class_weight="balanced", standardise=False).fit(X, y, w)
    plain = SequenceClassifier(**QUICK, class_weight="balanced", standardise=False).fit(X, y)
    for a, b in zip(weights_of(found), weights_of(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    lopsided = SequenceClassifier(**QUICK, standardise=False).fit(X, y, w)
    assert (lopsided.decision_function(X) < plain.decision_function(X)).all()


def test_negative_weights() -> None:
    X, y = sample()
    w = np.where(np.arange(60) % 7 == 0, -0.5, 1.0)
    signed = SequenceClassifier(**QUICK).fit(X, y, w)
    absolute = SequenceClassifier(**QUICK, negative_weights="absolute").fit(X, y, w)
    assert not same(signed, absolute)
    assert same(absolute, SequenceClassifier(**QUICK).fit(X, y, np.abs(w)))
    with pytest.raises(DataError, match=r"of class 'b' sum to -\d+; a positive sum is needed"):
        SequenceClassifier(**QUICK).fit(X, y, np.where(y == "b", -1.0, 1.0))
    with pytest.raises(ValueError, match="Input sample_weight contains NaN"):
        SequenceClassifier(**QUICK).fit(X, y, np.full(60, np.nan))


# -- randomness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_a_seed_gives_the_same_bits_and_touches_nothing_global(kind: Any) -> None:
    X, y = sample()
    y = y if kind is SequenceClassifier else np.arange(60.0)
    torch.manual_seed(1)
    old: Any = np.random.mtrand._rand  # what NumPy's old functions draw from
    before = (
        torch.get_rng_state(),
        old.get_state(legacy=False)["state"]["key"].copy(),
        torch.get_num_threads(),
    )
    first = kind(**QUICK, dropout=0.2, layers=2).fit(X, y)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    second = kind(**QUICK, dropout=0.2, layers=2).fit(X, y)
    fresh = kind(**QUICK | {"random_state": None}).fit(X, y)
    first.predict(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(old.get_state(legacy=False)["state"]["key"], before[1])
    assert torch.get_num_threads() == before[2]
    assert same(first, second)
    assert first.seed_ == 3
    assert same(kind(**QUICK | {"random_state": fresh.seed_}).fit(X, y), fresh)
    assert not same(kind(**QUICK | {"random_state": 4}).fit(X, y), kind(**QUICK).fit(X, y))


def test_without_a_seed_each_fit_has_its_own() -> None:
    found = SequenceClassifier(**QUICK | {"random_state": None})
    assert found.fit(*sample()).seed_ != found.fit(*sample()).seed_
    drawn = [
        SequenceClassifier(**QUICK | {"random_state": np.random.RandomState(7)}).fit(*sample()).seed_
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


# -- the same as timelike train -----------------------------------------------------------------------------


def as_trained(config: Config, **more: Any) -> dict[str, Any]:
    """Parameters that stand for what the toy config says."""
    values = config.model_dump(mode="json")
    return {
        "config": {"network": values["network"], "training": values["training"]},
        "validation_fraction": config.split.fractions.validation,
        "random_state": config.training.seed,
        **more,
    }


def same_as_a_run(result: Any, found: Any) -> None:
    expected = result.model.network.state_dict()
    assert expected.keys() == found.model_.network.state_dict().keys()
    for name, value in found.model_.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert found.model_.transforms.to_dict() == result.model.transforms.to_dict()
    for mine, other in zip(found.history_, result.history, strict=True):
        assert mine | {"seconds": 0} == vars(other) | {"seconds": 0}
    assert found.best_epoch_ == result.best.epoch


SPLIT = {"by": "random", "fractions": {"train": 0.78, "validation": 0.22, "test": 0.0}, "seed": 5}


def test_the_classifier_trains_as_the_command_does(toy_config: Path) -> None:
    overrides = {"split": SPLIT, "training.seed": 5}
    config = load_config(toy_config, overrides=overrides)
    result = train(config)
    events = data.read(config.data, config.sequence, base=config.base)
    y = np.array(config.data.class_names)[events.labels]
    found = SequenceClassifier(**as_trained(config, class_weight="balanced"))
    found.fit(events.replace(weights=None), y, events.weights)
    same_as_a_run(result, found)
    np.testing.assert_array_equal(found.predict_proba(events), predict(result.model, events))


# -- the model ----------------------------------------------------------------------------------------------


def test_the_model_goes_to_the_command_line(toy_root: Path, toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config)
    plain = config.data.model_copy(update={"new_variables": {}, "variables": ("part_pt", "part_eta")})
    events = data.read(plain, config.sequence.__class__(), base=config.base)
    found = SequenceClassifier(**QUICK).fit(events.replace(weights=None), events.labels)
    save_model(found.model_, tmp_path / "model.safetensors")
    done = apply(tmp_path / "model.safetensors", [toy_root], tmp_path / "scores.parquet", treename="jets")
    same_but_for_the_head(column(done.output, "score_1"), found.predict_proba(events)[:, 1], np.float32)
    model = load_model(tmp_path / "model.safetensors")
    assert model.training["epochs"] == 3
    assert model.training["events"] == {"train": 216, "validation": 24}


def test_the_model_of_a_regression_goes_there_too(toy_root: Path, toy_config: Path, tmp_path: Path) -> None:
    values = load_config(toy_config).model_dump(mode="json")
    read = {"files": str(toy_root), "treename": "jets", "variables": ["part_pt", "part_eta"]}
    values["data"] = read | {"targets": {"mass": "jet_pt - 550"}, "weights": "weight"}
    values |= {"split": SPLIT, "sequence": {}, "output": str(tmp_path / "run")}
    del values["network"]["head"]["output"]
    values["training"] |= {"seed": 5, "loss": "huber", "epochs": 4}
    config = Config.from_dict(values)
    result = train(config)

    events = data.read(config.data, config.sequence, base=config.base)
    assert events.labels is None
    targets = events.targets
    assert targets is not None
    assert -50 < targets.min() < -40
    assert 40 < targets.max() < 50
    done = apply(tmp_path / "run" / "model.safetensors", [toy_root], tmp_path / "found.parquet")
    same_but_for_the_head(
        column(done.output, "predicted_mass"), predict(result.model, events)[:, 0], np.float32
    )

    found = SequenceRegressor(**as_trained(config)).fit(events.replace(weights=None, targets=None), targets)
    save_model(found.model_, tmp_path / "own.safetensors")
    own = apply(tmp_path / "own.safetensors", [toy_root], tmp_path / "own.parquet", treename="jets")
    same_but_for_the_head(column(own.output, "predicted_y0"), found.predict(events)[:, 0], np.float32)


def test_the_regressor_trains_as_the_command_does(toy_root: Path, toy_config: Path, tmp_path: Path) -> None:
    """On targets of mean 0 and deviation 1 to the bit, which are standardised by nothing."""
    values = load_config(toy_config).model_dump(mode="json")
    read = {"files": str(toy_root), "treename": "jets", "variables": ["part_pt", "part_eta"]}
    values["data"] = read | {"targets": {"side": "2 * label - 1"}}
    values |= {"split": SPLIT, "sequence": {}, "output": str(tmp_path / "run")}
    del values["network"]["head"]["output"]
    values["training"] |= {"seed": 5, "loss": "squared_error"}
    config = Config.from_dict(values)
    result = train(config)
    events = data.read(config.data, config.sequence, base=config.base)
    assert events.targets is not None
    assert (events.targets.mean(), events.targets.std()) == (0.0, 1.0)
    found = SequenceRegressor(**as_trained(config)).fit(events.replace(targets=None), events.targets)
    same_as_a_run(result, found)


# -- the regressor ------------------------------------------------------------------------------------------


def sums(n: int = 400, *, seed: int = 0) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Sequences, and two numbers of each: the sum of one variable, the last of the other in large units."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(1, 6), 2)) for _ in range(n)]
    return X, np.array([[x[:, 0].sum(), 2000.0 + 300.0 * x[-1, 1]] for x in X])


LEARN = {"units": 8, "head": (8,), "epochs": 25, "batch_size": 32, "learning_rate": 0.02, "random_state": 1}


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_several_targets_in_their_units(loss: str) -> None:
    found = SequenceRegressor(**LEARN, loss=loss).fit(*sums())
    X, y = sums(200, seed=1)
    assert found.predict(X).shape == (200, 2)
    assert found.predict(X).dtype == np.float64
    assert found.score(X, y) > 0.9
    assert found.model_.class_names == ("y0", "y1")
    np.testing.assert_array_equal(predict(found.model_, Sequences.from_list(X)), found.predict(X))


def test_one_target() -> None:
    X, y = sums()
    found = SequenceRegressor(**LEARN).fit(X, y[:, 0])
    assert found.predict(X).shape == (400,)
    assert found.score(X, y[:, 0]) > 0.9
    column = SequenceRegressor(**LEARN).fit(X, y[:, :1]).predict(X)
    np.testing.assert_array_equal(column, found.predict(X)[:, None], strict=True)


def test_units_of_the_target_do_not_matter() -> None:
    X, y = sums()
    plain = SequenceRegressor(**LEARN, dtype="float64").fit(X, y[:, 0])
    scaled = SequenceRegressor(**LEARN, dtype="float64").fit(X, 1024.0 * y[:, 0])
    # Standardised targets are the same to the bit, and so are all weights but the last layer's.
    np.testing.assert_allclose(scaled.predict(X), 1024.0 * plain.predict(X), rtol=1e-12, atol=1e-9)


def test_targets_that_are_all_the_same() -> None:
    X = sums(50)[0]
    found = SequenceRegressor(**LEARN | {"epochs": 200}).fit(X, np.full(50, 7.0))
    np.testing.assert_allclose(found.predict(X), 7.0, atol=0.05)


def test_the_scale_of_targets_is_by_the_size_of_weights() -> None:
    """A network that gives all but 0 before it is given their scale gives their mean behind it."""
    nothing = {"network": {"initialiser": "zero"}, "training": {"epochs": 1}}
    found = SequenceRegressor(config=nothing, learning_rate=1e-12, validation_fraction=0, random_state=0)
    X = [np.full((1, 1), value) for value in (1.0, 2.0, 4.0)]
    found.fit(X, [1.0, 2.0, 6.0], [1.0, -2.0, 3.0])
    assert found.predict(X) == pytest.approx(np.full(3, (1 + 4 + 18) / 6), rel=1e-6)


def test_weights_of_a_regression() -> None:
    X, y = sums(100)
    w = np.where(np.arange(100) % 2, 1.0, 1e-12)
    flipped = np.where(np.arange(100) % 2, y[:, 0], -y[:, 0])
    found = SequenceRegressor(**LEARN).fit(X, flipped, w)
    assert np.corrcoef(found.predict(X), y[:, 0])[0, 1] > 0.8
    with pytest.raises(DataError, match="training: the weights of the 90 events sum to -90; a positive sum"):
        SequenceRegressor(**LEARN).fit(X, flipped, np.full(100, -1.0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "cross_entropy"}, "training.loss: cross_entropy does not fit"),
        (
            {"config": {"training": {"early_stopping": {"metric": "auc"}}}, "patience": 3},
            "metric: 'auc'; possible: loss, rmse",
        ),
        (
            {"config": {"network": {"head": {"output": "sigmoid"}}}},
            "output: sigmoid does not fit the task; possible: linear",
        ),
    ],
)
def test_what_is_for_classes_is_no_parameter_of_a_regressor(parameters: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SequenceRegressor(**LEARN | parameters).fit(*sums(50))
