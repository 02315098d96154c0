"""Streaming: the same events as in memory, each once in an epoch, in an order that is of the seed alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

from streamed_files import N_FILES, config_of, equal, some_columns, write_ttree
from test_resume import KINDS, same, stopped_at
from timelike import streams
from timelike.batches import event_weights
from timelike.cli import main
from timelike.config import Config, load_config
from timelike.data.shuffle import Ahead, ShuffleBuffer
from timelike.data.streaming import Reader, read_parts
from timelike.errors import ConfigError, DataError
from timelike.model import load_model
from timelike.preparation import prepare
from timelike.sequences import Sequences
from timelike.streams import Training
from timelike.train import CONFIG, MODEL, read_splits, train
from timelike.trainingstep import TrainingStep
from toys import N_EVENTS

# -- shuffling ----------------------------------------------------------------------------------------------


def numbered(numbers: np.ndarray[Any, Any]) -> Sequences:
    """Events of 0 to 3 steps; all that belongs to one carries its number."""
    lengths = numbers % 4
    return Sequences(
        np.repeat(numbers, lengths)[:, None].astype(np.float64),
        np.concatenate([[0], np.cumsum(lengths)]),
        labels=numbers,
        weights=numbers / 2,
    )


def test_the_buffer_gives_back_whole_events_once() -> None:
    rng = np.random.default_rng(0)
    buffer, out, n = ShuffleBuffer(np.random.default_rng(1)), [], 0
    for _ in range(150):
        m = int(rng.integers(0, 30))
        buffer.put(numbered(np.arange(n, n + m)))
        n += m
        if len(buffer) > 100:
            out.append(buffer.draw(len(buffer) - 100))
            assert len(buffer) == 100
    out.append(buffer.draw(len(buffer)))
    given = Sequences.concatenate(out)
    assert sorted(given.labels) == list(range(n))
    equal(given, numbered(given.labels))
    assert len(buffer) == 0


def test_a_buffer_does_not_keep_what_was_drawn() -> None:
    buffer = ShuffleBuffer(np.random.default_rng(1))
    for k in range(200):
        buffer.put(numbered(np.arange(50 * k, 50 * k + 50)))
        if len(buffer) > 500:
            buffer.draw(len(buffer) - 500)
    held = sum(len(segment.events) for segment in buffer._segments)
    assert held <= 500 / 0.7 + 50
    assert len(buffer._segments) <= 33


def test_each_event_of_the_buffer_is_drawn_as_often() -> None:
    n, k, runs = 20, 5, 2000
    times: Counter[int] = Counter()
    first: Counter[int] = Counter()
    for seed in range(runs):
        buffer = ShuffleBuffer(np.random.default_rng(seed))
        buffer.put(numbered(np.arange(8)))
        buffer.put(numbered(np.arange(8, n)))
        drawn = buffer.draw(k).labels
        times.update(drawn.tolist())
        first[int(drawn[0])] += 1
    for counts, share in ((times, k / n), (first, 1 / n)):
        expected, error = runs * share, (runs * share * (1 - share)) ** 0.5
        assert max(abs(counts[i] - expected) for i in range(n)) < 5 * error


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_is_ahead_is_bounded_in_order_and_closed(n: int) -> None:
    made: list[int] = []
    closed = []

    def items() -> Iterator[int]:
        try:
            for k in range(20):
                made.append(k)
                yield k
        finally:
            closed.append(True)

    ahead = Ahead(items(), n)
    for k in range(10):
        assert next(ahead) == k
        assert len(made) <= k + 1 + n
    ahead.close()
    assert len(made) <= 10 + n
    assert closed == [True]
    assert list(ahead) == []


@pytest.mark.parametrize("n", [0, 2])
def test_an_error_comes_where_it_would_have_come(n: int) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise DataError("b.root: broken")

    ahead = Ahead(items(), n)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"b\.root: broken"):
        next(ahead)


# -- batches ------------------------------------------------------------------------------------------------


def batches_of(config: Config, epochs: int = 3, **more: Any) -> Any:
    prepared = prepare(config)
    assert isinstance(prepared.training, Training)
    given = {"batch_size": 16, "dtype": torch.float32, "seed": 0, **more}
    return prepared.training.batches(**given, epochs=epochs)


def events_of(batch: Any) -> list[bytes]:
    """Everything of each event of a batch, to the bit."""
    parts = torch.tensor_split(batch.rows.values, batch.rows.offsets[1:-1])
    return [
        part.numpy().tobytes() + bytes([int(label)]) + weight.numpy().tobytes()
        for part, label, weight in zip(parts, batch.labels, batch.weights, strict=True)
    ]


@pytest.mark.parametrize("buffer", [12, 100, 400, 100_000])
def test_an_epoch_has_every_training_event_once(stream_config: Path, buffer: int) -> None:
    config = config_of(stream_config, buffer=buffer)
    prepared = prepare(config)
    whole = read_splits(load_config(stream_config, overrides={"data.stream": None}))["train"]
    plain = prepared.transforms.apply(whole)
    weights = event_weights(whole, config.data.class_names, balance=True, where="training")
    expected = Counter(
        rows.tobytes() + bytes([label]) for rows, label in zip(plain, plain.labels, strict=True)
    )
    batches, orders = batches_of(config), []
    for _ in range(3):
        epoch = list(batches.epoch())
        assert [len(batch.labels) for batch in epoch] == batches.sizes.tolist()
        assert len(batches) == -(-len(whole) // 16)
        assert max(batches.sizes) - min(batches.sizes) <= 1
        events = [event for batch in epoch for event in events_of(batch)]
        assert Counter(event[:-4] for event in events) == expected
        # Sums of the same weights in pieces: to some eps; then rounded to float32.
        found = np.sort(np.concatenate([batch.weights.numpy() for batch in epoch]))
        np.testing.assert_allclose(found, np.sort(weights).astype(np.float32), rtol=2 * 2.0**-23)
        orders.append(events)
    assert orders[0] != orders[1] != orders[2]


def test_the_order_is_of_the_seed_alone(stream_config: Path) -> None:
    def order(seed: int = 0, **stream: Any) -> list[list[bytes]]:
        batches = batches_of(config_of(stream_config, **stream), seed=seed)
        return [[e for batch in batches.epoch() for e in events_of(batch)] for _ in range(3)]

    first = order()
    for ahead in (0, 1, 7):
        assert order(read_ahead=ahead) == first
    assert order(seed=1) != first


def test_no_more_events_wait_than_the_buffer_holds(
    stream_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers: list[ShuffleBuffer] = []
    waiting: list[int] = []

    class Watched(ShuffleBuffer):
        def __init__(self, random: np.random.Generator) -> None:
            super().__init__(random)
            buffers.append(self)

        def put(self, events: Sequences) -> None:
            super().put(events)
            waiting.append(sum(map(len, buffers)))

    monkeypatch.setattr(streams, "ShuffleBuffer", Watched)
    config = config_of(stream_config, buffer=100, read_ahead=0)
    batches = batches_of(config)
    for _ in range(3):
        assert sum(len(batch.labels) for batch in batches.epoch()) > 400
    assert 100 < max(waiting) <= 100 + Reader(config).size
    assert len(buffers) >= 3


@pytest.mark.parametrize("buffer", [90, 200, 1000])
def test_it_goes_on_within_any_epoch(stream_config: Path, buffer: int) -> None:
    config = config_of(stream_config, buffer=buffer)
    batches = batches_of(config)
    whole = [[events_of(batch) for batch in batches.epoch()] for _ in range(3)]
    for epoch, done in ((0, 1), (1, 0), (1, 9), (2, len(batches) - 1)):
        other = batches_of(config)
        other.restore({"epoch": epoch})
        assert [events_of(batch) for batch in other.epoch(done)] == whole[epoch][done:]
        for following in whole[epoch + 1 :]:
            assert [events_of(batch) for batch in other.epoch()] == following


def test_files_come_in_another_order_in_each_epoch(stream_config: Path) -> None:
    training = prepare(config_of(stream_config)).training
    assert isinstance(training, Training)
    orders = {
        tuple(dict.fromkeys(chunk.file.name for chunk in training.order(np.random.default_rng(seed))))
        for seed in range(40)
    }
    assert len(orders) == 6  # all there are of three files
    assert all(len(order) == N_FILES for order in orders)


@pytest.mark.parametrize(
    "given", [{}, {"training.negative_weights": "ignore"}, {"training.class_balance": False}]
)
def test_the_weights_are_those_in_memory(stream_config: Path, given: dict[str, Any]) -> None:
    config = load_config(stream_config, overrides=given)
    whole = read_splits(load_config(stream_config, overrides={**given, "data.stream": None}))["train"]
    how = {"balance": config.training.class_balance, "negative": config.training.negative_weights}
    weights = event_weights(whole, config.data.class_names, where="training", **how)
    found = np.concatenate([b.weights.numpy() for b in batches_of(config, dtype=torch.float64).epoch()])
    np.testing.assert_allclose(np.sort(found), np.sort(weights), rtol=1e-13)


# -- trainings ----------------------------------------------------------------------------------------------


def test_streamed_validation_is_that_in_memory(streamed: Path) -> None:
    prepared = prepare(config_of(streamed, buffer=60))
    assert not isinstance(prepared.validation, Sequences)
    in_memory = prepare(config_of(streamed)).validation
    assert isinstance(in_memory, Sequences)
    joined = Sequences.concatenate(list(prepared.validation))
    for name in ("values", "offsets", "labels", "weights"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(in_memory, name))
    np.testing.assert_array_equal(prepared.validation.known.labels, joined.labels)
    np.testing.assert_array_equal(prepared.validation.known.weights, joined.weights)


@pytest.mark.parametrize("kind", ["dropout", "cosine", "phases"])
def test_it_goes_on_to_the_same_bits(streamed: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**KINDS[kind], "training.checkpoint_every": 4}
    whole = train(load_config(streamed, overrides={**given, "output": "whole"}))
    given["data.stream.read_ahead"] = 0  # may change
    config = load_config(streamed, overrides=given)
    for n in (1, 30, 41):
        with stopped_at(monkeypatch, n):
            train(config, resume=True)
    same(train(config, resume=True), whole)


def test_another_buffer_is_another_training(streamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopped_at(monkeypatch, 40):
        train(config_of(streamed))
    with pytest.raises(ConfigError, match=r"of another config, data\.stream\.buffer: 100 before, 90 now"):
        train(config_of(streamed, buffer=90), resume=True)


def test_other_events_are_refused(streamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopped_at(monkeypatch, 40):
        train(streamed)
    columns = some_columns(1)
    columns["weight"] = columns["weight"].copy()
    columns["weight"][200] *= 2
    (streamed.parent / "toy1.root").unlink()
    write_ttree(streamed.parent / "toy1.root", columns)
    with pytest.raises(DataError, match="of other events than the files now hold"):
        train(streamed, resume=True)


def test_a_run_can_be_repeated_and_evaluated_from_its_folder(streamed: Path) -> None:
    config = load_config(streamed, overrides={"split": {"by": "random"}, "training.epochs": 1})
    result = train(config)
    again = load_config(result.folder / CONFIG)
    assert again.data.stream == config.data.stream
    for part, events in read_splits(again).items():  # what an evaluation reads
        equal(events, read_parts(config)[part])
        assert len(events) == result.model.training["events"][part]


def test_an_interrupted_training_leaves_no_thread(streamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    with stopped_at(monkeypatch, 30):
        train(streamed)
    assert [t.name for t in threading.enumerate() if t.name.startswith("timelike-read")] == []


# -- files that cannot be used ------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def of_changed_bytes(path: Path) -> None:
    """Damage what is within baskets in the middle: the file opens, and reading it fails."""
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        branch = file["jets"]["part_eta"]
        seek, size = branch.member("fBasketSeek")[3], branch.member("fBasketBytes")[3]
    content[seek + 60 : seek + size] = bytes(size - 60)
    path.unlink()
    path.write_bytes(content)


def without_a_branch(path: Path) -> None:
    columns = some_columns(1)
    del columns["part_eta"]
    path.unlink()
    write_ttree(path, columns)


DAMAGES = {
    "truncated": (truncated, "truncated"),
    "damaged": (of_changed_bytes, "part_eta"),
    "missing branch": (without_a_branch, "no branch 'part_eta'"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_bad_file_stops_with_a_line(
    streamed: Path, damage: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(streamed.parent / "toy1.root")
    assert main(["train", str(streamed)]) == 2
    error = capsys.readouterr().err.partition("data: a first pass over the files\n")[2]
    assert len(error.splitlines()) == 1
    assert str(streamed.parent / "toy1.root") in error
    assert said in error
    assert not (streamed.parent / "run").exists()


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_bad_file_is_skipped_and_reported(
    streamed: Path, damage: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = streamed.parent / "toy1.root"
    damage(bad)
    text = streamed.read_text().replace("buffer: 100", "buffer: 100, on_error: skip")
    streamed.write_text(text)
    assert main(["train", str(streamed)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum(line == f"skipped 1 of 3 files: {bad}" for line in lines) == 3  # epochs
    record = load_model(streamed.parent / "run" / MODEL).training
    assert [entry["file"] for entry in record["skipped"]] == [str(bad)]
    assert said in record["skipped"][0]["error"]
    # Nothing of the bad file is left, not even of its good pieces: as if it were not there.
    bad.unlink()
    other = train(load_config(streamed, overrides={"output": "other"}))
    first = load_model(streamed.parent / "run" / MODEL)
    assert first.transforms.to_dict() == other.model.transforms.to_dict()
    for name, value in other.model.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name])


def test_files_that_are_all_bad_are_an_error(streamed: Path) -> None:
    config = load_config(
        streamed,
        overrides={"data.variables": ["part_etta"], "data.stream": {"on_error": "skip"}},
    )
    with pytest.raises(DataError, match=r"none of 3 files can be used; the first: .*toy0\.root.*'part_etta'"):
        train(config)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_file_that_changes_in_between_stops_the_training(
    streamed: Path, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, left = TrainingStep.take, [50]

    def step(*given: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            path = streamed.parent / "toy1.root"
            columns = {name: of[: N_EVENTS - 50] for name, of in some_columns(1).items()}
            path.unlink()
            with uproot.recreate(path) as file:
                file.mktree(
                    "jets",
                    {n: "var * float32" if isinstance(c, ak.Array) else c.dtype for n, c in columns.items()},
                )
                file["jets"].extend(columns)
        return plain(*given)

    monkeypatch.setattr(TrainingStep, "take", step)
    with pytest.raises(DataError, match=r"toy1\.root: other events than when the training began"):
        train(config_of(streamed, on_error=on_error, buffer=40))


# -- memory -------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from timelike.config import load_config
from timelike.train import train
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(load_config(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Twenty times the events must not need more memory, to an eighth of what all of them are."""
    rng = np.random.default_rng(0)
    n, length = 5000, 40
    flat = {name: rng.normal(size=n * length).astype(np.float32) for name in ("part_pt", "part_eta")}
    columns: dict[str, Any] = {name: ak.unflatten(of, np.full(n, length)) for name, of in flat.items()}
    columns |= {"label": np.arange(n) // 10 % 2, "eventNumber": np.arange(n)}
    types = {k: "var * float32" if isinstance(c, ak.Array) else c.dtype for k, c in columns.items()}
    with uproot.recreate(tmp_path / "one.root", compression=uproot.LZ4(1)) as file:
        file.mktree("jets", types)
        for start in range(0, n, 1000):
            file["jets"].extend({name: of[start : start + 1000] for name, of in columns.items()})

    def peak(copies: int) -> int:
        folder = tmp_path / f"{copies}"
        folder.mkdir()
        for k in range(copies):
            (folder / f"{k}.root").hardlink_to(tmp_path / "one.root")
        config = folder / "a.yaml"
        config.write_text(
            "data:\n  files: '*.root'\n  treename: jets\n  stream: {buffer: 8000, spool: false}\n"
            "  variables: [part_pt, part_eta]\n  labels: {a: label == 0, b: label == 1}\n"
            "  event_number: eventNumber\n"
            # Few validation events: their scores are what may grow.
            f"split: {{by: event_number, modulo: 100, remainders: {{train: {list(range(80))},"
            " validation: [87, 97], test: []}}\n"
            "network: {recurrent: [], pooling: mean, head: {units: [4]}}\n"
            "training: {epochs: 1, batch_size: 500}\n"
        )
        command = [sys.executable, "-c", PEAK, str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    small, large = peak(4), peak(80)
    events = 80 * n * length * 2 * 4  # bytes of all of them, 128 MB
    assert large < small + events / 8
