"""Processes that share the pieces of files.

Each is a fresh interpreter that runs `timelike.apply.worker`, and is asked by a thread of this process: so
nothing of the caller's is imported or forked, and whatever platform or program it is makes no difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from typing import Any

from timelike import errors
from timelike.apply.parts import Part
from timelike.apply.pieces import Piece
from timelike.errors import TimelikeError

__all__ = ["WorkerError", "Workers"]

_RUN = 8  # pieces of a file that a process takes one after another: what it has unpacked serves the next


class WorkerError(TimelikeError, RuntimeError):
    """A process that scores events has ended before its time."""


class _Worker:
    """A process."""

    def __init__(self, setup: dict[str, Any], threads: int) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        # Not the folder that it is started in, whose files might have the names of modules.
        where = {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "timelike.apply.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | where | {"OMP_NUM_THREADS": str(threads)},
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._setup: str | None = json.dumps(setup)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def score(self, piece: Piece, path: Path) -> Part:
        """Have a piece scored and its part written."""
        request = json.dumps({"piece": vars(piece), "path": str(path)})
        try:
            if self._setup is not None:
                print(self._setup, file=self._to)
                self._setup = None
            print(request, file=self._to, flush=True)
            line = self._from.readline()
        except (BrokenPipeError, ConnectionResetError):
            line = ""
        if not line:
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise WorkerError(f"{piece}: the process that scored it {how}; was the memory enough?")
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], TimelikeError)(answer["message"])
        return Part(**answer["part"] | {"variables": tuple(answer["part"]["variables"])})

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let go of the pipes of a process that has ended."""
        with self._process:
            self._process.kill()


class Workers:
    """Processes, started at once and ended with the block.

    Parameters
    ----------
    n : int
    setup : dict
        That of a `timelike.apply.scoring.PieceScorer`.
    """

    def __init__(self, n: int, setup: dict[str, Any]) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._workers = [_Worker(setup, max(1, cores // n)) for _ in range(n)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def score(
        self, pieces: Sequence[Piece], path: Callable[[Piece], Path], done: Callable[[Piece, Part], None]
    ) -> None:
        """Have pieces scored.

        Parameters
        ----------
        pieces : sequence of Piece
        path : callable
            Gives where the part of a piece goes.
        done : callable
            Is told of each part when it is there, in no order.

        Raises
        ------
        TimelikeError
            The first that one of them meets; the others are ended.
        WorkerError
            If one of them ends before its time.
        """
        lock, runs = threading.Lock(), _runs(pieces)

        def drive(worker: _Worker) -> None:
            while True:
                with lock:
                    run = next(runs, ())
                if not run:
                    return
                for piece in run:
                    part = worker.score(piece, path(piece))
                    with lock:
                        done(piece, part)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            driven = [threads.submit(drive, worker) for worker in self._workers]
            try:
                ended, _ = wait(driven, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
            except BaseException:
                for worker in self._workers:
                    worker.kill()  # its thread then meets the end of its answers
                raise


def _runs(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Cut pieces into runs of one file each."""
    for _, of_file in groupby(pieces, key=lambda piece: piece.file):
        here = list(of_file)
        for start in range(0, len(here), _RUN):
            yield here[start : start + _RUN]
