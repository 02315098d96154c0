"""Files of toy events that are streamed, and the config that does so, without a spool on whatever machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import uproot

from timelike.config import Config, load_config
from timelike.sequences import Sequences
from toys import N_EVENTS, TOY_CONFIG, toy_columns

N_FILES = 3


def some_columns(k: int) -> dict[str, Any]:
    columns = toy_columns(seed=k)
    columns["eventNumber"] = columns["eventNumber"] + 1000 * k
    return columns


def write_ttree(path: Path, columns: dict[str, Any], basket: int = 50) -> None:
    """Write a TTree in baskets of so many entries."""
    types = {name: "var * float32" if isinstance(of, ak.Array) else of.dtype for name, of in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("jets", types)
        for start in range(0, N_EVENTS, basket):
            file["jets"].extend({name: of[start : start + basket] for name, of in columns.items()})


def write_rntuple(path: Path, columns: dict[str, Any]) -> None:
    """Write an RNTuple in clusters of 60 entries."""
    with uproot.recreate(path) as file:
        pieces = [
            ak.zip({name: ak.Array(of)[start : start + 60] for name, of in columns.items()}, depth_limit=1)
            for start in range(0, N_EVENTS, 60)
        ]
        file.mkrntuple("jets", pieces[0])
        for piece in pieces[1:]:
            file["jets"].extend(piece)


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    """Write row groups of 70 rows."""
    arrays = {
        name: ak.to_arrow(ak.from_numpy(of) if isinstance(of, np.ndarray) else of, extensionarray=False)
        for name, of in columns.items()
    }
    pyarrow.parquet.write_table(pa.table(arrays), path, row_group_size=70)


FORMATS: dict[str, tuple[Callable[..., None], str, str]] = {
    "ttree": (write_ttree, "root", "treename: jets"),
    "one basket": (lambda path, columns: write_ttree(path, columns, N_EVENTS), "root", "treename: jets"),
    "rntuple": (write_rntuple, "root", "treename: jets"),
    "parquet": (write_parquet, "parquet", ""),
}


def files_of(folder: Path, kind: str = "ttree") -> Path:
    """Write files of toy events and a config that streams them."""
    write, suffix, tree = FORMATS[kind]
    folder.mkdir(exist_ok=True)
    for k in range(N_FILES):
        write(folder / f"toy{k}.{suffix}", some_columns(k))
    text = TOY_CONFIG.replace("toy.root", f"toy*.{suffix}").replace("  treename: jets\n", f"  {tree}\n")
    path = folder / "toy.yaml"
    path.write_text(text.replace("data:\n", "data:\n  stream: {buffer: 100, spool: false}\n"))
    return path


def config_of(path: Path, **stream: Any) -> Config:
    return load_config(path, overrides={"data.stream": {"buffer": 100, "spool": False, **stream}})


def equal(one: Sequences, other: Sequences) -> None:
    assert one.names == other.names
    for name in ("values", "offsets", "labels", "weights", "events"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.observers.keys() == other.observers.keys()
    for name, column in one.observers.items():
        np.testing.assert_array_equal(column, other.observers[name])
