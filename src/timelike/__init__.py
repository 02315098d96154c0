"""Recurrent networks whose backpropagation through time is exact, fast and visible.

`import timelike` needs NumPy alone; each part imports what it needs when it is used:

- `timelike.nn` -- layers for PyTorch, drop-in for `torch.nn`'s;
- `timelike.set_num_threads` -- how many threads they may use;
- `timelike.trace` -- every gate, state and gradient at every step; `timelike.inspect` -- what they tell;
- `timelike.kernels` -- the same layers on NumPy arrays, without PyTorch;
- `timelike.load` -- a trained model that scores NumPy arrays, without PyTorch: whole sequences or streams;
- `timelike.runtime` -- a recurrent layer alone, likewise: weights packed once;
- `timelike.Sequences` -- a ragged batch of sequences;
- `timelike.data` -- from ROOT, Parquet, HDF5 and NumPy files to `Sequences`;
- `timelike.train`, `timelike.runs`, `timelike.apply` -- from a config to a model, a report and scores;
- `timelike.sklearn` -- the networks as scikit-learn's estimators;
- `timelike.reference` -- every cell in plain NumPy float64: slow, readable, the law.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from timelike.sequences import Sequences
from timelike.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from timelike.inspect import trace
    from timelike.scorer import load

__all__ = ["Sequences", "__version__", "get_num_threads", "load", "set_num_threads", "trace"]

_LATER = {"load": "timelike.scorer", "trace": "timelike.inspect"}  # not before they are asked for


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'timelike' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
