"""Plant wrong formulas, one at a time, and see that the tests catch each: ``make mutants``.

Each worker has a copy of the sources and a build of its own, aside from the working tree and from the
installed package; only the fastest instruction set of this machine is built, with little optimisation. First
the tests must pass on what is not mutated. Ends with a table, and with an error if a mutant survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from planted import MUTANTS, Mutant, mutated

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "mutants"

KERNELS = ("test_kernels.py", "test_kernels_layouts.py", "test_kernels_threads.py", "test_kernels_errors.py")
TESTS = {  # the first folder that a file is in: its tests, the quickest to find something first
    "src/kernels/math.h": ("test_*elementwise.py", *KERNELS),
    "src/kernels/threads": ("test_kernels_threads.py",),
    "src/kernels": KERNELS,
    "src/timelike/kernels.py": ("test_kernels_errors.py", *KERNELS),
    "src/timelike/composition.py": ("test_nn_composition.py", "test_nn_*.py"),
    "src/timelike/autograd.py": ("test_nn_autograd.py", "test_nn_*.py"),
    "src/timelike": ("test_nn_layouts.py", "test_nn_masks.py", "test_nn_*.py"),
}
HANGS = 600  # seconds after which tests count as hanging


class Failed(Exception):
    """Something other than a test went wrong."""


class Worker:
    """A copy of the sources, built once, in which mutants live one after another."""

    def __init__(self, name: str, python: Path) -> None:
        self.root, self.python = PLACE / name, python
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for part in ("src", "tests", "CMakeLists.txt", "pyproject.toml"):
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part, self.root / part, ignore=shutil.ignore_patterns("*.so", "__pycache__")
                )
            else:
                shutil.copy(ROOT / part, self.root / part)
        self._one_quick_table()
        nanobind = run([sys.executable, "-m", "nanobind", "--cmake_dir"]).strip()
        tools = [f"-Dnanobind_DIR={nanobind}", f"-DPython_EXECUTABLE={sys.executable}", "-G", "Ninja"]
        run(["cmake", "-S", self.root, "-B", self.root / "build", "-DTIMELIKE_OPTIMIZATION=-O1", *tools])
        self.build()

    def _one_quick_table(self) -> None:
        """Leave the kernels of one instruction set alone."""
        isa = run(
            [sys.executable, "-c", "from timelike import kernels; print(kernels.available()[-1])"]
        ).strip()
        sources = self.root / "src/kernels"
        for other in {"baseline", "avx2", "avx512", "neon"} - {isa}:
            (sources / f"{other}.cpp").write_text("")
        (sources / "dispatch.cpp").write_text(
            '#include "api.h"\nnamespace timelike {\n'
            f"TableList available_tables() {{ return {{{{&table_{isa}}}, 1}}; }}\n}}\n"
        )

    def build(self) -> None:
        run(["cmake", "--build", self.root / "build"])
        for library in (self.root / "build").glob("_core*.so"):
            shutil.copy(library, self.root / "src/timelike")

    def test(self, files: Iterable[str]) -> str | None:
        """Run tests up to the first that fails; give its name, None if all pass."""
        seen = [path for name in files for path in sorted((self.root / "tests").glob(name))]
        paths = [str(path.relative_to(self.root)) for path in dict.fromkeys(seen)]
        command = [self.python, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        environment.pop("TIMELIKE_ISA", None)
        try:
            done = subprocess.run(
                [*command, "-v", "-m", "not slow", *paths],
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=HANGS,
            )
        except subprocess.TimeoutExpired as hanging:
            return f"{last_test(str(hanging.stdout))} (hangs)"
        if done.returncode == 0:
            return None
        if done.returncode == 1:
            return re.findall(r"^FAILED (?:tests/)?(\S+)", done.stdout, re.MULTILINE)[0]
        if done.returncode < 0 or done.returncode > 128:
            return f"{last_test(done.stdout)} (crashes)"
        raise Failed(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def judge(self, mutant: Mutant) -> str | None:
        """Plant the mutant; give the test that catches it, None if it survives."""
        path = self.root / mutant.path
        original = path.read_text()
        path.write_text(mutated(original, mutant))
        try:
            if path.suffix != ".py":
                self.build()
            return self.test(next(tests for part, tests in TESTS.items() if mutant.path.startswith(part)))
        finally:
            path.write_text(original)


def last_test(output: str) -> str:
    return (re.findall(r"^(?:tests/)?(test_\S+::\S+)", output, re.MULTILINE) or ["?"])[-1]


def run(command: list[str | Path]) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where cmake and ninja are
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path})
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def own_python() -> Path:
    """An environment that sees what is installed here, but not the package itself."""
    place = PLACE / "python"
    venv.create(place, clear=True, with_pip=False)
    (seen,) = place.glob("lib/python*/site-packages")
    (seen / "installed.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    return place / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description="See that the tests catch planted mistakes.")
    parser.add_argument(
        "pattern", nargs="?", default="", help="only mutants with this in their file or reason"
    )
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="workers (default: all CPUs)")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.pattern in f"{m.path} {m.why}"]
    for mutant in chosen:
        mutated((ROOT / mutant.path).read_text(), mutant)  # before anything takes time
    # Python first: those run on the kernels as they are.
    chosen.sort(key=lambda m: not m.path.endswith(".py"))
    begun, python = time.monotonic(), own_python()
    workers: Queue[Worker] = Queue()
    caught: dict[Mutant, str | None] = {}

    def judge(mutant: Mutant) -> None:
        worker = workers.get()
        try:
            caught[mutant] = worker.judge(mutant)
        finally:
            workers.put(worker)
        print(f"{len(caught):3}/{len(chosen)}  {line(mutant, caught[mutant])}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for worker in pool.map(lambda k: Worker(f"worker{k}", python), range(options.jobs)):
            workers.put(worker)
        every = dict.fromkeys(
            name
            for part, tests in TESTS.items()
            if any(m.path.startswith(part) for m in chosen)
            for name in tests
        )
        failing = worker.test(every)
        if failing:
            print(f"{failing} fails without any mutant")
            return 1
        list(pool.map(judge, chosen))
    survivors = [mutant for mutant in chosen if caught[mutant] is None]
    print(f"\n{'file':34} {'planted':72} caught by")
    for mutant in sorted(chosen, key=lambda m: m.path):
        print(line(mutant, caught[mutant]))
    minutes = (time.monotonic() - begun) / 60
    print(f"\n{len(chosen)} mutants, {len(survivors)} survive; {minutes:.0f} minutes")
    return 1 if survivors else 0


def line(mutant: Mutant, test: str | None) -> str:
    return f"{mutant.path.removeprefix('src/'):34} {mutant.why:72} {test or 'SURVIVES'}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"mutants: {failure}")
