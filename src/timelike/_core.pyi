# The native module as `kernels.py` and `runtime.py` see it; see src/kernels/module.cpp and session.cpp.
from typing import Any

import numpy.typing as npt

def instruction_sets() -> list[str]: ...
def function_f32(isa: str, name: str, x: int, y: int, n: int, /) -> None: ...
def function_f64(isa: str, name: str, x: int, y: int, n: int, /) -> None: ...

class Rows:
    def __init__(
        self,
        start: int,
        step: int,
        length: int,
        tape_start: int,
        tape_step: int,
        count: int,
        index: int = 0,
        tape_index: int = 0,
    ) -> None: ...

class Copies:
    def __init__(self, arrays: list[int], sizes: list[int], /) -> None: ...
    def addresses(self) -> list[int]: ...
    def same(self, arrays: list[int], /) -> bool: ...

def layer_f32(isa: str, cell: str, D: int, H: int, R: int, /) -> Any: ...
def layer_f64(isa: str, cell: str, D: int, H: int, R: int, /) -> Any: ...

class Session:
    def run(
        self, x: Any, offsets: Any, lengths: Any, state: Any, out: Any, steps: bool, threads: int, /
    ) -> Any: ...
    def stream(self, n_sequences: int, /) -> Stream: ...

class Stream:
    def step(self, x: Any, out: Any, threads: int, /) -> npt.NDArray[Any]: ...
    def reset(self, state: Any, /) -> None: ...
    def state(self) -> Any: ...

def session(
    isa: str,
    cell: str,
    dtype: str,
    has_cell_state: bool,
    layers: list[list[tuple[npt.NDArray[Any], int, int, int]]],
    batch_first: bool,
    /,
) -> Session: ...
