"""The workers, the check of what they compute, and the turns in which their times are taken.

A *contender* is a library on so many threads; where it has several ways to compute a case, the fastest one
is its time.
"""

from __future__ import annotations

import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.cases import Case
from bench.epochs import Epoch
from bench.exact import check
from bench.scores import Scores

__all__ = ["PEERS", "Contender", "Driver", "Entry", "Failure", "Timing", "absent", "installed"]

ROOT = Path(__file__).resolve().parents[1]
_PINS = hasattr(os, "sched_setaffinity")
_SAMPLE = 1e-3  # seconds that a sample takes at least: the clock's own time is a microsecond
_LONG = 0.05  # seconds after which it makes no difference whose the caches were
_REST = 0.01  # seconds after which waiting threads of the one before no longer spin
_SLOWER = 1.5  # a variant that takes so many times as long as another of its library is timed no further


class _Peer(NamedTuple):
    name: str  # in tables
    modules: tuple[str, ...]  # what must be there to run it


PEERS = {
    "ours": _Peer("timelike", ("timelike", "torch")),
    "session": _Peer("timelike, prepared", ("timelike",)),
    "header": _Peer("C++ header", ("timelike",)),
    "empty": _Peer("an empty layer", ("timelike", "torch")),
    "traced": _Peer("timelike, traced", ("timelike", "torch", "pydantic")),
    "derived": _Peer("timelike, all derived", ("timelike", "torch", "pydantic")),
    "pytorch": _Peer("torch", ("torch",)),
    "jax": _Peer("JAX", ("jax",)),
    "keras": _Peer("TensorFlow", ("tensorflow", "keras")),
    "onnxruntime": _Peer("ONNX Runtime", ("onnx", "onnxruntime")),
    "fit": _Peer("timelike", ("timelike", "torch", "pydantic")),
    "scorer": _Peer("timelike", ("timelike",)),
    "scores_torch": _Peer("torch", ("torch",)),
    "scores_onnxruntime": _Peer("ONNX Runtime", ("onnx", "onnxruntime")),
    "loop": _Peer("PyTorch", ("torch",)),
    "keras_fit": _Peer("Keras", ("tensorflow", "keras")),
    "applied": _Peer("timelike", ("timelike", "pydantic", "uproot")),
    "onnx_applied": _Peer("ONNX Runtime", ("onnx", "onnxruntime", "uproot", "awkward")),
}


class Failure(Exception):
    """A worker raised, or computed something wrong."""


class Contender(NamedTuple):
    """A library on so many threads."""

    peer: str
    threads: int = 1


class Entry(NamedTuple):
    """What takes part in a race: a contender, and the case it computes."""

    contender: Contender
    case: Case | Epoch | Scores


class _Run(NamedTuple):
    """An entry in one of its variants."""

    name: str
    entry: Entry
    variant: str

    def __str__(self) -> str:
        return f"{self.name}/{self.variant}"


@dataclass(frozen=True)
class Timing:
    """What was measured of a contender."""

    seconds: float  # median of one call
    low: float  # quartiles
    high: float
    samples: int
    variant: str
    error: float  # the largest, relative to the largest number of the same kind

    @classmethod
    def of(cls, taken: Sequence[float], variant: str, error: float) -> Timing:
        low, high = np.quantile(taken, [0.25, 0.75])
        return cls(statistics.median(taken), float(low), float(high), len(taken), variant, error)


class _Process:
    """A worker's process."""

    def __init__(self, interpreter: str, contender: Contender) -> None:
        processors = sorted(os.sched_getaffinity(0))[-contender.threads :] if _PINS else []

        def pin() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when this process does
            if processors:
                os.sched_setaffinity(0, processors)

        self._process = subprocess.Popen(
            [interpreter, "-m", "bench.worker", contender.peer, str(contender.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(contender.threads)},
            preexec_fn=pin,
        )
        self._name = PEERS[contender.peer].name

    def ask(self, method: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            status, answer = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError):
            raise Failure(f"{self._name}: the process ended, with exit code {self._process.wait()}") from None
        if status == "failed":
            raise Failure(f"{self._name}: {method} failed\n{answer}")
        return answer

    def stop(self) -> None:
        """End it by the end of its requests."""
        self._process.communicate()


@dataclass
class Driver:
    """Runs cases with contenders.

    Parameters
    ----------
    seconds : float
        Time spent on each contender and row.
    rounds : int
        Turns of each contender in that time.
    interpreters : dict
        The Python of each peer that is there, as `installed` finds them.
    """

    seconds: float
    rounds: int
    interpreters: dict[str, str]
    _processes: dict[Contender, _Process] = field(default_factory=dict)
    _errors: dict[_Run, float] = field(default_factory=dict)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.stop()

    def present(self, peers: Iterable[str]) -> list[str]:
        """Those of the peers that are installed."""
        return [peer for peer in peers if peer in self.interpreters]

    def versions(self) -> dict[str, str]:
        """Versions of all libraries that ran."""
        return {
            name: version
            for contender, process in self._processes.items()
            for name, version in process.ask("versions").items()
        }

    def ask(self, contender: Contender, method: str, *arguments: Any) -> Any:
        """Ask the worker of a contender, started at its first request."""
        if contender not in self._processes:
            self._processes[contender] = _Process(self.interpreters[contender.peer], contender)
        return self._processes[contender].ask(method, *arguments)

    def ask_once(self, contender: Contender, method: str, *arguments: Any) -> Any:
        """Ask a worker that is there for this request alone."""
        process = _Process(self.interpreters[contender.peer], contender)
        try:
            return process.ask(method, *arguments)
        finally:
            process.stop()

    def race(self, entries: dict[str, Entry], clock: str = "cpu") -> dict[str, Timing]:
        """Check what the entries compute, then time them in turn.

        Parameters
        ----------
        entries : dict
            By the name that each has in the result. An entry whose library cannot compute its case is left
            out.
        clock : {"cpu", "wall"}
            Time that a process used on all its threads, or time that went by.

        Returns
        -------
        dict
            The timing of each entry's fastest variant.

        Raises
        ------
        Failure
            If one of them fails, or computes something wrong.
        """
        runs = [
            _Run(name, entry, variant)
            for name, entry in entries.items()
            for variant in self.ask(entry.contender, "variants", entry.case)
        ]
        for run in runs:
            self._prepare(run)
        rough = {run: min(self._burst(run, clock, 1, 3)) for run in runs}
        best = {run.name: min(rough[other] for other in runs if other.name == run.name) for run in runs}
        runs = [run for run in runs if rough[run] <= _SLOWER * best[run.name]]
        times: dict[_Run, list[float]] = {run: [] for run in runs}
        for turn in range(self.rounds):
            for run in runs if turn % 2 else runs[::-1]:
                inner = max(1, round(_SAMPLE / rough[run]))
                samples = max(1, round(self.seconds / self.rounds / (inner * rough[run])))
                if clock == "wall":
                    time.sleep(_REST)
                if rough[run] < _LONG:
                    self._burst(run, clock, 1, 1)  # the caches were another's
                times[run] += self._burst(run, clock, inner, samples)
        found: dict[str, Timing] = {}
        for run, taken in times.items():
            timing = Timing.of(taken, run.variant, self._errors[run])
            if run.name not in found or timing.seconds < found[run.name].seconds:
                found[run.name] = timing
        for contender in {run.entry.contender for run in runs}:
            self.ask(contender, "forget")
        self._errors.clear()
        return found

    def _prepare(self, run: _Run) -> None:
        """Have a job made ready, and its results checked."""
        peer, case = run.entry.contender.peer, run.entry.case
        self.ask(run.entry.contender, "prepare", str(run), case, run.variant)
        try:
            self._errors[run] = check(peer, case, self.ask(run.entry.contender, "results", str(run)))
        except ValueError as error:
            raise Failure(f"{PEERS[peer].name} {run.variant}: {error}") from None

    def _burst(self, run: _Run, clock: str, inner: int, samples: int) -> list[float]:
        taken: list[float] = self.ask(run.entry.contender, "burst", str(run), clock, inner, samples)
        return taken


def installed() -> dict[str, str]:
    """Find the Python that each peer runs in: that of `.venv-bench`, or this one; this one for ours."""
    theirs = ROOT / ".venv-bench" / "bin" / "python"
    found: dict[str, str] = {}
    for interpreter in [sys.executable, *([str(theirs)] if theirs.exists() else [])]:
        there = _modules(interpreter)
        for name, peer in PEERS.items():
            ours = "timelike" in peer.modules
            if there.issuperset(peer.modules) and (interpreter == sys.executable or not ours):
                found[name] = interpreter
    return found


def absent(interpreters: dict[str, str]) -> list[str]:
    """Modules of the peers that are not there."""
    return list(dict.fromkeys(m for name, p in PEERS.items() if name not in interpreters for m in p.modules))


def _modules(interpreter: str) -> set[str]:
    """Those modules of all peers that an interpreter can import."""
    wanted = {module for peer in PEERS.values() for module in peer.modules}
    code = "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if u.find_spec(m)))"
    run = subprocess.run([interpreter, "-c", code, *wanted], check=True, capture_output=True, text=True)
    return set(run.stdout.split())
