"""A process in which one library runs, and takes the time of its own calls.

    python -m bench.worker PEER THREADS

It reads requests from standard input and writes answers to standard output, pickled, until its input ends.
What the library itself prints goes to the error stream.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from bench.cases import Array, Case

__all__ = ["Job", "Peer"]


class Job(NamedTuple):
    """A case made ready: the work to be timed, and what comes out of it."""

    call: Callable[[], object]  # returns when all its results are there
    results: Callable[[], dict[str, Array]]  # see `drive.check`
    times: int = 1  # how often one call does what is asked for


class Peer(Protocol):
    """What each module of `bench.peers` has."""

    def versions(self) -> dict[str, str]:
        """Versions of what runs."""

    def set_threads(self, n: int) -> None:
        """Use so many threads from now on."""

    def variants(self, case: Case) -> tuple[str, ...]:
        """Name the ways to compute a case, of which the fastest counts; none if it cannot."""

    def prepare(self, case: Case, variant: str) -> Job:
        """Make everything ready: weights, inputs, compiled code."""

    def forget(self) -> None:
        """Let go of what the library keeps of former jobs."""


class _Worker:
    """Answers requests; each method is one."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._jobs: dict[str, Job] = {}

    def versions(self) -> dict[str, str]:
        return self._peer.versions()

    def set_threads(self, n: int) -> None:
        self._peer.set_threads(n)

    def variants(self, case: Case) -> tuple[str, ...]:
        return self._peer.variants(case)

    def prepare(self, key: str, case: Case, variant: str) -> None:
        self._jobs[key] = self._peer.prepare(case, variant)
        self._jobs[key].call()

    def results(self, key: str) -> dict[str, Array]:
        return self._jobs[key].results()

    def burst(self, key: str, clock: str, inner: int, samples: int) -> list[float]:
        """Seconds of one call, so many samples of it, each the mean of `inner` calls."""
        now = {"cpu": time.process_time, "wall": time.perf_counter}[clock]
        job = self._jobs[key]
        call = job.call
        taken = []
        for _ in range(samples):
            begin = now()
            for _ in range(inner):
                call()
            taken.append((now() - begin) / (inner * job.times))
        return taken

    def forget(self) -> None:
        self._jobs.clear()
        self._peer.forget()

    def peak(self, case: Case, variant: str) -> int:
        """Bytes by which the peak of this process rises in one call."""
        # The library's own first-time memory is none of the case's: run a small one before.
        small = case.size._replace(T=2)
        self._peer.prepare(Case(**(vars(case) | {"size": small})), variant).call()
        job = self._peer.prepare(case, variant)
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is there now
        job.call()
        return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise LookupError(f"/proc/self/status has no {field}")


def serve(requests: BinaryIO, answers: BinaryIO, worker: _Worker) -> None:
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            answer = "done", getattr(worker, method)(*arguments)
        except Exception:  # the driver raises it again
            answer = "failed", traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    peer: Peer = importlib.import_module(f"bench.peers.{name}").peer(threads)
    serve(sys.stdin.buffer, answers, _Worker(peer))


if __name__ == "__main__":
    main()
