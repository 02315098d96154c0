"""The C++ header of `timelike.interop.cpp`, compiled for this processor, as an event loop in C++ has it.

One call from Python runs many sequences (or steps) in C++, so that Python is not in the time of one.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import timelike
from bench.cases import PARAMETERS, Array, Case, arrays
from bench.worker import Job
from timelike.interop.cpp import export_cpp
from timelike.modelfile import ModelFile

_FLAGS = ("-std=c++17", "-O2", "-march=native", "-fno-exceptions", "-shared", "-fPIC")
_TIMES = 100

_SOURCE = """\
#include "layer.h"

extern "C" void run(const float* x, int steps, const float* h0, const float* c0, float* y, float* h, float* c,
                    int times) {
  constexpr int H = layer::layer_0::units;
  for (int k = 0; k < times; ++k) {
    layer::Network::State state;
    if (h0) std::memcpy(state.h_0, h0, H * sizeof(float));
    if (c0) std::memcpy(state.c_0, c0, H * sizeof(float));
    for (int t = 0; t < steps; ++t) {
      layer::Network::step(state, x + t * layer::input_count);
      std::memcpy(y + t * H, state.h_0, H * sizeof(float));
    }
    std::memcpy(h, state.h_0, H * sizeof(float));
    std::memcpy(c, state.c_0, H * sizeof(float));
  }
}
"""


class Header:
    """One LSTM layer of a header; sequences one by one."""

    def __init__(self, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._built = 0

    def versions(self) -> dict[str, str]:
        return {"timelike": timelike.__version__}

    def set_threads(self, n: int) -> None:
        """Nothing here has threads of its own."""

    def forget(self) -> None:
        """Nothing is kept."""

    def variants(self, case: Case) -> tuple[str, ...]:
        possible = case.cell == "lstm" and case.dtype == "float32" and case.size.B == 1
        return ("",) if possible and case.kind in ("inference", "step") and shutil.which("g++") else ()

    def prepare(self, case: Case, variant: str) -> Job:
        numbers = arrays(case)
        _, T, _, H = case.size
        self._built += 1
        folder = Path(self._folder.name) / str(self._built)
        folder.mkdir()
        export_cpp(_model(case, numbers), folder / "layer.h")
        (folder / "run.cpp").write_text(_SOURCE, encoding="utf-8")
        subprocess.run(["g++", *_FLAGS, "run.cpp", "-o", "run.so"], cwd=folder, check=True)
        run = ctypes.CDLL(str(folder / "run.so")).run
        x = np.ascontiguousarray(numbers["x"][:, 0])
        states = [
            np.ascontiguousarray(numbers[name][0]) if name in numbers else None for name in ("h0", "c0")
        ]
        out = {"y": np.full((T, H), np.nan, np.float32)}
        out |= {name: np.full(H, np.nan, np.float32) for name in ("hT", "cT")}
        given = [None if array is None else array.ctypes.data_as(ctypes.c_void_p) for array in (x, *states)]
        to = [array.ctypes.data_as(ctypes.c_void_p) for array in out.values()]

        def call(times: int = _TIMES) -> None:
            run(given[0], T, *given[1:], *to, times)

        def results() -> dict[str, Array]:
            call(1)
            return {"y": out["y"][:, None], "hT": out["hT"][None], "cT": out["cT"][None]}

        return Job(call, results, _TIMES)


def _model(case: Case, numbers: dict[str, Array]) -> ModelFile:
    """A network of this layer alone; what is behind it is not called."""
    _, _, D, H = case.size
    names = [f"x{d}" for d in range(D)]
    layer = {"cell": "lstm", "units": H, "bidirectional": False}
    weights = {f"recurrent.0.{PARAMETERS[name]}": numbers[name] for name in ("W", "U", "b_ih", "b_hh")}
    weights |= {"head.0.weight": np.zeros((2, H), np.float32), "head.0.bias": np.zeros(2, np.float32)}
    transforms = {
        "names": names,
        "steps": [[{"kind": "none"}]] * D,
        "mix": None,
        "fills": [],
        "indicators": [],
    }
    meta = {
        "timelike_version": timelike.__version__,
        "network": {"recurrent": [layer], "head": {"units": []}},
        "variables": names,
        "transforms": transforms,
        "classes": ["a", "b"],
        "signal": "b",
        "data": {},
        "sequence": {},
    }
    return ModelFile(weights, meta)


def peer(threads: int) -> Header:
    return Header(threads)
