"""Job files: what stands in them, that the shell can read them, and that what they start does the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from timelike import submit as submit_module
from timelike.cli import main
from timelike.config import load_config
from timelike.crossval import cross_validate
from timelike.errors import ConfigError
from timelike.model import load_model
from timelike.submit import write_jobs
from timelike.train import train
from toys import TOY_CONFIG

FARMS = submit_module.FARMS
RATE = "training.optimiser.learning_rate"


def bash(*words: str | Path, cwd: Path, path: Path | None = None, **variables: str) -> Any:
    environment = {**os.environ, **variables}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = ["bash", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def quick_config(toy_config: Path) -> Path:
    """Give a config that trains one epoch, in a folder with a name that shells trip over."""
    folder = toy_config.parent / "it's $HOME & more"
    folder.mkdir()
    (folder / "toy.root").symlink_to(toy_config.parent / "toy.root")
    (folder / "my toy.yaml").write_text(TOY_CONFIG.replace("epochs: 3", "epochs: 1"))
    return folder / "my toy.yaml"


# -- the files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FARMS)
@pytest.mark.parametrize("work", submit_module.WORK)
def test_the_shell_can_read_all_scripts(quick_config: Path, work: str, to: str) -> None:
    jobs = 1 if work == "train" else 3
    done = write_jobs(work, quick_config, quick_config.parent / "jobs", to=to, jobs=jobs)
    scripts = [file for file in done.files if file.suffix in (".sh", ".sbatch")]
    assert {"job.sh", "submit.sh"} <= {file.name for file in scripts}
    for script in scripts:
        read = bash("-n", script, cwd=quick_config.parent)
        assert (read.returncode, read.stderr) == (0, ""), script
        assert script.read_text().startswith("#!/bin/bash\n")
    for script in scripts:
        assert os.access(script, os.X_OK) is (script.suffix == ".sh")
    assert {file.name for file in done.folder.iterdir()} == {*(file.name for file in done.files), "logs"}


def keys(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if " = " in line]
    return dict(line.split(" = ", 1) for line in lines)


def test_condor_is_told_what_a_job_needs(quick_config: Path) -> None:
    how = {"cpus": 2, "memory": "800 mb", "time": "1-02:03:04"}
    done = write_jobs("crossval", quick_config, quick_config.parent / "jobs", to="condor", jobs=5, **how)  # type: ignore[arg-type]
    of_job = keys(done.folder / "job.sub")
    assert of_job["executable"] == "job.sh"
    assert of_job["arguments"] == "$(Process)"
    assert (of_job["request_cpus"], of_job["request_memory"]) == ("2", "800MB")
    assert of_job["allowed_job_duration"] == str(((24 + 2) * 60 + 3) * 60 + 4)
    assert of_job["should_transfer_files"] == "NO"
    text = (done.folder / "job.sub").read_text()
    assert text.rstrip().endswith("queue 5")
    assert not [line for line in text.splitlines() if line.startswith("+")]  # keys of one site only
    assert "arguments" not in keys(done.folder / "join.sub")
    assert (done.folder / "jobs.dag").read_text().splitlines() == [
        "JOB work job.sub",
        "JOB join join.sub",
        "PARENT work CHILD join",
    ]
    assert "condor_submit_dag jobs.dag" in done.submit.read_text()


def test_slurm_is_told_what_a_job_needs(quick_config: Path) -> None:
    how = {"cpus": 2, "memory": "3GB", "time": "01:00:00"}
    done = write_jobs("scan", quick_config, quick_config.parent / "jobs", to="slurm", jobs=4, **how)  # type: ignore[arg-type]
    text = (done.folder / "job.sbatch").read_text()
    asked = re.findall(r"^#SBATCH --(\S+)$", text, re.MULTILINE)
    for option in ("array=0-3", "cpus-per-task=2", "mem=3G", "time=01:00:00", "requeue", "ntasks=1"):
        assert option in asked
    assert "job-name=scan-my_toy" in asked
    assert "array" not in (done.folder / "join.sbatch").read_text().replace("SLURM_ARRAY", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"work": "scna"}, "work 'scna': nearest: 'scan'"),
        ({"to": "slrum"}, "farm 'slrum': nearest: 'slurm'"),
        ({"memory": "2"}, "memory '2': a whole number and a unit are needed"),
        ({"memory": "0GB"}, "memory '0GB'"),
        ({"memory": "1.5GB"}, "memory '1.5GB'"),
        ({"time": "4h"}, "time '4h': hours, minutes and seconds are needed"),
        ({"time": "00:00:00"}, "more than none is needed"),
        ({"time": "1:75:00"}, "time '1:75:00'"),
        ({"cpus": 0}, "given 1 jobs of 0 cores"),
        ({"work": "train", "jobs": 2}, "a training is one job"),
    ],
)
def test_what_no_farm_understands_is_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        write_jobs(
            **{"work": "scan", "config": "a.yaml", "folder": tmp_path / "jobs", "to": "slurm", **given}
        )
    assert not (tmp_path / "jobs").exists()


# -- the command --------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_command_writes_a_job_for_each_fold(
    quick_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "crossval", str(quick_config), "--to", "slurm", "--", "--folds", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 jobs for slurm: ")
    assert "submit.sh" in out.splitlines()[1]
    script = (quick_config.parent / "run-jobs" / "job.sh").read_text()
    assert script.rstrip().endswith('--folds 3 --resume --fold "$1"')
    assert (quick_config.parent / "run-jobs" / "join.sh").read_text().rstrip().endswith("--folds 3 --join")


def test_paths_among_the_options_are_those_of_where_it_was_called(
    quick_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(quick_config.parent)
    Path("space.yaml").write_text(f"{RATE}: {{low: 0.01, high: 0.1}}")
    words = ["--to", "condor", "-n", "2", "--", "--trials", "4", "--space", "space.yaml", "-o", "out"]
    assert main(["submit", "scan", quick_config.name, *words]) == 0
    script = Path("run-jobs/job.sh").read_text()
    words = subprocess.run(  # as the shell sees it
        ["bash", "-c", f"printf '%s\\n' {script.splitlines()[-1].removeprefix('exec ')}", "-", "7"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    here = str(quick_config.parent)
    start = [sys.executable, "-m", "timelike", "scan", str(quick_config)]
    given = ["--trials", "4", "--space", f"{here}/space.yaml", "-o", f"{here}/out"]
    assert words == [*start, *given, "--resume", "--job", "7"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "no farm: timelike submit train CONFIG --to condor, or --to slurm"),
        (["scan", "--to", "slurm"], "a scan needs a budget"),
        (["scan", "--to", "slurm", "--", "--trials", "3"], "no space to scan"),
        (["scan", "--to", "slurm", "--", "--trails", "3"], "no such option: --trails"),
        (["train", "--to", "slurm", "--", "--resume"], "--resume is for the job files to say"),
        (["crossval", "--to", "slurm", "--", "--fold", "1"], "--fold is for the job files to say"),
        (["crossval", "--to", "slurm", "-n", "4"], "a cross validation has a job for each fold"),
        (["train", "--to", "slurm", "-n", "4"], "a training is one job"),
        (["evaluate", "--to", "slurm"], "work 'evaluate'"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    quick_config: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(capsys, "submit", words[0], quick_config, *words[1:])
    assert not (quick_config.parent / "run-jobs").exists()


# -- what they start ----------------------------------------------------------------------------------------


def test_a_job_of_a_training_trains(quick_config: Path, tmp_path: Path) -> None:
    done = write_jobs(
        "train", quick_config, quick_config.parent / "jobs", to="condor", options=["--seed", "3"]
    )
    ran = bash(done.folder / "job.sh", "0", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (quick_config.parent / "run" / "model.safetensors").is_file()
    again = bash(done.folder / "job.sh", "0", cwd=tmp_path)
    assert "complete after epoch 1" in again.stderr


def programs(folder: Path, **texts: str) -> Path:
    """Put programs into a folder that stand for those of a farm."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


# A farm of one core: what is submitted runs at once. Its number goes to who asked for it.
SBATCH = """\
set -e
for word in "$@"; do
  case "$word" in *.sbatch) file=$word;; --dependency=afterok:7) echo after >> order;; esac
done
last=$(sed -n 's/^#SBATCH --array=0-//p' "$file")
for k in $(seq 0 "${last:-0}"); do
  SLURM_ARRAY_TASK_ID=$k SLURM_JOB_ID=7 bash "$file" >&2; echo "$file $k" >> order
done
echo '7;cluster'
"""


def test_slurm_jobs_cross_validate(quick_config: Path, tmp_path: Path) -> None:
    words = ["submit", "crossval", str(quick_config), "--to", "slurm", "-o", str(tmp_path / "jobs")]
    assert main([*words, "--", "--folds", "2"]) == 0
    farm = programs(tmp_path / "farm", sbatch=SBATCH)
    ran = bash(tmp_path / "jobs" / "submit.sh", cwd=Path("/"), path=farm)
    assert ran.returncode == 0, ran.stderr
    order = (tmp_path / "jobs" / "order").read_text().splitlines()
    assert order == ["job.sbatch 0", "job.sbatch 1", "after", "join.sbatch 0"]
    folder = quick_config.parent / "run-crossval"
    scores = pyarrow.parquet.read_table(folder / "scores.parquet")["score_signal"].to_numpy()
    here = cross_validate(quick_config, folds=2, folder=tmp_path / "here")
    np.testing.assert_array_equal(scores, here.predictions.scores[:, 1])


def test_a_job_whose_time_is_over_is_queued_again(quick_config: Path, tmp_path: Path) -> None:
    done = write_jobs("train", quick_config, tmp_path / "jobs", to="slurm")
    # In place of the training: tell the batch script that the time is over, then go on for ever.
    (done.folder / "job.sh").write_text(
        f"kill -USR1 $PPID\nexec {sys.executable} -c 'import signal; signal.pause()'\n"
    )
    farm = programs(tmp_path / "farm", scontrol='echo "$@" > requeued')
    ran = bash("job.sbatch", cwd=done.folder, path=farm, SLURM_JOB_ID="31")
    assert ran.returncode == 0, ran.stderr
    assert (done.folder / "requeued").read_text() == "requeue 31\n"


def test_an_error_of_a_job_is_that_of_its_batch_script(quick_config: Path, tmp_path: Path) -> None:
    done = write_jobs("train", quick_config, tmp_path / "jobs", to="slurm")
    quick_config.write_text("data: 3")
    ran = bash("job.sbatch", cwd=done.folder, SLURM_JOB_ID="31")
    assert ran.returncode == 2
    assert ran.stderr.startswith("timelike: error: ")


def test_killed_and_started_again_a_job_ends_with_the_same_model(toy_config: Path, tmp_path: Path) -> None:
    done = write_jobs("train", toy_config, tmp_path / "jobs", to="slurm")
    job = subprocess.Popen(["bash", done.folder / "job.sh"], stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("epoch 1/3"):
            job.send_signal(signal.SIGKILL)
            break
    job.stderr.close()
    job.wait()
    again = bash(done.folder / "job.sh", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    whole = train(load_config(toy_config, overrides={"output": "whole"})).model.network.state_dict()
    for name, value in (
        load_model(toy_config.parent / "run" / "model.safetensors").network.state_dict().items()
    ):
        np.testing.assert_array_equal(value.numpy(), whole[name].numpy())
