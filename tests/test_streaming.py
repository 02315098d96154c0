"""Streaming: the same events as in memory, each once in an epoch, in an order that is of the seed alone."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import uproot

from test_resume import KINDS, same, stopped_at
from timelike import fit as fit_module
from timelike.batches import event_weights
from timelike.cli import main
from timelike.config import Config, DataConfig, SplitConfig, load_config
from timelike.data.moments import Moments
from timelike.data.onepass import OnePassFit, PrioritySample
from timelike.data.shuffle import Ahead, ShuffleBuffer
from timelike.data.split import PARTS, part_numbers
from timelike.data.streaming import Reader, cut, read_parts
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, DataError
from timelike.model import load_model
from timelike.sequences import Sequences
from timelike.streams import Training, prepare
from timelike.train import MODEL, read_splits, train
from toys import N_EVENTS, TOY_CONFIG, toy_columns

N_FILES = 3


def some_columns(k: int) -> dict[str, Any]:
    columns = toy_columns(seed=k)
    columns["eventNumber"] = columns["eventNumber"] + 1000 * k
    return columns


def write_ttree(path: Path, columns: dict[str, Any], basket: int = 50) -> None:
    """Write a TTree in baskets of so many entries."""
    types = {name: "var * float32" if isinstance(of, ak.Array) else of.dtype for name, of in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("jets", types)
        for start in range(0, N_EVENTS, basket):
            file["jets"].extend({name: of[start : start + basket] for name, of in columns.items()})


def write_rntuple(path: Path, columns: dict[str, Any]) -> None:
    """Write an RNTuple in clusters of 60 entries."""
    with uproot.recreate(path) as file:
        pieces = [
            ak.zip({name: ak.Array(of)[start : start + 60] for name, of in columns.items()}, depth_limit=1)
            for start in range(0, N_EVENTS, 60)
        ]
        file.mkrntuple("jets", pieces[0])
        for piece in pieces[1:]:
            file["jets"].extend(piece)


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    """Write row groups of 70 rows."""
    arrays = {
        name: ak.to_arrow(ak.from_numpy(of) if isinstance(of, np.ndarray) else of, extensionarray=False)
        for name, of in columns.items()
    }
    pyarrow.parquet.write_table(pa.table(arrays), path, row_group_size=70)


FORMATS: dict[str, tuple[Callable[..., None], str, str]] = {
    "ttree": (write_ttree, "root", "treename: jets"),
    "one basket": (lambda path, columns: write_ttree(path, columns, N_EVENTS), "root", "treename: jets"),
    "rntuple": (write_rntuple, "root", "treename: jets"),
    "parquet": (write_parquet, "parquet", ""),
}


def files_of(folder: Path, kind: str = "ttree") -> Path:
    """Write files of toy events and a config that streams them."""
    write, suffix, tree = FORMATS[kind]
    folder.mkdir(exist_ok=True)
    for k in range(N_FILES):
        write(folder / f"toy{k}.{suffix}", some_columns(k))
    text = TOY_CONFIG.replace("toy.root", f"toy*.{suffix}").replace("  treename: jets\n", f"  {tree}\n")
    path = folder / "toy.yaml"
    path.write_text(text.replace("data:\n", "data:\n  stream: {buffer: 100}\n"))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the path of a config whose files are not to be changed."""
    return files_of(tmp_path_factory.mktemp("stream") / "files")


@pytest.fixture
def streamed(tmp_path: Path, shared: Path) -> Path:
    """Give the path of a config in a folder of the test's own."""
    for file in shared.parent.glob("toy*.root"):
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / "toy.yaml").write_text(shared.read_text())
    return tmp_path / "toy.yaml"


def config_of(path: Path, **stream: Any) -> Config:
    return load_config(path, overrides={"data.stream": {"buffer": 100, **stream}})


def equal(one: Sequences, other: Sequences) -> None:
    assert one.names == other.names
    for name in ("values", "offsets", "labels", "weights", "events"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.observers.keys() == other.observers.keys()
    for name, column in one.observers.items():
        np.testing.assert_array_equal(column, other.observers[name])


# -- pieces of files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [(), (0,), (0, 3, 50, 51, 90), tuple(range(100)), (0, 99)])
@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_pieces_cover_a_file_once_and_are_no_larger_than_asked(units: tuple[int, ...], size: int) -> None:
    pieces = list(cut(100, units, size))
    assert list(itertools.chain(*(range(*piece) for piece in pieces))) == list(range(100))
    assert max(stop - start for start, stop in pieces) <= size
    for start, _ in pieces:
        if units and start not in units:  # cut within a unit: it is larger than a piece
            before, behind = (
                max(u for u in units if u < start),
                min((u for u in units if u > start), default=100),
            )
            assert behind - before > size


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("buffer", [12, 100, 1000])
def test_pieces_give_the_events_of_whole_files(tmp_path: Path, kind: str, buffer: int) -> None:
    path = files_of(tmp_path / "files", kind)
    more = {"data.selection": "jet_pt > 520", "data.stream": {"buffer": buffer}}
    whole = read_splits(load_config(path, overrides={**more, "data.stream": None}))
    parts = read_parts(load_config(path, overrides=more))
    assert 0 < len(whole["train"]) < N_FILES * N_EVENTS * 0.7
    for part in PARTS:
        equal(parts[part], whole[part])


@pytest.mark.parametrize("kind", FORMATS)
def test_pieces_may_be_left_out(tmp_path: Path, kind: str) -> None:
    config = config_of(files_of(tmp_path / "files", kind), buffer=80)
    reader = Reader(config)
    survey, _ = reader.survey(seed=0, signed=lambda w: w, mark=lambda _: "")
    chosen = survey.chunks[1::2]
    all_pieces = {(p.chunk.file, p.chunk.start): p for p in reader.read(survey.chunks)}
    for piece in reader.read(chosen):
        equal(piece.events, all_pieces[piece.chunk.file, piece.chunk.start].events)


def test_numbers_of_events_run_on_over_files(shared: Path) -> None:
    config = load_config(shared, overrides={"data.event_number": None})
    whole = read_splits(load_config(shared, overrides={"data.event_number": None, "data.stream": None}))
    for part, events in read_parts(config).items():
        equal(events, whole[part])


def test_a_source_for_each_class(shared: Path) -> None:
    classes = {
        "background": {"files": ["toy0.root", "toy1.root"], "selection": "label == 0"},
        "signal": {"files": "toy*.root", "selection": "label == 1"},
    }
    more = {"data.classes": classes, "data.labels": {}, "data.files": []}
    whole = read_splits(load_config(shared, overrides={**more, "data.stream": None}))
    config = load_config(shared, overrides=more)
    for part, events in read_parts(config).items():
        equal(events, whole[part])
    prepared = prepare(config)
    assert isinstance(prepared.training, Training)
    chunks = prepared.training.order(np.random.default_rng(0))
    shares = np.cumsum([[c.counts[0] * (c.source == s) for s in (0, 1)] for c in chunks], axis=0)
    shares = shares / shares[-1]
    # Both classes are used up alike, to within a piece of either.
    largest = max(chunk.counts[0] for chunk in chunks) / min(shares.shape[0], 150)
    assert np.abs(shares[:, 0] - shares[:, 1]).max() < 2 * max(largest, 25 / 150)


def test_what_is_wrong_with_an_event_is_said_with_its_entry_in_the_file(tmp_path: Path) -> None:
    columns = some_columns(0)
    offsets = np.concatenate([[0], np.cumsum(ak.num(columns["part_eta"]))])
    event = next(e for e in range(171, N_EVENTS) if offsets[e + 1] - offsets[e] in (2, 3, 4))
    flat = ak.to_numpy(ak.flatten(columns["part_eta"])).copy()
    flat[offsets[event]] = np.nan
    path = files_of(tmp_path / "files")
    columns["part_eta"] = ak.unflatten(flat, np.diff(offsets))
    write_ttree(path.parent / "toy1.root", columns)
    with pytest.raises(DataError, match=rf"toy1\.root.*event {event}, step 0: variable 'part_eta' is nan"):
        read_parts(load_config(path))


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.npy"])
def test_formats_that_are_not_read_in_pieces(tmp_path: Path, shared: Path, name: str) -> None:
    (tmp_path / name).touch()
    config = load_config(shared, overrides={"data.files": [str(tmp_path / name)], "data.treename": None})
    with pytest.raises(
        DataError, match=rf"{name}: data\.stream: of format .*; possible are root and parquet"
    ):
        read_parts(config)


@pytest.mark.parametrize(
    "split", [{"by": "alternate"}, {"by": "block"}, {"counts": {"train": {"signal": 10}}}]
)
def test_splits_that_need_all_events(shared: Path, split: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"split: .* needs all events in memory; with data\.stream possible"
    ):
        load_config(shared, overrides={"split": split})


def test_lost_resolution_is_seen_over_a_whole_file(tmp_path: Path) -> None:
    path = files_of(tmp_path / "files")
    # Steps of 1 around 1e9: in float32 numbers there are 64 apart.
    config = load_config(path, overrides={"data.variables": ["part_eta + 1e9"]})
    with pytest.raises(DataError, match=r"toy0\.root.*are not resolved in float32"):
        read_parts(config)


# -- the split ----------------------------------------------------------------------------------------------


def test_a_random_split_has_its_shares_and_knows_nothing_of_other_files() -> None:
    config, n = SplitConfig(seed=5), 100_000
    numbers = part_numbers(config, "a.root", np.arange(n), np.zeros(n, int))
    for part, share in enumerate((0.7, 0.1, 0.2)):
        assert abs(np.mean(numbers == part) - share) < 5 * (share * (1 - share) / n) ** 0.5
    np.testing.assert_array_equal(
        part_numbers(config, "a.root", np.arange(5, 9), np.zeros(4, int)), numbers[5:9]
    )
    for seed, file in ((6, "a.root"), (5, "b.root")):
        other = part_numbers(SplitConfig(seed=seed), file, np.arange(n), np.zeros(n, int))
        together = np.mean((other == 0) & (numbers == 0))
        assert abs(together - 0.49) < 5 * (0.49 * 0.51 / n) ** 0.5  # independent


def test_an_evaluation_takes_the_events_that_were_not_trained_on(shared: Path) -> None:
    config = load_config(shared, overrides={"split": {"by": "random", "seed": 3}})
    prepared = prepare(config)
    parts = read_parts(config)
    assert prepared.events == {part: len(events) for part, events in parts.items()}
    assert isinstance(prepared.training, Training)
    trained = [p.events.events[p.parts == 0] for p in Reader(config).read(prepared.training.chunks)]
    assert sorted(np.concatenate(trained)) == sorted(parts["train"].events)
    assert not set(np.concatenate(trained)) & set(parts["test"].events)


# -- one pass -----------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_numbers_whatever_the_pieces() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    x, w = 1e6 + rng.normal(0, 1e-2, n), rng.exponential(1.0, n)
    pieces = np.split(np.arange(n), [1, 2, 400, 400, 2900])
    found = sum((Moments.of(x[p], w[p]) for p in pieces), start=Moments())
    wide, weights = x.astype(np.longdouble), w.astype(np.longdouble)
    mean = (wide * weights).sum() / weights.sum()
    spread = np.sqrt((weights * (wide - mean) ** 2).sum() / weights.sum())
    eps = np.finfo(np.float64).eps
    # The mean is off by some rounding errors of 1e6, the spread by what those make of 1e-2; sums of squares
    # would be off by eps 1e12, more than the spread's square.
    assert abs(found.mean - mean) < 20 * eps * 1e6
    assert abs(found.spread - spread) < 20 * eps * 1e6
    assert (found.low, found.high) == (x.min(), x.max())
    assert found.weight == pytest.approx(w.sum(), rel=n * eps)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_moments_neither_overflow_nor_vanish(scale: float) -> None:
    found = Moments.of(np.array([1.0, 2.0]) * scale) + Moments.of(np.array([3.0, 6.0]) * scale)
    assert found.mean == pytest.approx(3 * scale, rel=1e-15)
    assert found.spread == pytest.approx(3.5**0.5 * scale, rel=1e-15)


def test_a_sample_that_is_large_enough_is_everything() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=(50, 2)), rng.exponential(size=50)
    sample = PrioritySample(50, 2)
    for piece in np.split(np.arange(50), [13, 30]):
        sample.take(values[piece], weights[piece], rng)
    np.testing.assert_array_equal(sample.drawn()[0], values)
    np.testing.assert_array_equal(sample.drawn()[1], weights)


def test_a_smaller_sample_weighs_the_same_in_the_mean() -> None:
    rng = np.random.default_rng(2)
    n, size = 400, 40
    weights = rng.exponential(size=n) ** 2
    values = np.arange(n, dtype=np.float64)[:, None]
    sums = []
    for _ in range(400):
        halves = []
        for half in (slice(0, 150), slice(150, n)):  # of two files, in pieces
            halves.append(PrioritySample(size, 1))
            for piece in np.array_split(np.arange(n)[half], 3):
                halves[-1].take(values[piece], weights[piece], rng)
        halves[0].join(halves[1])
        drawn, w = halves[0].drawn()
        assert len(w) == size
        sums.append([w.sum(), w[drawn[:, 0] % 2 == 0].sum()])
    mean, error = np.mean(sums, axis=0), np.std(sums, axis=0) / 400**0.5
    assert np.all(np.abs(mean - [weights.sum(), weights[::2].sum()]) < 5 * error)


TRANSFORMS: dict[str, dict[str, Any]] = {
    "standardise": {},
    "minmax": {"transforms": {"default": ["minmax"]}},
    "free first": {
        "transforms": {"x0": ["log", "standardise"], "x1": [{"name": "clip", "low": -1, "high": 2}]}
    },
    "quantiles": {"transforms": {"x0": ["robust"], "x1": ["gauss", "standardise"]}},
    "clip": {"transforms": {"default": ["clip", "uniform"]}},
    "decorrelate": {"mix": "decorrelate"},
    "pca": {"mix": "pca", "transforms": {"x0": ["robust"]}},
    "missing": {"missing": {"x1": "indicator"}, "transforms": {"x1": ["log", "standardise"]}},
    "none": {"transforms": {"default": ["none"]}},
}


def transforms_config(given: dict[str, Any]) -> DataConfig:
    values = {"files": "a.root", "variables": ["x0", "x1"], "labels": {"a": "1", "b": "2"}, **given}
    return DataConfig.model_validate_json(json.dumps(values))


def steps(n: int, *, missing: bool = False) -> Sequences:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 6, n)
    values = rng.normal(2, 3, (lengths.sum(), 2)).astype(np.float32)
    values[:, 1] += values[:, 0]
    if missing:
        values[rng.random(len(values)) < 0.2, 1] = np.nan
    weights = rng.normal(1, 1, n)
    weights[::7] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(values, offsets, ("x0", "x1"), weights=weights)


@pytest.mark.parametrize("given", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_of_one_pass_are_those_of_all_steps(given: dict[str, Any]) -> None:
    config, events = transforms_config(given), steps(300, missing="missing" in given)
    files = [OnePassFit(config, events.names) for _ in range(3)]
    for k, piece in enumerate(np.array_split(np.arange(300), 9)):
        files[k // 3].take(events[piece], np.random.default_rng(k))
    for other in files[1:]:
        files[0].join(other)
    one, whole = files[0].fitted(), FittedTransforms.fit(events, config)
    assert one.outputs == whole.outputs
    # Sums of 800 steps in another order: to 800 eps at worst, times the condition of the covariance.
    np.testing.assert_allclose(one.apply(events).values, whole.apply(events).values, rtol=1e-5, atol=1e-6)
    flat = [
        np.concatenate([np.ravel(v) for s in t.steps for step in s for v in step.numbers.values()] or [[0]])
        for t in (one, whole)
    ]
    np.testing.assert_allclose(flat[0], flat[1], rtol=1e-11)


def test_quantiles_of_a_sample_are_near_those_of_all() -> None:
    rng = np.random.default_rng(4)
    n, size = 20_000, 2000
    x = rng.random((n, 1))
    fit = OnePassFit(
        transforms_config({"variables": ["x0"], "transforms": {"x0": ["robust"]}}), ("x0",), size=size
    )
    for piece in np.array_split(x, 7):
        fit.take(Sequences(piece, np.arange(len(piece) + 1), ("x0",)), rng)
    numbers = fit.fitted().steps[0][0].numbers
    # A quantile of uniform numbers is off by sqrt(p (1 - p) / size).
    assert abs(numbers["mean"] - 0.5) < 5 * 0.5 / size**0.5
    assert abs(numbers["scale"] - 0.34) < 5 * 0.37 / size**0.5


def test_a_variable_that_is_missing_everywhere() -> None:
    config = transforms_config({"missing": {"x1": "fill"}})
    fit = OnePassFit(config, ("x0", "x1"))
    fit.take(Sequences(np.array([[1.0, np.nan]]), [0, 1], ("x0", "x1")), np.random.default_rng(0))
    with pytest.raises(DataError, match="variable 'x1' is missing in every training step"):
        fit.fitted()


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
def test_an_epoch_has_every_training_event_once(shared: Path, buffer: int) -> None:
    config = config_of(shared, buffer=buffer)
    prepared = prepare(config)
    whole = read_splits(load_config(shared, overrides={"data.stream": None}))["train"]
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


def test_the_order_is_of_the_seed_alone(shared: Path) -> None:
    def order(seed: int = 0, **stream: Any) -> list[list[bytes]]:
        batches = batches_of(config_of(shared, **stream), seed=seed)
        return [[e for batch in batches.epoch() for e in events_of(batch)] for _ in range(3)]

    first = order()
    for ahead in (0, 1, 7):
        assert order(read_ahead=ahead) == first
    assert order(seed=1) != first


@pytest.mark.parametrize("buffer", [90, 200, 1000])
def test_it_goes_on_within_any_epoch(shared: Path, buffer: int) -> None:
    config = config_of(shared, buffer=buffer)
    batches = batches_of(config)
    whole = [[events_of(batch) for batch in batches.epoch()] for _ in range(3)]
    for epoch, done in ((0, 1), (1, 0), (1, 9), (2, len(batches) - 1)):
        other = batches_of(config)
        other.restore({"epoch": epoch})
        assert [events_of(batch) for batch in other.epoch(done)] == whole[epoch][done:]
        for following in whole[epoch + 1 :]:
            assert [events_of(batch) for batch in other.epoch()] == following


def test_files_come_in_another_order_in_each_epoch(shared: Path) -> None:
    training = prepare(config_of(shared)).training
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
def test_the_weights_are_those_in_memory(shared: Path, given: dict[str, Any]) -> None:
    config = load_config(shared, overrides=given)
    whole = read_splits(load_config(shared, overrides={**given, "data.stream": None}))["train"]
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
    np.testing.assert_array_equal(prepared.validation.labels, joined.labels)
    np.testing.assert_array_equal(prepared.validation.weights, joined.weights)


@pytest.mark.parametrize("kind", ["dropout", "cosine", "phases"])
def test_it_goes_on_to_the_same_bits(streamed: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**KINDS[kind], "training.checkpoint_every": 4, "data.stream": {"buffer": 100}}
    whole = train(load_config(streamed, overrides={**given, "output": "whole"}))
    given["data.stream"] = {"buffer": 100, "read_ahead": 0}  # may change
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


def test_a_run_is_evaluated_and_repeated_from_its_folder(streamed: Path) -> None:
    assert main(["train", str(streamed)]) == 0
    run = streamed.parent / "run"
    assert main(["evaluate", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["auc"]["value"] > 0.9
    again = load_config(run / "config.yaml")
    assert again.data.stream == load_config(streamed).data.stream


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
    error = capsys.readouterr().err.strip()
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
    plain, left = fit_module.train_step, [50]

    def step(*given: Any) -> torch.Tensor:
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

    monkeypatch.setattr(fit_module, "train_step", step)
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
    """Twenty times the events must not need more than a tenth more memory than a buffer does."""
    rng = np.random.default_rng(0)
    n, length = 5000, 40
    flat = {name: rng.normal(size=n * length).astype(np.float32) for name in ("part_pt", "part_eta")}
    columns: dict[str, Any] = {name: ak.unflatten(of, length) for name, of in flat.items()}
    columns |= {"label": np.arange(n) % 2, "eventNumber": np.arange(n)}
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
            "data:\n  files: '*.root'\n  treename: jets\n  stream: {buffer: 8000}\n"
            "  variables: [part_pt, part_eta]\n  labels: {a: label == 0, b: label == 1}\n"
            "  event_number: eventNumber\nsplit: {by: event_number}\n"
            "network: {recurrent: [], pooling: mean, head: {units: [4]}}\n"
            "training: {epochs: 1, batch_size: 500}\n"
        )
        command = [sys.executable, "-c", PEAK, str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    small, large = peak(4), peak(80)
    events = 80 * n * length * 2 * 4  # bytes of all of them, 128 MB
    assert large < small + events / 10
