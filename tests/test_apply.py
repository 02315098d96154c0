"""Applying models in pieces: the same bits whatever the pieces, by several processes, after interruptions."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

import timelike
from apply_cases import LENGTHS, TASKS, columns_of, same_but_for_the_head, toy_files, toy_model
from streamed_files import write_ttree
from timelike import data
from timelike.apply import apply, workers
from timelike.apply.parts import Parts
from timelike.cli import main
from timelike.errors import ConfigError, DataError
from timelike.model import load_model, predict
from toys import N_EVENTS, toy_columns, write_root

SUFFIXES = (".root", ".parquet", ".h5", ".npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return toy_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def model(task: str) -> Path:
        if task not in made:
            made[task] = toy_model(tmp_path_factory.mktemp("model"), TASKS[task])
        return made[task]

    return model


def same(one: Path, other: Path) -> None:
    a, b = columns_of(one), columns_of(other)
    assert a.keys() == b.keys()
    for name, column in a.items():
        assert column.values.dtype == b[name].values.dtype, name
        np.testing.assert_array_equal(column.values, b[name].values, err_msg=name)
        if column.offsets is not None:
            np.testing.assert_array_equal(column.offsets, b[name].offsets, err_msg=name)


# -- pieces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in TASKS if task != "steps"])
def test_scores_are_those_of_all_events_in_memory(
    models: Any, files: list[Path], tmp_path: Path, task: str
) -> None:
    model = load_model(models(task))
    events = data.read(model.data, model.sequence, files=files, labelled=False, dtype=model.dtype)
    whole = timelike.load(models(task)).predict(events)
    done = [apply(models(task), files, tmp_path / f"{n}.parquet", piece=n) for n in (1, 7, 1000)]
    assert [each.n_pieces for each in done] == [sum(LENGTHS), 6 + 1 + 4, 3]
    kind = "predicted" if model.data.targets else "score"
    for each in done:
        assert each.n_events == sum(LENGTHS)
        columns = columns_of(each.output)
        assert tuple(columns) == each.columns
        assert list(columns) == ["event_number", *(f"{kind}_{name}" for name in model.output_names), "jet_pt"]
        np.testing.assert_array_equal(columns["event_number"].values, events.events)
        np.testing.assert_array_equal(columns["jet_pt"].values, events.observers["jet_pt"])
        for c, name in enumerate(model.output_names):
            np.testing.assert_array_equal(columns[f"{kind}_{name}"].values, whole[:, c])
    same_but_for_the_head(whole, predict(model, events), model.dtype)
    assert sorted(os.listdir(tmp_path)) == ["1.parquet", "1000.parquet", "7.parquet"]


def test_quantiles_are_called_by_their_shares(models: Any, files: list[Path], tmp_path: Path) -> None:
    done = apply(models("quantiles"), files, tmp_path / "s.root")
    assert done.columns[1:4] == ("predicted_mass_q0.16", "predicted_mass_q0.5", "predicted_mass_q0.84")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_step_of_the_file_has_its_number(
    models: Any, files: list[Path], tmp_path: Path, suffix: str
) -> None:
    """The toy config sorts by pt, keeps five of up to seven steps and turns them round."""
    model = timelike.load(models("steps"))
    done = apply(models("steps"), files, tmp_path / f"s{suffix}", piece=7)
    assert done.columns == ("event_number", "predicted_late", "predicted_pt", "jet_pt")
    columns = columns_of(done.output)
    given = [toy_columns(LENGTHS[0], seed=0), None, toy_columns(LENGTHS[2], seed=2)]
    pt = [event for part in given if part is not None for event in ak.to_list(part["part_pt"])]
    eta = [event for part in given if part is not None for event in ak.to_list(part["part_eta"])]
    found = columns["predicted_pt"]
    assert found.offsets is not None
    found_by_event = np.split(found.values, found.offsets[1:-1])
    del found_by_event[LENGTHS[0]]  # of the file of one event
    assert [len(event) for event in found_by_event] == [len(event) for event in pt]
    for scores, pts, etas in zip(found_by_event, pt, eta, strict=True):
        read = np.argsort(-np.array(pts), kind="stable")[:5][::-1]
        steps = np.stack([np.log(np.array(pts)[read]), np.array(etas)[read]], axis=1).astype(np.float32)
        want = np.full(len(pts), np.nan)
        want[read] = model.predict([steps])[:, 1]
        np.testing.assert_array_equal(scores, want)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_has_the_same_table(models: Any, files: list[Path], tmp_path: Path, suffix: str) -> None:
    one = apply(models("classes"), files, tmp_path / "one.parquet").output
    other = apply(models("classes"), files, tmp_path / f"other{suffix}", piece=7).output
    same(one, other)


def test_files_of_any_format_are_read(models: Any, files: list[Path], tmp_path: Path) -> None:
    columns = toy_columns(LENGTHS[0], seed=0)
    ak.to_parquet(ak.Array(columns), tmp_path / "in.parquet")
    one = apply(models("classes"), files[:1], tmp_path / "a.npz", piece=9).output
    same(one, apply(models("classes"), [tmp_path / "in.parquet"], tmp_path / "b.npz", piece=9).output)


def test_types_of_observers_are_those_that_hold_all_files(models: Any, tmp_path: Path) -> None:
    for name, dtype in {"a": np.float32, "b": np.int32, "c": np.float32}.items():
        columns = toy_columns(20)
        columns["jet_pt"] = columns["jet_pt"].astype(dtype)
        write_root(tmp_path / f"{name}.root", columns)
    inputs = [tmp_path / f"{name}.root" for name in "abc"]
    values = columns_of(apply(models("classes"), inputs, tmp_path / "s.root").output)["jet_pt"].values
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values[20:40], toy_columns(20)["jet_pt"].astype(np.int32))


def test_a_model_that_is_in_memory(models: Any, files: list[Path], tmp_path: Path) -> None:
    one = apply(models("classes"), files, tmp_path / "a.parquet").output
    same(one, apply(load_model(models("classes")), files, tmp_path / "b.parquet").output)
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "b.parquet"]


def test_an_empty_selection_and_no_steps_are_told(models: Any, tmp_path: Path) -> None:
    columns = toy_columns(20)
    none = ak.unflatten(np.empty(0, np.float32), np.zeros(20, int))
    empty = write_root(tmp_path / "e.root", columns | {"part_pt": none, "part_eta": none})
    with pytest.raises(DataError, match=r"e.root: none of 20 events has a step"):
        apply(models("classes"), [empty], tmp_path / "s.root", piece=5)


def test_a_selection_that_keeps_nothing_and_files_without_events_are_told(
    models: Any, files: list[Path], tmp_path: Path
) -> None:
    model = toy_model(tmp_path, {"data.selection": "jet_pt > 550"})
    columns = toy_columns(20)
    none = write_root(tmp_path / "n.root", columns | {"jet_pt": columns["jet_pt"] - 500})
    with pytest.raises(DataError, match=r"n.root: the selection keeps none of 20 events$"):
        apply(model, [none], tmp_path / "s.root", select=True)
    done = apply(model, [none, *files], tmp_path / "s.root", select=True, piece=5)
    numbers = columns_of(done.output)["jet_pt"].values
    assert 0 < len(numbers) < sum(LENGTHS)
    assert numbers.min() > 550
    with uproot.recreate(tmp_path / "e.root") as file:
        file.mktree("jets", dict.fromkeys(("part_pt", "part_eta"), "var * float32"))
    with pytest.raises(DataError, match=r"e.root: no events$"):
        apply(model, [tmp_path / "e.root"], tmp_path / "t.root")


# -- processes ----------------------------------------------------------------------------------------------


def test_processes_give_the_same_table(models: Any, files: list[Path], tmp_path: Path) -> None:
    one = apply(models("steps"), files, tmp_path / "one.root", piece=7).output
    done = apply(models("steps"), files, tmp_path / "two.root", piece=7, processes=2)
    assert (done.n_pieces, done.n_resumed) == (11, 0)
    same(one, done.output)
    assert sorted(os.listdir(tmp_path)) == ["one.root", "two.root"]


def spoilt(files: list[Path], folder: Path) -> list[Path]:
    """Copy files, and damage the last of the baskets that the third has of `part_pt`."""
    inputs = [Path(shutil.copy(file, folder)) for file in files]
    write_ttree(inputs[2], toy_columns(N_EVENTS, seed=2))
    with uproot.open(inputs[2]) as file:
        seek = int(file["jets/part_pt"].member("fBasketSeek")[N_EVENTS // 50])
    content = bytearray(inputs[2].read_bytes())
    content[seek + 100 : seek + 140] = bytes(40)
    inputs[2].write_bytes(content)
    return inputs


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_file_ends_the_run(
    models: Any, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    """With one line that names it; the pieces before it stay for when it is mended."""
    inputs = spoilt(files, tmp_path)
    argv = ["apply", models("classes"), *inputs, "-o", tmp_path / "s.root", "--piece", 10]
    assert main([str(word) for word in [*argv, "--processes", processes]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"timelike: error: {inputs[-1]}: ")
    assert "pieces are finished, in " in err
    assert not (tmp_path / "s.root").exists()

    write_ttree(inputs[2], toy_columns(N_EVENTS, seed=2))
    assert main([str(word) for word in argv]) == 0
    assert "pieces were there from a run that was interrupted" in capsys.readouterr().out
    same(tmp_path / "s.root", apply(models("classes"), inputs, tmp_path / "whole.root").output)


@pytest.mark.parametrize("answers", [0, 3])
def test_a_killed_process_ends_the_run(
    models: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    score, count = workers._Worker.score, iter(range(1000))

    def killed(worker: workers._Worker, *given: Any) -> Any:
        if next(count) == answers:
            os.kill(worker.pid, signal.SIGKILL)
        return score(worker, *given)

    monkeypatch.setattr(workers._Worker, "score", killed)
    with pytest.raises(
        workers.WorkerError, match=r"toy\d.root, entries \d+ to \d+: .* was killed by signal 9"
    ):
        apply(models("classes"), files, tmp_path / "s.root", piece=7, processes=2)
    assert not (tmp_path / "s.root").exists()
    monkeypatch.undo()
    done = apply(models("classes"), files, tmp_path / "s.root", piece=7)
    assert done.n_resumed >= max(0, answers - 1)
    same(done.output, apply(models("classes"), files, tmp_path / "whole.root").output)


def test_ctrl_c_says_how_to_go_on(
    models: Any, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = iter(range(1000))

    def interrupted(*given: Any) -> Any:
        if next(reads) == 4:
            raise KeyboardInterrupt
        return predict_(*given)

    from timelike.apply import scoring

    predict_ = scoring.columns_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "columns_of", interrupted)
        argv = ["apply", models("classes"), *files, "-o", tmp_path / "s.root", "--piece", 10]
        assert main([str(word) for word in argv]) == 130
    assert "interrupted: 4 of 8 pieces are finished, in " in capsys.readouterr().err
    assert main([str(word) for word in argv]) == 0
    assert "4 of 8 pieces were there" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["s.root"]


# -- interruptions ------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(models: Any, files: list[Path], tmp_path: Path) -> None:
    """Killed at seeded points: within a part, before one is renamed, and before the table is."""
    whole = apply(models("classes"), files, tmp_path / "whole.root", piece=10).output
    output = tmp_path / "s.root"
    script = Path(__file__).with_name("applied_killed.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def run(n: int) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, script, n, models("classes"), output, *files]
        return subprocess.run(
            [str(word) for word in argv], env=environment, capture_output=True, text=True, check=False
        )

    # A part is an array that is written and a file that is renamed twice; eight of them, and then the table.
    for n in (1, 8, 19):
        ended = run(n)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not output.exists()
    assert output.with_name("s.root.parts").is_dir()
    ended = run(1000)
    assert ended.returncode == 0, ended.stderr
    same(output, whole)
    assert sorted(os.listdir(tmp_path)) == ["s.root", "whole.root"]
    n_pieces, n_resumed = map(int, ended.stdout.split())
    assert n_pieces == 8
    assert n_resumed == 8  # the last was killed before the table was renamed


def interrupted(models: Any, files: list[Path], output: Path) -> None:
    """Leave the parts of a run whose last file is missing in the middle of it."""
    from timelike.apply import scoring

    columns_of, count = scoring.columns_of, iter(range(1000))

    def fails(*given: Any) -> Any:
        if next(count) == 5:
            raise DataError("as if")
        return columns_of(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "columns_of", fails)
        with pytest.raises(DataError, match="as if"):
            apply(models("classes"), files, output, piece=10)


def test_parts_of_something_else_are_made_anew(models: Any, files: list[Path], tmp_path: Path) -> None:
    inputs = [Path(shutil.copy(file, tmp_path)) for file in files]
    output = tmp_path / "s.root"

    def resumed(**changes: Any) -> int:
        interrupted(models, inputs, output)
        given = {"model": models("classes"), "files": inputs, "piece": 10} | changes
        return apply(given.pop("model"), given.pop("files"), output, **given).n_resumed

    assert resumed() == 5
    assert resumed(model=models("float64")) == 0
    assert resumed(piece=11) == 1  # the file of one event has the same piece
    assert resumed(select=True) == 0
    assert resumed(files=inputs[:2]) == 5
    assert resumed(files=inputs[1:]) == 0  # running numbers of entries are others
    about = inputs[0].stat()
    os.utime(inputs[0], ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    interrupted(models, inputs, output)
    os.utime(inputs[0], ns=(about.st_atime_ns, about.st_mtime_ns))
    assert apply(models("classes"), inputs, output, piece=10).n_resumed == 1


def test_a_folder_that_is_not_ours_is_left_alone(models: Any, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "s.root.parts").mkdir()
    (tmp_path / "s.root.parts" / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match=r"s.root.parts, which is something else"):
        apply(models("classes"), files, tmp_path / "s.root")
    assert (tmp_path / "s.root.parts" / "thesis.tex").read_text() == "all of it"


def test_two_runs_do_not_share_their_parts(models: Any, files: list[Path], tmp_path: Path) -> None:
    with Parts.opened(tmp_path / "s.root"), pytest.raises(ConfigError, match="another run is at it"):
        apply(models("classes"), files, tmp_path / "s.root")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"processes": 0}, "processes: given 0"),
        ({"piece": 0}, "piece: given 0"),
        ({"out_of_fold": True}, "out_of_fold needs the ensemble"),
    ],
)
def test_options_that_cannot_be(
    models: Any, files: list[Path], tmp_path: Path, given: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        apply(models("classes"), files, tmp_path / "s.root", **given)
    assert os.listdir(tmp_path) == []


def test_the_code_of_the_page_runs(
    models: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(models("classes"), "model.safetensors")
    for file in files:
        shutil.copy(file, f"day{file.name}")
    shown: dict[str, Any] = {}
    page = Path(__file__).resolve().parents[1] / "docs" / "apply.md"
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(code, shown)
    assert shown["done"].n_events == sum(LENGTHS)
