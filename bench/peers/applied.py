"""`timelike.load` on events in memory, and `timelike apply` from file to file, without PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timelike
from bench.applications import Application, names, write_events
from bench.cases import Array
from bench.epochs import events, weights
from bench.worker import Job
from timelike import kernels
from timelike.apply import apply
from timelike.data.sources import open_table
from timelike.modelfile import write_model_file

_NAMES = {
    "W": "recurrent.0.weight_ih_l0",
    "U": "recurrent.0.weight_hh_l0",
    "b_ih": "recurrent.0.bias_ih_l0",
    "b_hh": "recurrent.0.bias_hh_l0",
    "V": "head.0.weight",
    "b": "head.0.bias",
}


class Applied:
    """A model file that is loaded once."""

    def __init__(self, threads: int) -> None:
        self.set_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def set_threads(self, n: int) -> None:
        timelike.set_num_threads(n)

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Application) -> tuple[str, ...]:
        return ("",)

    def prepare(self, case: Application, variant: str) -> Job:
        folder = Path(tempfile.mkdtemp())
        write_model(case, folder / "model.safetensors")
        if not case.files:
            x, offsets, _ = events(case)
            sequences = timelike.Sequences(x, offsets, tuple(names(case)))
            model = timelike.load(folder / "model.safetensors")
            return Job(lambda: model.predict(sequences), lambda: {"scores": model.predict(sequences)})
        write_events(case, folder / "events.root")

        def run() -> None:
            apply(folder / "model.safetensors", [folder / "events.root"], folder / "scores.root")

        def results() -> dict[str, Array]:
            import numpy as np

            run()
            with open_table(folder / "scores.root", None, None) as table:
                return {"scores": np.stack([table.read(f"score_{c}").values for c in "ab"], axis=1)}

        return Job(run, results)


def write_model(case: Application, path: Path) -> None:
    """Write the model of a case as a training would."""
    variables, D = names(case), case.size.D
    layer = {"cell": "lstm", "units": case.size.H, "bidirectional": False}
    plain = {"names": variables, "kinds": ["none"] * D, "mean": [0.0] * D, "scale": [1.0] * D}
    labels = {"a": "label == 0", "b": "label == 1"}
    meta = {
        "network": {"recurrent": [layer], "head": {"units": []}},
        "variables": variables,
        "transforms": plain,
        "data": {"files": ["events.root"], "treename": "events", "variables": variables, "labels": labels},
        "sequence": {},
        "training": {},
        "classes": list(labels),
        "signal": "b",
    }
    given = weights(case)
    write_model_file(path, {name: given[n] for n, name in _NAMES.items()}, meta)


def peer(threads: int) -> Applied:
    return Applied(threads)
