"""Models of random weights for every kind of task, and files of toy events to apply them to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from timelike import data
from timelike.config import load_config
from timelike.data.sources import open_table
from timelike.data.table import Column
from timelike.data.transforms import FittedTransforms
from timelike.model import Model, save_model
from timelike.network import Network
from toys import TOY_CONFIG, toy_columns, write_root

__all__ = ["LENGTHS", "TASKS", "column", "columns_of", "same_but_for_the_head", "toy_files", "toy_model"]

LENGTHS = (40, 1, 25)  # events of the files

TASKS: dict[str, dict[str, Any]] = {
    "classes": {},
    "multilabel": {"data.labels": {}, "data.multilabel": {"odd": "label == 1", "hard": "jet_pt > 550"}},
    "regression": {"data.labels": {}, "data.targets": {"mass": "jet_pt", "side": "2.0 * label"}},
    "quantiles": {"data.labels": {}, "data.targets": {"mass": "jet_pt"}, "training.loss": "quantile"},
    "steps": {
        "data.labels": {},
        "data.targets": {"late": "part_eta", "pt": "part_pt"},
        "data.per": "step",
    },
    "mixed": {"data.mix": "pca"},
    "float64": {"training.dtype": "float64"},
}


def toy_files(folder: Path) -> list[Path]:
    """Write three files of toy events; the first step of the first event is the only one of its file."""
    return [
        write_root(folder / f"toy{k}.root", toy_columns(n, seed=k) if n > 1 else one_event())
        for k, n in enumerate(LENGTHS)
    ]


def one_event() -> dict[str, Any]:
    return {name: column[-1:] for name, column in toy_columns(20, seed=9).items()}


def toy_model(folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Write a model of random weights, with transforms that are fitted to toy events."""
    write_root(folder / "toy.root", toy_columns())
    (folder / "toy.yaml").write_text(TOY_CONFIG)
    config = load_config(folder / "toy.yaml", overrides=dict(overrides))
    dtype = config.training.dtype
    events = data.read(config.data, config.sequence, base=folder, dtype=dtype)
    transforms = FittedTransforms.fit(events, config.data)
    torch.manual_seed(3)
    network = Network(
        config.network, len(transforms.outputs), len(config.data.class_names), dtype=getattr(torch, dtype)
    )
    save_model(Model(network.eval(), transforms, config.data, config.sequence), folder / "model.safetensors")
    return folder / "model.safetensors"


def columns_of(path: Path) -> dict[str, Column]:
    """Read a table of scores."""
    with open_table(path, None, None) as table:
        return {name: table.read(name) for name in table.names if name != "n_steps"}


def column(path: Path, name: str) -> npt.NDArray[Any]:
    return columns_of(path)[name].values


def same_but_for_the_head(got: npt.NDArray[Any], want: npt.NDArray[Any], dtype: npt.DTypeLike) -> None:
    """Compare scores with those by PyTorch.

    The layers have the same bits; the two dense layers behind them sum up to 6 numbers in another order,
    which differs by 2 (8 + sqrt(6)) eps of the largest term, and the second one carries on what the first
    has, as much again.
    """
    assert np.isfinite(got).all()
    atol = 4 * (8 + 6**0.5) * np.finfo(dtype).eps * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)
