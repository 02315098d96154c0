"""Job files for farms: HTCondor's submit descriptions and Slurm's batch scripts, and what they run.

Nothing is submitted here. `write_jobs` leaves in a folder of its own

- ``job.sh``: what a job runs, ``timelike ... --resume``: killed at whatever moment and started again, it goes
  on from its last checkpoint;
- ``job.sub`` or ``job.sbatch``, and where there are several jobs ``join.sub`` or ``join.sbatch`` for the one
  that puts their results together, and ``jobs.dag`` for HTCondor's DAGMan;
- ``submit.sh``: submits it all.

The jobs need a file system that all nodes share, on which the config, its data and this Python are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from timelike.errors import ConfigError, nearest
from timelike.files import replacing

__all__ = ["FARMS", "WORK", "Jobs", "write_jobs"]

FARMS = ("condor", "slurm")
WORK = ("train", "crossval", "scan")
_MEMORY = re.compile(r"(\d+)\s*([KMGT])I?B?", re.IGNORECASE)
_TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class Jobs:
    """Job files that were written."""

    folder: Path
    files: tuple[Path, ...]
    submit: Path  # the script that submits them
    jobs: int  # that work, without the one that joins


def write_jobs(
    work: str,
    config: str | Path,
    folder: str | Path,
    *,
    to: str,
    jobs: int = 1,
    options: Sequence[str] = (),
    cpus: int = 1,
    memory: str = "2GB",
    time: str = "04:00:00",
    python: str | Path | None = None,
) -> Jobs:
    """Write the job files of a training, a cross validation or a scan.

    Parameters
    ----------
    work : {"train", "crossval", "scan"}
        What is done. Of a cross validation each fold is a job, of a scan each job makes trials of one study;
        another job then puts the results together.
    config : path
        The config's file.
    folder : path
        Where the job files go. It is made if it is not there.
    to : {"condor", "slurm"}
        The farm.
    jobs : int
        How many jobs work at once: the folds of a cross validation, or as many as wanted for a scan.
    options : sequence of str
        Options of the command, such as ``["--trials", "100"]``.
    cpus : int
        Cores of a job.
    memory : str
        Memory of a job, as ``2GB``.
    time : str
        Longest time of a job, as ``04:00:00`` or ``1-12:00:00``.
    python : path, optional
        The Python that runs the jobs; this one when not given.

    Returns
    -------
    Jobs

    Raises
    ------
    ConfigError
        If a value cannot be used, or the folder cannot be written.
    """
    for given, known, what in ((work, WORK, "work"), (to, FARMS, "farm")):
        if given not in known:
            raise ConfigError(f"{what} {given!r}: {nearest(given, known)}")
    if jobs < 1 or cpus < 1:
        raise ConfigError(f"given {jobs} jobs of {cpus} cores; 1 or more are needed")
    if work == "train" and jobs > 1:
        raise ConfigError(f"given {jobs} jobs; a training is one job")
    folder = Path(folder).absolute()
    if "\n" in str(folder):
        raise ConfigError("the folder has a line break in its name, which job files cannot have")
    asked = _Asked(re.sub(r"[^\w.-]", "_", f"{work}-{Path(config).stem}"), jobs, cpus, *_size(memory), time)
    asked.seconds  # noqa: B018 -- checks the time
    joins = work != "train"
    own = {"train": "", "crossval": ' --fold "$1"', "scan": ' --job "$1"'}[work]
    command = [str(python or sys.executable), "-m", "timelike", work, str(Path(config).absolute())]
    start = " ".join(quote(word) for word in [*command, *options])
    files = {"job.sh": _script(f"{start} --resume{own}", cpus)}
    if joins:
        files["join.sh"] = _script(f"{start} --join", 1)
    files |= (_condor if to == "condor" else _slurm)(asked, joins)
    return _written(folder, files, jobs)


@dataclass(frozen=True)
class _Asked:
    """What a job asks of its farm."""

    name: str
    jobs: int
    cpus: int
    memory: int
    unit: str  # of the memory: K, M, G or T
    time: str

    @property
    def seconds(self) -> int:
        found = _TIME.fullmatch(self.time)
        if not found:
            raise ConfigError(f"time {self.time!r}: hours, minutes and seconds are needed, as in 04:00:00")
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((24 * days + hours) * 60 + minutes) * 60 + seconds
        if not total:
            raise ConfigError(f"time {self.time!r}: more than none is needed")
        return total


def _size(memory: str) -> tuple[int, str]:
    found = _MEMORY.fullmatch(memory.strip())
    if not found or int(found[1]) == 0:
        raise ConfigError(f"memory {memory!r}: a whole number and a unit are needed, as in 2GB or 800MB")
    return int(found[1]), found[2].upper()


def _script(command: str, cpus: int) -> str:
    return f"""\
#!/bin/bash
# Started again after an eviction, it goes on from the last checkpoint.
set -euo pipefail
export OMP_NUM_THREADS={cpus}
exec {command}
"""


def _condor(asked: _Asked, joins: bool) -> Mapping[str, str]:
    def description(script: str, argument: str, queue: int, cpus: int) -> str:
        log = "join" if script == "join.sh" else "job-$(Process)"
        return f"""\
# Paths are relative to the folder of this file: submit it from there, as submit.sh does.
executable = {script}
{argument}# All nodes see the same files.
should_transfer_files = NO
request_cpus = {cpus}
request_memory = {asked.memory}{asked.unit}B
allowed_job_duration = {asked.seconds}
# Again if it was killed or broke down, but not for an error that the user has to mend (2).
max_retries = 3
retry_until = 2
output = logs/{log}.out
error = logs/{log}.err
log = logs/{script.removesuffix(".sh")}.log
queue {queue}
"""

    files = {"job.sub": description("job.sh", "arguments = $(Process)\n", asked.jobs, asked.cpus)}
    submit = "condor_submit job.sub"
    if joins:
        files["join.sub"] = description("join.sh", "", 1, 1)
        files["jobs.dag"] = "JOB work job.sub\nJOB join join.sub\nPARENT work CHILD join\n"
        submit = "condor_submit_dag jobs.dag"
    return {**files, "submit.sh": _submit(submit)}


def _slurm(asked: _Asked, joins: bool) -> Mapping[str, str]:
    def batch(script: str, name: str, cpus: int, array: int) -> str:
        several = f"#SBATCH --array=0-{array - 1}\n" if array > 1 else ""
        log = "%x-%a" if array > 1 else "%x"
        return f"""\
#!/bin/bash
#SBATCH --job-name={name}
{several}#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={asked.memory}{asked.unit}
#SBATCH --time={asked.time}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/{log}.out
#SBATCH --error=logs/{log}.err
#SBATCH --signal=B:USR1@120
# Two minutes before its time is over the job is put into the queue again, and goes on there.
set -euo pipefail
again() {{
  trap '' USR1
  kill "$!"  # known from the moment on in which the job is started
  wait "$!" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}}
trap again USR1
bash {script} "${{SLURM_ARRAY_TASK_ID:-0}}" &
wait "$!"
"""

    files = {"job.sbatch": batch("job.sh", asked.name, asked.cpus, asked.jobs)}
    submit = "sbatch job.sbatch"
    if joins:
        files["join.sbatch"] = batch("join.sh", f"{asked.name}-join", 1, 1)
        submit = 'id=$(sbatch --parsable job.sbatch)\nsbatch --dependency="afterok:${id%%;*}" join.sbatch'
    return {**files, "submit.sh": _submit(submit)}


def _submit(command: str) -> str:
    return f"""\
#!/bin/bash
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
mkdir -p logs
{command}
"""


def _written(folder: Path, files: Mapping[str, str], jobs: int) -> Jobs:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error
    for name, text in files.items():
        with replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                part.chmod(0o755)
    return Jobs(folder, tuple(folder / name for name in files), folder / "submit.sh", jobs)
