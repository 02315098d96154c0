"""The range test of learning rates: where it ends, what it suggests, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timelike import ratefinder
from timelike.cli import main
from timelike.config import load_config
from timelike.errors import ConfigError
from timelike.fit import TrainingError
from timelike.ratefinder import RateCurve, find_learning_rate, write_rate_curve
from timelike.train import train

OF_EVENTS = "data.new_variables"
TASKS: dict[str, dict[str, Any]] = {
    "classes": {},
    "sigmoid": {"network.head.output": "sigmoid"},
    "multilabel": {"data.labels": {}, "data.multilabel": {"a": "label == 0", "b": "jet_pt > 550"}},
    "regression": {"data.labels": {}, "data.targets": {"pt": "jet_pt / 100"}},
    "counts": {"data.labels": {}, "data.targets": {"n": "label"}, "training.loss": "poisson"},
    "per step": {
        "data.labels": {},
        "data.per": "step",
        "data.targets": {"pt": "part_pt"},
        "network.pooling": "none",
    },
    "float64": {"training.dtype": "float64", "training.optimiser": {"name": "sgd"}},
}


def found(path: Path, *, steps: int = 60, **overrides: Any) -> RateCurve:
    return find_learning_rate(load_config(path, overrides=overrides), steps=steps)


@pytest.mark.parametrize("overrides", TASKS.values(), ids=TASKS)
def test_every_task_has_a_rate_that_learns(toy_config: Path, overrides: dict[str, Any]) -> None:
    overrides = {**overrides, "sequence": {}, "training.batch_size": 84}  # of 168 events
    curve = found(toy_config, **overrides)
    n = len(curve.rates)
    assert n == len(curve.losses) == len(curve.smoothed) <= 60
    steps = np.diff(np.log(curve.rates))
    np.testing.assert_allclose(steps, np.log(1e7) / 59, rtol=1e-9)
    assert np.isfinite(curve.losses).all()
    assert curve.least is not None
    assert curve.steepest is not None
    assert curve.rates[0] < curve.steepest <= curve.least
    assert curve.suggestion == pytest.approx(curve.least / 10, rel=0.05)
    # The network learns with it, better than with the smallest rate of the test.
    last = []
    for rate, output in ((curve.suggestion, "right"), (curve.rates[0], "small")):
        more = {"training.optimiser.learning_rate": rate, "output": output, "training.epochs": 10}
        last.append(train(load_config(toy_config, overrides={**overrides, **more})).best.validation_loss)
    assert last[0] < last[1]


def test_the_same_config_gives_the_same_curve_and_a_run_stays(toy_config: Path) -> None:
    train(toy_config)
    files = {path: path.stat().st_mtime_ns for path in toy_config.parent.rglob("*")}
    assert vars(found(toy_config)) == vars(found(toy_config))
    assert vars(found(toy_config)) != vars(found(toy_config, **{"training.seed": 1}))
    assert {path: path.stat().st_mtime_ns for path in toy_config.parent.rglob("*")} == files


def test_streamed_events_have_the_same_test(streamed: Path) -> None:
    curve = found(streamed, steps=40)  # an epoch has 32 batches
    assert 31 < len(curve.rates) <= 40
    assert vars(curve) == vars(found(streamed, steps=40))


def test_it_ends_where_the_loss_explodes_by_hand() -> None:
    flat = [1.0, 1.2] * 20  # mean 1.1, standard deviation 0.1: 5 of these above are 1.6
    assert not ratefinder._explodes(flat, 200)
    assert not ratefinder._explodes([*flat, *[1.55] * 5], 200)
    assert ratefinder._explodes([*flat, *[1.65] * 5], 200)
    assert not ratefinder._explodes([*flat, *[1.65] * 4], 200)  # the last five decide
    fallen = [*flat, *[0.1] * 5]  # by 1: beyond 1.1 + 2 + 0.5 it explodes
    assert not ratefinder._explodes([*fallen, *[3.55] * 5], 200)
    assert ratefinder._explodes([*fallen, *[3.65] * 5], 200)
    below = [*(x - 3 for x in flat), *[-2.9] * 5]  # losses may be negative
    assert not ratefinder._explodes([*below, *[0.55] * 5], 200)
    assert ratefinder._explodes([*below, *[0.65] * 5], 200)


def test_the_rule_by_hand() -> None:
    rates = np.geomspace(1e-4, 1.0, 101)  # 25 per decade
    x = np.log10(rates)
    loss = -np.tanh(3 * (x + 2.5)) + np.maximum(x + 1, 0) ** 2 - 0.01 * x
    curve = ratefinder._curve(rates, loss, 0.5, exploded=False)
    at = int(np.argmin(loss))
    assert curve.least == pytest.approx(rates[at], rel=0.1)  # a step is 9.6 %
    assert curve.suggestion == float(f"{curve.least / 10:.1e}")
    assert curve.steepest == pytest.approx(10**-2.5, rel=0.1)
    rising = ratefinder._curve(rates, x, 0.5, exploded=False)
    assert (rising.least, rising.steepest, rising.suggestion) == (None, None, None)
    noise = np.random.default_rng(0).normal(size=101)
    assert ratefinder._curve(rates, noise, 2.0, exploded=False).suggestion is None


def test_what_makes_no_sense_is_refused(toy_config: Path) -> None:
    for given in ({"low": 0.0}, {"low": 2.0, "high": 1.0}, {"high": float("inf")}, {"low": float("nan")}):
        with pytest.raises(ConfigError, match="both above 0, the second larger"):
            find_learning_rate(toy_config, **given)
    with pytest.raises(ConfigError, match="3 steps: 20 at least"):
        find_learning_rate(toy_config, steps=3)
    changes = {"training.optimiser": {"name": "sgd"}, "training.clip_norm": None}
    config = load_config(toy_config, overrides=changes)
    with pytest.raises(TrainingError, match=r"at the learning rate 1e\+30"):
        find_learning_rate(config, low=1e30, high=1e31)


def test_the_command_tells_and_draws(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = toy_config.parent / "rate.png"
    assert main(["find-lr", str(toy_config), "--steps", "60", "-o", str(figure)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    key, _, value = last.removeprefix("--set ").partition("=")
    numbers = json.loads(figure.with_suffix(".json").read_text())
    assert key == "training.optimiser.learning_rate"
    assert float(value) == numbers["suggestion"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not (toy_config.parent / "run").exists()
    assert main(["train", str(toy_config), *last.split()]) == 0


def test_the_command_says_what_is_wrong(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", str(toy_config), "-o", "rate.gif"]) == 2
    assert "rate.gif: a figure is written as .png, .pdf, .svg" in capsys.readouterr().err
    low = ["--low", "1e-12", "--high", "1e-11"]
    assert main(["find-lr", str(toy_config), *low]) == 2
    assert "the loss falls nowhere between the rates 1e-12 and 1e-11" in capsys.readouterr().err


def test_a_figure_shows_the_curve(tmp_path: Path) -> None:
    curve = RateCurve((1e-3, 1e-2, 1e-1), (1.0, 0.5, 2.0), (1.0, 0.6, 1.5), True, None, None)
    ax = ratefinder.plot_learning_rate(curve)
    assert [line.get_label() for line in ax.lines] == ["batches", "smoothed"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), curve.smoothed)
    with pytest.raises(ConfigError, match="cannot write"):
        write_rate_curve(curve, tmp_path / "nowhere" / "rate.png")
