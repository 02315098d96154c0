"""`timelike.runtime`: weights packed once, NumPy arrays, no PyTorch."""

from __future__ import annotations

import timelike
from bench.cases import PARAMETERS, PROBE, Array, Case, arrays
from bench.worker import Job
from timelike import _core, kernels
from timelike.runtime import Recurrent


class Session:
    """Prepared inference."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def set_threads(self, n: int) -> None:
        self._threads = n

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Case) -> tuple[str, ...]:
        return ("",) if case.kind in ("inference", "step", "peak") else ()

    def prepare(self, case: Case, variant: str) -> Job:
        if case.kind == "peak":
            run_probe = getattr(_core, f"multiply_adds_f{case.dtype[-2:]}")
            return Job(lambda: run_probe(kernels.isa(), PROBE), dict)
        numbers = arrays(case)
        weights = {theirs: numbers[name] for name, theirs in PARAMETERS.items() if name in numbers}
        session = Recurrent(weights, case.cell, threads=self._threads)
        x = numbers["x"]
        if case.kind == "inference":

            def run() -> dict[str, Array]:
                y, states = session.run(x)
                return {"y": y} | _named(states)

            return Job(lambda: session.run(x), run)

        stream = session.stream(case.size.B)
        states = tuple(numbers[name][None] for name in ("h0", "c0") if name in numbers)
        x = x[0]

        def step() -> dict[str, Array]:
            stream.reset(states if len(states) == 2 else states[0])
            y = stream.step(x)
            return {"y": y[None]} | _named(stream.state)

        return Job(lambda: stream.step(x), step)


def _named(states: Array | tuple[Array, Array]) -> dict[str, Array]:
    h, *c = states if isinstance(states, tuple) else (states,)
    return {"hT": h[0]} | ({"cT": c[0][0]} if c else {})


def peer(threads: int) -> Session:
    return Session(threads)
