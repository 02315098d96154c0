"""What is to be found: labels of which any may hold, quantiles, counts, answers of each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from timelike import Sequences
from timelike.batches import ShuffledBatches, answer_weights, answers
from timelike.cli import main
from timelike.config import Config, NetworkConfig, TrainingConfig, load_config
from timelike.config.training import larger_is_better, metric_of
from timelike.distributed import Ranks
from timelike.errors import ConfigError, DataError
from timelike.fit import fit
from timelike.losses import loss_of, poisson, quantile
from timelike.model import load_model, predict
from timelike.network import Network, logits, outputs, ragged
from timelike.nn import Ragged
from timelike.roc import roc_curve
from timelike.runs import evaluate_run
from timelike.train import read_splits, train
from timelike.validation import Judge, TrainingError

DOUBLE = torch.float64


def network(n_outputs: int = 1, n_inputs: int = 2, **changes: Any) -> Network:
    values = {"recurrent": ({"units": 6},), "head": {"units": (5,), "output": "linear"}} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Network(NetworkConfig.model_validate(values), n_inputs, n_outputs, dtype=DOUBLE)


def training(**changes: Any) -> TrainingConfig:
    values = {"loss": "squared_error", "epochs": 2, "batch_size": 16, "optimiser": {"learning_rate": 0.01}}
    return TrainingConfig.model_validate(values | changes)


def walks(n: int = 60, *, seed: int = 0, **more: Any) -> Sequences:
    """Sequences of 0 to 6 steps, whose steps are to be told the sign of their first variable."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 7, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.normal(size=(offsets[-1], 2))
    told = np.where(rng.random(len(values)) < 0.2, -1, (values[:, 0] > 0).astype(np.int64))
    numbers = np.where(told[:, None] < 0, np.nan, values[:, :1] * 2.0)
    return Sequences(values, offsets, step_labels=told, step_targets=numbers, **more)


# -- losses -------------------------------------------------------------------------------------------------


def test_the_quantile_loss_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, -1.0, 0.0], [0.0, 4.0, 3.0, 3.0]], dtype=DOUBLE)
    targets = torch.tensor([[1.5, -2.0], [2.0, 3.0]], dtype=DOUBLE)
    weights = torch.tensor([2.0, -0.5], dtype=DOUBLE)
    # q = 0.1, 0.8. First: 0.1 0.5, 0.2 0.5; 0.9 1, 0.2 2. Second: 0.1 2, 0.2 2; 0, 0.
    first, second = (0.05 + 0.1 + 0.9 + 0.4) / 4, (0.2 + 0.4) / 4
    got = quantile(scores, targets, weights, (0.1, 0.8))
    assert got.item() == pytest.approx((2 * first - 0.5 * second) / 2, rel=1e-15)


def test_the_best_constant_is_the_quantile() -> None:
    """Koenker & Bassett: between the two values that have the share q on either side."""
    values = torch.tensor(np.random.default_rng(0).normal(size=101), dtype=DOUBLE)
    ones = torch.ones(101, dtype=DOUBLE)
    for q, place in ((0.1, 10), (0.5, 50), (0.9, 90)):
        losses = [
            quantile(v.expand(101, 1), values[:, None], ones, (q,)).item() for v in values.sort().values
        ]
        assert int(np.argmin(losses)) == place


def test_the_poisson_loss_by_hand() -> None:
    scores = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    targets = torch.tensor([[3.0], [2.0]], dtype=DOUBLE)
    got = poisson(scores, targets, torch.tensor([1.0, 2.0], dtype=DOUBLE))
    assert got.item() == pytest.approx((1.0 + 2.0 * (np.e - 2.0)) / 2, rel=1e-15)


@pytest.mark.parametrize(
    ("loss", "head", "columns"),
    [
        ("quantile", {"output": "linear", "quantiles": (0.1, 0.5, 0.9)}, 6),
        ("poisson", {"output": "exponential"}, 2),
        ("sigmoid_cross_entropy", {"output": "multilabel"}, 2),
    ],
)
def test_losses_have_the_gradients_of_their_differences(loss: str, head: Any, columns: int) -> None:
    rng = np.random.default_rng(1)
    config = NetworkConfig.model_validate({"head": head}).head
    made = loss_of(training(loss=loss), config)
    targets = torch.tensor(rng.integers(0, 2, (7, 2)), dtype=DOUBLE)
    weights = torch.tensor(rng.normal(size=7))
    scores = torch.tensor(rng.normal(size=(7, columns)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: made(s, targets, weights), (scores,))


def test_outputs() -> None:
    scores = torch.tensor([[0.0, 1.0, -2.0]], dtype=DOUBLE)
    s = scores.numpy()
    np.testing.assert_allclose(outputs(scores, "multilabel"), 1 / (1 + np.exp(-s)), rtol=1e-15)
    np.testing.assert_allclose(outputs(scores, "exponential"), np.exp(s), rtol=1e-15)
    np.testing.assert_array_equal(outputs(scores, "linear"), s)


# -- answers of each step -----------------------------------------------------------------------------------


class TestSteps:
    def test_answers_say_which_steps_have_one(self) -> None:
        events = walks()
        assert events.step_labels is not None
        found = answers(events, DOUBLE, targets=False, per_step=True)
        assert found.answered is not None
        np.testing.assert_array_equal(found.answered, events.step_labels >= 0)
        np.testing.assert_array_equal(found.values, np.maximum(events.step_labels, 0))
        numbers = answers(events, DOUBLE, targets=True, per_step=True)
        np.testing.assert_array_equal(numbers.answered, found.answered)
        assert torch.isfinite(numbers.values).all()

    def test_weights_of_steps_by_hand(self) -> None:
        events = Sequences(
            np.zeros((5, 1)), [0, 2, 2, 5], step_labels=[0, -1, 1, 1, 0], weights=[2.0, 7.0, 1.0]
        )
        how: Any = {"where": "training", "per_step": True}
        plain = answer_weights(events, ("a", "b"), balance=False, **how)
        # 2, -, 1, 1, 1 with a mean of one over five steps
        np.testing.assert_allclose(plain, [2.0, 0.0, 1.0, 1.0, 1.0], rtol=1e-15)
        balanced = answer_weights(events, ("a", "b"), balance=True, **how)
        # Both classes sum to the same: a has 2 + 1, b has 1 + 1; all five steps have a mean of one.
        np.testing.assert_allclose(balanced, 2.5 * np.array([2 / 3, 0, 1 / 2, 1 / 2, 1 / 3]), rtol=1e-15)

    def test_batches_of_an_epoch_count_each_step_the_same(self) -> None:
        events = walks(weights=np.random.default_rng(5).uniform(0.5, 2.0, 60))
        net = network(pooling="none")
        weights = answer_weights(events, None, balance=False, where="training", per_step=True)
        how: Any = {"dtype": DOUBLE, "seed": 1, "regression": True, "per_step": True}
        batches = ShuffledBatches(events, weights, batch_size=9, **how)
        config = training()
        made = loss_of(config, net.config.head)
        with torch.no_grad():
            losses = [made(net(b.rows), b.labels, b.weights).item() for b in batches.epoch()]
            sizes = [len(b.rows.offsets) - 1 for b in batches.epoch(0)]
        found = answers(events, DOUBLE, targets=True, per_step=True)
        scores = logits(net, events).numpy()
        squares = (scores - found.values.numpy())[:, 0] ** 2
        # Batches differ by a sequence at most, and count by their number of sequences.
        whole = np.average(losses, weights=sizes)
        assert whole == pytest.approx(np.mean(squares * weights), rel=1e-12)

    def test_two_ranks_sum_to_the_whole(self) -> None:
        events = walks(21)
        net = network(pooling="none")
        weights = answer_weights(events, None, balance=False, where="training", per_step=True)
        how: Any = {"dtype": DOUBLE, "seed": 1, "regression": True, "per_step": True}
        (batch,) = ShuffledBatches(events, weights, batch_size=99, **how).epoch()
        made = loss_of(training(), net.config.head)
        whole = made(net(batch.rows), batch.labels, batch.weights)
        parts = [Ranks(rank, 2).share(batch, per_step=True) for rank in (0, 1)]
        assert sum(len(part.labels) for part in parts) == len(batch.labels)
        shares = [made(net(part.rows), part.labels, part.weights) for part in parts]
        assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-13)  # type: ignore[union-attr]

    def test_steps_without_an_answer_do_not_change_the_gradients(self) -> None:
        events = walks()
        net = network(2, pooling="none", head={"units": (5,), "output": "softmax"})
        weights = answer_weights(events, ("a", "b"), balance=False, where="training", per_step=True)
        made = loss_of(training(loss="cross_entropy"), net.config.head)
        gradients = []
        for label in (0, 1):
            assert events.step_labels is not None
            filled = np.where(events.step_labels < 0, label, events.step_labels)
            scores = net(ragged(events, DOUBLE))
            net.zero_grad()
            made(scores, torch.from_numpy(filled), torch.from_numpy(weights)).backward()
            gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        for a, b in zip(*gradients, strict=True):
            assert torch.equal(a, b)

    def test_a_network_says_something_of_each_step(self) -> None:
        events, net = walks(), network(pooling="none")
        scores = logits(net, events)
        assert scores.shape == (events.n_rows, 1)
        whole = net(ragged(events, DOUBLE))
        assert torch.equal(scores, whole.detach())
        # A step knows nothing of what comes after it.
        longest = int(np.argmax(events.lengths))
        first = events[[longest]].values[:2]
        start = net(Ragged(torch.from_numpy(first.copy()), torch.tensor([0, 2])))
        begin = events.offsets[longest]
        assert torch.equal(start, whole[begin : begin + 2])


# -- metrics of early stopping ------------------------------------------------------------------------------


class TestMetrics:
    def judge(self, events: Sequences, net: Network, metric: str, signal: int | None, **more: Any) -> float:
        config = training(early_stopping={"metric": metric}, **more)
        per_step = net.per_step
        names = None if signal is None else ("a", "b")
        weights = answer_weights(events, names, balance=False, where="validation", per_step=per_step)
        judged = Judge(events, weights, net, config, signal)(net, config, 1)
        assert judged.metric is not None
        return judged.metric

    def classes(self) -> tuple[Sequences, Network]:
        events = walks(200)
        assert events.step_labels is not None
        return events, network(2, pooling="none", head={"units": (), "output": "softmax"})

    @pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "log_loss"])
    def test_of_classes(self, metric: str) -> None:
        events, net = self.classes()
        assert events.step_labels is not None
        used = events.step_labels >= 0
        p, labels = logits(net, events).softmax(dim=1).numpy()[used], events.step_labels[used]
        right = p.argmax(axis=1) == labels
        expected = {
            "accuracy": right.mean(),
            "balanced_accuracy": (right[labels == 0].mean() + right[labels == 1].mean()) / 2,
            "log_loss": -np.log(p[np.arange(len(p)), labels]).mean(),
        }[metric]
        got = self.judge(events, net, metric, 1, loss="cross_entropy")
        assert got == pytest.approx(expected, rel=1e-12)

    def test_at_working_points(self) -> None:
        events, net = self.classes()
        assert events.step_labels is not None
        used = events.step_labels >= 0
        p = logits(net, events).softmax(dim=1).numpy()[used, 1]
        curve = roc_curve(p, events.step_labels[used] == 1, np.ones(used.sum()))
        got = self.judge(events, net, "signal_efficiency_at_background_0.2", 1, loss="cross_entropy")
        assert got == pytest.approx(float(curve.signal_efficiency_at(0.2)), rel=1e-12)
        got = self.judge(events, net, "rejection_at_signal_0.5", 1, loss="cross_entropy")
        assert got == pytest.approx(1 / float(curve.background_efficiency_at(0.5)), rel=1e-12)

    @pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
    def test_of_numbers(self, metric: str) -> None:
        events, net = walks(100), network(pooling="none")
        assert events.step_targets is not None
        used = ~np.isnan(events.step_targets[:, 0])
        d = (logits(net, events).numpy() - events.step_targets)[used, 0]
        t = events.step_targets[used, 0]
        expected = {
            "rmse": np.sqrt((d**2).mean()),
            "mae": np.abs(d).mean(),
            "r2": 1 - (d**2).mean() / t.var(),
        }[metric]
        assert self.judge(events, net, metric, None) == pytest.approx(expected, rel=1e-12)

    def test_of_quantiles_it_is_that_of_the_median(self) -> None:
        events = walks(100)
        net = network(3, pooling="none", head={"units": (), "output": "linear", "quantiles": (0.1, 0.4, 0.9)})
        assert net.n_classes == 9
        targets = np.repeat(np.nan_to_num(events.step_targets), 3, axis=1)
        given = events.replace(step_targets=targets)
        got = self.judge(given, net, "rmse", None, loss="quantile")
        d = logits(net, events).numpy()[:, [1, 4, 7]] - targets
        assert got == pytest.approx(np.sqrt((d**2).mean(axis=0)).mean(), rel=1e-12)

    def test_of_labels(self) -> None:
        rng = np.random.default_rng(2)
        lengths = rng.integers(1, 5, 90)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        holds = rng.integers(0, 2, (90, 3)).astype(float)
        holds[:, 2] = 1.0  # has no area
        events = Sequences(rng.normal(size=(offsets[-1], 2)), offsets, targets=holds)
        net = network(3, head={"units": (), "output": "multilabel"})
        p = 1 / (1 + np.exp(-logits(net, events).numpy()))
        got = self.judge(events, net, "accuracy", None, loss="sigmoid_cross_entropy")
        assert got == pytest.approx(((p > 0.5) == holds).mean(), rel=1e-12)
        config = training(loss="sigmoid_cross_entropy")
        judged = Judge(events, np.ones(90), net, config, None)(net, config, 1)
        areas = [roc_curve(p[:, k], holds[:, k] == 1, np.ones(90)).auc for k in (0, 1)]
        assert judged.auc == pytest.approx(np.mean(areas), rel=1e-12)

    def test_labels_without_an_area_end_no_training_that_does_not_ask_for_it(self) -> None:
        events = Sequences(np.ones((3, 2)), [0, 1, 2, 3], targets=np.zeros((3, 1)))
        net = network(1, head={"units": (), "output": "multilabel"})
        config = training(loss="sigmoid_cross_entropy")
        assert Judge(events, np.ones(3), net, config, None)(net, config, 1).auc is None
        config = training(loss="sigmoid_cross_entropy", early_stopping={"metric": "auc"})
        with pytest.raises(DataError, match="each label holds for all events, or for none"):
            Judge(events, np.ones(3), net, config, None)(net, config, 1)

    def test_steps_of_which_none_has_an_answer(self) -> None:
        events = walks(20)
        assert events.step_targets is not None
        events = events.replace(step_targets=np.full_like(events.step_targets, np.nan))
        with pytest.raises(DataError, match=r"no step has any targets: all are NaN, or data\.horizon"):
            self.judge(events, network(pooling="none"), "rmse", None)

    def test_a_target_that_never_changes_has_no_r2(self) -> None:
        events = walks(20)
        assert events.step_targets is not None
        events = events.replace(step_targets=np.zeros_like(events.step_targets))
        with pytest.raises(TrainingError, match=r"r2 of the .* after epoch 1: a target is the same for all"):
            self.judge(events, network(pooling="none"), "r2", None)

    def test_the_best_epoch_is_that_of_the_metric(self) -> None:
        events, other = walks(80), walks(80, seed=1)
        for metric in ("rmse", "r2"):
            net = network(pooling="none")
            result = fit(
                net, events, other, training(epochs=6, early_stopping={"metric": metric, "patience": 6})
            )
            values = [epoch.validation_metric for epoch in result.history]
            assert None not in values
            pick = np.argmax if larger_is_better(metric) else np.argmin
            assert result.best.epoch == int(pick(values)) + 1  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("gini", None, "'gini'; possible: loss, auc"),
            ("rmse", "classes", "'rmse'; possible: loss, auc, accuracy"),
            ("rejection_at_signal_1.5", "classes", "rejection_at_signal_0.1"),
            ("rejection_at_signal_half", "classes", "rejection_at_signal_0.1"),
            ("auc_at_signal_0.5", "classes", "rejection_at_signal_0.1"),
        ],
    )
    def test_what_is_none(self, name: str, kind: str | None, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            metric_of(name, kind)


# -- in a config --------------------------------------------------------------------------------------------


def toy(path: Path, data: dict[str, Any], **training: Any) -> Config:
    """Give the toy config with another task."""
    values = load_config(path).model_dump(mode="json")
    for key in ("labels", "classes", "signal"):
        del values["data"][key]
    values["data"] = {key: value for key, value in values["data"].items() if value not in (None, [], {})}
    values["data"] |= data
    del values["network"]["head"]["output"]
    if data.get("per") == "step":
        del values["network"]["pooling"]
    if "loss" not in training:
        del values["training"]["loss"]
    values["training"] |= training
    return Config.from_dict(values, base=path.parent)


HARD = {"soft": "part_pt < 11", "hard": "part_pt >= 11"}


@pytest.mark.parametrize(
    ("data", "training", "message"),
    [
        ({"multilabel": {"a": "x"}, "signal": "a"}, {}, "'signal' has no meaning with 'multilabel'"),
        (
            {"multilabel": {"a": "x"}},
            {"loss": "poisson"},
            "does not fit data.multilabel; possible: sigmoid",
        ),
        ({"targets": {"a": "x"}, "horizon": 2}, {}, "'horizon' has no meaning without per: step"),
        (
            {"targets": {"a": "x"}},
            {"early_stopping": {"metric": "auc"}},
            "metric: 'auc'; possible: loss, rmse",
        ),
        (
            {"classes": {"a": {"files": "a.root"}, "b": {"files": "b.root"}}, "per": "step"},
            {},
            "are of events",
        ),
    ],
)
def test_configs_that_make_no_sense(toy_config: Path, data: Any, training: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy(toy_config, data, **training)


def test_what_follows_from_a_task(toy_config: Path) -> None:
    one = toy(toy_config, {"targets": {"a": "x"}}, loss="quantile")
    assert (one.network.head.output, one.network.head.quantiles) == ("linear", (0.16, 0.5, 0.84))
    one = toy(toy_config, {"targets": {"a": "x"}}, loss="poisson")
    assert one.network.head.output == "exponential"
    one = toy(toy_config, {"multilabel": {"a": "x", "b": "y"}})
    assert (one.network.head.output, one.training.loss) == ("multilabel", "sigmoid_cross_entropy")
    one = toy(toy_config, {"labels": HARD, "per": "step"})
    assert (one.network.pooling, one.training.loss) == ("none", "cross_entropy")


def test_quantiles_that_columns_cannot_tell_apart() -> None:
    for given, message in (((0.5, 0.1), "they must rise"), ((0.1234567, 0.1234568), "differ in six digits")):
        with pytest.raises(ValueError, match=message):
            network(2, head={"units": (), "output": "linear", "quantiles": given})


class TestReading:
    def test_labels_of_steps_go_with_the_kept_steps(self, toy_config: Path) -> None:
        config = toy(toy_config, {"labels": HARD, "per": "step"})
        for part in read_splits(config).values():
            assert part.labels is None
            expected = np.exp(part.values[:, 0]) >= 11 - 1e-5
            np.testing.assert_array_equal(part.step_labels, expected)

    def test_a_horizon_looks_ahead_among_the_kept_steps(self, toy_config: Path) -> None:
        config = toy(toy_config, {"targets": {"eta": "part_eta"}, "per": "step", "horizon": 2})
        part = read_splits(config)["train"]
        assert part.step_targets is not None
        for b in range(len(part)):
            own = slice(part.offsets[b], part.offsets[b + 1])
            eta, target = part.values[own, 1], part.step_targets[own, 0]
            np.testing.assert_allclose(target[:-2], eta[2:], rtol=1e-6)
            assert np.isnan(target[-2:]).all()

    def test_steps_may_have_no_label_and_not_two(self, toy_config: Path) -> None:
        some = {"low": "part_pt < 5", "high": "part_pt > 20"}
        part = read_splits(toy(toy_config, {"labels": some, "per": "step"}))["train"]
        assert set(np.unique(part.step_labels)) == {-1, 0, 1}
        both = {"low": "part_pt < 50", "high": "part_pt > 20"}
        with pytest.raises(DataError, match=r"data.labels: event \d+, step \d+: .*'low' and 'high' all hold"):
            read_splits(toy(toy_config, {"labels": both, "per": "step"}))

    def test_labels_that_hold_together(self, toy_config: Path) -> None:
        config = toy(toy_config, {"multilabel": {"signal": "label == 1", "hard": "jet_pt > 550"}})
        part = read_splits(config)["test"]
        assert part.targets is not None
        np.testing.assert_array_equal(part.targets[:, 1], part.observers["jet_pt"] > 550)
        assert part.labels is None

    def test_a_condition_is_needed(self, toy_config: Path) -> None:
        with pytest.raises(DataError, match="not a condition; compare it"):
            read_splits(toy(toy_config, {"labels": {"a": "part_pt", "b": "part_pt > 1"}, "per": "step"}))

    def test_counts_below_zero(self, toy_config: Path) -> None:
        config = toy(toy_config, {"targets": {"a": "jet_pt - 550"}}, loss="poisson")
        with pytest.raises(DataError, match=r"poisson: target 0 is -[0-9.]+ in row \d+; 0 or more is needed"):
            train(config)


TASKS = {
    "labels": ({"multilabel": {"signal": "label == 1", "many": "num(part_pt) > 3"}}, {}),
    "quantiles": ({"targets": {"n": "num(part_pt)"}}, {"loss": "quantile"}),
    "counts": ({"targets": {"n": "num(part_pt)"}}, {"loss": "poisson"}),
    "steps": ({"labels": HARD, "per": "step"}, {}),
    "forecast": ({"targets": {"eta": "part_eta"}, "per": "step", "horizon": 1}, {"loss": "huber"}),
    "steps_labels": (
        {"multilabel": {"hard": "part_pt > 11", "up": "part_eta > 0"}, "per": "step"},
        {"early_stopping": {"metric": "auc"}},
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_each_task(toy_config: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, more = TASKS[task]
    config = toy(toy_config, data, **more)
    path = toy_config.parent / "task.yaml"
    path.write_text(config.written_for(path.parent), encoding="utf-8")
    assert main(["train", str(path)]) == 0
    assert main(["evaluate", str(config.run_folder)]) == 0
    shown = capsys.readouterr().out
    assert "next: timelike evaluate" in shown
    assert (config.run_folder / "report.html").is_file()
    metrics = json.loads((config.run_folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["unit"] == ("step" if data.get("per") == "step" else "event")
    model = load_model(config.run_folder / "model.safetensors")
    test = read_splits(config)["test"]
    said = predict(model, test)
    rows = test.n_rows if data.get("per") == "step" else len(test)
    assert said.shape == (rows, len(model.output_names))
    # A run can be evaluated again, and gives the same numbers.
    assert evaluate_run(config.run_folder).metrics == metrics


def test_each_task_learns(toy_config: Path) -> None:
    config = toy(toy_config, {"labels": HARD, "per": "step"}, epochs=12)
    train(config)
    metrics = evaluate_run(config.run_folder).metrics
    assert metrics["test"]["auc"]["value"] > 0.95
    config = toy(toy_config, {"targets": {"n": "num(part_pt)"}}, loss="poisson", epochs=30, seed=1)
    train(config)  # with seed 0 all five rectifiers of the small head die in the first epoch
    measured = evaluate_run(config.run_folder).metrics["test"]["targets"]["n"]
    assert measured["deviance"]["value"] < 0.5  # of who always says the mean: above 1
