"""The kernels of instruction sets that this machine may lack: on emulators, or with their operations split.

Those that it has are named by `kernels.available()`, and all other tests of kernels run on each of them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import emulated_machine
from kernel_cases import CELLS, DTYPES, Case, assert_close
from native_runs import ROOT, Function, build, decode, encode
from test_kernels_elementwise import FUNCTIONS, RANGE, ULPS, WORST, errors, exact

SIZES = [  # B, T, D, H, R: rows and units around the edges of tiles of 2, 4, 8 and 16 lanes
    (1, 3, 1, 1, 1),
    (1, 70, 3, 33, 5),
    (2, 4, 16, 16, 16),
    (5, 5, 5, 17, 3),
    (7, 6, 2, 40, 9),
    (13, 3, 35, 31, 18),
]


def needs(packages: dict[str, str]) -> list[str]:
    """Find programs and files, or skip and tell which packages bring those that are missing."""
    found = {name: shutil.which(name) or (name if Path(name).is_file() else None) for name in packages}
    missing = [f"{name} (package {packages[name]})" for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return [path for path in found.values() if path]


def all_cases() -> list[tuple[Case, bool] | Function]:
    layers = [
        (Case(cell, *size, dtype, biases=k % 3), bool(k % 2))
        for cell in CELLS
        for dtype in DTYPES
        for k, size in enumerate(SIZES)
    ]
    return layers + [Function(f, arguments(f, dtype)) for f in FUNCTIONS for dtype in DTYPES]


def arguments(function: str, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(4)
    low, high = np.clip(RANGE[dtype][function], -1e3, 1e3)
    small = np.exp(rng.uniform(-60, 0, 5001))
    x = np.concatenate([rng.uniform(low, high, 20_000), small, -small, WORST[dtype], [0.0, low, high]])
    return x.astype(dtype)


def assert_right(results: list[dict[str, np.ndarray]], cases: list[tuple[Case, bool] | Function]) -> None:
    assert len(results) == len(cases)
    for found, case in zip(results, cases, strict=True):
        if isinstance(case, Function):
            wider = case.x.astype("float64" if case.x.dtype == np.float32 else np.longdouble)
            error = errors(found["y"], exact(case.name, wider)).max()
            assert error <= ULPS[case.x.dtype.name][case.name], (case.name, case.x.dtype, error)
            continue
        case, reverse = case
        expected = case.reference(reverse=reverse)
        shaped = {name: found[name].reshape(value.shape) for name, (value, _) in expected.items()}
        assert_close(case, shaped, expected)


def run(program: Path, folder: Path, emulator: tuple[str, ...] = ()) -> None:
    """Run all cases through a program and judge what comes out."""
    cases = all_cases()
    given, found = folder / "cases", folder / "results"
    given.write_bytes(encode(cases))
    done = subprocess.run(
        [*emulator, program, given, found], capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert_right(decode(found.read_bytes(), cases), cases)


@pytest.mark.slow
def test_registers_of_64_bytes(tmp_path):
    """The tiles and layouts of AVX-512, with operations that every processor has."""
    [compiler] = needs({"c++": "g++"})
    run(build(tmp_path / "wide", compiler, "table_wide", ROOT / "tests/native/wide.cpp"), tmp_path)


@pytest.mark.slow
def test_neon_on_an_emulated_processor(tmp_path):
    packages = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
    compiler, emulator = needs(packages)
    neon = ROOT / "src/kernels/neon.cpp"
    program = build(tmp_path / "neon", compiler, "table_neon", neon, flags=["-static"])
    run(program, tmp_path, (emulator,))


@pytest.mark.slow
def test_avx512_on_an_emulated_machine(tmp_path):
    [compiler] = needs({"c++": "g++"})
    needs(emulated_machine.PACKAGES)
    if emulated_machine.kernel() is None:
        pytest.skip("no /boot/vmlinuz-* (package linux-image-cloud-amd64), nor TIMELIKE_TEST_KERNEL")
    avx512 = ROOT / "src/kernels/avx512.cpp"
    program = build(tmp_path / "avx512", compiler, "table_avx512", avx512, flags=["-static"])
    cases = all_cases()
    assert_right(decode(emulated_machine.run(program, encode(cases), tmp_path, seconds=1800), cases), cases)
