"""How many threads: who says so, and what is refused."""

import subprocess
import sys

import pytest

import timelike


@pytest.fixture(autouse=True)
def _follow_again():
    yield
    timelike.set_num_threads(None)


def test_what_is_set_is_used():
    timelike.set_num_threads(3)
    assert timelike.get_num_threads() == 3


def test_any_integer_will_do():
    import numpy as np

    timelike.set_num_threads(np.int32(2))
    assert timelike.get_num_threads() == 2


def test_torch_is_followed():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert timelike.get_num_threads() == 3
        timelike.set_num_threads(2)
        assert timelike.get_num_threads() == 2
        timelike.set_num_threads(None)
        assert timelike.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n", ["2", 2.0, True, [1]])
def test_what_is_no_integer_is_refused(n):
    with pytest.raises(TypeError, match=r"set_num_threads: got .*possible: 1 to 1024, or None"):
        timelike.set_num_threads(n)


@pytest.mark.parametrize("n", [0, -1, 1025, 10**12])
def test_what_is_no_number_of_threads_is_refused(n):
    with pytest.raises(ValueError, match=f"set_num_threads: got {n}; possible: 1 to 1024"):
        timelike.set_num_threads(n)


def in_new_process(code, **environment):
    import os

    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


ASK = "import sys, timelike; print(timelike.get_num_threads()); assert 'torch' not in sys.modules"


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), (" 5 ", 5), ("4,2", 4), ("99999", 1024)])
def test_without_torch_the_environment_says(asked, expected):
    assert int(in_new_process(ASK, OMP_NUM_THREADS=asked).stdout) == expected


def test_without_torch_and_environment_each_processor_gets_one():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert int(in_new_process(code + ASK).stdout) == 1
    assert int(in_new_process(ASK, OMP_NUM_THREADS="").stdout) >= 1


@pytest.mark.parametrize("asked", ["two", "0", "-1", "1.5", ","])
def test_an_environment_that_makes_no_sense_is_refused(asked):
    result = in_new_process(ASK, OMP_NUM_THREADS=asked)
    assert result.returncode != 0
    assert f"TimelikeError: OMP_NUM_THREADS='{asked}': not a number of threads" in result.stderr
