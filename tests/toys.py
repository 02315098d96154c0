"""Toy events of two classes, and a config that trains on them in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

N_EVENTS = 240


def toy_columns(n: int = N_EVENTS, *, seed: int = 0) -> dict[str, Any]:
    """Make events of two classes that differ in `part_eta`; 0 to 7 steps, a tenth of weights negative."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 8, n)
    lengths[:2] = 0, 7
    label = np.arange(n) // 2 % 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def jagged(flat: np.ndarray[Any, Any]) -> ak.Array:
        layout = ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(flat))
        return ak.Array(layout)

    rows = int(offsets[-1])
    return {
        "part_pt": jagged(rng.exponential(10.0, rows).astype(np.float32) + 1),
        "part_eta": jagged((rng.normal(0, 1, rows) + 2.0 * np.repeat(label, lengths)).astype(np.float32)),
        "label": label.astype(np.int32),
        "weight": np.where(rng.random(n) < 0.1, -0.5, 1.5).astype(np.float32),
        "eventNumber": 1000 + np.arange(n, dtype=np.int64),
        "jet_pt": rng.uniform(500, 600, n).astype(np.float32),
    }


def write_root(path: Path, columns: Mapping[str, Any], treename: str = "jets") -> Path:
    """Write columns, jagged ones as `vector<float>`-like branches."""
    with uproot.recreate(path) as file:
        file[treename] = dict(columns)
    return path


TOY_CONFIG = """\
data:
  files: toy.root
  treename: jets
  new_variables: {part_logpt: "log(part_pt)"}
  variables: [part_logpt, part_eta]
  labels: {background: "label == 0", signal: "label == 1"}
  weights: weight
  event_number: eventNumber
  observers: [jet_pt]
sequence: {sort_by: part_pt, keep_first: 5, direction: backward}
split: {by: event_number}
network: {recurrent: [{units: 6}], head: {units: [5]}}
training: {epochs: 3, batch_size: 16, optimiser: {learning_rate: 0.02}, threads: 1}
evaluation: {bootstrap: 5}
output: run
"""
