"""The command line: what it does; every mistake ends in one line, exit code 2 and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet
import pytest
import uproot

from timelike import __version__, kernels
from timelike import train as train_module
from timelike.cli import main
from timelike.statistics import format_measurement
from timelike.train import train
from toys import N_EVENTS, TOY_CONFIG, toy_columns, write_root

Capture = pytest.CaptureFixture[str]


def failure(capsys: Capture, *argv: str | Path) -> str:
    """Run a command that must fail, and give its one line."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("timelike: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("timelike: error: ").strip()


def files_in(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Path:
    """Give the folder of a run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "toy.root").symlink_to(toy_root)
    (folder / "toy.yaml").write_text(TOY_CONFIG, encoding="utf-8")
    return train(folder / "toy.yaml").folder


# -- commands -----------------------------------------------------------------------------------------------


def test_train_says_what_it_did(toy_config: Path, capsys: Capture) -> None:
    assert main(["train", str(toy_config)]) == 0
    out, err = capsys.readouterr()
    folder = toy_config.parent / "run"
    lines = err.splitlines()
    assert lines[0].startswith(
        f"data: {N_EVENTS} events (120 background, 120 signal; 168 train, 24 validation, 48 test), "
    )
    assert lines[1] == f"network: 287 parameters; kernels for {kernels.isa()}"
    assert [line.split("  ")[0] for line in lines[2:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "best epoch" in out
    assert f"model: {folder / 'model.safetensors'}" in out or "model.safetensors" in out
    assert (folder / "model.safetensors").is_file()


def test_any_key_can_be_set(toy_config, capsys):
    given = ["training.epochs=1", "network.recurrent.0.units=3", "training.optimiser={name: sgd}"]
    argv = ["train", str(toy_config)]
    for text in given:
        argv += ["--set", text]
    assert main(argv) == 0
    written = (toy_config.parent / "run" / "config.yaml").read_text()
    assert all(text in written for text in ("epochs: 1", "units: 3", "name: sgd"))
    capsys.readouterr()
    for text, said in [
        ("training.epochs", "--set training.epochs: KEY=VALUE is needed"),
        ("training.epohcs=1", "training.epohcs: unknown key; nearest: 'epochs'"),
        ("network.recurrent.1.units=3", "network.recurrent.1.units: '1': the list has the entries 0..0"),
        ("training.epochs=[1", "--set training.epochs=[1: not valid YAML"),
        ("training.epochs=two", "training.epochs: given 'two'"),
    ]:
        assert main(["train", str(toy_config), "--set", text]) == 2
        assert said in capsys.readouterr().err


def test_a_dry_run_writes_nothing(toy_config, capsys):
    assert main(["train", str(toy_config), "--dry-run"]) == 0
    assert "one batch: loss" in capsys.readouterr().out
    assert not (toy_config.parent / "run").exists()


def test_options_of_train_replace_the_configs(
    toy_config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_config.parent)
    argv = ["train", "toy.yaml", "-o", "here", "--epochs", "1", "--seed", "4", "--threads", "1"]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "model: here/model.safetensors",
        "next: timelike evaluate here",
    ]
    assert len(json.loads(Path("here/history.json").read_text())) == 1
    assert "seed: 4" in Path("here/config.yaml").read_text()


def test_apply_gives_a_row_per_event_in_input_order(
    finished_run: Path, toy_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "scores.root"
    argv = ["apply", finished_run / "model.safetensors", "--input", toy_root, "-o", output]
    assert main([str(word) for word in argv]) == 0
    assert f"scores of {N_EVENTS} events" in capsys.readouterr().out
    with uproot.open(output) as file:
        table = file["scores"].arrays(library="np")
    assert list(table) == ["event_number", "score_background", "score_signal", "jet_pt"]
    columns = toy_columns()
    np.testing.assert_array_equal(table["event_number"], columns["eventNumber"])
    np.testing.assert_array_equal(table["jet_pt"], columns["jet_pt"])
    np.testing.assert_allclose(table["score_background"] + table["score_signal"], 1.0, rtol=1e-12)
    label = columns["label"]
    assert table["score_signal"][label == 1].mean() > table["score_signal"][label == 0].mean() + 0.3


def test_apply_takes_several_files_and_other_formats(
    finished_run: Path, toy_root: Path, tmp_path: Path
) -> None:
    columns = toy_columns(30, seed=5)
    del columns["label"], columns["weight"]  # neither is known of data
    shuffled = dict(reversed(columns.items()))
    write_root(tmp_path / "b.root", shuffled)
    write_root(tmp_path / "a.root", columns)
    ak.to_parquet(ak.Array(columns), tmp_path / "c.parquet")
    model = str(finished_run / "model.safetensors")

    def scores(*inputs: str) -> Any:
        output = tmp_path / "out.parquet"
        assert (
            main(["apply", model, "--input", *(str(tmp_path / name) for name in inputs), "-o", str(output)])
            == 0
        )
        return pyarrow.parquet.read_table(output).to_pydict()

    one = scores("a.root")
    assert scores("b.root") == one  # branches are found by name
    assert scores("c.parquet") == one
    assert scores("[ab].root") == scores("a.root", "b.root")
    assert scores("a.root", "b.root") == {name: 2 * column for name, column in one.items()}


def test_apply_can_read_another_tree_and_select(toy_config: Path, tmp_path: Path) -> None:
    text = toy_config.read_text().replace("  weights:", '  selection: "jet_pt > 550"\n  weights:')
    toy_config.write_text(text)
    assert main(["train", str(toy_config), "--epochs", "1"]) == 0
    other = write_root(tmp_path / "other.root", toy_columns(), "events")
    argv = [
        "apply",
        str(tmp_path / "run/model.safetensors"),
        "-i",
        str(other),
        "-o",
        str(tmp_path / "s.root"),
    ]
    assert main([*argv, "--treename", "events"]) == 0
    jet_pt = toy_columns()["jet_pt"]
    with uproot.open(tmp_path / "s.root") as file:
        np.testing.assert_array_equal(file["scores/jet_pt"].array(library="np"), jet_pt)
    assert main([*argv, "--treename", "events", "--select"]) == 0
    with uproot.open(tmp_path / "s.root") as file:
        np.testing.assert_array_equal(file["scores/jet_pt"].array(library="np"), jet_pt[jet_pt > 550])


def test_evaluate_writes_numbers_figures_and_report(
    finished_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("timelike.report")
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (tmp_path / "toy.root").symlink_to((finished_run.parent / "toy.root").resolve())
    assert main(["evaluate", str(folder)]) == 0
    out = capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    auc = metrics["test"]["auc"]
    assert f"AUC {format_measurement(auc['value'], auc['error'])}" in out
    assert 0.8 < auc["value"] <= 1.0
    assert "signal efficiency at background 0.01" in out
    assert "background rejection at signal 0.5" in out
    assert (folder / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert list((folder / "figures").glob("*.png"))


def test_of_three_classes_the_mean_comes_first(toy_config: Path, capsys: Capture) -> None:
    text = toy_config.read_text()
    two = 'labels: {background: "label == 0", signal: "label == 1"}'
    assert two in text
    three = (
        'labels: {far: "label == 0 && jet_pt < 550", near: "label == 0 && jet_pt >= 550", top: "label == 1"}'
    )
    toy_config.write_text(text.replace(two, three))
    assert (
        main(["train", str(toy_config), "--epochs", "1", "--output", str(toy_config.parent / "three")]) == 0
    )
    capsys.readouterr()
    assert main(["evaluate", str(toy_config.parent / "three")]) == 0
    mean, signal, *_ = capsys.readouterr().out.splitlines()
    found = json.loads((toy_config.parent / "three" / "metrics.json").read_text())["test"]
    assert mean.startswith(f"AUC, mean of classes {format_measurement(*found['auc_macro'].values())} (")
    assert signal.startswith(f"AUC of top against the rest {format_measurement(*found['auc'].values())} (")


def test_info_and_help_answer_without_torch() -> None:
    code = (
        "import sys; from timelike.cli import main; "
        "assert main(['info']) == main(['--help']) == main(['train', '--help']) == 0; "
        "slow = {'torch', 'uproot', 'awkward', 'matplotlib'} & set(sys.modules); assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["timelike", __version__]


def program(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a process of its own."""
    path = Path(sys.executable).with_name("timelike")
    return subprocess.run(
        [path, *argv], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_info() -> None:
    done = program("info", TIMELIKE_ISA="baseline", OMP_NUM_THREADS="3")
    assert done.returncode == 0
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert lines["kernels"].strip().startswith("baseline (forced by TIMELIKE_ISA; there are baseline")
    assert lines["kernels"].endswith("threads: 3")
    assert f"numpy {np.__version__}" in lines["base"]
    assert f"uproot {uproot.__version__}" in lines["[data]"]
    assert "torch " in lines["[train]"]


def test_info_for_programs() -> None:
    done = program("info", "--json", TIMELIKE_ISA="", OMP_NUM_THREADS="3")
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert facts["timelike"] == __version__
    available = facts["instruction_set"]["available"]
    assert facts["instruction_set"] == {"active": available[-1], "forced": False, "available": available}
    assert available[0] == "baseline"
    assert (facts["threads"], facts["packages"]["base"]["numpy"]) == (3, np.__version__)
    assert facts["processor"]
    shown = program("info", TIMELIKE_ISA="", OMP_NUM_THREADS="3").stdout
    assert f"{available[-1]} (the fastest of {', '.join(available)})" in shown


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    done = program("info", TIMELIKE_ISA="avx1024")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("timelike: error: TIMELIKE_ISA='avx1024'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "timelike train jets.yaml"),
        (["--help"], "timelike apply runs/jets/model.safetensors --input more.root -o scores.root"),
        (["train", "-h"], "labels: {qcd:"),
        (["evaluate", "-h"], "timelike evaluate runs/jets"),
        (["apply", "-h"], "score_<class>"),
        (["--version"], f"timelike {__version__}"),
    ],
)
def test_help_teaches(argv: list[str], said: str, capsys: Capture) -> None:
    assert main(argv) == 0
    assert said in capsys.readouterr().out


# -- mistakes on the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "no such command 'trian'"),
        (["train"], "missing argument 'CONFIG' (see timelike train --help)"),
        (["train", "x.yaml", "--epoch", "3"], "no such option: --epoch"),
        (
            ["train", "x.yaml", "--epochs", "0"],
            "'--epochs': given '0'; it must be greater than or equal to 1",
        ),
        (["train", "x.yaml", "--epochs", "few"], "'--epochs': given 'few'; it must be a valid integer"),
        (["train", "missing.yaml"], "missing.yaml: no such file"),
        (["evaluate", "missing"], "missing: not the folder of a run, it has no config.yaml"),
        (["apply", "m.safetensors"], "no input"),
        (["apply", "m.safetensors", "-i", "a.root"], "no output"),
        (["apply", "m.safetensors", "-i", "a.root", "-o", "s.root"], "m.safetensors: no such file"),
        (["apply", "m.safetensors", "-i", "a.root", "-o", "s.csv"], "none of .root, .parquet"),
        (["apply", "m.safetensors", "-i", "a.root", "-o", "no/s.root"], "no directory no"),
    ],
)
def test_a_wrong_command_is_refused(
    argv: list[str], said: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in failure(capsys, *argv)
    assert not files_in(tmp_path)


def test_the_program_itself() -> None:
    done = program("train", "missing.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "timelike: error: missing.yaml: no such file or directory\n"


@pytest.mark.parametrize("missing", ["torch", "typer", "pydantic"])
def test_a_missing_library_is_named(toy_config: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from timelike.cli import main; "
        f"sys.exit(main(['train', {str(toy_config)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"timelike: error: this needs {missing}, which is not installed: pip install"
    )
    assert done.stderr.count("\n") == 1


def test_a_pipe_that_closes_is_no_error() -> None:
    path = Path(sys.executable).with_name("timelike")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([path, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""


def test_ctrl_c_ends_with_130(toy_config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "fit", interrupted)
    assert main(["train", str(toy_config)]) == 130
    assert "timelike: interrupted: nothing was written" in capsys.readouterr().err
    monkeypatch.setattr(train_module, "read_splits", interrupted)
    assert main(["train", str(toy_config)]) == 130


def test_a_full_disk_is_said_in_one_line(
    toy_config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "model.safetensors.part")

    monkeypatch.setattr(train_module, "save_model", full)
    capsys.readouterr()
    assert main(["train", str(toy_config)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "timelike: error: model.safetensors.part: no space left on device"


def test_a_defect_of_ours_keeps_its_traceback(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train_module, "read_splits", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", str(toy_config)])


# -- mistakes in data and config ----------------------------------------------------------------------------


def poisoned(name: str, value: float) -> Callable[[Path], None]:
    """Put a value into a column of the toy events."""

    def spoil(folder: Path) -> None:
        columns = toy_columns()
        if name.startswith("part_"):
            flat = np.asarray(ak.flatten(columns[name])).copy()
            flat[17] = value
            columns[name] = ak.unflatten(flat, ak.num(columns[name]))
        else:
            columns[name][17] = value
        replace_toys(folder, columns)

    return spoil


def replace_toys(folder: Path, columns: dict[str, Any]) -> None:
    (folder / "toy.root").unlink()
    write_root(folder / "toy.root", columns)


def columns_changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        columns = toy_columns()
        change(columns)
        replace_toys(folder, columns)

    return spoil


def cut(folder: Path) -> None:
    content = (folder / "toy.root").read_bytes()
    (folder / "toy.root").unlink()
    (folder / "toy.root").write_bytes(content[: len(content) // 2])


def emptied(folder: Path) -> None:
    (folder / "toy.root").unlink()
    (folder / "toy.root").touch()


def made_a_folder(folder: Path) -> None:
    (folder / "toy.root").unlink()
    (folder / "toy.root").mkdir()


def taken_away(folder: Path) -> None:
    (folder / "toy.root").unlink()


def without_events(columns: dict[str, Any]) -> None:
    for name, column in columns.items():
        columns[name] = column[:0]


def without_steps(columns: dict[str, Any]) -> None:
    for name in ("part_pt", "part_eta"):
        columns[name] = columns[name][:, :0]


def config_changed(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / "toy.yaml").read_text()
        assert old in text
        (folder / "toy.yaml").write_text(text.replace(old, new))

    return spoil


TRAINING_MISTAKES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "missing file": (taken_away, ["toy.root", "no such file"]),
    "directory instead of file": (made_a_folder, ["toy.root", "is a directory"]),
    "truncated file": (cut, ["toy.root"]),
    "empty file": (emptied, ["toy.root"]),
    "no events": (columns_changed(without_events), ["toy.root", "no events"]),
    "wrong tree": (config_changed("treename: jets", "treename: jet"), ["toy.root", "'jet'", "'jets'"]),
    "missing branch": (
        config_changed("part_eta]", "part_etta]"),
        ["toy.root", "'part_etta'", "nearest: 'part_eta'"],
    ),
    "branch of strings": (
        columns_changed(lambda c: c.update(part_eta=ak.Array([["a", "b"]] * N_EVENTS))),
        ["toy.root", "part_eta"],
    ),
    "NaN in values": (poisoned("part_eta", np.nan), ["toy.root", "part_eta", "nan"]),
    "infinity in values": (poisoned("part_eta", np.inf), ["toy.root", "part_eta", "inf"]),
    "NaN made by an expression": (
        config_changed("log(part_pt)", "log(part_pt - 5)"),
        ["toy.root", "part_logpt", "nan"],
    ),
    "NaN in weights": (poisoned("weight", np.nan), ["toy.root", "weight", "event 17", "nan"]),
    "infinity in weights": (poisoned("weight", -np.inf), ["toy.root", "weight", "event 17", "inf"]),
    "all weights zero": (
        columns_changed(lambda c: c.update(weight=0 * c["weight"])),
        ["weights of all events are 0"],
    ),
    "weights that cancel": (
        columns_changed(lambda c: c.update(weight=-c["weight"])),
        ["class 'background' sum to", "a positive sum"],
    ),
    "one class only": (
        columns_changed(lambda c: c.update(label=0 * c["label"])),
        ["class 'signal' has no events"],
    ),
    "no label holds": (config_changed('"label == 1"', '"label == 2"'), ["event 2: none of the labels holds"]),
    "no steps at all": (columns_changed(without_steps), ["has a step"]),
    "lengths that disagree": (
        columns_changed(
            lambda c: c.update(part_pt=ak.concatenate([c["part_pt"][:1], [[1.0]], c["part_pt"][2:]]))
        ),
        ["toy.root", "event 1: ", "'part_logpt' has 1 steps, 'part_eta' has 7"],
    ),
    "selection of nothing": (
        config_changed("  weights:", '  selection: "jet_pt < 0"\n  weights:'),
        ["selection keeps none of 240 events"],
    ),
    "misspelt key": (
        config_changed("  variables:", "  variabels:"),
        ["toy.yaml:5: data.variabels: unknown key; nearest: 'variables'"],
    ),
    "number for text": (
        config_changed("treename: jets", "treename: 5"),
        ["data.treename: given 5; text is needed"],
    ),
    "batch size of 0": (
        config_changed("batch_size: 16", "batch_size: 0"),
        ["training.batch_size: given 0; it must be greater than 0"],
    ),
    "units without measure": (
        config_changed("units: 6", "units: 1000000000"),
        ["network.recurrent: 1000000000 units need more memory than there is"],
    ),
    "no YAML": (config_changed("data:", "data: ["), ["toy.yaml:", "not valid YAML"]),
    "empty split": (
        config_changed("split: {by: event_number}", "split: {by: event_number, modulo: 1000}"),
        ["no events of class"],
    ),
    "output under a file": (
        config_changed("output: run", "output: toy.yaml/run"),
        ["toy.yaml is not a directory"],
    ),
    "loss that is no number": (
        config_changed("{learning_rate: 0.02}", "{name: sgd, learning_rate: 1e38}"),
        ["the loss is", "in epoch 1, batch"],
    ),
}


@pytest.mark.parametrize(("spoil", "said"), TRAINING_MISTAKES.values(), ids=TRAINING_MISTAKES)
def test_a_mistake_in_training(
    toy_config: Path, capsys: Capture, spoil: Callable[[Path], None], said: list[str]
) -> None:
    spoil(toy_config.parent)
    before = files_in(toy_config.parent)
    capsys.readouterr()
    assert main(["train", str(toy_config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *progress, message = err.splitlines()
    assert all(line.startswith(("data: ", "network: ")) for line in progress)
    assert message.startswith("timelike: error: ")
    for words in said:
        assert words in message
    assert files_in(toy_config.parent) == before


def test_events_without_steps_are_trained_on_and_scored(toy_config: Path, capsys: Capture) -> None:
    """The toy events hold some."""
    assert 0 in ak.num(toy_columns()["part_pt"])
    assert main(["train", str(toy_config), "--epochs", "1"]) == 0


def apply_to(finished_run: Path, folder: Path, columns: dict[str, Any]) -> list[str]:
    write_root(folder / "in.root", columns)
    model = str(finished_run / "model.safetensors")
    return ["apply", model, "-i", str(folder / "in.root"), "-o", str(folder / "out.root")]


def test_apply_without_a_variable_is_refused(finished_run: Path, tmp_path: Path, capsys: Capture) -> None:
    columns = toy_columns(20)
    columns["part_etaa"] = columns.pop("part_eta")
    argv = apply_to(finished_run, tmp_path, columns)
    said = failure(capsys, *argv)
    assert "in.root" in said
    assert "'part_eta'" in said
    assert "'part_etaa'" in said
    assert files_in(tmp_path) == {Path("in.root")}


def test_apply_to_an_event_without_steps(finished_run: Path, tmp_path: Path) -> None:
    columns = toy_columns(20)
    argv = apply_to(finished_run, tmp_path, columns)
    assert main(argv) == 0
    with uproot.open(tmp_path / "out.root") as file:
        scores = file["scores/score_signal"].array(library="np")
    assert len(scores) == 20
    assert np.isfinite(scores).all()


def test_apply_a_damaged_model_is_refused(finished_run: Path, tmp_path: Path, capsys: Capture) -> None:
    argv = apply_to(finished_run, tmp_path, toy_columns(20))
    content = Path(argv[1]).read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content[:-5])
    argv[1] = str(tmp_path / "m.safetensors")
    assert "m.safetensors: damaged or cut short" in failure(capsys, *argv)
    assert files_in(tmp_path) == {Path("in.root"), Path("m.safetensors")}


def test_an_old_table_stays_when_a_new_one_fails(finished_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out.root").write_text("old")
    columns = toy_columns(20)
    del columns["jet_pt"]
    said = failure(capsys, *apply_to(finished_run, tmp_path, columns))
    assert "data.observers" in said
    assert (tmp_path / "out.root").read_text() == "old"


@pytest.mark.parametrize("name", ["in.root", "../{folder}/in.root", "link.root"])
def test_apply_never_replaces_its_input(
    finished_run: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    argv = apply_to(finished_run, tmp_path, toy_columns(20))
    (tmp_path / "link.root").symlink_to("in.root")
    content = (tmp_path / "in.root").read_bytes()
    argv[-1] = str(tmp_path / name.format(folder=tmp_path.name))
    assert "it is an input file" in failure(capsys, *argv)
    assert (tmp_path / "in.root").read_bytes() == content


def test_evaluate_what_does_not_belong_together(finished_run: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(finished_run.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    run = tmp_path / finished_run.name
    config = (run / "config.yaml").read_text()
    before = files_in(tmp_path)
    (run / "config.yaml").write_text(config.replace("background:", "other:"))
    assert "'other', 'signal', those of model.safetensors are 'background', 'signal'" in failure(
        capsys, "evaluate", run
    )
    (run / "config.yaml").write_text(config)
    for history in ("{}", '[{"epoch": 1}]'):
        (run / "history.json").write_text(history)
        assert "history.json: not the history of a training" in failure(capsys, "evaluate", run)
    assert files_in(tmp_path) == before


def test_evaluate_a_folder_that_lacks_something(finished_run: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    for name in ("history.json", "model.safetensors", "config.yaml"):
        (folder / name).unlink()
        assert f"not the folder of a run, it has no {name}" in failure(capsys, "evaluate", folder)
