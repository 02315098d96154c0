"""`timelike.load`: a model file scored without PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timelike
from bench.cases import Array
from bench.scores import CLASSES, UNITS, Scores, lengths, parameters, steps
from bench.worker import Job
from timelike import kernels
from timelike.modelfile import write_model_file
from timelike.ragged import offsets_of
from timelike.scorer import Scorer
from timelike.sequences import Sequences

_NAMES = {
    "W": "recurrent.0.weight_ih_l0",
    "U": "recurrent.0.weight_hh_l0",
    "b_ih": "recurrent.0.bias_ih_l0",
    "b_hh": "recurrent.0.bias_hh_l0",
    "V": "head.0.weight",
    "a": "head.0.bias",
    "V2": "head.1.weight",
    "a2": "head.1.bias",
}


class Own:
    """`timelike.scorer`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def set_threads(self, n: int) -> None:
        self._threads = n

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Scores) -> tuple[str, ...]:
        return ("",)

    def prepare(self, case: Scores, variant: str) -> Job:
        model, x, n = loaded(case), steps(case), self._threads
        if case.kind == "whole":
            return Job(lambda: model.predict(x, threads=n), lambda: {"scores": model.predict(x)[None]})
        if case.kind == "ragged":
            events = Sequences(x, offsets_of(lengths(case)), model.variables)
            return Job(lambda: model.predict(events, threads=n), lambda: {"scores": model.predict(events)})
        session = model.stream(threads=n)
        step = x[0]

        def walk() -> dict[str, Array]:
            session.reset()
            found = [session.step(row) for row in x]
            return {"scores": found[-1][None]}

        return Job(lambda: session.step(step), walk)


def loaded(case: Scores) -> Scorer:
    """Write the classifier of a case into a model file, and load it."""
    given, size = parameters(case), case.size
    names = [f"x{d}" for d in range(size.D)]
    transforms = {"names": names, "kinds": ["standardise"] * size.D}
    transforms |= {name: given[name].astype(float).tolist() for name in ("mean", "scale")}
    meta = {
        "network": {
            "recurrent": [{"cell": "lstm", "units": size.H, "bidirectional": False}],
            "head": {"units": [UNITS]},
        },
        "variables": names,
        "transforms": transforms,
        "classes": [f"c{k}" for k in range(CLASSES)],
        "signal": "c1",
        "data": {},
        "sequence": {},
        "training": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        write_model_file(file, {theirs: given[name] for name, theirs in _NAMES.items()}, meta)
        return timelike.load(file)


def peer(threads: int) -> Own:
    return Own(threads)
