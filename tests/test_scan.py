"""Scans: what a space may be, that a trial is a run, and that a scan goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from timelike import scan as scan_module
from timelike.config import load_config
from timelike.errors import ConfigError, DataError
from timelike.fit import Epoch, TrainingError
from timelike.model import load_model
from timelike.scan import join_scan, scan
from timelike.scan_page import plot_course, plot_importance, plot_parallel, write_scan_page
from timelike.scanspace import Space
from timelike.train import train
from timelike.trainingstep import TrainingStep
from toys import TOY_CONFIG

RATE = "training.optimiser.learning_rate"
UNITS = "network.recurrent.0.units"
SPACE = {RATE: {"low": 0.001, "high": 0.1, "log": True}, UNITS: {"low": 2, "high": 6}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Any:
    """Give a scan of six trials; not to be changed."""
    folder = tmp_path_factory.mktemp("scan")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG)
    return scan(folder / "toy.yaml", space=SPACE, trials=6)


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    trials = [{k: v for k, v in trial.items() if k != "seconds"} for trial in results["trials"]]
    return {**results, "trials": trials}


# -- spaces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "# mine\ntraining.optimiser.learnig_rate: {low: 0.1, high: 1.0}",
            "space.yaml:2: training.optimiser.learnig_rate: unknown key; nearest: 'learning_rate'",
        ),
        (
            "network.dropout: {low: 0.0, high: 1.0}",
            "space.yaml:1: network.dropout: given 1.0; it must be less than 1",
        ),
        (
            "training.loss: {choices: [cross_entropy, hinge]}",
            "space.yaml:1: training.loss: given 'hinge'; known: 'cross_entropy'",
        ),
        ("training.epochs: {low: 2.5, high: 9}", "training.epochs: given 2.5; a whole number is needed"),
        ("training.epochs: {lo: 2, high: 9}", "training.epochs.lo: unknown key; nearest: 'low'"),
        ("training.epochs: {low: 2}", "give 'low' and 'high', or 'choices'"),
        ("training.epochs: {low: 9, high: 2}", "from 9 to 2: the first must be smaller"),
        ("training.epochs: {low: 0, high: 9, log: true}", "log: from 0; it must be greater than 0"),
        ("training.epochs: {low: 1, high: 9, log: true, step: 2}", "give either 'log' or 'step'"),
        ("training.epochs: {low: 1, high: 9, choices: [3]}", "give either 'choices' or 'low' and 'high'"),
        ("training.epochs: {choices: []}", "at least 1 entry is needed"),
        ("training.epochs: 3", "a mapping of keys to values is needed"),
        ("network.recurrent.1.units: {low: 2, high: 4}", "the config has no entry 1 there; write it out"),
        ("network.head.units.x: {low: 2, high: 4}", "'x' is in no mapping of the config"),
        ("data.files.x.y: {low: 2, high: 4}", "'x' is in no mapping of the config"),
        ("output: {choices: [a, b]}", "space.yaml:1: output: this is not what a trial can change"),
        ("evaluation.bootstrap: {low: 2, high: 4}", "this is not what a trial can change"),
    ],
)
def test_a_space_that_cannot_be_is_refused_with_file_line_and_key(
    toy_config: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "read_events", lambda _: pytest.fail("events were read"))
    file = toy_config.with_name("space.yaml")
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        scan(toy_config, space=file, trials=3)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (toy_config.parent / "run-scan").exists()


def test_a_space_can_stand_in_the_config(toy_config: Path) -> None:
    toy_config.write_text(f"{TOY_CONFIG}scan:\n  {RATE}: {{low: 0.01, high: 0.1}}\n")
    assert list(Space.of(toy_config).parameters) == [RATE]
    assert list(Space.of(load_config(toy_config)).parameters) == [RATE]
    train(load_config(toy_config, overrides={"training.epochs": 1}))  # which it does not disturb
    assert "scan" not in yaml.safe_load((toy_config.parent / "run" / "config.yaml").read_text())
    toy_config.write_text(f"{TOY_CONFIG}scan:\n  training.optimiser.rate: {{low: 0.01, high: 0.1}}\n")
    line = TOY_CONFIG.count("\n") + 2
    with pytest.raises(ConfigError, match=rf"toy\.yaml:{line}: training\.optimiser\.rate: unknown key"):
        Space.of(toy_config)


def test_without_a_space_there_is_nothing_to_scan(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"toy\.yaml: no space to scan: give --space FILE"):
        scan(toy_config, trials=3)


@pytest.mark.parametrize(
    ("key", "given", "whole"),
    [
        ("training.epochs", {"low": 1, "high": 4}, True),
        ("training.epochs", {"low": 1, "high": 2, "log": True}, True),
        (UNITS, {"low": 2, "high": 5}, True),
        ("training.clip_norm", {"low": 1, "high": 4}, False),
        ("training.clip_norm", {"low": 1, "high": 2}, False),
        (RATE, {"low": 0.01, "high": 1}, False),
    ],
)
def test_whole_numbers_are_tried_where_the_key_takes_no_others(
    toy_config: Path, key: str, given: dict[str, Any], whole: bool
) -> None:
    assert (key in Space.of(toy_config, {key: given}).whole) is whole


def test_a_point_is_put_into_the_config(toy_config: Path) -> None:
    choices = [{"name": "sgd", "momentum": 0.5}, {"name": "adam"}]
    space = Space.of(
        toy_config, {**SPACE, "training.optimiser": {"choices": choices}, RATE: {"choices": [1]}}
    )
    config = space.at({"training.optimiser": choices[0], RATE: 0.3, UNITS: 9}, Path("/there/trial-0001"))
    assert config.training.optimiser.name == "sgd"
    assert config.training.optimiser.learning_rate == 0.3
    assert config.network.recurrent[0].units == 9
    assert config.run_folder == Path("/there/trial-0001")
    assert config.base == toy_config.parent
    assert config.data == load_config(toy_config).data


# -- a scan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a scan needs a budget: --trials N or --minutes M"),
        ({"trials": 0}, "the budget must be above 0"),
        ({"minutes": float("nan")}, "the budget must be above 0"),
        ({"trials": 1, "metric": "acu"}, "metric 'acu': nearest: 'auc'"),
        ({"trials": 1, "pruner": "percentile"}, "pruner 'percentile': known: 'median', 'hyperband', 'none'"),
        (
            {"trials": 1, "metric": "loss", "space": {"training.class_balance": {"choices": [True, False]}}},
            r"training\.class_balance changes what the loss means",
        ),
    ],
)
def test_a_scan_that_cannot_be_is_refused(toy_config: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scan(toy_config, **{"space": SPACE, **given})


def test_the_best_trial_is_the_one_with_the_largest_area(done: Any) -> None:
    results = json.loads((done.folder / "scan.json").read_text())
    assert results == done.results
    complete = [trial for trial in results["trials"] if trial["state"] == "complete"]
    assert len(results["trials"]) == 6
    assert results["best"] == max(complete, key=lambda trial: trial["value"])["number"]
    for trial in results["trials"]:
        folder = done.folder / f"trial-{trial['number']:04d}"
        history = json.loads((folder / "history.json").read_text())
        assert len(history) == trial["epochs"]
        config = load_config(folder / "config.yaml")
        assert config.training.optimiser.learning_rate == trial["parameters"][RATE]
        assert config.network.recurrent[0].units == trial["parameters"][UNITS]
        assert 0.001 <= trial["parameters"][RATE] <= 0.1
        assert trial["parameters"][UNITS] in range(2, 7)
        if trial["state"] == "complete":
            lowest = min(history, key=lambda epoch: epoch["validation_loss"])
            assert (trial["best_epoch"], trial["value"]) == (lowest["epoch"], lowest["validation_auc"])
    assert len({trial["parameters"][RATE] for trial in results["trials"]}) == 6


def test_the_best_config_gives_the_best_trial_to_the_bit(done: Any) -> None:
    assert done.best == done.folder / "best.yaml"
    again = train(done.best)
    assert again.folder == done.folder / "best"
    path = done.folder / f"trial-{done.results['best']:04d}" / "model.safetensors"
    for name, value in load_model(path).network.state_dict().items():
        assert torch.equal(value, again.model.network.state_dict()[name])


def test_the_same_scan_gives_the_same_trials(done: Any, toy_config: Path) -> None:
    assert without_times(scan(toy_config, space=SPACE, trials=6).results) == without_times(done.results)


def test_another_seed_gives_other_trials(done: Any, toy_config: Path) -> None:
    config = load_config(toy_config, overrides={"training.seed": 1, "training.epochs": 1})
    one = scan(config, space=SPACE, trials=1).results["trials"][0]
    assert one["parameters"] != done.results["trials"][0]["parameters"]


def test_events_are_read_once_unless_trials_read_others(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timelike import data

    plain, reads = data.read, []
    monkeypatch.setattr(data, "read", lambda *given, **named: reads.append(1) or plain(*given, **named))
    config = load_config(toy_config, overrides={"training.epochs": 1})
    scan(config, space=SPACE, trials=3)
    assert len(reads) == 1
    space = {"sequence.keep_first": {"low": 2, "high": 5}}
    found = scan(config, space=space, trials=3, folder=toy_config.parent / "other")
    assert len(reads) == 4
    kept = load_model(found.folder / "trial-0001" / "model.safetensors").sequence.keep_first
    assert kept == found.results["trials"][1]["parameters"]["sequence.keep_first"]


def test_a_trial_that_loses_its_numbers_is_recorded_and_the_scan_goes_on(toy_config: Path) -> None:
    found = scan(toy_config, space={RATE: {"choices": [0.02, 1e30]}}, trials=6)
    states = {trial["parameters"][RATE]: trial["state"] for trial in found.results["trials"]}
    assert states == {0.02: "complete", 1e30: "failed"}
    failed = next(trial for trial in found.results["trials"] if trial["state"] == "failed")
    assert "try a smaller" in failed["error"]
    assert "Trials that failed" in (found.folder / "scan.html").read_text()


def test_where_all_fail_there_is_no_best(toy_config: Path) -> None:
    found = scan(toy_config, space={RATE: {"choices": [1e30]}}, trials=2)
    assert found.best is None
    assert found.results["best"] is None
    assert not (found.folder / "best.yaml").exists()
    assert "Trials that failed" in (found.folder / "scan.html").read_text()


# -- giving up ----------------------------------------------------------------------------------------------


def pretended(areas: Any, calls: list[int]) -> Any:
    """Make a training that does nothing but report areas: those of trial n in epoch e are areas(n, e)."""

    def train(config: Any, *, on_epoch: Any, **_: Any) -> Any:
        number = int(config.run_folder.name.rpartition("-")[2])
        history: tuple[Epoch, ...] = ()
        for epoch in range(1, config.training.epochs + 1):
            area = areas(number, epoch)
            if area is None:
                raise TrainingError("lost")
            history += (Epoch(epoch, 0.5, 1 - area, area, 0.1, 0.0),)
            calls.append(number)
            on_epoch(history)
        return SimpleNamespace(best=max(history, key=lambda e: e.validation_auc), seconds=0.0)

    return train


def states_of(found: Any) -> list[str]:
    return [trial["state"] for trial in found.results["trials"]]


@pytest.mark.parametrize("metric", ["auc", "loss"])
def test_what_is_worse_than_half_of_the_others_is_given_up(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    calls: list[int] = []
    rises = {6: 0.6, 8: 0.6}
    monkeypatch.setattr(
        scan_module, "train", pretended(lambda n, e: rises.get(n, 0.8 + 0.01 * n) + 0.01 * e, calls)
    )
    config = load_config(toy_config, overrides={"training.epochs": 6})
    found = scan(config, space=SPACE, trials=9, metric=metric)
    assert states_of(found) == ["complete"] * 6 + ["pruned", "complete", "pruned"]
    assert [calls.count(n) for n in (5, 6, 7, 8)] == [6, 2, 6, 2]  # not before the second epoch
    assert found.results["best"] == 7
    every = scan(config, space=SPACE, trials=9, metric=metric, pruner="none", folder=config.base / "all")
    assert states_of(every) == ["complete"] * 9


def test_hyperband_gives_up_as_well(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    level = rng.uniform(0.5, 0.9, 24)
    monkeypatch.setattr(scan_module, "train", pretended(lambda n, e: level[n] + 0.001 * e, []))
    config = load_config(toy_config, overrides={"training.epochs": 9})
    found = scan(config, space=SPACE, trials=24, pruner="hyperband")
    assert {"complete", "pruned"} == set(states_of(found))
    assert found.results["best"] == int(level.argmax())


# -- going on -----------------------------------------------------------------------------------------------


class Stopped(Exception):
    """What an interruption is in these tests."""


def test_it_goes_on_in_the_trial_where_it_stopped_to_the_same_trials(
    toy_config: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, left = TrainingStep.take, [0]

    def step(*given: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped
        return plain(*given)

    monkeypatch.setattr(TrainingStep, "take", step)
    for n in (20, 40, 50):  # 33 steps in a trial: within the first, the second and the third or fourth
        left[0] = n
        with pytest.raises(Stopped):
            scan(toy_config, space=SPACE, trials=6, resume=True)
    left[0] = 0
    found = scan(toy_config, space=SPACE, trials=6, resume=True)
    assert without_times(found.results) == without_times(done.results)
    path = f"trial-{found.results['best']:04d}/model.safetensors"
    states = [load_model(scanned.folder / path).network.state_dict() for scanned in (found, done)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def test_another_error_stops_the_scan(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def areas(n: int, e: int) -> float:
        if n == 1 and len(calls) < 5:
            raise DataError("the disk is gone")
        return 0.8

    monkeypatch.setattr(scan_module, "train", pretended(areas, calls))
    with pytest.raises(DataError, match="the disk is gone"):
        scan(toy_config, space=SPACE, trials=3)
    calls += [-1] * 5
    assert states_of(scan(toy_config, space=SPACE, trials=3, resume=True)) == ["complete"] * 3


def test_a_scan_is_not_replaced_and_not_mixed_with_another(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "train", pretended(lambda n, e: 0.8, []))
    scan(toy_config, space=SPACE, trials=2)
    with pytest.raises(ConfigError, match="has a scan already: --resume goes on with it"):
        scan(toy_config, space=SPACE, trials=2)
    other = {**SPACE, UNITS: {"low": 2, "high": 7}}
    with pytest.raises(ConfigError, match="a scan with another space is there"):
        scan(toy_config, space=other, trials=4, resume=True)
    with pytest.raises(ConfigError, match="a scan with another metric is there"):
        scan(toy_config, space=SPACE, trials=4, metric="loss", resume=True)
    config = load_config(toy_config, overrides={"training.batch_size": 5})
    with pytest.raises(ConfigError, match="a scan with another config is there"):
        scan(config, space=SPACE, trials=4, resume=True)
    assert len(scan(toy_config, space=SPACE, trials=4, resume=True).results["trials"]) == 4


def test_no_trial_begins_after_the_time(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def areas(n: int, e: int) -> float:
        now[0] += 15.0  # three epochs of a quarter of a minute
        return 0.8

    monkeypatch.setattr(scan_module, "train", pretended(areas, []))
    monkeypatch.setattr(scan_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    # Trials begin after 0, 45 and 90 seconds, and not after 135.
    assert len(scan(toy_config, space=SPACE, minutes=2).results["trials"]) == 3


# -- jobs ---------------------------------------------------------------------------------------------------


def test_jobs_share_a_study_and_keep_to_their_own_trials(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, calls = [True], list[int]()

    def areas(n: int, e: int) -> float:
        if n == 1 and e == 2 and broken[0]:
            raise Stopped
        return 0.8 + 0.01 * n

    monkeypatch.setattr(scan_module, "train", pretended(areas, calls))
    share = {"space": SPACE, "resume": True}
    scan(toy_config, trials=1, job=0, **share)
    with pytest.raises(Stopped):
        scan(toy_config, trials=2, job=1, **share)
    scan(toy_config, trials=3, job=0, **share)
    folder = toy_config.parent / "run-scan"
    assert not (folder / "scan.json").exists()
    assert states_of(join_scan(toy_config, space=SPACE)) == ["complete", "running", "complete"]
    broken[0] = False
    scan(toy_config, trials=3, job=1, **share)
    found = join_scan(toy_config, space=SPACE)
    assert states_of(found) == ["complete"] * 3
    assert found.results["best"] == 2
    assert json.loads((folder / "scan.json").read_text()) == found.results
    assert calls.count(1) == 1 + 3


def test_there_must_be_a_scan_to_be_joined(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scan there, it has no scan\.journal"):
        join_scan(toy_config, space=SPACE)
    assert not (toy_config.parent / "run-scan").exists()


def test_two_jobs_at_once_make_each_trial_once(toy_config: Path) -> None:
    toy_config.write_text(TOY_CONFIG.replace("epochs: 3", "epochs: 1"))
    code = (
        "import sys; from timelike.scan import scan;"
        f"scan({str(toy_config)!r}, space={SPACE!r}, trials=4, resume=True, job=int(sys.argv[1]))"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], stderr=subprocess.PIPE, text=True)
        for k in range(2)
    ]
    for job in jobs:
        assert job.wait() == 0, job.stderr and job.stderr.read()
        assert job.stderr
        job.stderr.close()
    trials = join_scan(toy_config, space=SPACE).results["trials"]
    assert len(trials) in (4, 5)  # both may have seen that one more was to be made
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    for trial in trials:
        config = load_config(toy_config.parent / "run-scan" / f"trial-{trial['number']:04d}" / "config.yaml")
        assert config.network.recurrent[0].units == trial["parameters"][UNITS]


# -- the page -----------------------------------------------------------------------------------------------


def test_importance_needs_some_trials(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "train", pretended(lambda n, e: 0.8, []))
    found = scan(toy_config, space=SPACE, trials=4)
    assert found.results["importance"] is None
    assert "4 trials came to their end; 5 are needed" in (found.folder / "scan.html").read_text()


def test_what_matters_is_important(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy_config.parent / "run-scan"

    def areas(n: int, e: int) -> float:
        units = next(t for t in points if t.number == n).params[UNITS]
        return 0.5 + 0.05 * units

    import optuna

    def train(config: Any, **named: Any) -> Any:
        points[:] = optuna.load_study(
            study_name="scan",
            storage=optuna.storages.JournalStorage(
                optuna.storages.journal.JournalFileBackend(str(folder / "scan.journal"))
            ),
        ).get_trials()
        return pretended(areas, [])(config, **named)

    points: list[Any] = []
    monkeypatch.setattr(scan_module, "train", train)
    importance = scan(toy_config, space=SPACE, trials=30, pruner="none").results["importance"]
    assert importance[UNITS] > 0.8
    assert sum(importance.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_page_needs_nothing_else(done: Any) -> None:
    page = (done.folder / "scan.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for text in ("Scan of 2 parameters", "learning_rate", "timelike train run-scan/best.yaml", "scan.json"):
        assert text in page, text
    assert "Kolmogorov" not in page
    for name in ("course", "parallel"):
        assert (done.folder / "figures" / f"{name}.pdf").is_file()


def test_figures_show_what_is_there(done: Any) -> None:
    results = {**done.results, "importance": {RATE: 0.25, UNITS: 0.75}}
    bars = plot_importance(results)
    assert [label.get_text() for label in bars.get_yticklabels()] == ["learning_rate", "units"]
    assert [bar.get_width() for bar in bars.patches] == [0.25, 0.75]
    lines = plot_parallel(results).lines
    shown = [trial for trial in results["trials"] if trial["state"] in ("complete", "pruned")]
    assert len(lines) == len(shown) + 3  # and an axis for each parameter and the metric
    best = next(line for line in lines if line.get_color() == "#bd1f01")
    point = next(t for t in results["trials"] if t["number"] == results["best"])
    expected = [
        np.log(point["parameters"][RATE] / 0.001) / np.log(100),
        (point["parameters"][UNITS] - 2) / 4,
        1.0,
    ]
    np.testing.assert_allclose(best.get_ydata(), expected, rtol=1e-12)
    course = plot_course(results)
    stairs = course.lines[-1].get_ydata()
    assert list(stairs) == sorted(stairs)


def test_names_of_any_kind_come_onto_the_page(tmp_path: Path) -> None:
    space = {
        "data.signal": {"choices": ["<b>$x$</b>", ["a", None]]},
        "network.dropout": {"low": 0, "high": 1},
    }
    trials = [
        {"number": n, "state": "complete", "value": 0.9, "epochs": 3, "best_epoch": 2,
         "parameters": {"data.signal": space["data.signal"]["choices"][n], "network.dropout": 0.5}}
        for n in range(2)
    ]  # fmt: skip
    results = {
        "metric": "loss",
        "space": space,
        "best": 0,
        "importance": None,
        "no_importance": "x",
        "trials": trials,
    }
    page = write_scan_page(tmp_path, results, "a: 1\n").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_trials_are_told_as_they_go(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from timelike.progress import Silent

    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    areas = {0: 0.8, 1: None}
    monkeypatch.setattr(scan_module, "train", pretended(lambda n, e: areas[n], []))
    found = scan(toy_config, space=SPACE, trials=2, progress=Listener())
    point = found.results["trials"][0]["parameters"]
    assert said[0] == f"trial 0: {RATE} {point[RATE]}, {UNITS} {point[UNITS]}"
    assert said[-1] == "trial 1 failed: lost"
