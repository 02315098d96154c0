"""The bits do not depend on threads; many callers and fork() are safe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kernel_cases import CELLS, DTYPES, ISAS, Case, assert_close, assert_same_bits

# Nine chunks or more, as many tasks backward, and work that pays for eight threads.
LARGE = (400, 20, 9, 33, 20)  # B, T, D, H, R
# Weights of more than 4 MiB: backward, all sequences take a step together, up to 144 of them, and what up to
# 432 rows give is summed by all threads.
WIDE = (150, 14, 570, 301, 150)


ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


def in_a_process(code: str) -> str:
    """Run code in a process of its own, which has not used any threads; what hangs fails.

    There, `case` is a large layer and `threads()` the number of threads of the process.
    """
    head = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from kernel_cases import Case, assert_same_bits
case = Case("lstm", *{LARGE}, "float32")
def threads():
    return len(os.listdir("/proc/self/task"))
"""
    # A child of fork() in a process with threads is what is tested; Python warns of it.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_threads_do_not_change_a_bit(cell, dtype):
    case = Case(cell, *LARGE, dtype)
    alone = case.run()
    for threads in (2, 3, 8, 8):
        assert_same_bits(case.run(threads=threads), alone)
    without = [name for name in alone if name[0] == "d" and name != "dx"]  # each chunk is a task then
    assert_same_bits(case.run(threads=8, without=without), alone, ["y", "dx"])


@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole", "lstm_projected", "gru_reset_before"])
def test_threads_do_not_change_a_bit_of_wide_layers(cell):
    case = Case(cell, *WIDE, "float32")
    alone = case.run()
    assert_close(case, alone, case.reference())
    for threads in (2, 3, 8):
        assert_same_bits(case.run(threads=threads), alone)
    without = [name for name in alone if name[0] == "d" and name != "dx"]
    assert_same_bits(case.run(threads=2, without=without), alone, ["y", "dx"])
    assert_same_bits(case.run(threads=2, borders=[5]), alone, ["y", "dx", "dh0"])


@pytest.mark.parametrize("isa", ISAS)
def test_threads_do_not_change_a_bit_on_any_instruction_set(isa):
    case = Case("gru_reset_before", *LARGE, "float32")
    assert_same_bits(case.run(isa, threads=8), case.run(isa))


@pytest.mark.parametrize("cell", CELLS)
def test_threads_do_not_change_a_bit_of_windows(cell):
    case = Case(cell, *LARGE, "float32")
    how = {"borders": [4, 9], "ring": True, "reverse": True}
    assert_same_bits(case.run(threads=3, **how), case.run(**how))


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts the threads of a process as Linux does"
)
def test_threads_are_used_where_they_pay_off():
    """So that the tests above test something; and a small layer wakes nobody."""
    code = """
before = threads()
Case("lstm", 400, 2, 1, 2, dtype="float32").run(threads=8)
assert threads() == before, "threads for a small layer"
case.run()
assert threads() == before, "threads that were not asked for"
for n in (2, 3, 8, 3):
    case.run(threads=n)
    print(threads() - before)
"""
    assert in_a_process(code).split() == ["1", "2", "7", "7"]


@pytest.mark.parametrize("cell", ["lstm_projected", "gru_reset_before"])
def test_several_python_threads_at_once(cell):
    """The kernels' threads serve one of them, the others work alone: the same bits for all."""
    cases = [Case(cell, *LARGE, "float32", seed=seed) for seed in range(4)]
    expected = [case.run() for case in cases]
    with ThreadPoolExecutor(4) as callers:
        runs = list(callers.map(lambda case: [case.run(threads=3) for _ in range(10)], cases))
    for several, one in zip(runs, expected, strict=True):
        for got in several:
            assert_same_bits(got, one)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_a_child_of_fork_has_threads_of_its_own():
    code = """
expected = case.run()
for generation in range(3):
    assert_same_bits(case.run(threads=3), expected)
    before = threads()
    child = os.fork()
    if child == 0:
        try:
            assert threads() == 1
            assert_same_bits(case.run(threads=3), expected)
            assert threads() == 3
            grandchild = os.fork()
            if grandchild == 0:
                assert_same_bits(case.run(threads=2), expected)
                os._exit(0)
            assert os.waitpid(grandchild, 0)[1] == 0
            os._exit(0)
        finally:
            os._exit(1)
    assert_same_bits(case.run(threads=3), expected)
    assert os.waitpid(child, 0)[1] == 0
    assert threads() <= before  # a sanitizer may have had one of its own
print("done")
"""
    assert in_a_process(code).split() == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_fork_while_other_threads_compute():
    code = """
import threading
expected, stop = case.run(), threading.Event()
def work():
    while not stop.is_set():
        assert_same_bits(case.run(threads=3), expected)
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
try:
    for _ in range(10):
        child = os.fork()
        if child == 0:
            try:
                assert_same_bits(case.run(threads=3), expected)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
finally:
    stop.set()
for worker in workers:
    worker.join()
print("done")
"""
    assert in_a_process(code).split() == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_workers_of_multiprocessing():
    code = """
import multiprocessing
def work(threads):
    assert_same_bits(case.run(threads=threads), expected)
    return threads
expected = case.run(threads=3)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(*pool.map(work, [1, 2, 3, 8]))
"""
    assert in_a_process(code).split() == ["1", "2", "3", "8"]


def test_numbers_of_threads_that_make_no_sense_mean_one():
    case = Case("gru", 100, 9, 9, 33, dtype="float32")
    alone = case.run()
    for threads in (0, -1, -(2**31)):
        assert_same_bits(case.run(threads=threads), alone)
    assert np.isfinite(alone["y"]).all()


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
def test_the_pool_alone(tmp_path):
    """Errors of tasks, several callers that wait at once: what no kernel can be brought to do."""
    program, sources = tmp_path / "threads", ("tests/native/threads.cpp", "src/kernels/threads.cpp")
    build = [COMPILER, "-std=c++17", "-O1", "-pthread", "-Isrc/kernels", *sources, "-o", str(program)]
    subprocess.run(build, cwd=ROOT, check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
