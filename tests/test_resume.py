"""A training that was interrupted, at whatever moment, ends with the same weights to the bit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from timelike.checkpoint import Snapshot, fingerprint, read_snapshot, write_snapshot
from timelike.cli import main
from timelike.config import load_config
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.inspect.runlog import EVENTS, read_looks
from timelike.modelfile import read_model_file
from timelike.resuming import Change
from timelike.sequences import Sequences
from timelike.train import CHECKPOINT, CONFIG, HISTORY, MODEL, TrainingInterrupted, TrainingResult, train
from timelike.trainingstep import TrainingStep
from toys import TOY_CONFIG, toy_columns, write_root

STEPS = 33  # of the toy config: three epochs of eleven batches
KINDS = {
    "adam": {},
    "dropout": {"network.head.dropout": 0.5},
    "cosine": {"training.schedule": {"name": "cosine"}},
    "plateau": {"training.schedule": {"name": "plateau", "patience": 1, "factor": 0.5}},
    "epsilon hat": {"training.optimiser": {"name": "adam", "epsilon_hat": True, "epsilon": 1e-3}},
    "sgd": {"training.optimiser": {"name": "sgd", "learning_rate": 0.1}},
    "rmsprop": {"training.optimiser": {"name": "rmsprop", "momentum": 0.5}},
    "root": {"training.optimiser": {"name": "rmsprop", "momentum": 0.5, "epsilon_in_root": True}},
    "adagrad": {"training.optimiser": {"name": "adagrad"}},
    "adadelta": {"training.optimiser": {"name": "adadelta"}},
    "norm": {"network.head.batch_norm": {"before": [0, 1], "momentum": None}},
    "float64": {"training.dtype": "float64"},
    "phases": {
        "training.epochs": 1,
        "training.then": [{"epochs": 1, "batch_size": 15}, {"epochs": 1, "optimiser": {"name": "sgd"}}],
    },
    "warm-up": {"training.schedule": {"name": "cosine", "warmup": 20}},
    "average": {"training.average": 0.9, "network.head.batch_norm": {}},
    "stopping": {"training.early_stopping": {"patience": 1}},
}


class Stopped(Exception):
    """What an interruption is in these tests."""


@contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, n: int) -> Iterator[None]:
    """Interrupt in the n-th step of the block, and expect that."""
    plain, left = TrainingStep.take, [n]

    def step(*given: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "take", step)
        with pytest.raises(Stopped):
            yield


def same(one: TrainingResult, other: TrainingResult) -> None:
    states = one.model.network.state_dict(), other.model.network.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    for a, b in zip(one.history, other.history, strict=True):
        assert (a.train_loss, a.validation_loss, a.validation_auc) == (
            b.train_loss,
            b.validation_loss,
            b.validation_auc,
        )
        assert a.learning_rate == b.learning_rate
    assert one.best.epoch == other.best.epoch


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_it_goes_on_to_the_same_bits(
    toy_config: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**changes, "training.checkpoint_every": 4}
    whole = train(load_config(toy_config, overrides={**given, "output": "whole"}))
    config = load_config(toy_config, overrides=given)
    rng = np.random.default_rng(1)
    for n in [1, *rng.integers(1, STEPS // 2, 3).tolist()]:
        torch.manual_seed(n)  # whatever is drawn elsewhere in between does not matter
        with stopped_at(monkeypatch, n):
            train(config, resume=True)
    same(train(config, resume=True), whole)


def test_a_step_that_was_done_is_not_done_again(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(toy_config, overrides={"training.checkpoint_every": 1})
    steps = []
    plain = TrainingStep.take

    def step(*given: Any) -> float:
        if len(steps) == 17:
            steps.append("stop")
            raise Stopped
        steps.append("step")
        return plain(*given)

    monkeypatch.setattr(TrainingStep, "take", step)
    with pytest.raises(Stopped):
        train(config)
    train(config, resume=True)
    assert steps.count("step") == STEPS


def test_a_complete_training_is_not_done_again(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(toy_config)
    monkeypatch.setattr(TrainingStep, "take", lambda *_: pytest.fail("a step was made"))
    same(train(toy_config, resume=True), first)


def test_without_a_checkpoint_it_begins_anew(toy_config: Path) -> None:
    same(train(toy_config, resume=True), train(load_config(toy_config, overrides={"output": "other"})))


@pytest.mark.parametrize("then", ["", pytest.param("many", marks=pytest.mark.slow)])
def test_it_survives_being_killed(toy_config: Path, then: str) -> None:
    toy_config.write_text(toy_config.read_text().replace("epochs: 3,", "epochs: 3, checkpoint_every: 3,"))
    whole = train(load_config(toy_config, overrides={"output": "whole"}))
    script = Path(__file__).with_name("killed.py")
    rng = np.random.default_rng(5)
    readers = {
        MODEL: read_model_file,
        CHECKPOINT: read_snapshot,
        HISTORY: lambda p: json.loads(p.read_text()),
    }
    # In the first checkpoint's writing, behind it, and anywhere.
    moments = [4, 5, *rng.integers(1, 30, 12 if then else 2).tolist()]
    for n in moments:
        command = [sys.executable, str(script), str(toy_config), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        for name, read in readers.items():
            path = toy_config.parent / "run" / name
            if path.exists():  # whatever is there is whole
                read(path)
    same(train(toy_config, resume=True), whole)


# What it was not


def interrupted(config: Path, monkeypatch: pytest.MonkeyPatch, *, at: int = 15, **overrides: Any) -> Path:
    with stopped_at(monkeypatch, at):
        train(load_config(config, overrides=overrides))
    return config.parent / "run"


def test_another_config_is_refused_by_its_key(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(toy_config, monkeypatch)
    changed = load_config(toy_config, overrides={"training.batch_size": 8})
    with pytest.raises(
        ConfigError, match=r"of another config, training\.batch_size: 16 before, 8 now; train anew"
    ):
        train(changed, resume=True)
    assert main(["train", str(toy_config), "--resume", "--seed", "5"]) == 2
    assert "training.seed: 0 before, 5 now" in capsys.readouterr().err


LONGER = {
    "adam": {},
    "stopping": {"training.early_stopping": {"patience": 6, "metric": "auc"}},
    "warm-up": {"training.schedule": {"name": "constant", "warmup": 20}},
    "plateau": {"training.schedule": {"name": "plateau", "patience": 1, "factor": 0.5}},
    "average": {"training.average": 0.9, "training.optimiser": {"name": "rmsprop", "momentum": 0.5}},
}


@pytest.mark.parametrize("given", LONGER.values(), ids=LONGER)
def test_more_epochs_behind_the_end_are_as_if_there_had_been_no_end(
    toy_config: Path, given: dict[str, Any]
) -> None:
    longer = {**given, "training.epochs": 6}
    whole = train(load_config(toy_config, overrides={**longer, "output": "whole"}))
    first = train(load_config(toy_config, overrides=given))
    assert len(first.history) == 3
    assert "changes" not in first.model.training
    second = train(load_config(toy_config, overrides=longer), resume=True, accept_changes=True)
    same(second, whole)
    change = {"epochs": 3, "batches": 0, "key": "training.epochs", "before": 3, "now": 6}
    assert second.model.training["changes"] == [change]
    assert "epochs: 6" in (first.folder / CONFIG).read_text()
    # It is a training of the new config from now on, and keeps what was changed before.
    train(load_config(toy_config, overrides=longer), resume=True)
    assert read_model_file(first.folder / MODEL).meta["training"]["changes"] == [change]


def test_a_phase_behind_the_end_is_as_if_it_had_been_there(toy_config: Path) -> None:
    more = {"training.then": [{"epochs": 2, "optimiser": {"name": "sgd", "learning_rate": 0.01}}]}
    whole = train(load_config(toy_config, overrides={**more, "output": "whole"}))
    train(toy_config)
    same(train(load_config(toy_config, overrides=more), resume=True, accept_changes=True), whole)


def test_another_schedule_has_its_own_rate_at_that_place(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"training.optimiser.learning_rate": 0.01, "training.schedule": {"name": "cosine", "warmup": 4}}
    changes |= {"training.checkpoint_every": 1}
    whole = train(load_config(toy_config, overrides={**changes, "output": "whole"}))
    for n in (15, 12):  # within the second epoch and at its begin
        interrupted(toy_config, monkeypatch, at=n, **{"training.checkpoint_every": 1})
        result = train(load_config(toy_config, overrides=changes), resume=True, accept_changes=True)
        rates = [epoch.learning_rate for epoch in result.history]
        assert rates[0] == 0.02
        assert rates[1:] == [epoch.learning_rate for epoch in whole.history[1:]]
        keys = [change["key"] for change in result.model.training["changes"]]
        assert keys[0] == "training.optimiser.learning_rate"
        assert "training.schedule.name" in keys


def test_patience_may_grow_when_a_training_has_stopped(toy_config: Path) -> None:
    given = {"training.epochs": 12, "training.optimiser.learning_rate": 0.3}
    stops = {**given, "training.early_stopping": {"patience": 1}}
    on = {**given, "training.early_stopping": {"patience": 4}}
    first = train(load_config(toy_config, overrides=stops))
    whole = train(load_config(toy_config, overrides={**on, "output": "whole"}))
    assert len(first.history) < len(whole.history)
    same(train(load_config(toy_config, overrides=on), resume=True, accept_changes=True), whole)


NEVER = {
    "training.batch_size": 8,
    "training.seed": 3,
    "training.dtype": "float64",
    "training.optimiser.name": "adamw",
    "training.optimiser.beta1": 0.8,
    "training.early_stopping.metric": "auc",
    "training.regularisation": {"strength": 0.1},
    "network.head.units": [7],
    "data.variables": ["part_eta"],
    "sequence.keep_first": 4,
}


@pytest.mark.parametrize("key", NEVER)
def test_some_keys_may_never_change(toy_config: Path, key: str, trained: Path) -> None:
    changed = load_config(toy_config, overrides={key: NEVER[key], "output": str(trained)})
    section = re.escape(key.rpartition(".")[0])
    with pytest.raises(ConfigError, match=rf"of another config, {section}\..* before, .* now; train anew"):
        train(changed, resume=True, accept_changes=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Path:
    """Give the folder of a run; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG, encoding="utf-8")
    return train(load_config(folder / "toy.yaml", overrides={"training.epochs": 1})).folder


def test_changes_are_made_where_they_are_accepted(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(toy_config, monkeypatch)
    change = "training.clip_norm: 5.0 before, 1.0 now"
    words = ["train", str(toy_config), "--set", "training.clip_norm=1.0"]
    assert main([*words, "--resume"]) == 2
    assert f"{change}; --accept-changes goes on with it, or train anew" in capsys.readouterr().err
    assert main([*words, "--accept-changes"]) == 2
    assert "--accept-changes has no meaning without --resume" in capsys.readouterr().err
    assert main([*words, "--resume", "--accept-changes"]) == 0
    assert f"changed: {change}" in capsys.readouterr().err
    # Phases that there were stay as they are.
    phases = [{"epochs": 2}, {"epochs": 3}]
    assert Change("training.then", phases[:1], phases).possible
    assert not Change("training.then", phases, phases[1:]).possible


def test_what_the_weights_do_not_depend_on_may_change(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(toy_config, monkeypatch)
    free = {"training.threads": 2, "training.inspect": {"every": 3}, "evaluation.bootstrap": 3}
    result = train(load_config(toy_config, overrides=free), resume=True)
    monkeypatch.undo()
    same(result, train(load_config(toy_config, overrides={"output": "other"})))


def test_keys_that_there_were_not_yet_have_their_defaults(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted(toy_config, monkeypatch) / CHECKPOINT
    snapshot, about = read_snapshot(path)
    for section, key in (("data", "targets"), ("training", "flatten"), ("network", "initialiser")):
        del about["config"][section][key]
    write_snapshot(snapshot, path, about)
    same(train(toy_config, resume=True), train(load_config(toy_config, overrides={"output": "other"})))
    _, about = read_snapshot(path)  # with all keys again
    about["config"]["training"]["what_is_that"] = 3
    write_snapshot(snapshot, path, about)
    with pytest.raises(ConfigError, match=r"of another config, training\.what_is_that: 3 before, null now"):
        train(toy_config, resume=True)


def test_other_events_are_refused(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(toy_config, monkeypatch)
    (toy_config.parent / "toy.root").unlink()
    columns = toy_columns()
    columns["weight"] = columns["weight"].copy()
    columns["weight"][3] *= 2
    write_root(toy_config.parent / "toy.root", columns)
    with pytest.raises(DataError, match="of other events than the files now hold"):
        train(toy_config, resume=True)


def test_a_damaged_checkpoint_is_refused(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(toy_config, monkeypatch)
    content = (folder / CHECKPOINT).read_bytes()
    for damage in (b"", content[:100], content[:-10], b"x" + content[1:]):
        (folder / CHECKPOINT).write_bytes(damage)
        with pytest.raises(ModelFileError, match=f"{CHECKPOINT}: not a checkpoint, or damaged"):
            train(toy_config, resume=True)
    (folder / CHECKPOINT).write_bytes((folder / MODEL).read_bytes())
    with pytest.raises(ModelFileError, match="not a checkpoint"):
        train(toy_config, resume=True)


def test_a_new_training_says_what_it_replaces(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted(toy_config, monkeypatch)
    assert main(["train", str(toy_config)]) == 0
    said = capsys.readouterr().err
    assert "an unfinished training in" in said
    assert "--resume would go on with it" in said
    assert main(["train", str(toy_config)]) == 0
    assert "unfinished" not in capsys.readouterr().err
    assert main(["train", str(toy_config), "--resume"]) == 0
    assert "complete after epoch 3" in capsys.readouterr().err
    assert folder.is_dir()


def test_an_interruption_says_how_to_go_on(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, left = TrainingStep.take, [15]

    def step(*given: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(TrainingStep, "take", step)
    with pytest.raises(TrainingInterrupted, match=r"best model so far, of epoch 1, .*--resume goes on"):
        train(toy_config)


def test_what_was_seen_inside_is_there_once(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = {"training.inspect": {"every": 4, "tensorboard": True}}
    whole = train(load_config(toy_config, overrides={**more, "output": "whole"}))
    with stopped_at(monkeypatch, 20):  # the checkpoint is that after eleven
        train(load_config(toy_config, overrides=more))
    parts = train(load_config(toy_config, overrides=more), resume=True)
    assert read_looks(parts.folder) == read_looks(whole.folder)
    events = EventAccumulator(str(parts.folder / EVENTS))
    events.Reload()
    steps = [event.step for event in events.Scalars("recurrent.0 forward/units/dead")]
    assert steps == list(range(1, 34, 4))


# The file


def test_a_snapshot_comes_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {"a.x": torch.randn(3), "a.n": torch.tensor(7), "r": torch.get_rng_state()}
    values = {"lowest": float("inf"), "order": {"state": 2**127 + 1}, "rate": 0.1 + 0.2}
    write_snapshot(Snapshot(tensors, values), tmp_path / "c", {"data": "1"})
    found, about = read_snapshot(tmp_path / "c")
    assert about == {"data": "1"}
    assert found.values == values
    assert found.part("a.").keys() == {"x", "n"}
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())


def test_a_fingerprint_changes_with_any_value() -> None:
    def of(**changes: Any) -> str:
        given = {"values": np.ones((3, 2)), "offsets": [0, 1, 3], "labels": [0, 1], "weights": [1.0, 2.0]}
        values, offsets = (({**given, **changes})[key] for key in ("values", "offsets"))
        more = {key: value for key, value in {**given, **changes}.items() if key in ("labels", "weights")}
        return fingerprint({"train": Sequences(values, offsets, **more)})

    other = np.ones((3, 2))
    other[2, 1] += 1e-15
    changed = [
        of(),
        of(values=other),
        of(offsets=[0, 2, 3]),
        of(labels=[1, 1]),
        of(weights=[1.0, 2.5]),
        of(weights=None),
    ]
    assert len(set(changed)) == len(changed)
    assert of() == of()
