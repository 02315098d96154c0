"""Training: batches, weights, the loop, what is written, and what stops it."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from timelike import batches as batches_module
from timelike import fit as fit_module
from timelike.batches import Batch, ShuffledBatches, event_weights
from timelike.config import Config, NetworkConfig, TrainingConfig, load_config
from timelike.errors import ConfigError, DataError
from timelike.fit import TrainingError, fit
from timelike.losses import cross_entropy
from timelike.model import load_model, predict
from timelike.network import Network, logits
from timelike.nn import Ragged
from timelike.optimisers import make_optimiser
from timelike.progress import Silent
from timelike.runs import evaluate_run
from timelike.sequences import Sequences
from timelike.train import TrainingInterrupted, read_splits, rehearse, train
from timelike.trainingstep import NotFinite, TrainingStep
from timelike.validation import Judged
from toys import toy_columns, write_root


def toys(n: int = 60, *, weights: Any = None) -> Sequences:
    """Sequences whose rows carry the number of their sequence."""
    lengths = np.arange(n) % 4
    rows = np.repeat(np.arange(n), lengths).astype(np.float32)
    return Sequences(
        np.stack([rows, -rows], axis=1),
        np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.arange(n) % 2,
        weights=weights,
    )


def training(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate_json(json.dumps(changes))


def network(*, dropout: float = 0.0) -> Network:
    head = {"units": [3], "dropout": dropout}
    config = NetworkConfig.model_validate_json(json.dumps({"recurrent": [{"units": 4}], "head": head}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(config, 2, 2)


# -- weights ------------------------------------------------------------------------------------------------

LABELS = Sequences(np.zeros((0, 1)), np.zeros(5, int), labels=[0, 0, 0, 1])


@pytest.mark.parametrize(
    ("given", "balance", "expected"),
    [
        (None, False, [1, 1, 1, 1]),
        (None, True, [2 / 3, 2 / 3, 2 / 3, 2]),
        ([1, 2, -1, 4], False, [2 / 3, 4 / 3, -2 / 3, 8 / 3]),
        ([1, 2, -1, 4], True, [1, 2, -1, 2]),
    ],
)
def test_event_weights_by_hand(given: Any, balance: bool, expected: list[float]) -> None:
    events = LABELS.replace(weights=given)
    scaled = event_weights(events, ("a", "b"), balance=balance, where="train")
    np.testing.assert_allclose(scaled, expected, rtol=1e-15)
    assert math.isclose(scaled.sum(), 4)


@pytest.mark.parametrize(
    ("given", "names", "balance", "said"),
    [
        ([1, 1, 1, 0], "ab", True, "^train: the weights of the 1 events of class 'b' sum to 0;"),
        ([1, 1, -3, 1], "ab", True, "^train: the weights of the 3 events of class 'a' sum to -1;"),
        ([0, 0, 0, 0], "ab", False, "^train: the weights of the 3 events of class 'a' sum to 0; a positive"),
        ([3, 3, 3, -1], "ab", False, "^train: the weights of the 1 events of class 'b' sum to -1"),
        (None, "abc", True, "^train: no event of class 'c' among 4$"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_scaled(given: Any, names: str, balance: bool, said: str) -> None:
    with pytest.raises(DataError, match=said):
        event_weights(LABELS.replace(weights=given), tuple(names), balance=balance, where="train")


def test_event_weights_by_number_and_without_sign() -> None:
    events = LABELS.replace(weights=[1, 2, -1, 4])

    def scaled(**how: Any) -> list[float]:
        return event_weights(events, ("a", "b"), where="train", **how).tolist()

    assert scaled(balance="number") == [1.5, 3, -1.5, 1]
    assert scaled(balance="number", negative="ignore") == [1, 2, 0, 1]
    assert scaled(balance="number", negative="absolute") == [0.75, 1.5, 0.75, 1]
    assert scaled(balance=False, negative="absolute") == [0.5, 1, 0.5, 2]


def test_loss_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float64)
    labels, weights = torch.tensor([0, 1]), torch.tensor([2.0, -0.5], dtype=torch.float64)
    loss = cross_entropy(scores, labels, weights)
    assert math.isclose(loss.item(), (2 * math.log(2) - 0.5 * math.log(4)) / 2, rel_tol=1e-15)


# -- batches ------------------------------------------------------------------------------------------------


def batches(events: Sequences, size: int, *, seed: int = 0) -> ShuffledBatches:
    weights = np.arange(len(events), dtype=np.float64)
    return ShuffledBatches(events, weights, batch_size=size, dtype=torch.float32, seed=seed)


@pytest.mark.parametrize("size", [1, 7, 60, 100])
@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_an_epoch_holds_every_event_once(monkeypatch: pytest.MonkeyPatch, size: int, at_once: int) -> None:
    monkeypatch.setattr(batches_module, "_BATCHES_AT_ONCE", at_once)
    events = toys()
    source = batches(events, size)
    seen: list[int] = []
    for batch, expected_size in zip(source, source.sizes.tolist(), strict=True):
        numbers = batch.weights.long()
        assert len(numbers) == len(batch.labels) == len(batch.rows.offsets) - 1 == expected_size <= size
        assert torch.equal(batch.labels, numbers % 2)
        assert torch.equal(batch.rows.offsets.diff(), numbers % 4)
        rows = torch.repeat_interleave(numbers, numbers % 4).float()
        assert torch.equal(batch.rows.values, torch.stack([rows, -rows], 1))
        seen += numbers.tolist()
    assert sorted(seen) == list(range(60))
    assert source.sizes.max() - source.sizes.min() <= 1


def test_the_order_is_new_in_every_epoch_and_set_by_the_seed() -> None:
    def order(source: ShuffledBatches) -> list[float]:
        return torch.cat([batch.weights for batch in source]).tolist()

    one, same, other = batches(toys(), 7), batches(toys(), 7), batches(toys(), 7, seed=1)
    first, second = order(one), order(one)
    assert first != second
    assert [order(same), order(same)] == [first, second]
    assert order(other) != first


# -- steps --------------------------------------------------------------------------------------------------


def a_batch() -> Batch:
    rows = Ragged(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 4, 9]))
    return Batch(rows, torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 0.5]))


OPTIMISERS = {
    "adam": ({"beta1": 0.8, "epsilon": 1e-6}, torch.optim.Adam, {"betas": (0.8, 0.999), "eps": 1e-6}),
    "adamw": ({"name": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": ({"name": "sgd", "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ({"name": "rmsprop", "momentum": 0.1}, torch.optim.RMSprop, {"momentum": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "arguments"), OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_step_is_that_of_the_optimiser(given: Any, kind: Any, arguments: Any) -> None:
    ours, theirs = network(), network()
    step = TrainingStep(ours, training(clip_norm=None, optimiser={"learning_rate": 0.05, **given}))
    plain = kind(theirs.parameters(), lr=0.05, **arguments)
    for _ in range(3):
        step.take(a_batch())
        plain.zero_grad()
        cross_entropy(theirs(a_batch().rows), a_batch().labels, a_batch().weights).backward()
        plain.step()
    for mine, expected, before in zip(
        ours.parameters(), theirs.parameters(), network().parameters(), strict=True
    ):
        assert not torch.equal(mine, before)
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped() -> None:
    def length_of_step(clip: float | None) -> float:
        net = network()
        before = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        plain = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
        config = training(optimiser=plain, clip_norm=clip)
        TrainingStep(net, config).take(a_batch())
        after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        return float((after - before).norm())

    free = length_of_step(None)
    assert free > 0.02
    assert length_of_step(0.01) == pytest.approx(0.01, rel=1e-4)
    assert length_of_step(2 * free) == free


# -- epochs -------------------------------------------------------------------------------------------------


def fitted(config: TrainingConfig, net: Network | None = None, **more: Any) -> Any:
    names = {"class_names": ("a", "b"), "signal": "b"}
    return fit(net or network(), toys(), toys(20), config, **names, **more)


def rates(**changes: Any) -> list[float]:
    config = training(early_stopping=None, batch_size=30, optimiser={"learning_rate": 0.1}, **changes)
    return [epoch.learning_rate for epoch in fitted(config).history]


def test_schedules() -> None:
    assert rates(epochs=3) == [0.1, 0.1, 0.1]
    cosine = rates(epochs=4, schedule={"name": "cosine", "final": 0.1})
    expected = [0.01 + 0.09 * (1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)]
    assert cosine == pytest.approx(expected, rel=1e-9)


def judging(monkeypatch: pytest.MonkeyPatch, said: Iterable[tuple[float, float]]) -> None:
    """Let the judge of a training say these losses and areas, whatever the weights."""
    given = iter(said)
    monkeypatch.setattr(fit_module.Judge, "__call__", lambda *_: Judged(*next(given), None))


def test_the_plateau_schedule_waits_for_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.5])
    judging(monkeypatch, ((loss, 0.5) for loss in losses))
    # at the end of an epoch; it falls for the next one, after two that were not better
    got = rates(epochs=8, schedule={"name": "plateau", "factor": 0.5, "patience": 2})
    assert got == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


@pytest.mark.parametrize(
    ("metric", "best", "epochs"),
    [("loss", 2, 4), ("auc", 4, 6)],
)
def test_it_stops_early_and_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch, metric: str, best: int, epochs: int
) -> None:
    judged = iter([(1.0, 0.5), (0.5, 0.6), (0.5, 0.5), (0.6, 0.9), (0.4, 0.8), (0.3, 0.7), (0.2, 0.6)])
    judging(monkeypatch, judged)
    net = network()
    after: list[dict[str, torch.Tensor]] = []
    result = fitted(
        training(epochs=7, early_stopping={"patience": 2, "metric": metric}),
        net,
        on_epoch=lambda history, improved: after.append(
            {name: value.clone() for name, value in net.state_dict().items()}
        ),
    )
    assert (result.best.epoch, len(result.history)) == (best, epochs)
    for name, value in net.state_dict().items():
        assert torch.equal(value, after[best - 1][name])
        assert not torch.equal(value, after[best][name])


def test_without_early_stopping_all_epochs_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    judging(monkeypatch, itertools.repeat((1.0, 0.5)))
    result = fitted(training(epochs=9, early_stopping=None))
    assert (result.best.epoch, len(result.history)) == (1, 9)


def test_the_metric_is_asked_every_so_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first epoch is the best until another is asked; 0.1, 0.3 and 0.2 fall between; after the sixth epoch
    # three have passed without a better one, but the question comes up after the ninth.
    judged = iter([1.0, 0.1, 0.5, 0.3, 0.2, 0.6, 0.4, 0.3, 0.7, 0.1, 0.1, 0.1])
    judging(monkeypatch, ((loss, 0.5) for loss in judged))
    result = fitted(training(epochs=12, early_stopping={"patience": 4, "every": 3}))
    assert (result.best.epoch, len(result.history)) == (3, 9)


def test_phases_follow_from_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = iter([(1.0, 0.5), (0.5, 0.6), (0.7, 0.5), (0.8, 0.5), (0.4, 0.5), (0.6, 0.5)])
    judging(monkeypatch, judged)
    net, after = network(), []
    then = [
        {"epochs": 2, "optimiser": {"name": "sgd", "learning_rate": 1e-30}, "early_stopping": None},
        {"epochs": 1, "batch_size": 10, "early_stopping": None},
    ]
    result = fitted(
        training(epochs=3, early_stopping=None, then=then),
        net,
        on_epoch=lambda history, improved: after.append(net.head[0].weight.detach().clone()),
    )
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3, 4, 5, 6]
    assert [epoch.learning_rate for epoch in result.history][3:5] == [1e-30, 1e-30]
    assert result.best.epoch == 5
    # The second phase does not move the weights: they are those of the second epoch.
    assert torch.equal(after[3], after[1])
    assert not torch.equal(after[2], after[1])
    assert not torch.equal(after[5], after[4])
    assert torch.equal(net.head[0].weight, after[4])


def test_regularisation_shrinks_the_weights() -> None:
    def size(**more: Any) -> float:
        net = network()
        plain = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0}  # 1 - 0.1 with each of 20 steps
        fitted(training(epochs=20, optimiser=plain, early_stopping=None, clip_norm=None, **more), net)
        return float(net.recurrent[0].weight_hh_l0.detach().abs().sum())

    assert size(regularisation={"name": "l2", "strength": 1.0}) < 0.5 * size()
    assert size(regularisation={"name": "l1", "strength": 1.0}) < 0.5 * size()


def test_a_network_without_recurrent_layers_is_trained_and_evaluated(toy_config: Path) -> None:
    changes = {"network.recurrent": [], "network.pooling": "mean", "training.epochs": 8}
    result = train(load_config(toy_config, overrides=changes))
    assert result.best.validation_auc > 0.8
    assert result.model.network.head[0].weight.shape == (5, 2)
    text = evaluate_run(result.folder).report.read_text(encoding="utf-8")
    assert "What the network looks at" in text
    assert "How far it remembers" not in text
    again = load_config(toy_config, overrides={**changes, "training.inspect": {"every": 5}})
    with pytest.raises(ConfigError, match=r"Network: no layer of timelike\.nn ran forward and backward"):
        train(again)


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "squared_error"])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_every_loss_learns(toy_config: Path, loss: str, output: str) -> None:
    config = load_config(
        toy_config,
        overrides={"training.loss": loss, "network.head.output": output, "training.epochs": 8},
    )
    result = train(config)
    assert result.best.validation_auc > 0.8
    assert result.history[-1].train_loss < result.history[0].train_loss


def test_the_loss_of_an_epoch_is_the_mean_over_events() -> None:
    # with a rate this small the weights stay as they are, so the mean over batches is that over events
    net = network()
    result = fitted(training(epochs=1, batch_size=7, optimiser={"name": "sgd", "learning_rate": 1e-30}), net)
    scores, labels = logits(net, toys()), torch.arange(60) % 2
    assert result.history[0].train_loss == pytest.approx(
        torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-6
    )
    scores, labels = logits(net, toys(20)), torch.arange(20) % 2
    assert result.history[0].validation_loss == pytest.approx(
        torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-6
    )


def test_dropout_acts_whatever_mode_the_network_is_given_in() -> None:
    def weights_after(*, train: bool = True, dropout: float = 0.5) -> torch.Tensor:
        net = network(dropout=dropout).train(train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fitted(training(epochs=1), net)
        return torch.nn.utils.parameters_to_vector(net.parameters()).detach()

    assert torch.equal(weights_after(), weights_after(train=False))
    assert not torch.equal(weights_after(), weights_after(dropout=0.0))


@pytest.mark.parametrize("clip", [None, 5.0])
def test_a_loss_that_is_no_number_stops_it(clip: float | None) -> None:
    config = training(
        epochs=3, batch_size=10, clip_norm=clip, optimiser={"name": "sgd", "learning_rate": 1e38}
    )
    with pytest.raises(
        TrainingError, match=r"(the loss|the gradient) .* in epoch 1, batch [2-6] of 6; .* 1e\+38"
    ):
        fitted(config)


def broken(change: Any) -> str:
    """What is said when a network or a batch is broken."""
    net, batch = network(), a_batch()
    config = training(clip_norm=1.0)
    batch = change(net, batch) or batch
    with pytest.raises(NotFinite) as caught:
        TrainingStep(net, config).take(batch)
    return str(caught.value)


def test_it_is_said_where_numbers_are_no_longer_finite() -> None:
    def inputs(net: Network, batch: Batch) -> Batch:
        values = batch.rows.values.clone()
        values[0, 0] = math.nan
        return batch._replace(rows=Ragged(values, batch.rows.offsets))

    def weights(net: Network, batch: Batch) -> None:
        net.head[0].weight.data[0, 0] = math.nan

    def outputs(net: Network, batch: Batch) -> None:
        net.head[0].bias.data[:] = 3e38
        net.head[1].weight.data[:] = 3e38

    assert broken(inputs) == "the loss is nan (inputs are not finite)"
    assert broken(weights) == "the loss is nan (weights are not finite: head.0.weight)"
    assert "(the outputs of head.1 are not finite)" in broken(outputs)


def test_a_gradient_that_is_not_finite_is_said_before_it_does_harm() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
            return dy * math.inf

    net, config = network(), training(clip_norm=1.0)
    net.head[0].register_forward_hook(lambda *given: Steep.apply(given[2]))
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(NotFinite, match=r"the gradient of recurrent\.0\..* is not finite"):
        TrainingStep(net, config).take(a_batch())
    assert all(map(torch.equal, before, net.parameters()))


def test_the_rate_rises_at_the_beginning() -> None:
    plain = {"name": "sgd", "learning_rate": 0.1}
    config = training(epochs=2, batch_size=20, optimiser=plain, schedule={"name": "constant", "warmup": 4})
    net = network()
    optimiser = make_optimiser(net, config)
    schedule = fit_module._Schedule(optimiser.torch, config, 3)
    rates = [schedule.rate]
    for _ in range(6):
        optimiser.step()
        schedule.after_batch()
        rates.append(schedule.rate)
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])
    cosine = training(epochs=2, optimiser=plain, schedule={"name": "cosine", "warmup": 1})
    schedule = fit_module._Schedule(make_optimiser(net, cosine).torch, cosine, 2)
    got = [schedule.rate]
    for _ in range(4):
        schedule._optimiser.step()
        schedule.after_batch()
        got.append(schedule.rate)
    falls = [0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert got == pytest.approx([falls[0] / 2, *falls[1:]], abs=1e-9)


def test_the_average_of_weights_is_judged_and_kept() -> None:
    def run(average: float | None) -> tuple[Network, list[list[torch.Tensor]]]:
        net, seen = network(), []
        plain = TrainingStep.take

        def step(*given: Any) -> float:
            loss = plain(*given)
            seen.append([value.clone() for value in net.state_dict().values()])
            return loss

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingStep, "take", step)
            fitted(training(epochs=2, batch_size=20, average=average, early_stopping=None), net)
        return net, seen

    net, seen = run(0.8)
    plain, same = run(None)
    assert all(torch.equal(a, b) for x, y in zip(seen, same, strict=True) for a, b in zip(x, y, strict=True))
    expected = list(network().state_dict().values())
    kept = []
    for number, weights in enumerate(seen, 1):
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, weights, strict=True)]
        kept += [expected] if number % 3 == 0 else []
    got = list(net.state_dict().values())
    assert any(all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, one, strict=True)) for one in kept)
    assert not torch.equal(got[0], plain.recurrent[0].weight_ih_l0)


# -- runs ---------------------------------------------------------------------------------------------------


def weights_in(folder: Path) -> bytes:
    state = load_model(folder / "model.safetensors").network.state_dict()
    return b"".join(value.numpy().tobytes() for value in state.values())


def test_a_run_learns_and_is_written(toy_config: Path) -> None:
    result = train(toy_config)
    folder = toy_config.parent / "run"
    assert result.folder == folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.safetensors", "config.yaml", "history.csv", "history.json", "model.safetensors"
    ]  # fmt: skip
    assert result.best.validation_auc > 0.9
    history = json.loads((folder / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert set(history[0]) == {
        "epoch", "train_loss", "validation_loss", "validation_auc", "learning_rate", "seconds",
        "validation_metric"
    }  # fmt: skip
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    model = load_model(folder / "model.safetensors")
    assert model.training["complete"] is True
    assert model.training["events"] == {"train": 168, "validation": 24, "test": 48}
    assert model.training["best"]["epoch"] == result.best.epoch


def test_transforms_are_fitted_on_training_events_only(toy_config: Path) -> None:
    model = train(toy_config).model
    events = read_splits(load_config(toy_config))["train"]
    weights = np.abs(np.repeat(events.weights, events.lengths))
    mean = np.average(events.values.astype(np.float64), axis=0, weights=weights)
    got = [step.numbers["mean"] for (step,) in model.transforms.steps]
    np.testing.assert_allclose(got, mean, rtol=1e-12)


def test_variables_may_be_missing_and_mixed(toy_config: Path) -> None:
    columns = toy_columns()
    rng = np.random.default_rng(3)
    eta = ak.to_numpy(ak.flatten(columns["part_eta"])).copy()
    eta[rng.random(len(eta)) < 0.2] = np.nan
    columns["part_eta"] = ak.unflatten(eta, ak.num(columns["part_eta"]))
    (toy_config.parent / "toy.root").unlink()
    write_root(toy_config.parent / "toy.root", columns)
    with pytest.raises(DataError, match="variable 'part_eta' is nan"):
        train(toy_config)
    changes = {
        "data.missing": {"part_eta": "indicator"},
        "data.transforms": {"default": ["clip", "gauss"]},
        "data.mix": "pca",
        "training.epochs": 8,
    }
    result = train(load_config(toy_config, overrides=changes))
    assert result.best.validation_auc > 0.8
    assert result.model.inputs == ("component 1", "component 2", "part_eta missing")
    test = read_splits(load_config(result.folder / "config.yaml"))["test"]
    again = load_model(result.folder / "model.safetensors")
    assert np.isnan(test.values).any()
    assert np.array_equal(predict(again, test), predict(result.model, test))
    report = evaluate_run(result.folder).report.read_text(encoding="utf-8")
    assert "part_eta" in report


def test_the_same_seed_gives_the_same_weights_to_the_bit(toy_config: Path) -> None:
    def run(name: str, **changes: Any) -> bytes:
        overrides = {"output": name, "training.epochs": 2, "network.head.dropout": 0.2, **changes}
        train(load_config(toy_config, overrides=overrides))
        return weights_in(toy_config.parent / name)

    first = run("a")
    torch.rand(3)  # whatever the caller has drawn
    assert run("b") == first
    assert run("c", **{"training.seed": 1}) != first
    train(toy_config.parent / "a" / "config.yaml")  # the run's own config repeats it
    assert weights_in(toy_config.parent / "a") == first


def test_the_seed_sets_the_first_weights_too(toy_config: Path) -> None:
    still = {"training.epochs": 1, "training.optimiser": {"name": "sgd", "learning_rate": 1e-30}}
    for seed in (0, 1):
        train(load_config(toy_config, overrides={"output": f"{seed}", "training.seed": seed, **still}))
    assert weights_in(toy_config.parent / "0") != weights_in(toy_config.parent / "1")


def test_the_callers_settings_stay(toy_config: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train(load_config(toy_config, overrides={"training.epochs": 1, "training.threads": threads + 1}))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_float64(toy_config: Path) -> None:
    result = train(load_config(toy_config, overrides={"training.epochs": 1, "training.dtype": "float64"}))
    model = load_model(result.folder / "model.safetensors")
    assert model.dtype == np.float64
    assert read_splits(load_config(result.folder / "config.yaml"))["test"].values.dtype == np.float64


class _Interrupted(Silent):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.left = epoch - 1

    def batch(self) -> None:
        if not self.left:
            raise KeyboardInterrupt

    def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
        self.left -= 1


def test_an_interrupted_run_leaves_its_best_model(toy_config: Path) -> None:
    with pytest.raises(TrainingInterrupted, match=r"of epoch 2, is in .*model\.safetensors"):
        train(toy_config, progress=_Interrupted(3))
    folder = toy_config.parent / "run"
    model = load_model(folder / "model.safetensors")
    assert model.training["best"]["epoch"] == 2
    assert model.training["complete"] is False
    assert len(json.loads((folder / "history.json").read_text())) == 2
    scores = predict(model, read_splits(load_config(folder / "config.yaml"))["test"])
    assert np.isfinite(scores).all()
    assert not list(folder.glob("*.part"))


def test_a_run_that_is_interrupted_or_fails_in_its_first_epoch_writes_nothing(toy_config: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="nothing was written"):
        train(toy_config, progress=_Interrupted(1))
    wild = {"training.optimiser": {"name": "sgd", "learning_rate": 1e38}}
    with pytest.raises(TrainingError):
        train(load_config(toy_config, overrides=wild))
    assert not (toy_config.parent / "run").exists()


def test_a_new_run_takes_away_the_report_of_the_old_one(toy_config: Path) -> None:
    folder = toy_config.parent / "run"
    (folder / "figures").mkdir(parents=True)
    for name in ("metrics.json", "report.html", "figures/roc.png", "figures/roc.pdf", "figures/notes.txt"):
        (folder / name).write_text("old")
    train(load_config(toy_config, overrides={"training.epochs": 1}))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "checkpoint.safetensors", "config.yaml", "history.csv", "history.json", "model.safetensors",
        "figures/notes.txt",
    }  # fmt: skip


def test_a_folder_that_cannot_be_made_is_said_before_the_data_are_read(toy_config: Path) -> None:
    (toy_config.parent / "toy.root").unlink()
    (toy_config.parent / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*file/run: .*file is not a directory"):
        train(load_config(toy_config, overrides={"output": "file/run"}))


def test_a_rehearsal_shows_all_and_writes_nothing(toy_config: Path) -> None:
    text = rehearse(load_config(toy_config))
    assert not (toy_config.parent / "run").exists()
    lines = text.splitlines()
    assert lines[0].startswith("data: 240 events (120 background, 120 signal; 168 train, 24 validation")
    train_events = read_splits(load_config(toy_config))["train"]
    own = train_events.weights[train_events.labels == 1]
    sums = f"sum of weights {own.sum():.6g}, {(own < 0).sum()} negative"
    assert f"  train, signal: {len(own)} events, {sums}" in lines
    assert "  LSTM(2, 6): 240 parameters" in lines  # 4 (2 + 6 + 2) 6
    assert "network: 287 parameters" in lines  # and 6 * 5 + 5, 5 * 2 + 2
    before, after = map(float, re.findall(r"loss ([0-9.]+), after the step ([0-9.]+)", lines[-1])[0])
    assert after < before


def test_the_table_of_epochs_is_the_history(toy_config: Path) -> None:
    folder = train(toy_config).folder
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {key: float(text) if text else None for key, text in row.items()} for row in csv.DictReader(file)
        ]
    assert rows == json.loads((folder / "history.json").read_text())


def test_a_config_made_in_python(toy_config: Path) -> None:
    values = load_config(toy_config).model_dump(mode="json")
    config = Config.from_dict({**values, "output": "other"}, base=toy_config.parent)
    assert train(config).folder == toy_config.parent / "other"
