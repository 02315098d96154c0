"""Cross validation: every event is scored once, by a network that has not seen it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

import timelike
from timelike import fit as fit_module
from timelike.config import Config, FoldsConfig, SplitConfig, load_config
from timelike.crossval import cross_validate, fold_config, join_folds, train_fold
from timelike.data.folds import check_expression, fold_numbers, split_by_folds
from timelike.data.split import split
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.evaluate import evaluate
from timelike.model import Ensemble, load_model, predict, save_model
from timelike.runs import evaluate_run
from timelike.sequences import Sequences
from timelike.train import read_events, train
from timelike.trainingstep import TrainingStep
from toys import N_EVENTS, TOY_CONFIG, toy_columns, write_root

BY = "event_number % folds"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Any:
    """Give a cross validation of three folds; not to be changed."""
    folder = tmp_path_factory.mktemp("crossval")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG)
    return cross_validate(folder / "toy.yaml", folds=3)


def events_of(numbers: Any, labels: Any = None) -> Sequences:
    n = len(numbers)
    return Sequences(np.zeros((n, 1)), np.arange(n + 1), events=numbers, labels=labels)


# -- folds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (BY, [1, 2, 0, 1, 2]),
        ("(event_number + 1) % folds", [2, 0, 1, 2, 0]),
        ("floor(event_number / 10) % folds", [1, 1, 1, 1, 1]),
        ("where(event_number > 12, 2, 0)", [0, 0, 0, 2, 2]),
    ],
)
def test_an_expression_tells_the_fold(by: str, expected: list[int]) -> None:
    assert fold_numbers(events_of(range(10, 15)), FoldsConfig(number=3, by=by)).tolist() == expected


def test_observers_may_tell_the_fold() -> None:
    events = events_of(range(4)).replace(observers={"run": np.array([7, 8, 9, 10])})
    assert fold_numbers(events, FoldsConfig(number=2, by="run % folds")).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("int([eventID]) % int([NumFolds])", r"TMVA's .* is written event_number % folds"),
        ("eventNumber % folds", "no 'eventNumber'; nearest: 'event_number'"),
        ("folds - 1", "the same for all events"),
        ("event_number %", "something is missing at the end"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(by: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_expression(by)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("event_number", r"event 12 is in fold 12; the folds are 0\.\.2 \(1 such events\)"),
        ("event_number - 2", r"event 0 is in fold -2; .* \(2 such events\)"),
        ("event_number / 2", "are float64; integers are needed"),
    ],
)
def test_a_number_that_is_no_fold_is_refused_with_its_event(by: str, said: str) -> None:
    numbers = [0, 1, 12] if by == "event_number" else [0, 1, 2]
    with pytest.raises(DataError, match=said):
        fold_numbers(events_of(numbers), FoldsConfig(number=3, by=by))


@pytest.mark.parametrize("by", [BY, None])
def test_each_event_is_for_test_once_and_else_for_one_other_thing(by: str | None) -> None:
    labels = np.arange(600) % 3 // 2  # 400 and 200
    events = events_of(np.random.default_rng(1).permutation(600), labels)
    tested = np.zeros(600, dtype=int)
    validated = []
    for fold in range(5):
        config = SplitConfig(by="folds", folds=FoldsConfig(by=by, test=fold, validation=0.2), seed=3)
        parts = split(events, config)
        assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(600))
        tested[parts["test"]] += 1
        validated.append(parts["validation"])
        # 480 of a share of 0.2: 96, and 4.5 standard deviations of a binomial are 39
        assert abs(len(parts["validation"]) - 96) < (39 if by else 1)
    assert (tested == 1).all()
    # Drawn anew for each fold: no event is kept from all trainings.
    assert not set.intersection(*map(set, validated))


def test_an_event_stays_in_its_part_whatever_else_is_read() -> None:
    folds = FoldsConfig(number=3, by=BY, test=1, validation=0.3)
    parts = [
        {part: set(numbers[index]) for part, index in split_by_folds(events_of(numbers), folds).items()}
        for numbers in (np.arange(200), np.arange(199, 99, -1))
    ]
    for part, numbers in parts[1].items():
        assert numbers == {n for n in parts[0][part] if n >= 100}


def test_other_seeds_shuffle_and_draw_otherwise() -> None:
    events = events_of(np.arange(100), np.arange(100) % 2)
    for by in (BY, None):
        one, other = (split_by_folds(events, FoldsConfig(by=by), seed=seed)["validation"] for seed in (0, 1))
        assert set(one) != set(other)


@pytest.mark.parametrize(
    ("split_text", "share"),
    [
        ("{}", 0.125),
        ("{fractions: {train: 0.6, validation: 0.2, test: 0.2}}", 0.25),
        ("{by: event_number, remainders: {train: [0, 1, 2], validation: [3], test: []}}", 0.25),
        ("{by: alternate}", 0.2),
        ("{counts: {validation: 0.3}}", 0.3),
        ("{by: folds, folds: {validation: 0.4}}", 0.4),
    ],
)
def test_the_share_for_validation_is_that_of_the_config(
    toy_config: Path, split_text: str, share: float
) -> None:
    toy_config.write_text(TOY_CONFIG.replace("{by: event_number}", split_text))
    folds = fold_config(toy_config, 2).split.folds
    assert folds is not None
    assert folds.validation == pytest.approx(share, rel=1e-12)
    assert (folds.number, folds.by, folds.test) == (5, BY, 2)


def test_folds_of_the_config_are_the_default(toy_config: Path) -> None:
    toy_config.write_text(
        TOY_CONFIG.replace(
            "{by: event_number}", "{by: folds, folds: {number: 3, by: event_number // 2}}"
        ).replace("event_number // 2", "'where(event_number > 1100, 1, 0)'")
    )
    folds = fold_config(toy_config, 1).split.folds
    assert folds is not None
    assert (folds.number, folds.by) == (3, "where(event_number > 1100, 1, 0)")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 1}, "given 1 folds; 2 or more are needed"),
        ({"by": "jet_eta > 0"}, "no 'jet_eta'"),
        ({"by": "event_number["}, "TMVA"),
    ],
)
def test_folds_that_cannot_be_are_refused(toy_config: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cross_validate(toy_config, **given)
    assert not (toy_config.parent / "run-crossval").exists()


def test_numbers_that_the_config_does_not_name_cannot_tell_the_fold(toy_config: Path) -> None:
    toy_config.write_text(TOY_CONFIG.replace("event_number: eventNumber", "").replace(
        "{by: event_number}", "{by: random}"))  # fmt: skip
    with pytest.raises(ConfigError, match=r"the config has no data\.event_number"):
        cross_validate(toy_config, by=BY)


def test_a_fold_without_a_class_is_named_before_any_training(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingStep, "take", lambda *_: pytest.fail("a step was made"))
    # 1000 + n has the label n // 2 % 2: modulo 4 tells the class.
    with pytest.raises(
        DataError, match=r"fold 0 of 4: no event of class 'signal' for test, of the 120 there are"
    ):
        cross_validate(toy_config, folds=4, by="event_number % 4")


# -- the whole ----------------------------------------------------------------------------------------------


def test_every_event_is_scored_by_the_network_that_left_out_its_fold(done: Any) -> None:
    events = read_events(load_config(done.folder.parent / "toy.yaml"))
    table = pyarrow.parquet.read_table(done.folder / "scores.parquet").to_pydict()
    assert table["event_number"] == list(range(1000, 1000 + N_EVENTS))
    assert table["fold"] == [n % 3 for n in table["event_number"]]
    columns = toy_columns()
    assert table["label"] == columns["label"].tolist()
    assert table["weight"] == columns["weight"].tolist()
    for fold in range(3):
        of_fold = np.array(table["fold"]) == fold
        model = load_model(done.folder / f"fold-{fold}" / "model.safetensors")
        scores = np.stack([table["score_background"], table["score_signal"]], axis=1)
        np.testing.assert_array_equal(scores[of_fold], predict(model, events[of_fold]))


def test_what_is_learnt_by_heart_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by chance, and networks that learn each event by heart: a leak would give an AUC near 1."""

    def the_last(best: Any, epoch: Any, number: int) -> bool:
        best.epoch, best._lowest, best._waited = epoch, 0.0, 0
        return True

    monkeypatch.setattr(fit_module._Best, "take", the_last)
    columns = toy_columns(120)
    columns["label"] = np.random.default_rng(2).permutation(columns["label"])
    write_root(tmp_path / "toy.root", columns)
    text = TOY_CONFIG.replace("units: 6", "units: 32").replace("epochs: 3", "epochs: 40")
    config = tmp_path / "toy.yaml"
    config.write_text(text.replace("bootstrap: 5", "bootstrap: 0").replace("  weights: weight\n", ""))
    result = cross_validate(config, folds=3)
    labels = result.predictions.labels

    def auc(scores: Any) -> float:
        signal, background = scores[labels == 1, 1], scores[labels == 0, 1]
        return float(np.mean(signal[:, None] > background))

    # Without information the AUC of 60 on 60 events has a standard deviation of sqrt(121 / (12 * 60 * 60)).
    assert abs(auc(result.predictions.scores) - 0.5) < 4 * np.sqrt(121 / 43200)
    by_all = predict(result.model, read_events(load_config(config)))
    assert auc(by_all) > 0.85  # two of three networks have seen each event: what a leak looks like


def test_the_ensemble_gives_the_mean_by_hand(done: Any) -> None:
    model = load_model(done.folder / "model.safetensors")
    assert isinstance(model, Ensemble)
    new = read_events(load_config(done.folder.parent / "toy.yaml"))[50:90]
    each = [predict(load_model(done.folder / f"fold-{k}" / "model.safetensors"), new) for k in range(3)]
    np.testing.assert_allclose(predict(model, new), sum(each) / 3, rtol=1e-15)
    own = np.stack([each[(50 + b + 1000) % 3][b] for b in range(40)])
    # The dense layers are PyTorch's: their rounding in float32 depends on the company of an event.
    np.testing.assert_allclose(predict(model, new, out_of_fold=True), own, rtol=0, atol=1e-6)
    assert np.abs(own - predict(model, new)).max() > 1e-3


def test_an_ensemble_comes_back_from_its_file(done: Any, tmp_path: Path) -> None:
    model = load_model(done.folder / "model.safetensors")
    assert isinstance(model, Ensemble)
    assert repr(model) == "Ensemble(3 networks of 287 parameters)"
    assert model.n_parameters == 3 * 287
    assert model.variables == ("part_logpt", "part_eta")
    assert model.dtype == np.float32
    assert (model.folds.number, model.folds.by) == (3, BY)
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (done.folder / "model.safetensors").read_bytes()


def test_what_takes_one_network_says_so_of_an_ensemble(done: Any) -> None:
    model = load_model(done.folder / "model.safetensors")
    events = read_events(load_config(done.folder.parent / "toy.yaml"))[:3]
    said = r"an ensemble of 3 networks, and one is needed: take that of a fold, fold-0/model\.safetensors"
    from timelike.inspect import integrated_gradients, permutation_importance

    for look in (timelike.trace, integrated_gradients, permutation_importance):
        with pytest.raises(ConfigError, match=said):
            look(model, events)
    assert timelike.trace(model.members[2], events).layers  # type: ignore[attr-defined]


def test_one_network_has_no_folds(done: Any) -> None:
    one = load_model(done.folder / "fold-0" / "model.safetensors")
    events = read_events(load_config(done.folder.parent / "toy.yaml"))[:3]
    with pytest.raises(ConfigError, match="this is one network"):
        predict(one, events, out_of_fold=True)


def test_the_numbers_are_of_folds_and_of_all_together(done: Any) -> None:
    metrics = json.loads((done.folder / "crossval.json").read_text())
    assert metrics == done.metrics
    whole = evaluate({"out-of-fold": done.predictions}, metrics["classes"], signal="signal", n_bootstrap=5)
    assert metrics["out_of_fold"] == whole["out-of-fold"]
    areas = []
    for fold in range(3):
        here = done.folds == fold
        weights, scores = done.predictions.weights[here], done.predictions.scores[here, 1]
        s = done.predictions.labels[here] == 1
        pairs = weights[s][:, None] * weights[~s]
        right = (scores[s][:, None] > scores[~s]) + 0.5 * (scores[s][:, None] == scores[~s])
        areas.append((pairs * right).sum() / pairs.sum())
        assert metrics["per_fold"][fold]["auc"]["value"] == pytest.approx(areas[-1], rel=1e-12)
        assert metrics["per_fold"][fold]["auc"]["error"] > 0
        assert metrics["per_fold"][fold]["events"] == 80
    over = metrics["over_folds"]["auc"]
    assert over["mean"] == pytest.approx(sum(areas) / 3, rel=1e-12)
    assert over["standard_deviation"] == pytest.approx(
        (sum((a - sum(areas) / 3) ** 2 for a in areas) / 2) ** 0.5, rel=1e-9
    )


def test_a_value_that_a_fold_lacks_has_no_mean(done: Any) -> None:
    at = [fold["rejection"]["at_signal_0.3"]["value"] for fold in done.metrics["per_fold"]]
    assert None in at
    assert done.metrics["over_folds"]["rejection_at_signal_0.3"] == {
        "mean": None,
        "standard_deviation": None,
    }


def test_the_page_shows_the_folds(done: Any) -> None:
    page = done.report.read_text()
    for text in ("event_number % folds", "fold 2", "out-of-fold events", "timelike crossval run-crossval"):
        assert text in page, text
    assert (done.folder / "figures" / "folds_0.pdf").is_file()


def test_a_fold_is_an_ordinary_run(done: Any, tmp_path: Path) -> None:
    shutil.copytree(done.folder.parent, tmp_path / "copy", symlinks=True)
    evaluation = evaluate_run(tmp_path / "copy" / done.folder.name / "fold-1")
    expected = done.metrics["per_fold"][1]["auc"]["value"]
    assert evaluation.metrics["test"]["auc"]["value"] == expected
    same = train(
        load_config(done.folder / "fold-1" / "config.yaml", overrides={"output": str(tmp_path / "a")})
    )
    states = [same.model.network.state_dict(), done.model.members[1].network.state_dict()]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def test_the_config_that_it_leaves_gives_the_same_again(done: Any, tmp_path: Path) -> None:
    again = cross_validate(done.folder / "config.yaml", folder=tmp_path / "again")
    np.testing.assert_array_equal(again.predictions.scores, done.predictions.scores)


def test_without_event_numbers_each_class_is_shuffled(toy_config: Path, toy_root: Path) -> None:
    text = TOY_CONFIG.replace("event_number: eventNumber", "").replace("{by: event_number}", "{seed: 7}")
    toy_config.write_text(text.replace("epochs: 3", "epochs: 1"))
    result = cross_validate(toy_config, folds=3)
    for label in (0, 1):
        counts = np.bincount(result.folds[result.predictions.labels == label])
        assert counts.tolist() == [40, 40, 40]
    in_order = np.arange(N_EVENTS) % 3
    assert not np.array_equal(result.folds, in_order)
    assert result.metrics["by"] is None
    with pytest.raises(ConfigError, match="the folds were shuffled"):
        predict(load_model(result.folder / "model.safetensors"), read_events(load_config(toy_config)),
                out_of_fold=True)  # fmt: skip


# -- going on, and farms ------------------------------------------------------------------------------------


class Stopped(Exception):
    """What an interruption is in these tests."""


def test_it_goes_on_in_the_fold_where_it_stopped_to_the_same_bits(
    toy_config: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, steps = TrainingStep.take, [0]

    def step(*given: Any) -> float:
        steps[0] += 1
        if steps[0] == stop:
            raise Stopped
        return plain(*given)

    config = load_config(toy_config, overrides={"training.checkpoint_every": 2})
    monkeypatch.setattr(TrainingStep, "take", step)
    of_folds = [3 * -(-one["split"]["train"] // 16) for one in done.metrics["per_fold"]]
    stop = of_folds[0] + of_folds[1] + 15  # in the second epoch of the third
    with pytest.raises(Stopped):
        cross_validate(config, folds=3)
    folder = toy_config.parent / "run-crossval"
    assert (folder / "fold-2" / "checkpoint.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    result = cross_validate(config, folds=3, resume=True)
    np.testing.assert_array_equal(result.predictions.scores, done.predictions.scores)
    # One step was begun in vain, and at most one more lies between the last checkpoint and it.
    assert sum(of_folds) + 1 <= steps[0] <= sum(of_folds) + 2


def test_folds_can_be_trained_apart_and_joined(toy_config: Path, done: Any) -> None:
    for fold in (2, 0):
        train_fold(toy_config, fold, folds=3)
    with pytest.raises(ConfigError, match=r"fold 1 of 3 is not trained to its end in .*--fold 1 --resume"):
        join_folds(toy_config, folds=3)
    train_fold(toy_config, 1, folds=3)
    result = join_folds(toy_config, folds=3)
    np.testing.assert_array_equal(result.predictions.scores, done.predictions.scores)
    with pytest.raises(ConfigError, match=r"of another config, training\.seed: 0 before, 1 now"):
        join_folds(load_config(toy_config, overrides={"training.seed": 1}), folds=3)
    with pytest.raises(ConfigError, match=r"fold 3: the folds are 0\.\.2"):
        train_fold(toy_config, 3, folds=3)


# -- the file -----------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Any) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(path, framework="numpy") as file:
        meta = json.loads(file.metadata()["timelike"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(meta, tensors)
    path.write_bytes(save(tensors, metadata={"timelike": json.dumps(meta)}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda meta, _: meta["ensemble"].pop("folds"), "lacks its folds, or a member for each"),
        (lambda meta, _: meta["ensemble"]["members"].pop(), "lacks its folds, or a member for each"),
        (lambda meta, _: meta["ensemble"]["members"][2].pop("transforms"), "member 2 .* lacks 'transforms'"),
        (lambda meta, _: meta.update(ensemble=[]), "lacks its folds"),
        (lambda meta, _: meta["ensemble"]["folds"].update(number=4.5), "lacks its folds"),
        (lambda meta, _: meta["ensemble"]["folds"].update(by=3), "folds that are not"),
        (lambda _, tensors: tensors.pop("fold.2.head.0.bias"), r"tensor 'fold\.2\.head\.0\.bias'"),
        (lambda _, tensors: tensors.update(more=np.zeros(2, np.float32)), "'more' does not belong"),
    ],
)
def test_a_damaged_ensemble_is_refused(done: Any, tmp_path: Path, change: Any, said: str) -> None:
    shutil.copy(done.folder / "model.safetensors", tmp_path / "m")
    rewritten(tmp_path / "m", change)
    with pytest.raises(ModelFileError, match=said):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"by": "folds"}, "by: folds needs 'folds'"),
        ({"by": "folds", "folds": {"test": 5}}, r"fold 5 of 5; the folds are 0\.\.4"),
        ({"folds": {"number": 3}}, "'folds' has no meaning with by: random"),
        ({"by": "folds", "folds": {}, "modulo": 5}, "'modulo' has no meaning with by: folds"),
    ],
)
def test_splits_by_folds_are_checked(values: dict[str, Any], said: str) -> None:
    data = {"files": "a.root", "variables": ["x"], "labels": {"a": "y == 0", "b": "y == 1"}}
    with pytest.raises(ConfigError, match=said):
        Config.from_dict({"data": data, "split": values})


def test_events_that_are_streamed_have_no_folds(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.stream: cross validation needs all events in memory"):
        cross_validate(load_config(toy_config, overrides={"data.stream": {}}))
