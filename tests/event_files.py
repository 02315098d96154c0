"""Small files of events in every format, for the tests of readers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import uproot

from timelike.config import DataConfig, SequenceConfig
from timelike.data import read
from timelike.ragged import offsets_of
from timelike.sequences import Sequences

LENGTHS = [3, 0, 2, 1, 4, 2]
N = len(LENGTHS)
OFFSETS = offsets_of(LENGTHS)
ROWS = int(OFFSETS[-1])

# Per step and per event; pt is in no order within an event, and has equal values in event 4.
PT = np.array([3, 1, 2, 5, 4, 7, 2, 6, 2, 6, 8, 9], dtype=np.float32)
ETA = np.linspace(-1, 1, ROWS).astype(np.float32)
PID = np.array([11, 22, 211, -11, 13, 22, 22, 211, -211, 11, 13, 130], dtype=np.int32)
EVENTS = {
    "jet_pt": np.array([10, 20, 30, 40, 50, 60], dtype=np.float32),
    "label": np.array([0, 1, 0, 1, 1, 0], dtype=np.int32),
    "weight": np.array([1, -0.5, 2, 1, 1, 0.25], dtype=np.float32),
    "eventNumber": np.array([100, 101, 102, 103, 104, 105], dtype=np.int64),
    "passed": np.array([True, True, False, True, True, True]),
}
STEPS = {"part_pt": PT, "part_eta": ETA, "part_pid": PID}


def jagged(values: np.ndarray, lengths=LENGTHS) -> ak.Array:
    return ak.unflatten(values, lengths)


def columns(**others: Any) -> dict[str, Any]:
    """Columns per step (jagged) and per event; some in place of others, None for none."""
    known = {name: jagged(values) for name, values in STEPS.items()} | EVENTS | others
    return {name: column for name, column in known.items() if column is not None}


def ttree(path: Path, columns: Mapping[str, Any], treename: str = "jets") -> Path:
    types = {
        n: c.type.content if isinstance(c, ak.Array) else np.dtype((c.dtype, c.shape[1:]))
        for n, c in columns.items()
    }
    with uproot.recreate(path) as file:
        file.mktree(treename, types).extend(dict(columns))
    return path


def rntuple(path: Path, columns: Mapping[str, Any], treename: str = "jets") -> Path:
    with uproot.recreate(path) as file:
        file.mkrntuple(treename, ak.zip({n: ak.Array(c) for n, c in columns.items()}, depth_limit=1))
    return path


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    arrow = {
        n: ak.to_arrow(ak.from_numpy(c) if isinstance(c, np.ndarray) else c, extensionarray=False)
        for n, c in columns.items()
    }
    pyarrow.parquet.write_table(pa.table(arrow), path)
    return path


def hdf5(path: Path, columns: Mapping[str, Any], treename: str = "jets") -> Path:
    """Every jagged column as a dataset of variable-length arrays."""
    with h5py.File(path, "w") as file:
        group = file.create_group(treename)
        for name, column in columns.items():
            if isinstance(column, ak.Array):
                flat = ak.to_numpy(ak.flatten(column))
                dataset = group.create_dataset(name, (len(column),), dtype=h5py.vlen_dtype(flat.dtype))
                for i, row in enumerate(column):
                    dataset[i] = ak.to_numpy(row)
            else:
                group[name] = column
    return path


def npz(path: Path, columns: Mapping[str, Any]) -> Path:
    steps = {n: c for n, c in columns.items() if isinstance(c, ak.Array)}
    first = next(iter(steps.values()))
    np.savez(
        path,
        values=np.stack([ak.to_numpy(ak.flatten(c)) for c in steps.values()], axis=1).astype(np.float32),
        offsets=offsets_of(ak.num(first)),
        names=np.array(list(steps)),
        **{n: c for n, c in columns.items() if n not in steps},
    )
    return path


WRITERS = {
    "ttree": (ttree, "events.root"),
    "rntuple": (rntuple, "events.root"),
    "parquet": (parquet, "events.parquet"),
    "hdf5": (hdf5, "events.h5"),
    "numpy": (npz, "events.npz"),
}

DATA = {
    "files": ["events.root"],
    "variables": ["part_pt", "part_eta"],
    "labels": {"qcd": "label == 0", "top": "label == 1"},
}


def read_events(
    base: Path,
    sequence: Mapping[str, Any] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    **data: Any,
) -> Sequences:
    """Read with a config of `DATA` and these keys in place of its own; None takes a key away."""
    values = {k: v for k, v in (DATA | data).items() if v is not None}
    config = DataConfig.model_validate(values, strict=False)
    return read(config, SequenceConfig(**(sequence or {})), base=base, **(options or {}))
