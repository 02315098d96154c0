"""Preparation of data that the examples do not bring along: with data made on the fly, and with real ones.

Real ones are looked for in the folder that the environment variable TIMELIKE_DATA names, and skipped else.
"""

from __future__ import annotations

import doctest
import os
import tarfile
import wave
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from example_scripts import EXAMPLES, load
from timelike.config import Config, load_config
from timelike.errors import ConfigError, DataError
from timelike.model import load_model, predict
from timelike.sequences import Sequences
from timelike.train import read_splits, train

DIGITS, VOWELS, ETT = (EXAMPLES / name for name in ("digits", "japanese_vowels", "etth1"))
digits, vowels, ett = (load(folder / "prepare.py") for folder in (DIGITS, VOWELS, ETT))
figure = load(ETT / "figure.py")
five_seeds = load(EXAMPLES / "five_seeds.py")

REAL = Path(os.environ["TIMELIKE_DATA"]) if "TIMELIKE_DATA" in os.environ else None
EPS = np.finfo(np.float64).eps


def real(name: str) -> Path:
    """Give the path of real data, or skip the test."""
    if REAL is None:
        pytest.skip("TIMELIKE_DATA does not say where real data are")
    if not (REAL / name).exists():
        pytest.skip(f"no {REAL / name}")
    return REAL / name


def config_of(folder: Path, files: Path, **more: Any) -> Config:
    """Give the config of an example with its file elsewhere."""
    overrides = {"data.files": str(files), "output": str(files.parent / "run"), **more}
    return load_config(folder / f"{folder.name}.yaml", overrides=overrides)


# -- spoken digits ------------------------------------------------------------------------------------------


def write_tone(path: Path, frequency: float, n: int = 1000, rate: int = 8000) -> None:
    """Write a recording of a tone with a little noise."""
    rng = np.random.default_rng(n)
    samples = 0.3 * np.sin(2 * np.pi * frequency * np.arange(n) / rate) + rng.normal(0, 0.01, n)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of ten digits, each a tone of its own, by two speakers; the file that is made of them."""
    folder = tmp_path_factory.mktemp("tones")
    for digit in range(10):
        for speaker, shift in (("ada", 0), ("bob", 30)):
            for recording in (0, 7, 23, 41):
                tone = 300 * 1.25**digit + shift
                write_tone(folder / f"{digit}_{speaker}_{recording}.wav", tone, 900 + 100 * digit + recording)
    (folder / "README.txt").write_text("no recording")
    assert digits.prepare(folder, folder / "digits.npz") == 80
    return folder / "digits.npz"


def test_the_bands_share_each_frequency_out() -> None:
    bands = digits.mel_bands()
    assert bands.shape == (40, 129)
    assert (bands.max(axis=1) > 0).all()
    peaks = bands.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    # Between the middles of the first and the last band two triangles overlap, of sum 1: a few operations
    # on frequencies of up to 4000 Hz, over triangles that are 30 Hz wide at least.
    inside = bands[:, peaks[0] + 1 : peaks[-1]].sum(axis=0)
    np.testing.assert_allclose(inside, 1.0, rtol=0, atol=8 * EPS * 4000 / 30)


@pytest.mark.parametrize("frequency", [200.0, 1000.0, 3000.0])
def test_a_tone_is_found_in_its_band(frequency: float) -> None:
    bands = digits.mel_bands()
    samples = np.sin(2 * np.pi * frequency * np.arange(800) / 8000)
    loud, soft = digits.spectra(samples, bands), digits.spectra(0.5 * samples, bands)
    assert loud.shape == (1 + (800 - 200) // 80, 40)
    at = round(frequency / 8000 * 256)
    assert set(loud.argmax(axis=1)) <= set(np.flatnonzero(bands[:, at]))
    # Half the amplitude is a quarter of the power; the floor of 1e-8 changes that by less than float32 does.
    peak = loud.argmax(axis=1)
    fall = (loud - soft)[np.arange(len(loud)), peak]
    np.testing.assert_allclose(fall, np.log(4), rtol=0, atol=1e-5)


def test_a_recording_shorter_than_a_frame_is_one_step_and_silence_is_finite() -> None:
    assert digits.spectra(np.zeros(50), digits.mel_bands()).tolist() == [[np.float32(np.log(1e-8))] * 40]


def test_recordings_go_to_the_part_and_class_of_their_name(tones: Path) -> None:
    splits = read_splits(config_of(DIGITS, tones))
    for part, recordings in (("test", {0}), ("validation", {7}), ("train", {23, 41})):
        events = splits[part]
        assert events.events is not None
        assert set(events.events) == recordings
        np.testing.assert_array_equal(events.labels, events.observers["digit"])
        assert sorted(set(zip(events.labels, events.observers["speaker"], strict=True))) == [
            (d, s) for d in range(10) for s in range(2)
        ]
        n_samples = 900 + 100 * events.labels + events.events
        np.testing.assert_array_equal(events.lengths, 1 + (n_samples - 200) // 80)


def test_five_seeds_train_and_judge(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {
        "data.files": str(tones),
        "output": str(tmp_path / "run"),
        "network.recurrent": [{"cell": "gru", "units": 8}],
        "network.head": {"units": [8]},
        "training.optimiser": {"learning_rate": 0.03},
        "training.schedule": {"name": "constant"},
        "training.epochs": 3,
        "training.batch_size": 2,
    }
    rows = five_seeds.run(DIGITS / "digits.yaml", [1, 2], "test", small)
    assert capsys.readouterr().err.count("seed") == 2
    test = read_splits(load_config(DIGITS / "digits.yaml", overrides=small))["test"]
    for seed, row in rows.items():
        model = load_model(tmp_path / f"run-seed{seed}" / "model.safetensors")
        right = predict(model, test).argmax(axis=1) == test.labels
        assert row["accuracy"] == right.mean() > 0.5  # by chance 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no recordings called like 7_jackson_32.wav"),
        (lambda path: path.write_bytes(b"no sound"), "1_ada_0.wav: not a WAV file: file does not start"),
        (lambda path: path.write_bytes(b""), "1_ada_0.wav: not a WAV file: it ends too early"),
        (
            lambda path: write_tone(path, 400, rate=16000),
            "1 channels of 16 bits, 16000 a second; one channel",
        ),
    ],
)
def test_what_is_no_recording_is_named(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "1_ada_0.wav")
    with pytest.raises(DataError, match=message):
        digits.prepare(tmp_path, tmp_path / "digits.npz")
    assert not (tmp_path / "digits.npz").exists()


# -- the vowels ---------------------------------------------------------------------------------------------


def write_ts(path: Path, cases: list[np.ndarray], classes: list[int]) -> None:
    lines = ["# made on the fly", "@classLabel true 1 2 3 4 5 6 7 8 9", "@data"]
    for case, label in zip(cases, classes, strict=True):
        lines.append(":".join([*(",".join(map(repr, map(float, series))) for series in case.T), str(label)]))
    path.write_text("\n".join(lines) + "\n")


def utterances(seed: int, of_each: int) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(seed)
    speakers = [speaker for speaker in range(1, 10) for _ in range(of_each)]
    return [rng.normal(size=(rng.integers(7, 30), 12)) for _ in speakers], speakers


def test_the_utterances_are_read_as_they_are(tmp_path: Path) -> None:
    train_cases, train_speakers = utterances(1, 11)
    test_cases, test_speakers = utterances(2, 2)
    write_ts(tmp_path / "JapaneseVowels_TRAIN.ts", train_cases, train_speakers)
    write_ts(tmp_path / "JapaneseVowels_TEST.ts", test_cases, test_speakers)
    assert vowels.prepare(tmp_path, tmp_path / "vowels.npz") == {"train": 99, "test": 18}
    splits = read_splits(config_of(VOWELS, tmp_path / "vowels.npz", **{"training.dtype": "float64"}))
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [81, 18, 18]
    assert (splits["test"].labels + 1).tolist() == test_speakers
    for got, given in zip(splits["test"], test_cases, strict=True):
        np.testing.assert_array_equal(got, given)
    kept = [k for k in range(99) if k % 11 not in (4, 9)]
    for got, k in zip(splits["train"], kept, strict=True):
        np.testing.assert_array_equal(got, train_cases[k])
    np.testing.assert_array_equal(splits["train"].labels + 1, np.array(train_speakers)[kept])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@data\n1,2:3:1\n", "line 2: all input arrays must have the same shape"),
        ("@data\n\n1,x:3,4:1\n", "line 3: could not convert string to float: 'x'"),
        ("@data\n", "holds no cases"),
        ("@data\n7\n", "line 2: need at least one array"),
    ],
)
def test_lines_that_are_no_cases_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(DataError, match=message):
        vowels.read_ts(tmp_path / "a.ts")
    with pytest.raises(DataError, match=r"JapaneseVowels_TRAIN\.ts: No such file"):
        vowels.prepare(tmp_path, tmp_path / "vowels.npz")


# -- oil temperatures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def temperatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like ETTh1.csv, of a daily period and noise."""
    folder = tmp_path_factory.mktemp("ett")
    n = ett.PARTS["test"][1] + 50
    ot = 20 + np.random.default_rng(5).normal(0, 0.5, n) + 3 * np.sin(np.pi * np.arange(n) / 12)
    lines = [
        f"2016-07-{1 + i // 24 % 28:02d} {i % 24:02d}:00:00,0.5,{value!r}"
        for i, value in enumerate(ot.tolist())
    ]
    (folder / "ETTh1.csv").write_text("\n".join(["date,HUFL,OT", *lines]) + "\n")
    return folder / "ETTh1.csv"


@pytest.fixture(scope="module")
def series(temperatures: Path) -> np.ndarray:
    """The standardised temperatures of that file."""
    hours, temperature = ett.read_csv(temperatures)
    assert hours[:30].tolist() == [*range(24), *range(6)]
    ot: np.ndarray = ett.standardised(temperature)
    assert abs(ot[:8640].mean()) < 8640 * EPS
    assert abs(ot[:8640].std() - 1) < 8640 * EPS
    return ot


@pytest.fixture(scope="module")
def forecasts(temperatures: Path) -> tuple[dict[str, Sequences], dict[str, tuple[float, float]]]:
    output = temperatures.parent / "etth1.npz"
    naive = ett.prepare(temperatures, output)
    return read_splits(config_of(ETT, output, **{"training.dtype": "float64"})), naive


def test_each_hour_has_its_forecast_once(forecasts: Any, series: np.ndarray) -> None:
    splits, _ = forecasts
    hour = {value: t + 1 for t, value in enumerate(np.diff(series))}  # no two are alike
    for part, first, count in (("train", 24, 8592), ("validation", 8639, 2857), ("test", 11519, 2857)):
        events = splits[part]
        assert events.step_targets is not None
        asked = np.flatnonzero(~np.isnan(events.step_targets).any(axis=1))
        at = np.array([hour[value] for value in events.values[asked, 0]])
        assert sorted(at) == list(range(first, first + count))
        expected = series[at[:, None] + np.arange(1, 25)] - series[at][:, None]
        np.testing.assert_array_equal(events.step_targets[asked], expected)
        # A week to read in, but for the first pieces of all.
        begin = np.repeat(events.offsets[:-1], events.lengths)[asked]
        assert (asked - begin >= np.minimum(168, at)).all()


def test_what_the_network_reads_is_known_by_then(series: np.ndarray) -> None:
    hours = np.arange(len(series)) % 24
    known = ett.columns(hours[:500], series[:500])
    np.testing.assert_array_equal(ett.columns(hours, series)[:500], known)


def test_the_naive_forecasts_are_those_of_the_same_hours(forecasts: Any, series: np.ndarray) -> None:
    splits, naive = forecasts
    targets = splits["test"].step_targets
    changes = targets[~np.isnan(targets).any(axis=1)]
    squared, absolute = naive["the last value"]
    n = changes.size
    assert squared == pytest.approx(np.mean(changes**2), rel=n * EPS)
    assert absolute == pytest.approx(np.mean(np.abs(changes)), rel=n * EPS)
    days = [series[t + 1 : t + 25] - series[t - 23 : t + 1] for t in range(11519, 11519 + 2857)]
    assert naive["the same hour of the day before"][0] == pytest.approx(np.mean(np.square(days)), rel=n * EPS)


def test_five_seeds_judge_forecasts(temperatures: Path, forecasts: Any, tmp_path: Path) -> None:
    splits, naive = forecasts
    small = {
        "data.files": str(temperatures.parent / "etth1.npz"),
        "output": str(tmp_path / "run"),
        "network.recurrent": [{"cell": "gru", "units": 4}],
        "network.head": {"units": []},
        "training.optimiser": {"learning_rate": 0.03},
        "training.epochs": 3,
        "training.dtype": "float64",
    }
    rows = five_seeds.run(ETT / "etth1.yaml", [3], "test", small)
    model = load_model(tmp_path / "run-seed3" / "model.safetensors")
    errors = predict(model, splits["test"]) - splits["test"].step_targets
    assert rows[3]["MSE"] == pytest.approx(np.nanmean(errors**2), rel=errors.size * EPS)
    assert rows[3]["MAE"] == pytest.approx(np.nanmean(np.abs(errors)), rel=errors.size * EPS)
    assert rows[3]["MSE"] < naive["the last value"][0]  # which does not know of the period

    of_run = small | figure.TEMPERATURE | {"output": str(tmp_path / "run-seed3")}
    figure.draw(load_config(ETT / "etth1.yaml", overrides=of_run), tmp_path / "forecasts.png")
    assert matplotlib.image.imread(tmp_path / "forecasts.png").shape == (300, 900, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,OT\n2016-07-01 00:00:00,1.0\n", "1 hours; the protocol needs 14,400"),
        ("date,HUFL\n2016-07-01 00:00:00,1.0\n", "not ETTh1.csv, whose columns are date, ..., OT: 'OT'"),
        ("date,OT\n2016-07-01 00:00:00,warm\n", "could not convert string to float: 'warm'"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        ett.prepare(tmp_path / "a.csv", tmp_path / "etth1.npz")
    assert not (tmp_path / "etth1.npz").exists()


# -- five seeds ---------------------------------------------------------------------------------------------


def test_the_table_of_seeds() -> None:
    assert doctest.testmod(five_seeds) == doctest.TestResults(failed=0, attempted=1)


def test_five_seeds_of_what_has_no_figure(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    data = {"files": "a.npz", "variables": ["x"], "multilabel": {"low": "x < 0", "high": "x > 1"}}
    with pytest.raises(ConfigError, match="of classes of events, and of targets without quantiles"):
        five_seeds.figures(Config.from_dict({"data": data}), None, None)
    monkeypatch.setattr("sys.argv", ["five_seeds.py", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit) as caught:
        five_seeds.main()
    assert caught.value.code == 2
    assert "none.yaml: no such file" in capsys.readouterr().err


# -- real data ----------------------------------------------------------------------------------------------


def test_real_recordings(tmp_path: Path) -> None:
    with tarfile.open(real("fsdd/fsdd_recordings_26eb9aa.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = {path.parent for path in tmp_path.rglob("*.wav")}
    assert digits.prepare(folder, tmp_path / "digits.npz") == 3000
    splits = read_splits(config_of(DIGITS, tmp_path / "digits.npz"))
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [2400, 300, 300]
    result = train(config_of(DIGITS, tmp_path / "digits.npz", **{"training.epochs": 4}))
    right = predict(result.model, splits["test"]).argmax(axis=1) == splits["test"].labels
    assert right.mean() > 0.9


def test_real_vowels(tmp_path: Path) -> None:
    vowels.prepare(real("ts_classification/JapaneseVowels"), tmp_path / "vowels.npz")
    config = config_of(VOWELS, tmp_path / "vowels.npz")
    splits = read_splits(config)
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [216, 54, 370]
    assert {int(n) for part in splits.values() for n in (part.lengths.min(), part.lengths.max())} >= {7, 29}
    right = predict(train(config).model, splits["test"]).argmax(axis=1) == splits["test"].labels
    assert right.mean() > 0.95


def test_real_temperatures(tmp_path: Path) -> None:
    naive = ett.prepare(real("forecasting/ETTh1.csv"), tmp_path / "etth1.npz")
    assert naive["the last value"] == pytest.approx((0.0343, 0.1394), abs=5e-5)  # as in the README
    events = read_splits(config_of(ETT, tmp_path / "etth1.npz"))["test"].step_targets
    assert events is not None
    assert (~np.isnan(events).any(axis=1)).sum() == 2857
    few = {"data.files": str(tmp_path / "etth1.npz"), "output": str(tmp_path / "run"), "training.epochs": 4}
    rows = five_seeds.run(ETT / "etth1.yaml", [1], "validation", few)
    assert rows[1]["MSE"] < 0.0696  # that of the last value, in the months for validation


def test_real_jets() -> None:
    path = real("hep_top_jets/top_vs_qcd_pythia8_24k.root")
    overrides = {"data.files": str(path), "data.selection": "eventNumber < 600"}
    splits = read_splits(load_config(EXAMPLES / "top_tagging" / "four_vectors.yaml", overrides=overrides))
    for part in splits.values():
        energy, drap, dphi = part.values[:, 1], part.values[:, 2], part.values[:, 3]
        assert (energy < 0).all()  # no constituent has more than the jet
        assert np.hypot(drap, dphi).max() < 1.2  # R is 0.8
        assert part.lengths.max() == 50
