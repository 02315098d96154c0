"""Fitting numbers in place of classes: targets of sequences, losses on them, and the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from timelike import Sequences
from timelike.batches import ShuffledBatches, event_weights
from timelike.checkpoint import Snapshot, fingerprint
from timelike.cli import main
from timelike.config import Config, NetworkConfig, TrainingConfig, load_config
from timelike.errors import ConfigError, DataError
from timelike.fit import FitResult, fit
from timelike.inspect import inspect_events
from timelike.losses import huber, squared_error
from timelike.model import load_model, predict
from timelike.network import Network, logits, ragged
from timelike.progress import epoch_line
from timelike.runs import evaluate_run
from timelike.train import read_splits, train


def sums(n: int = 400, *, seed: int = 0, weights: Any = None) -> Sequences:
    """Sequences of two variables, whose targets are the sum of the first and the last value of the second."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.normal(size=(offsets[-1], 2))
    targets = np.stack([np.add.reduceat(values[:, 0], offsets[:-1]), values[offsets[1:] - 1, 1]], axis=1)
    return Sequences(values, offsets, targets=targets, weights=weights)


def training(**changes: Any) -> TrainingConfig:
    values = {"loss": "squared_error", "epochs": 3, "batch_size": 32, "optimiser": {"learning_rate": 0.02}}
    return TrainingConfig.model_validate(values | changes)


def network(outputs: int = 2, **changes: Any) -> Network:
    values = {"recurrent": ({"units": 8},), "head": {"units": (8,), "output": "linear"}} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Network(NetworkConfig.model_validate(values), 2, outputs)


class TestTargets:
    def test_one_number_each_becomes_a_column(self) -> None:
        s = Sequences(np.zeros((3, 1)), [0, 2, 3], targets=[5, 7])
        assert s.targets is not None
        assert s.targets.dtype == np.float64
        assert s.targets.tolist() == [[5.0], [7.0]]

    def test_they_go_with_their_sequences(self) -> None:
        s = sums(5)
        assert s.targets is not None
        for which in (slice(1, 4), slice(4, None, -2), [3, 0], np.arange(5) == 2):
            np.testing.assert_array_equal(s[which].targets, s.targets[which])
        back = Sequences.concatenate([s[:2], s[2:]])
        np.testing.assert_array_equal(back.targets, s.targets)
        with pytest.raises(DataError, match="part 1 has no targets"):
            Sequences.concatenate([s, s.replace(targets=None)])

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([1.0, 2.0, 3.0], r"targets have shape \(3,\); \[2, targets\] is needed"),
            (np.zeros((2, 0)), r"targets have shape \(2, 0\)"),
            (np.zeros((2, 1, 1)), r"targets have shape \(2, 1, 1\)"),
            (["a", "b"], "targets are <U1; numbers are needed"),
        ],
    )
    def test_what_does_not_fit(self, targets: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Sequences(np.zeros((3, 1)), [0, 2, 3], targets=targets)

    def test_a_target_that_is_no_number_is_found(self) -> None:
        s = Sequences(np.zeros((2, 1)), [0, 1, 2], targets=[[1.0, 2.0], [3.0, np.inf]])
        with pytest.raises(DataError, match="here: target 1 is inf in sequence 1"):
            s.check_finite("here")

    def test_a_checkpoint_knows_them(self) -> None:
        s = sums(5)
        assert fingerprint({"a": s}) == fingerprint({"a": sums(5)})
        assert fingerprint({"a": s}) != fingerprint({"a": s.replace(targets=s.targets + 1)})


class TestLosses:
    scores = torch.tensor([[1.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    targets = torch.tensor([[0.5, 1.0], [0.0, -4.0]], dtype=torch.float64)
    weights = torch.tensor([2.0, -0.5], dtype=torch.float64)

    def test_squared_error(self) -> None:
        # (0.25 + 9) / 2 and (0 + 4) / 2, with weights 2 and -0.5, over 2
        got = squared_error(self.scores, self.targets, self.weights)
        assert got.item() == pytest.approx((2 * 4.625 - 0.5 * 2.0) / 2, rel=1e-15)

    def test_huber(self) -> None:
        # 0.5^2 / 2 and 3 - 1/2; 0 and 2 - 1/2
        got = huber(self.scores, self.targets, self.weights)
        assert got.item() == pytest.approx((2 * (0.125 + 2.5) / 2 - 0.5 * 1.5 / 2) / 2, rel=1e-15)

    def test_huber_of_classes_is_of_ones_and_zeros(self) -> None:
        got = huber(self.scores, torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64))
        # 1 - 1, 4 - 0; 0 - 0, -2 - 1
        assert got.item() == pytest.approx(((0 + 3.5) / 2 + (0 + 2.5) / 2) / 2, rel=1e-15)

    @pytest.mark.parametrize("loss", [squared_error, huber])
    def test_gradients(self, loss: Any) -> None:
        scores = self.scores.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: loss(x, self.targets, self.weights), (scores,))


class TestBatches:
    def test_weights_have_a_mean_of_one_whatever_the_balance(self) -> None:
        s = sums(4, weights=[1.0, 2.0, -1.0, 2.0])
        for balance in (True, False, "number"):
            got = event_weights(s, None, balance=balance, where="here")  # type: ignore[arg-type]
            np.testing.assert_allclose(got, [1.0, 2.0, -1.0, 2.0], rtol=1e-15)

    @pytest.mark.parametrize(
        ("n", "weights", "message"),
        [
            (2, [1.0, -1.0], "^here: the weights of the 2 events sum to 0; a positive sum is needed$"),
            (0, None, "^here: no event among 0$"),
        ],
    )
    def test_weights_that_cannot_be_scaled(self, n: int, weights: Any, message: str) -> None:
        s = sums(max(n, 1))[:n].replace(weights=weights)
        with pytest.raises(DataError, match=message):
            event_weights(s, None, balance=False, where="here")

    def test_targets_come_with_their_rows(self) -> None:
        s = sums(50)
        how = {"batch_size": 7, "dtype": torch.float64, "seed": 3, "regression": True}
        seen = 0
        for rows, targets, _ in ShuffledBatches(s, np.ones(50), **how):  # type: ignore[arg-type]
            starts, ends = rows.offsets[:-1], rows.offsets[1:]
            for start, end, target in zip(starts, ends, targets, strict=True):
                own = rows.values[start:end]
                torch.testing.assert_close(own[:, 0].sum(), target[0], rtol=1e-14, atol=1e-14)
                assert own[-1, 1] == target[1]
                seen += 1
        assert seen == 50


def run(config: TrainingConfig, net: Network | None = None, **more: Any) -> tuple[Network, FitResult]:
    net = net or network()
    return net, fit(net, sums(), sums(100, seed=1), config, **more)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_network_learns_numbers(loss: str) -> None:
    net, result = run(training(loss=loss, epochs=25, early_stopping=None))
    assert all(epoch.validation_auc is None for epoch in result.history)
    test = sums(200, seed=2)
    assert test.targets is not None
    left = np.mean((logits(net, test).numpy() - test.targets) ** 2, axis=0) / test.targets.var(axis=0)
    # The best constant leaves 1.
    assert (left < 0.1).all()


def test_the_validation_loss_is_that_of_the_targets() -> None:
    net, result = run(training(early_stopping=None))
    validation = sums(100, seed=1)
    assert validation.targets is not None
    expected = np.mean((logits(net, validation).double().numpy() - validation.targets) ** 2)
    # Sums of 200 numbers in float64, in another order.
    assert result.best.validation_loss == pytest.approx(expected, rel=1e-13)


def test_a_regression_goes_on_to_the_same_bits() -> None:
    whole, _ = run(training())
    kept: list[Snapshot] = []

    def keep(state: Any, within: bool) -> None:
        if within and len(kept) < 5:
            kept.append(state())

    run(training(), on_snapshot=keep)
    resumed, _ = run(training(), network(), begin=kept[-1])
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "net", "message"),
    [
        (
            {"loss": "cross_entropy"},
            {},
            "cross_entropy does not fit network.head.output: linear; possible: squared_error, huber",
        ),
        ({"early_stopping": {"metric": "auc"}}, {}, "metric: 'auc'; possible: loss, rmse, mae, r2"),
        ({"then": ({"early_stopping": {"metric": "auc"}},)}, {}, "metric: 'auc'; possible: loss, rmse"),
        ({}, {"head": {"output": "sigmoid"}}, "sigmoid is for classes; possible for targets: linear"),
    ],
)
def test_what_is_for_classes_is_refused(changes: Any, net: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(training(**changes), network(**net))


def test_targets_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(DataError, match="the sequences have 2 targets; the network gives 1"):
        run(training(), network(1))
    with pytest.raises(DataError, match="the sequences have no targets"):
        fit(network(), sums().replace(targets=None), sums(), training())


def test_a_line_of_an_epoch_without_an_area() -> None:
    numbers = {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.25, "learning_rate": 0.003, "seconds": 1.0}
    line = epoch_line(numbers | {"validation_auc": None}, 9, improved=False)  # type: ignore[dict-item]
    assert line == "epoch 1/9  loss 0.5000  validation 0.2500  rate 3.0e-03  1.0 s"


def test_a_network_is_given_another_scale() -> None:
    net = network().double()
    batch = ragged(sums(20), torch.float64)
    before = net(batch).detach().numpy()
    net.rescale(np.array([100.0, -3.0]), np.array([2.0, 0.5]))
    # Rounding of numbers up to 100, a few times.
    np.testing.assert_allclose(net(batch).detach(), before * [2.0, 0.5] + [100.0, -3.0], atol=1e-12)


# -- in a config --------------------------------------------------------------------------------------------


def toy(path: Path, data: dict[str, Any] | None = None, **training: Any) -> Config:
    """Give the toy config with the number of steps and the sum of a variable as targets."""
    values = load_config(path).model_dump(mode="json")
    for key in ("labels", "classes", "signal"):
        del values["data"][key]
    values["data"] = {key: value for key, value in values["data"].items() if value not in (None, [], {})}
    values["data"] |= data or {"targets": {"steps": "num(part_pt)", "eta": "sum(part_eta) / 3"}}
    del values["network"]["head"]["output"]
    values["training"] |= {"loss": "squared_error", "optimiser": {"learning_rate": 0.02}, **training}
    return Config.from_dict(values, base=path.parent)


@pytest.mark.parametrize(
    ("data", "training", "message"),
    [
        ({"targets": {"a": "jet_pt"}, "labels": {"b": "x", "c": "y"}}, {}, "or for a regression 'targets'"),
        ({"targets": {"a": "jet_pt"}, "signal": "a"}, {}, "'signal' has no meaning with 'targets'"),
        (
            {},
            {"loss": "cross_entropy"},
            "cross_entropy does not fit data.targets; possible: squared_error, ",
        ),
    ],
)
def test_configs_that_make_no_sense(toy_config: Path, data: Any, training: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy(toy_config, data, **training)


def test_a_target_that_is_nan_is_named(toy_config: Path) -> None:
    config = toy(toy_config, {"targets": {"a": "log(jet_pt - 550)"}})
    with pytest.raises(DataError, match=r"data.targets.a: event \d+: the target 'log\(jet_pt"):
        read_splits(config)


def test_a_run_of_a_regression(toy_config: Path) -> None:
    config = toy(toy_config, epochs=40, early_stopping=None, negative_weights="ignore")
    result = train(config)
    model = load_model(config.run_folder / "model.safetensors")
    assert model.class_names == ("steps", "eta")
    test = read_splits(config)["test"]
    assert test.targets is not None
    # Steps beyond the fifth are not read.
    assert set(test.targets[:, 0]) == set(range(8))
    found = predict(model, test)
    np.testing.assert_array_equal(found, predict(result.model, test))
    assert np.corrcoef(found[:, 0], np.minimum(test.targets[:, 0], 5))[0, 1] > 0.9
    assert np.corrcoef(found[:, 1], test.targets[:, 1])[0, 1] > 0.8

    evaluation = evaluate_run(config.run_folder)
    residuals = found - test.targets
    for k, name in enumerate(("steps", "eta")):
        measured = evaluation.metrics["test"]["targets"][name]
        assert test.weights is not None
        squares = np.average(residuals[:, k] ** 2, weights=test.weights)
        assert measured["rmse"]["value"] == pytest.approx(np.sqrt(squares), rel=1e-12)
    page = evaluation.report.read_text(encoding="utf-8")
    assert "Regression of steps, eta" in page
    with pytest.raises(ConfigError, match="the page is of events of classes; this is a regression model"):
        inspect_events(model, [toy_config.parent / "toy.root"], config.run_folder / "page.html")


def test_a_run_goes_on_and_is_watched(toy_config: Path) -> None:
    whole = train(toy(toy_config, epochs=4))
    train(toy(toy_config, epochs=4, inspect={"every": 3}))
    again = train(toy(toy_config, epochs=4), resume=True)
    for a, b in zip(whole.model.network.parameters(), again.model.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_command_tells_what_there_is_to_tell(toy_config: Path, capsys: Any) -> None:
    config = toy(toy_config, epochs=2)
    path = toy_config.parent / "regression.yaml"
    path.write_text(config.written_for(path.parent), encoding="utf-8")
    assert main(["train", str(path)]) == 0
    shown = capsys.readouterr()
    assert "AUC" not in shown.out + shown.err
    assert "240 events (targets steps, eta; " in shown.err
    assert "next: timelike evaluate" in shown.out
