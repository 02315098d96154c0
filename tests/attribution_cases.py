"""Networks and events for the tests of attributions."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.model import Model
from timelike.network import Network
from timelike.nn import Ragged
from timelike.sequences import Sequences

NAMES = ("pt", "eta", "phi")
LENGTHS = [4, 0, 1, 7, 2, 0, 5]


def events(n: int = len(LENGTHS), *, seed: int = 0, n_classes: int = 2, dtype=np.float64) -> Sequences:
    """Make events of 0 to 7 steps; every fifth weight is negative."""
    rng = np.random.default_rng(seed)
    lengths = np.resize(LENGTHS, n)
    labels = np.arange(n) % n_classes
    rows = rng.normal(2.0, 3.0, (int(lengths.sum()), 3)) + 2.0 * np.repeat(labels, lengths)[:, None]
    return Sequences(
        rows.astype(dtype),
        np.concatenate([[0], np.cumsum(lengths)]),
        NAMES,
        labels=labels,
        weights=np.where(np.arange(n) % 5 == 4, -0.5, 1.5),
        events=np.arange(n) + 100,
    )


def model(n_classes: int = 2, *, dtype: torch.dtype = torch.float64, seed: int = 3, **network) -> Model:
    """Make a smooth network with weights of N(0, 0.5^2), so that it is far from linear."""
    config = NetworkConfig.model_validate(
        {"recurrent": ({"units": 5},), "head": {"units": (4,), "activation": "tanh"}} | network
    )
    classes = {name: str(c) for c, name in enumerate(["qcd", "top", "w"][:n_classes])}
    data = DataConfig.model_validate(
        {"files": ("a.root",), "variables": NAMES, "labels": classes}, strict=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(config, 3, n_classes, dtype=dtype)
        for p in made.parameters():
            nn.init.normal_(p, std=0.5)
    return Model(made, FittedTransforms.fit(events(40)), data, SequenceConfig())


class Linear(nn.Module):
    """Logits (0, sum of a row of weights times each step): a score that is linear in its inputs."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weights], dtype=torch.float64))

    def forward(self, batch: Ragged) -> torch.Tensor:
        rows = batch.values @ self.weight.T
        sequence = torch.repeat_interleave(torch.arange(len(batch.offsets) - 1), batch.offsets.diff())
        return torch.zeros(len(batch.offsets) - 1, 1, dtype=rows.dtype).index_add(0, sequence, rows)
