"""Cross validation of numbers, labels by themselves, and answers of steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import timelike
from timelike import fit as fit_module
from timelike.cli import main
from timelike.config import Config, load_config
from timelike.crossval import CrossValidation, cross_validate
from timelike.errors import DataError
from timelike.model import load_model, predict
from timelike.predictions import Estimates, Predictions
from timelike.train import read_events
from timelike.trainingstep import TrainingStep
from toys import N_EVENTS, TOY_CONFIG, toy_columns, write_root

K = 3
TASKS: dict[str, dict[str, Any]] = {
    "quantiles": {"data.targets": {"pt": "jet_pt / 500", "n": "label"}, "training.loss": "quantile"},
    "labels": {"data.multilabel": {"signal": "label == 1", "hard": "jet_pt > 550"}},
    "classes of steps": {
        "data.labels": {"low": "part_eta < 0.5", "high": "part_eta > 1"},
        "data.per": "step",
    },
    "numbers of steps": {
        "data.targets": {"eta": "where(part_pt > 4, part_eta, 0 / 0)"},
        "data.per": "step",
        "data.event_number": None,
        "split": {"by": "random", "seed": 4},
    },
}


def of_task(path: Path, task: str, **more: Any) -> Config:
    labels = {} if "data.labels" in TASKS[task] else {"data.labels": {}}
    keys = {key.replace("__", "."): value for key, value in more.items()}
    return load_config(path, overrides={"training.epochs": 1, **labels, **TASKS[task], **keys})


@pytest.fixture(scope="module", params=TASKS)
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_root: Path
) -> tuple[Config, CrossValidation]:
    """Give the cross validation of a task; not to be changed."""
    folder = tmp_path_factory.mktemp("crossval")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG)
    config = of_task(folder / "toy.yaml", request.param)
    return config, cross_validate(config, folds=K)


def members(result: CrossValidation) -> list[timelike.model.Model]:
    return [load_model(result.folder / f"fold-{k}" / "model.safetensors") for k in range(K)]


def test_what_is_said_of_an_event_is_by_the_network_that_left_out_its_fold(done: Any) -> None:
    config, result = done
    events, per_step = read_events(config), config.data.per == "step"
    table = pyarrow.parquet.read_table(result.folder / "scores.parquet").to_pydict()
    fold = np.array(table["fold"])
    if config.data.event_number is not None:
        assert fold.tolist() == [n % K for n in table["event_number"]]
    assert np.bincount(fold).tolist() == [N_EVENTS // K] * K
    kind = "predicted" if config.data.targets else "score"
    said = [table[f"{kind}_{name}"] for name in result.model.output_names]
    for k, member in enumerate(members(result)):
        expected = predict(member, events[fold == k])
        for c, column in enumerate(said):
            own = [column[b] for b in np.flatnonzero(fold == k)]
            if per_step:
                assert [len(steps) for steps in own] == events.lengths[fold == k].tolist()
                own = [step for steps in own for step in steps]
            np.testing.assert_array_equal(own, expected[:, c])


def test_the_table_has_the_answers(done: Any) -> None:
    config, result = done
    events, data = read_events(config), config.data
    table = pyarrow.parquet.read_table(result.folder / "scores.parquet").to_pydict()
    kind = "target" if data.targets else "label"
    names = ["label"] if data.exclusive else [f"{kind}_{name}" for name in data.class_names]
    given = np.asarray(getattr(events, data.answers)).reshape(-1, len(names))
    for k, name in enumerate(names):
        found = table[name]
        if data.per == "step":
            found = [step for steps in found for step in steps]
        np.testing.assert_array_equal(np.array(found, dtype=np.float64), given[:, k])
    assert set(table) - {"event_number", "weight", "fold", *names} == {
        f"{'predicted' if data.targets else 'score'}_{name}" for name in result.model.output_names
    }


def test_numbers_by_hand(done: Any) -> None:
    config, result = done
    metrics = json.loads((result.folder / "crossval.json").read_text())
    assert metrics == result.metrics
    found, fold = result.predictions, result.folds
    # Out-of-fold rows are of events in input order; those of a step belong to its event.
    rows = fold if found.groups is None else fold[_owners(read_events(config), config)]
    assert len(rows) == len(found.weights)
    values = []
    for k in range(K):
        w = found.weights[rows == k]
        if isinstance(found, Predictions):
            key = "accuracy"
            right = found.scores[rows == k].argmax(axis=1) == found.labels[rows == k]
            values.append(np.average(right, weights=w))
        elif config.data.multilabel:
            key = "accuracy"
            right = (found.values[rows == k] > 0.5) == (found.targets[rows == k] == 1)
            values.append(np.average(right.mean(axis=1), weights=w))
        else:
            first = config.data.class_names[0]
            key = f"rmse_{first}"
            said = found.values[rows == k][:, 1 if config.network.head.quantiles else 0]
            values.append(np.sqrt(np.average((said - found.targets[rows == k][:, 0]) ** 2, weights=w)))
    over = metrics["over_folds"][key]
    assert over["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert over["standard_deviation"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert [one["events"] for one in metrics["per_fold"]] == [
        len(np.unique(found.groups[rows == k])) if found.groups is not None else N_EVENTS // K
        for k in range(K)
    ]


def _owners(events: Any, config: Config) -> np.ndarray[Any, Any]:
    given = getattr(events, config.data.answers)
    there = given >= 0 if given.ndim == 1 else ~np.isnan(given).any(axis=1)
    owners: np.ndarray[Any, Any] = np.repeat(np.arange(len(events)), events.lengths)[there]
    return owners


def test_the_ensemble_says_the_mean_and_by_fold_what_is_out_of_it(done: Any) -> None:
    config, result = done
    events, model = read_events(config), load_model(result.folder / "model.safetensors")
    each = [predict(member, events) for member in members(result)]
    np.testing.assert_allclose(predict(model, events), sum(each) / K, rtol=1e-15)
    if config.data.event_number is None:
        return
    fold = result.folds if config.data.per == "event" else np.repeat(result.folds, events.lengths)
    own = np.stack(each)[fold, np.arange(len(fold))]
    # The dense layers are PyTorch's: their rounding in float32 depends on the company of an event.
    np.testing.assert_allclose(predict(model, events, out_of_fold=True), own, rtol=0, atol=1e-6)
    scorer = timelike.load(result.folder / "model.safetensors")
    np.testing.assert_allclose(scorer.predict(events, out_of_fold=True), own, rtol=0, atol=2e-6)
    assert np.abs(own - predict(model, events)).max() > 1e-4


def test_the_page_shows_the_folds(done: Any) -> None:
    config, result = done
    page = result.report.read_text()
    titles = {"regression": "RMSE of", "multilabel": "AUC, mean of labels", "classes": "AUC"}
    for text in (titles[config.data.kind], "fold 2", "timelike crossval run-crossval"):
        assert text in page, text
    assert (result.folder / "figures" / "folds_1.pdf").is_file()


def test_targets_by_chance_are_not_known_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that nothing tells, and networks that learn them by heart: a leak would be seen."""

    def the_last(best: Any, epoch: Any, number: int) -> bool:
        best.epoch, best._lowest, best._waited = epoch, 0.0, 0
        return True

    monkeypatch.setattr(fit_module._Best, "take", the_last)
    columns = toy_columns(120)
    columns["chance"] = np.random.default_rng(2).normal(size=120)
    write_root(tmp_path / "toy.root", columns)
    text = TOY_CONFIG.replace("units: 6", "units: 32").replace("  weights: weight\n", "")
    (tmp_path / "toy.yaml").write_text(text.replace("bootstrap: 5", "bootstrap: 0"))
    given = {"data.labels": {}, "data.targets": {"chance": "chance"}, "training.epochs": 40}
    config = load_config(tmp_path / "toy.yaml", overrides=given)
    result = cross_validate(config, folds=K)
    assert isinstance(result.predictions, Estimates)
    t = result.predictions.targets

    def correlation(said: Any) -> float:
        return float(np.corrcoef(said[:, 0], t[:, 0])[0, 1])

    # Without information a correlation of 120 events has a standard deviation of 1 / sqrt(119).
    assert abs(correlation(result.predictions.values)) < 4 / 119**0.5
    by_all = predict(result.model, read_events(config))
    assert correlation(by_all) > 0.6  # two of three networks have seen each event: what a leak looks like


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        (
            "labels",
            {"data__multilabel": {"signal": "label == 1", "third": "eventNumber % 3 == 1"}},
            r"fold 0 of 3: no event of class 'third', only of 'not third'",
        ),
        (
            "classes of steps",
            {"data__labels": {"a": "eventNumber % 3 == 0", "b": "eventNumber % 3 != 0"}},
            r"fold 0 of 3: no event of class 'b', only of 'a'",
        ),
        (
            "quantiles",
            {"data__weights": "where(eventNumber % 3 == 2, 0, 1)"},
            r"fold 2 of 3: the weights sum to 0",
        ),
    ],
)
def test_a_fold_that_cannot_be_judged_is_named_before_any_training(
    toy_config: Path, task: str, more: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingStep, "take", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(DataError, match=said):
        cross_validate(of_task(toy_config, task, **more), folds=K)


def test_the_command_says_the_first_figure(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TOY_CONFIG.replace(
        'labels: {background: "label == 0", signal: "label == 1"}', "targets: {pt: jet_pt / 500}"
    )
    toy_config.write_text(text.replace("epochs: 3", "epochs: 1"))
    assert main(["crossval", str(toy_config), "--folds", "2"]) == 0
    assert "RMSE of pt, of all events out of fold " in capsys.readouterr().out
