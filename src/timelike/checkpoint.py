"""Checkpoints: all that a training needs to go on as if it had never stopped, in one file without pickle.

A safetensors file holds the tensors (weights, the best weights, the optimiser's state, losses so far, the
state of torch's random numbers), and as JSON in its header everything else: where the training is, the states
of its schedule and of the order of events, and of which config and data it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from timelike.errors import ModelFileError
from timelike.files import replacing
from timelike.sequences import Sequences

__all__ = ["Snapshot", "fingerprint", "read_snapshot", "write_snapshot"]

_KEY, _VERSION = "timelike checkpoint", 2


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A training between two batches.

    Attributes
    ----------
    tensors : dict of str to Tensor
    values : dict
        What JSON holds, numbers beyond it (inf) included.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Give the tensors whose names begin with a prefix, by what follows it."""
        n = len(prefix)
        return {name[n:]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def write_snapshot(snapshot: Snapshot, path: Path, about: Mapping[str, Any]) -> None:
    """Write a checkpoint aside and rename it: there is always a whole one.

    Parameters
    ----------
    snapshot : Snapshot
    path : Path
    about : mapping
        Of which config and data it is.

    Raises
    ------
    ConfigError
        If the file cannot be written there, or the disk is full.
    """
    from safetensors.torch import save

    header = {"version": _VERSION, "values": snapshot.values, "about": dict(about)}
    tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
    content = save(tensors, metadata={_KEY: json.dumps(header)})
    with replacing(path) as part:
        part.write_bytes(content)


def read_snapshot(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Read what `write_snapshot` wrote.

    Returns
    -------
    snapshot : Snapshot
    about : dict

    Raises
    ------
    ModelFileError
        If the file is damaged, foreign or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118
        header = json.loads(text or "null")
        version, values, about = header["version"], header["values"], header["about"]
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: not a checkpoint, or damaged ({' '.join(str(error).split())})"
        ) from None
    if version != _VERSION:
        raise ModelFileError(f"{path}: a checkpoint of version {version}; this timelike reads {_VERSION}")
    if not isinstance(values, dict) or not isinstance(about, dict):
        raise ModelFileError(f"{path}: not a checkpoint, or damaged (values or about are no mapping)")
    return Snapshot(tensors, values), about


def fingerprint(splits: Mapping[str, Sequences]) -> str:
    """Give a number that changes with any value, label, weight or target of the events, or their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, part in splits.items():
        digest.update(f"{name} {len(part)} {part.n_rows} {' '.join(part.names)}".encode())
        answers = (part.labels, part.weights, part.targets, part.step_labels, part.step_targets)
        for array in (part.values, part.offsets, *answers):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
