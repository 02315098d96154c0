"""`timelike.nn`, called as `torch.nn` is."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

import timelike
import timelike.nn
from bench.cases import Case
from bench.peers.pytorch import PyTorch, of_rows
from bench.worker import Job
from timelike import kernels

_CELLS: dict[str, tuple[str, dict[str, Any]]] = {  # class and arguments
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm_projected": ("LSTM", {}),
    "lstm_peephole": ("LSTM", {"peephole": True}),
    "lstm_coupled": ("LSTM", {"coupled": True}),
    "gru": ("GRU", {}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
}


class Ours(PyTorch):
    """The layers of `timelike.nn`."""

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def variants(self, case: Case) -> tuple[str, ...]:
        """Look what this release of timelike has."""
        name, options = self._options(case)
        layer = getattr(timelike.nn, name, None)
        return ("",) if layer and options.keys() <= inspect.signature(layer).parameters.keys() else ()

    def module(self, case: Case) -> nn.Module:
        name, options = self._options(case)
        return getattr(timelike.nn, name)(case.size.D, case.size.H, **options)

    def _options(self, case: Case) -> tuple[str, dict[str, Any]]:
        name, options = _CELLS[case.cell]
        projected = {"proj_size": case.state_size} if case.cell == "lstm_projected" else {}
        return name, options | projected | ({"recompute": True} if case.recompute else {})

    def ragged(self, module: nn.Module, given: dict[str, Tensor], variant: str) -> Job:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), given["lengths"].cumsum(0)])

        def forward(x: Tensor) -> Tensor:
            return module(timelike.nn.Ragged(x, offsets))[0].values

        return of_rows(module, given["x"], forward, given["dy"], lambda rows: rows)


def peer(threads: int) -> Ours:
    return Ours(threads)
