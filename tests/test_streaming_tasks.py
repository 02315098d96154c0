"""Streaming of other tasks than classes of events: the same answers and weights as in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_resume import same, stopped_at
from timelike.batches import Batch, ShuffledBatches, answer_weights
from timelike.config import Config, load_config
from timelike.data.spool import Spool
from timelike.errors import DataError
from timelike.preparation import prepare
from timelike.sequences import Sequences
from timelike.streams import Training, Validation
from timelike.train import prepare_events, rehearse, train

STEP_LABELS = {"low": "part_eta < 0.5", "high": "part_eta > 1"}
TASKS: dict[str, dict[str, Any]] = {
    "numbers": {"data.targets": {"pt": "jet_pt / 500", "n": "label - 0.5"}},
    "quantiles": {"data.targets": {"pt": "jet_pt / 500", "n": "label - 0.5"}, "training.loss": "quantile"},
    "counts": {"data.targets": {"n": "label * 3"}, "training.loss": "poisson"},
    "labels": {"data.multilabel": {"signal": "label == 1", "hard": "jet_pt > 550"}},
    "classes of steps": {"data.labels": STEP_LABELS, "data.per": "step"},
    "labels of steps": {"data.multilabel": STEP_LABELS, "data.per": "step", "data.horizon": 1},
    "numbers of steps": {
        "data.targets": {"eta": "where(part_pt > 4, part_eta, 0 / 0)", "pt": "part_logpt"},
        "data.per": "step",
    },
}


def of_task(path: Path, task: str, **more: Any) -> Config:
    """Give the config of a task; `stream=None`: in memory."""
    labels = {} if "data.labels" in TASKS[task] else {"data.labels": {}}
    keys = {key.replace("__", "."): value for key, value in more.items()}
    return load_config(path, overrides={**labels, **TASKS[task], **keys})


def in_memory(config: Config, dtype: torch.dtype, batch_size: int) -> ShuffledBatches:
    """Give the batches of the same events in memory."""
    prepared = prepare_events(config)
    assert isinstance(prepared.training, Sequences)
    names, per_step = config.data.class_names if config.data.exclusive else None, config.data.per == "step"
    how: Any = {
        "balance": config.training.class_balance,
        "negative": config.training.negative_weights,
        "where": "training",
        "per_step": per_step,
    }
    weights = answer_weights(prepared.training, names, **how)
    return ShuffledBatches(
        prepared.training,
        weights,
        batch_size=batch_size,
        dtype=dtype,
        seed=0,
        regression=names is None,
        per_step=per_step,
    )


def streamed_batches(config: Config, dtype: torch.dtype, batch_size: int) -> Any:
    training = prepare(config).training
    assert isinstance(training, Training)
    return training.batches(batch_size=batch_size, dtype=dtype, seed=0, epochs=2)


def content(batch: Batch, *, per_step: bool) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """Give each event of a batch, or each step, with its answer to the bit, sorted; and their weights."""
    values, offsets = batch.rows.values.numpy(), batch.rows.offsets.numpy()
    pieces = np.split(values, np.arange(1, len(values)) if per_step else offsets[1:-1])
    told = [row.tobytes() + of.tobytes() for row, of in zip(pieces, batch.labels.numpy(), strict=True)]
    order = sorted(range(len(told)), key=lambda b: (told[b], batch.weights[b]))
    return [told[b] for b in order], batch.weights.numpy()[order]


PLAIN = {"training__dtype": "float64", "data__transforms": {"default": ["none"]}}


@pytest.mark.parametrize("negative", ["use", "ignore"])
@pytest.mark.parametrize("task", TASKS)
def test_answers_and_weights_are_those_in_memory(stream_config: Path, task: str, negative: str) -> None:
    given: Any = {"training__negative_weights": negative, **PLAIN}
    config = of_task(stream_config, task, **given)
    whole = of_task(stream_config, task, **given, data__stream=None)
    # All in one batch: there a step has the weight that it has in any batch but for the share of the batch.
    (expected,) = in_memory(whole, torch.float64, 10_000).epoch()
    batches = streamed_batches(config, torch.float64, 10_000)
    for _ in range(2):
        (found,) = batches.epoch()
        assert found.labels.dtype == expected.labels.dtype
        per_step = config.data.per == "step"
        events, weights = zip(*(content(of, per_step=per_step) for of in (found, expected)), strict=True)
        assert events[0] == events[1]
        # Sums of the same weights in pieces: to 700 eps at worst.
        np.testing.assert_allclose(weights[0], weights[1], rtol=700 * 2.0**-52)


@pytest.mark.parametrize("task", ["classes of steps", "numbers of steps"])
def test_batches_of_an_epoch_count_each_step_the_same(stream_config: Path, task: str) -> None:
    config = of_task(stream_config, task, **PLAIN)
    batches = streamed_batches(config, torch.float64, 16)
    (whole,) = in_memory(
        of_task(stream_config, task, **PLAIN, data__stream=None), torch.float64, 9999
    ).epoch()

    def loss(batch: Batch) -> float:
        return float((batch.weights * batch.rows.values[:, 0] ** 2).mean())

    epoch = list(batches.epoch())
    assert min(int(np.diff(b.rows.offsets.numpy()).min()) for b in epoch) == 1  # none without steps
    assert len({len(b.labels) for b in epoch}) > 1
    mean = np.average([loss(b) for b in epoch], weights=batches.sizes)
    assert mean == pytest.approx(loss(whole), rel=1e-12)


@pytest.mark.parametrize("task", ["quantiles", "labels", "classes of steps"])
def test_a_loss_is_that_in_memory(streamed: Path, task: str) -> None:
    given: Any = {
        "training__dtype": "float64",
        "training__batch_size": 10_000,
        "training__optimiser": {"name": "sgd", "learning_rate": 0.1},
    }
    found = train(of_task(streamed, task, **given))
    whole = train(of_task(streamed, task, **given, data__stream=None, output="whole"))
    for one, other in zip(found.history, whole.history, strict=True):
        # Steps of gradient descent on the same events in another order: of each loss some hundred eps.
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-12)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-12)
    assert found.history[0].train_loss != found.history[1].train_loss
    assert found.model.training["events"] == whole.model.training["events"]


# 72 validation events are not kept by a buffer of 50.
@pytest.mark.parametrize("task", ["numbers", "classes of steps", "numbers of steps"])
def test_it_goes_on_to_the_same_bits_with_and_without_a_spool(
    streamed: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: Any = {"training__checkpoint_every": 4, "training__epochs": 2}
    whole = train(
        of_task(streamed, task, **given, data__stream={"buffer": 50, "spool": False}, output="whole")
    )
    config = of_task(streamed, task, **given, data__stream={"buffer": 50, "spool": True})
    with stopped_at(monkeypatch, 40):  # within the second epoch
        train(config, resume=True)
    same(train(config, resume=True), whole)


@pytest.mark.parametrize("task", ["numbers", "classes of steps"])
def test_what_is_known_of_streamed_validation_events_is_that_in_memory(
    stream_config: Path, task: str
) -> None:
    prepared = [prepare(of_task(stream_config, task, data__stream={"buffer": n})) for n in (50, 100)]
    streamed, kept = (each.validation for each in prepared)
    assert isinstance(streamed, Validation)
    assert isinstance(kept, Sequences)
    answers = "targets" if task == "numbers" else "step_labels"
    for name in ("offsets", "weights", answers):
        assert getattr(kept, name) is not None
        np.testing.assert_array_equal(getattr(streamed.known, name), getattr(kept, name))
    assert len(streamed) == len(kept)
    assert streamed.known.values.nbytes == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_spool_has_room_for_what_it_was_said_to_need(
    stream_config: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    plain = Spool.__init__

    def made(self: Spool, folder: Path, largest: int) -> None:
        said.append(largest)
        plain(self, folder, largest)

    monkeypatch.setattr(Spool, "__init__", made)
    prepared = prepare(of_task(stream_config, task, data__stream={"buffer": 50, "spool": str(tmp_path)}))
    assert isinstance(prepared.training, Training)
    assert isinstance(prepared.validation, Validation)
    assert sum(map(len, prepared.training.read(prepared.training.chunks))) == len(prepared.training)
    assert sum(map(len, prepared.validation)) == len(prepared.validation)
    assert 0 < sum(spool.size for spool in prepared.spools) <= said[0] == said[1]
    prepared.close()


def test_the_first_lines_say_what_is_told(stream_config: Path) -> None:
    for task, said in (
        ("numbers", "720 events (targets pt, n; "),
        ("labels", "720 events (labels signal, hard; "),
    ):
        assert said in rehearse(of_task(stream_config, task))
    lines = rehearse(of_task(stream_config, "classes of steps"))
    whole = rehearse(of_task(stream_config, "classes of steps", data__stream=None))
    assert lines.splitlines()[0].removesuffix(", streamed from 3 files") == whole.splitlines()[0]


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("counts", {"data__targets": {"n": "label - 1"}},
         r"training\.loss: poisson: the lowest of data\.targets\.n is -1; 0 or more is needed"),
        ("numbers", {"data__targets": {"n": "1 / label"}}, r"toy0\.root.*event 0: the target .* is inf"),
        ("numbers of steps", {"data__targets": {"n": "0 / (part_pt - part_pt)"}},
         "training: no step has any targets"),
        ("classes of steps", {"data__labels": {"a": "part_eta < 99", "b": "part_eta >= 99"}},
         "training: no event of class 'b' among"),
        ("numbers", {"data__weights": "0 - jet_pt"}, "training: the weights of the .* sum to -"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from(stream_config: Path, task: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare(of_task(stream_config, task, **more))
