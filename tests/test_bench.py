"""The benchmarks: what they compute and what they write. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import exact
from bench.__main__ import main
from bench.applications import Application, batches
from bench.cases import GRID, Case, Size, arrays, operations
from bench.drive import PEERS, ROOT, Contender, Driver, Entry, Failure, Timing
from bench.epochs import Epoch, events
from bench.markdown import figure, geometric_mean, ratio, table
from bench.peers import applied, empty, ours, pytorch, session, traced
from bench.plot import draw
from bench.report import document, write
from bench.tables import TABLES
from bench.tables.common import fastest, ratio_to
from bench.tables.memory import numbers

SMALL = Size(3, 5, 4, 6)
EPOCH = Epoch(Size(4, 5, 3, 6), events=40)
CELLS = [
    "rnn_tanh",
    "rnn_relu",
    "lstm",
    "lstm_projected",
    "gru",
    "lstm_peephole",
    "lstm_coupled",
    "gru_reset_before",
]


# -- cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ["training", "inference", "step", "ragged"])
def test_the_numbers_of_a_case_have_the_shapes_and_the_precision_that_it_says(kind: str, cell: str) -> None:
    case = Case(kind, SMALL, cell, "float64")
    given = arrays(case)
    (B, T, D, H), R = SMALL, case.state_size
    assert given["W"].shape == (case.n_gates * H, D)
    assert given["U"].shape == (case.n_gates * H, R)
    rows = (int(given["lengths"].sum()),) if kind == "ragged" else (T, B)
    assert given["x"].shape == (*rows, D)
    if case.trains:
        assert given["dy"].shape == (*rows, R)
    assert all(v.dtype == np.float64 for name, v in given.items() if name != "lengths")
    assert all(np.isfinite(v).all() for v in given.values())


def test_equal_cases_have_equal_numbers_and_others_have_not() -> None:
    case = Case("training", SMALL)
    first, again, other = arrays(case), arrays(Case("training", SMALL)), arrays(replace(case, seed=2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_operations_are_those_of_the_three_products() -> None:
    # forward: 2 (D + H) for each of 4 H gates of 15 rows; backward twice that
    assert operations(Case("inference", SMALL)) == 15 * 2 * 4 * 6 * (4 + 6)
    assert operations(Case("training", SMALL)) == 3 * operations(Case("inference", SMALL))
    ragged = Case("ragged", SMALL)
    rows = arrays(ragged)["lengths"].sum()
    assert operations(ragged) == rows / 15 * operations(Case("training", SMALL))


# -- peers and their check ----------------------------------------------------------------------------------


def test_the_reference_and_pytorch_agree_on_every_kind() -> None:
    for kind, cell in product(("training", "inference", "step", "ragged"), CELLS[:5]):
        case = Case(kind, SMALL, cell)
        theirs = exact._in_torch(case, torch.float64)
        assert theirs is not None
        found = exact.errors(theirs, exact._by_the_reference(case))
        # Sums of up to 15 rows and of 10 inputs, through 5 steps.
        assert max(found.values()) < 200 * np.finfo(np.float64).eps, (kind, cell)


def test_padding_and_packing_give_the_same_rows() -> None:
    case, peer = Case("ragged", SMALL, dtype="float64"), pytorch.peer(1)
    padded, packed = (peer.prepare(case, variant).results() for variant in ("padded", "packed"))
    assert max(exact.errors(padded, packed).values()) < 200 * np.finfo(np.float64).eps


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("kind", "dtype"), [("training", "float32"), ("ragged", "float64"), ("step", "float32")]
)
@pytest.mark.parametrize("way", [ours, session], ids=["autograd", "prepared"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_ours_pass_the_check_of_the_benchmarks(way: Any, kind: str, dtype: str, cell: str) -> None:
    size = SMALL._replace(T=1) if kind == "step" else SMALL
    case, peer = Case(kind, size, cell, dtype), way.peer(1)
    assert peer.variants(case) == ("",)
    exact.check("ours", case, peer.prepare(case, "").results())


@pytest.mark.parametrize("name", ["y", "hT", "cT", "dx", "dW", "dU", "db_ih", "db_hh"])
def test_one_wrong_number_fails_the_check(name: str) -> None:
    case = Case("training", SMALL)
    results = {key: values.astype(np.float32) for key, values in exact.exact(case).items()}
    assert exact.check("ours", case, results) < 1e-7
    for wrong in (1e-3 * np.abs(results[name]).max(), np.nan):
        spoilt = {key: values.copy() for key, values in results.items()}
        spoilt[name].flat[0] += wrong
        for peer in ("ours", "jax"):
            with pytest.raises(ValueError, match=f"{name} is wrong"):
                exact.check(peer, case, spoilt)
    with pytest.raises(ValueError, match="expected"):
        exact.check("jax", case, {key: values for key, values in results.items() if key != name})


def test_an_epoch_of_ours_has_the_losses_of_the_usual_loop() -> None:
    from bench.peers import fit, loop

    for peer, module in (("fit", fit), ("loop", loop)):
        it = module.peer(1)
        for variant in it.variants(EPOCH):
            job = it.prepare(EPOCH, variant)
            results = job.results()
            assert len(results["losses"]) == 5
            exact.check(peer, EPOCH, results)
            job.call()


@pytest.mark.parametrize("files", [False, True])
def test_scores_pass_the_check_of_the_benchmarks(files: bool) -> None:
    case = Application(Size(256, 5, 3, 4), events=300, files=files)
    ours = applied.peer(1).prepare(case, "")
    results = ours.results()
    assert exact.check("applied", case, results) < 1e-6
    ours.call()
    results["scores"] = results["scores"][::-1]
    for peer in ("applied", "onnx_applied"):
        with pytest.raises(ValueError, match="scores is wrong"):
            exact.check(peer, case, results)


@pytest.mark.parametrize("by_length", [False, True])
def test_every_event_is_in_one_padded_batch(by_length: bool) -> None:
    case = Application(Size(256, 9, 3, 4), events=700)
    offsets = events(case).offsets
    parts = list(batches(offsets, by_length=by_length))
    assert [len(part) for part in parts] == [256, 256, 188]
    assert sorted(np.concatenate(parts)) == list(range(700))
    longest = [np.diff(offsets)[part].max() for part in parts]
    assert longest == sorted(longest)
    assert (longest[0] < 9) == by_length


@pytest.mark.parametrize("kind", ["whole", "streamed", "ragged"])
def test_a_deployed_model_has_the_same_scores_everywhere(kind: str) -> None:
    from bench.peers import scorer, scores_torch
    from bench.scores import Scores

    case = Scores(kind, Size(5 if kind == "ragged" else 1, 7, 3, 6))
    peers: dict[str, Any] = {"scorer": scorer, "scores_torch": scores_torch}
    if importlib.util.find_spec("onnxruntime"):
        peers["scores_onnxruntime"] = importlib.import_module("bench.peers.scores_onnxruntime")
    for name, module in peers.items():
        it = module.peer(1)
        for variant in it.variants(case):
            job = it.prepare(case, variant)
            results = job.results()
            assert results["scores"].shape == (case.size.B, 2)
            assert exact.check(name, case, results) < 1e-5
            job.call()
    wrong = {"scores": results["scores"] + 1e-3}
    for name in peers:
        with pytest.raises(ValueError, match="scores is wrong"):
            exact.check(name, case, wrong)


def test_a_traced_layer_computes_what_the_layer_computes() -> None:
    case = Case("training", Size(3, 5, 4, 6))
    plain, recorded = (kind.peer(1).prepare(case, "") for kind in (ours, traced))
    expected, found = plain.results(), recorded.results()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    (layer,) = recorded.call()
    np.testing.assert_array_equal(layer.dweights["W"], expected["dW"])


@pytest.mark.parametrize("cell", CELLS[:5])
def test_an_empty_layer_gives_all_outputs_and_gradients(cell: str) -> None:
    case = Case("training", SMALL, cell)
    results = empty.peer(1).prepare(case, "").results()
    assert {name: values.shape for name, values in results.items()} == {
        name: values.shape for name, values in exact.exact(case).items()
    }


# -- the race -----------------------------------------------------------------------------------------------


class Answers:
    """Workers that answer at once, with made-up times."""

    def __init__(self, seconds: dict[tuple[str, str], float], case: Case) -> None:
        self.seconds, self.results = seconds, exact.exact(case)
        self.bursts: list[tuple[str, str]] = []

    def ask(self, contender: Contender, method: str, *arguments: Any) -> Any:
        if method == "variants":
            return tuple(variant for peer, variant in self.seconds if peer == contender.peer)
        if method == "results":
            return self.results
        if method == "burst":
            key, _, _, samples = arguments
            run = (contender.peer, key.partition("/")[2])
            self.bursts.append(run)
            return [self.seconds[run]] * samples
        return None


def test_a_race_takes_each_librarys_fastest_way_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("training", SMALL)
    answers = Answers(
        {("ours", ""): 0.1, ("jax", "loop"): 0.3, ("jax", "ahead"): 0.25, ("jax", "slow"): 9.0}, case
    )
    driver = Driver(seconds=0.3, rounds=3, interpreters={"ours": "", "jax": ""})
    monkeypatch.setattr(driver, "ask", answers.ask)
    found = driver.race({peer: Entry(Contender(peer), case) for peer in ("ours", "jax", "keras")})
    assert {name: (timing.seconds, timing.variant) for name, timing in found.items()} == {
        "ours": (0.1, ""),
        "jax": (0.25, "ahead"),
    }
    assert answers.bursts.count(("jax", "slow")) == 1  # the look that showed that it is slow
    turns = answers.bursts[4:]
    assert turns == [*turns[:3], *turns[2::-1], *turns[:3]]
    assert set(turns[:3]) == {("ours", ""), ("jax", "loop"), ("jax", "ahead")}


def test_a_wrong_result_stops_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("training", SMALL)
    answers = Answers({("jax", "loop"): 1.0}, case)
    answers.results = answers.results | {"dU": answers.results["dU"] * 1.01}
    driver = Driver(seconds=0.1, rounds=3, interpreters={"jax": ""})
    monkeypatch.setattr(driver, "ask", answers.ask)
    with pytest.raises(Failure, match=r"JAX loop: .*dU is wrong"):
        driver.race({"jax": Entry(Contender("jax"), case)})
    assert answers.bursts == []


def test_a_worker_computes_tells_of_errors_and_ends() -> None:
    case = Case("training", SMALL)
    contender = Contender("pytorch")
    with Driver(seconds=0.1, rounds=3, interpreters={"pytorch": sys.executable}) as driver:
        driver.ask(contender, "prepare", "a", case, "")
        exact.check("pytorch", case, driver.ask(contender, "results", "a"))
        with pytest.raises(Failure, match=r"torch: results failed\n(.|\n)*KeyError: 'b'"):
            driver.ask(contender, "results", "b")
        assert driver.versions() == {"torch": torch.__version__}


# -- from numbers to pages ----------------------------------------------------------------------------------


def timing(seconds: float) -> dict[str, Any]:
    return asdict(Timing.of([seconds] * 5, "padded", 1e-7))


def row(size: Size, **seconds: float) -> dict[str, Any]:
    return {"size": list(size), "times": {peer: timing(s) for peer, s in seconds.items()}}


def made_up() -> dict[str, Any]:
    """What a run writes, with ratios that are easy to follow: torch 2, JAX 4, TensorFlow 8 times ours.

    Prepared layers take half as long.
    """
    rivals = {"ours": 1e-3, "session": 0.5e-3, "pytorch": 2e-3, "jax": 4e-3, "keras": 8e-3}
    least = {"operations": 3e7, "peak": 1e11, "call": 1e-4}
    training = [row(size, **rivals) | least for size in GRID]
    without = row(GRID[0], ours=1e-3)
    tables = {
        "training": {"rows": training},
        "inference": {
            "rows": [
                row(size, ours=1e-3, session=0.5e-3, onnxruntime=1e-3)
                | {"operations": 2e7, "peak": 1e11, "call": 0.0}
                for size in GRID
            ],
            "small": [row(GRID[8], ours=2e-5, session=5e-6, onnxruntime=1.8e-5) | {"what": w} for w in "ab"],
        },
        "header": {"rows": [row(GRID[8], header=2.5e-6, session=5e-6, onnxruntime=2e-5) | {"what": "a"}]},
        "cells": {
            "rows": [
                row(GRID[0], ours=1e-3, session=0.5e-3, pytorch=9e-3) | least | {"what": "GRU"},
                without | least | {"what": "LSTM, peepholes"},
            ]
        },
        "ragged": {"rows": [row(size, ours=1e-3, session=0.5e-3, pytorch=3.6e-3) | least for size in GRID]},
        "threads": {
            "rows": [
                row(GRID[1], **{"ours 1": 1e-2, "ours 2": 5e-3, "pytorch 1": 1e-2, "pytorch 2": 2e-2})
                | {"same_bits": True}
            ],
            "counts": [1, 2, 3, 8],
        },
        "memory": {"rows": [{"size": [1, 100, 10, 10], "peaks": {"ours": [30_000, 114_000]}}]},
        "growth": {
            "lengths": [
                row(Size(1, T, 16, 32), ours=T * 1e-6) | {"peaks": {"ours": T}} for T in (100, 1000, 10000)
            ],
            "batches": [row(Size(B, 30, 16, 32), ours=B * 1e-6) for B in (1, 4, 16, 64)],
        },
        "epoch": {"rows": [row(GRID[0], fit=0.1, loop=0.5, keras_fit=0.3) | {"events": 10_000}]},
        "apply": {
            "rows": [
                row(GRID[0], applied=s, onnx_applied=3 * s) | {"events": 1_000, "files": f}
                for s, f in ((1e-2, False), (0.1, True))
            ]
        },
        "latency": {
            "rows": [
                row(GRID[8], scorer=1e-5, scores_torch=2e-4, scores_onnxruntime=3e-5) | {"what": "one event"}
            ]
        },
        "tracing": {"rows": [row(GRID[0], ours=1e-3, traced=1.5e-3, derived=2.5e-3) | {"cell": "gru"}]},
    }
    return {
        "date": "2020-01-01",
        "machine": {"processor": "a processor", "processors": 2, "system": "Linux x86_64", "python": "3.11"},
        "versions": {"timelike": "0.1.0 (avx2)", "torch": "2.13.0"},
        "seconds": 1.0,
        "rounds": 9,
        "tables": tables,
    }


def test_the_page_shows_times_ratios_and_means() -> None:
    page = document(json.loads(json.dumps(made_up())))
    for title in [module.TITLE for module in TABLES.values()]:
        assert f"\n## {title}\n" in page
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    times, ratios = ["1.00", "0.500", "2.00", "4.00", "8.00"], ["2.00", "4.00", "8.00", "2.00"]
    least = ["0.300", "6.67", "60%", "0.100"]
    assert ["256, 30, 32, 32", *times, *ratios, "4.00", "8.00", "16.0", "4.00", *least] in cells
    assert ["256, 30, 32, 32", "10.0", "5.00", "2.00", "10.0", "20.0", "0.50", "yes"] in cells
    gru = ["1.00", "0.500", "9.00", "9.00", "18.0", "0.300", "30.0", "60%", "0.100"]
    assert ["GRU", "100, 10, 30, 10", *gru] in cells
    peepholes = ["1.00", "-", "-", "-", "-", "0.300", "-", "-", "0.100"]
    assert ["LSTM, peepholes", "100, 10, 30, 10", *peepholes] in cells
    assert ["training step, against torch, prepared", ">= 3.00 times", "4.00", "yes", "6.67"] in cells
    assert ["training step, against torch, by autograd", ">= 3.00 times", "2.00", "no", "5.00"] in cells
    assert ["inference, against ONNX Runtime", ">= 1.60 times", "2.00", "yes", "5.00"] in cells
    assert ["one step, B = 1, H = 32", "<= 6.00 us", "5.00", "yes", "-"] in cells
    assert ["a", "5.00", "2.50", "20.0"] in cells
    assert ["the same, against ONNX Runtime from Python", ">= 1.00 times", "8.00", "yes", "-"] in cells
    assert ["training epoch, against PyTorch", ">= 4.00 times", "5.00", "yes", "-"] in cells
    assert ["training epoch, against Keras", ">= 4.00 times", "3.00", "no", "-"] in cells
    assert ["100, 10, 30, 10", "in memory", "100", "33.3", "3.00"] in cells
    assert ["scores from file to file, against ONNX Runtime", ">= 1.00 times", "3.00", "yes", "-"] in cells
    assert ["one event", "10.0", "200", "30.0", "20.0", "3.00"] in cells
    assert ["one event, against ONNX Runtime", ">= 1.60 times", "3.00", "yes", "-"] in cells
    assert ["GRU", "100, 10, 30, 10", "1.00", "1.50", "1.50", "2.50", "2.50"] in cells
    # 84,000 bytes more for 300 steps more of 10 units: 7 numbers, of which y is one and dx another
    assert ["memory per row and unit in training, worst row", "<= 5.00 numbers", "5.00", "yes", "-"] in cells
    assert ["the same with recompute", "<= 2.00 numbers", "-", "-", "-"] in cells


def test_every_table_does_without_rivals() -> None:
    """As it is where `make bench-peers` has not run and torch has no such cell."""
    found = made_up()
    for data in found["tables"].values():
        for rows in data.values():
            for line in rows if isinstance(rows, list) else []:
                if isinstance(line, dict):
                    own = ("ours", "session", "ours 1", "ours 2", "fit", "scorer", "applied")
                    line["times"] = {k: v for k, v in line.get("times", {}).items() if k in own}
    page = document(found)
    assert "nan" not in page
    assert "torch, ms" not in page.partition("## Inference")[0]


def test_the_page_and_the_picture_are_written(tmp_path: Path) -> None:
    write(made_up(), tmp_path)
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8").startswith("# Benchmarks\n")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the tables"):
        draw({"memory": {"rows": []}}, tmp_path / "bench.png")


def test_ratios_are_the_rivals_time_over_ours() -> None:
    given = row(SMALL, ours=1.0, pytorch=3.0, jax=2.0)
    assert ratio_to(given, "pytorch") == 3.0
    assert ratio_to(given, "onnxruntime") is None
    assert fastest(given) == "jax"
    assert geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([None]) is None
    assert numbers({"size": [1, 100, 10, 10], "peaks": {}}, "ours") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (0.09996, "0.100"),
        (9.996, "10.0"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12 346"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_tables_are_aligned() -> None:
    assert table(["a", "bb"], [["long", "1"], ["x", "1000"]]) == (
        "| a    |   bb |\n| ---- | ---: |\n| long |    1 |\n| x    | 1000 |"
    )
    assert ratio(None) == "-"
    assert ratio(12.345) == "12.3"


# -- the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "bench: there is no table 'speed'; possible: training, inference, header, cells, "),
        (["--seconds", "0"], "bench: --seconds must be above 0, got 0"),
        (["--load", "nothing.json"], "bench: --load: there is no file nothing.json"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_numbers_can_be_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(made_up()), encoding="utf-8")
    main(["--load", str(path)])
    out = capsys.readouterr().out
    assert "## Training step" in out
    assert out.rstrip().splitlines()[-1].startswith("| tracing a batch, worst row")


def test_every_peer_is_a_module() -> None:
    for peer in PEERS:
        assert (ROOT / "bench" / "peers" / f"{peer}.py").is_file()
