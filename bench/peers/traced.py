"""`timelike.nn`, with a trace of every step; or with all that can be read from it, too."""

from __future__ import annotations

from bench.cases import Array, Case
from bench.peers.ours import Ours
from bench.worker import Job
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.records import layer_traces
from timelike.recording import recording


class Traced(Ours):
    """The same layers, recorded."""

    def __init__(self, threads: int, *, derived: bool = False) -> None:
        super().__init__(threads)
        self._derived = derived

    def prepare(self, case: Case, variant: str) -> Job:  # type: ignore[override]
        job = super().prepare(case, variant)

        def call() -> list[LayerTrace]:
            with recording() as kept:
                job.call()
            found = [layer for record in kept for layer in layer_traces("", record)]
            if self._derived:
                for layer in found:
                    layer.arrays()
            return found

        def results() -> dict[str, Array]:
            with recording():
                return job.results()

        return Job(call, results)


def peer(threads: int) -> Traced:
    return Traced(threads)
