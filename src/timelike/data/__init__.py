"""From files of events to `timelike.Sequences`.

`read` does the whole chain: open (ROOT, Parquet, HDF5, NumPy), select events, derive variables, check, order
and truncate the steps. What is done with the result is beside it:

- `timelike.data.split` -- shares of events for training, validation and test;
- `timelike.data.transforms` -- transforms of variables, fitted on training steps;
- `timelike.data.write` -- tables of scores, written to ROOT or Parquet;
- `timelike.data.expressions` -- the language of cuts and derived variables.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timelike.data.reading import read

__all__ = ["read"]


def __getattr__(name: str) -> Any:
    if name != "read":
        raise AttributeError(f"module 'timelike.data' has no attribute {name!r}")
    from timelike.data.reading import read  # not before it is asked for: who has arrays needs no readers

    return read
