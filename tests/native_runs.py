"""Cases for tests/native/run_cases.cpp: the kernels without Python, on an emulated processor for example."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernel_cases import Case

ROOT = Path(__file__).parent.parent
FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
PARAMETERS = ("W", "U", "b_ih", "b_hh", "peephole", "projection")
GIVEN = ("x", "h0", "c0", "dy", "dhT", "dcT")
RESULTS = (
    "y", "hT", "cT", "gates", "cells", "dx", "dW", "dU", "db_ih", "db_hh", "dpeephole", "dprojection",
    "dh0", "dc0", "dgates", "dhidden", "dcells",
)  # fmt: skip


class Function(NamedTuple):
    """An elementwise function and what it is taken of."""

    name: str
    x: np.ndarray


def build(program: Path, compiler: str, table: str, *sources: str | Path, flags: Sequence[str] = ()) -> Path:
    """Compile a program that runs cases on one table, which the build names: there is no dispatch in it."""
    kernels = ROOT / "src/kernels"
    sources = (ROOT / "tests/native/run_cases.cpp", kernels / "threads.cpp", *sources)
    settings = (*FLAGS, *flags, f"-I{kernels}", f"-DTIMELIKE_TABLE={table}", "-pthread")
    command = [compiler, *settings, "-o", program, *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def encode(cases: Sequence[tuple[Case, bool] | Function]) -> bytes:
    """Write cases, each with whether it runs in reverse, as the program reads them."""
    parts = [_integers(len(cases))]
    for case in cases:
        if isinstance(case, Function):
            parts += [
                case.name.encode().ljust(24, b"\0"),
                _integers(case.x.itemsize, 0, 0, 0, 0, 0),
                _array(case.x),
            ]
            continue
        case, reverse = case
        parts += [case.cell.encode().ljust(24, b"\0"), _integers(np.dtype(case.dtype).itemsize)]
        parts += [_integers(case.B, case.D, case.H, case.R, reverse)]
        parts += [_array(case.lengths), _array(case.offsets[:-1])]
        parts += [_array(case.weights.get(name)) for name in PARAMETERS]
        parts += [_array(case.given[name]) for name in GIVEN]
    return b"".join(parts)


def decode(content: bytes, cases: Sequence[tuple[Case, bool] | Function]) -> list[dict[str, np.ndarray]]:
    """Read what the program wrote: the arrays of each case, flat."""
    results, at = [], 0
    for case in cases:
        function = isinstance(case, Function)
        dtype = case.x.dtype if function else np.dtype(case[0].dtype)
        found = {}
        for name in ("y",) if function else RESULTS:
            count = int(np.frombuffer(content, np.int64, 1, at)[0])
            found[name] = np.frombuffer(content, dtype, count, at + 8)
            at += 8 + count * dtype.itemsize
        results.append(found)
    assert at == len(content)
    return results


def _integers(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def _array(array: np.ndarray | None) -> bytes:
    return _integers(0) if array is None else _integers(array.size) + np.ascontiguousarray(array).tobytes()
