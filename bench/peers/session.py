"""`timelike.runtime`: layers prepared, NumPy arrays, no PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

import timelike
from bench.cases import PARAMETERS, PROBE, Array, Case, arrays
from bench.worker import Job
from timelike import _core, kernels
from timelike.runtime import Recurrent


class Session:
    """Prepared layers."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def set_threads(self, n: int) -> None:
        self._threads = n

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Case) -> tuple[str, ...]:
        return ("",) if case.kind in ("inference", "step", "peak") or self._trains(case) else ()

    def _trains(self, case: Case) -> bool:
        return case.trains and not case.recompute

    def prepare(self, case: Case, variant: str) -> Job:
        if case.kind == "peak":
            run_probe = getattr(_core, f"multiply_adds_f{case.dtype[-2:]}")
            return Job(lambda: run_probe(kernels.isa(), PROBE), dict)
        numbers = arrays(case)
        weights = {theirs: numbers[name] for name, theirs in PARAMETERS.items() if name in numbers}
        session = Recurrent(weights, case.cell, threads=self._threads)
        x = numbers["x"]
        if case.trains:
            return training(session, weights, numbers)
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


def training(session: Recurrent, weights: dict[str, Array], numbers: dict[str, Array]) -> Job:
    """There and back, with weights that are packed anew: in a training each step has others."""
    options: dict[str, Any] = {}
    upstream: tuple[Any, ...] = (numbers["dy"],)
    if "lengths" in numbers:
        options["offsets"] = np.concatenate([[0], np.cumsum(numbers["lengths"])])
    else:
        states = tuple(numbers[name][None] for name in ("dhT", "dcT") if name in numbers)
        upstream += (states if len(states) == 2 else states[0],)

    def call() -> Any:
        session.update(weights)
        outputs, pullback = session.vjp(numbers["x"], **options)
        return outputs, pullback(*upstream)

    def results() -> dict[str, Array]:
        (y, states), gradients = call()
        found = {"y": y, "dx": gradients.x} | ({} if options else _named(states))
        theirs = {value: name for name, value in PARAMETERS.items()}
        return found | {f"d{theirs[name]}": gradient for name, gradient in gradients.weights.items()}

    return Job(call, results)


def _named(states: Array | tuple[Array, Array]) -> dict[str, Array]:
    h, *c = states if isinstance(states, tuple) else (states,)
    return {"hT": h[0]} | ({"cT": c[0][0]} if c else {})


def peer(threads: int) -> Session:
    return Session(threads)
