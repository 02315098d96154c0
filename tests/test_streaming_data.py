"""Files in pieces: the same events as from whole files, split one by one, transforms fitted in one pass."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from streamed_files import FORMATS, N_FILES, config_of, equal, files_of, some_columns, write_ttree
from timelike.config import DataConfig, SplitConfig, load_config
from timelike.data.moments import Moments
from timelike.data.onepass import OnePassFit, PrioritySample
from timelike.data.split import PARTS, part_numbers
from timelike.data.streaming import Reader, cut, read_parts
from timelike.data.transforms import FittedTransforms
from timelike.errors import ConfigError, DataError
from timelike.preparation import prepare
from timelike.sequences import Sequences
from timelike.streams import Training
from timelike.train import read_splits
from toys import N_EVENTS

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


def test_numbers_of_events_run_on_over_files(stream_config: Path) -> None:
    config = load_config(stream_config, overrides={"data.event_number": None})
    whole = read_splits(
        load_config(stream_config, overrides={"data.event_number": None, "data.stream": None})
    )
    for part, events in read_parts(config).items():
        equal(events, whole[part])


def test_a_source_for_each_class(stream_config: Path) -> None:
    classes = {
        "background": {"files": ["toy0.root", "toy1.root"], "selection": "label == 0"},
        "signal": {"files": "toy*.root", "selection": "label == 1"},
    }
    more = {"data.classes": classes, "data.labels": {}, "data.files": []}
    whole = read_splits(load_config(stream_config, overrides={**more, "data.stream": None}))
    config = load_config(stream_config, overrides=more)
    for part, events in read_parts(config).items():
        equal(events, whole[part])
    prepared = prepare(config)
    assert isinstance(prepared.training, Training)
    chunks = prepared.training.order(np.random.default_rng(0))
    used = np.array([[c.counts[0] * (c.source == s) for s in (0, 1)] for c in chunks])
    shares = np.cumsum(used, axis=0) / used.sum(axis=0)
    # Both classes are used up alike, to within a piece of each; the signal has half as many more.
    assert np.abs(shares[:, 0] - shares[:, 1]).max() < (used.max(axis=0) / used.sum(axis=0)).sum() < 0.2


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
def test_formats_that_are_not_read_in_pieces(tmp_path: Path, stream_config: Path, name: str) -> None:
    (tmp_path / name).touch()
    config = load_config(
        stream_config, overrides={"data.files": [str(tmp_path / name)], "data.treename": None}
    )
    with pytest.raises(
        DataError, match=rf"{name}: data\.stream: of format .*; possible are root and parquet"
    ):
        read_parts(config)


@pytest.mark.parametrize(
    "split", [{"by": "alternate"}, {"by": "block"}, {"counts": {"train": {"signal": 10}}}]
)
def test_splits_that_need_all_events(stream_config: Path, split: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"split: .* needs all events in memory; with data\.stream possible"
    ):
        load_config(stream_config, overrides={"split": split})


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


def test_a_random_split_goes_by_the_entries_of_files_wherever_these_are(
    tmp_path: Path, stream_config: Path
) -> None:
    split = {"by": "random", "seed": 3}
    more = {"split": split, "data.selection": "jet_pt > 520", "data.stream": {"buffer": 60}}
    parts = read_parts(load_config(stream_config, overrides=more))
    for k in range(N_FILES):
        numbers = part_numbers(SplitConfig(**split), f"toy{k}.root", np.arange(N_EVENTS), np.arange(N_EVENTS))
        passed = some_columns(k)["jet_pt"] > 520
        for p, part in enumerate(PARTS):
            of_file = parts[part].events[parts[part].events // 1000 == k + 1]
            assert (of_file - 1000 * (k + 1)).tolist() == np.flatnonzero(passed & (numbers == p)).tolist()
    folder = tmp_path / "moved"
    folder.mkdir()
    for k in (2, 0):
        (folder / f"toy{k}.root").hardlink_to(stream_config.parent / f"toy{k}.root")
    moved = read_parts(load_config(stream_config, overrides={**more, "data.files": [str(folder / "*.root")]}))
    for part in PARTS:
        assert set(moved[part].events) == {e for e in parts[part].events if e // 1000 != 2}


def test_an_evaluation_takes_the_events_that_were_not_trained_on(stream_config: Path) -> None:
    config = load_config(stream_config, overrides={"split": {"by": "random", "seed": 3}})
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


@pytest.mark.parametrize("seed", range(20))
def test_joined_samples_are_the_sample_of_all(seed: int) -> None:
    weights = np.random.default_rng(seed).exponential(size=100)
    weights[:10] *= 1e-3  # of the first file nothing stays
    values = np.arange(100.0)[:, None]
    draws = [np.random.default_rng(seed) for _ in range(2)]
    whole, files = PrioritySample(10, 1), [PrioritySample(10, 1) for _ in range(2)]
    for k, piece in enumerate(np.split(np.arange(100), [10])):
        whole.take(values[piece], weights[piece], draws[0])
        files[k].take(values[piece], weights[piece], draws[1])
    for other in files[1:]:
        files[0].join(other)
    for one, two in zip(files[0].drawn(), whole.drawn(), strict=True):
        np.testing.assert_array_equal(one, two)


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
