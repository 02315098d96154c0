"""`timelike.nn`, called as `torch.nn` is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import timelike
import timelike.nn
from bench.cases import Case
from bench.peers.pytorch import PyTorch, of_rows
from bench.worker import Job
from timelike import kernels

_CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn_tanh": lambda *a, **k: timelike.nn.RNN(*a, **k),
    "rnn_relu": lambda *a, **k: timelike.nn.RNN(*a, nonlinearity="relu", **k),
    "lstm": timelike.nn.LSTM,
    "lstm_projected": lambda D, H, **k: timelike.nn.LSTM(D, H, proj_size=H // 2, **k),
    "lstm_peephole": lambda *a, **k: timelike.nn.LSTM(*a, peephole=True, **k),
    "lstm_coupled": lambda *a, **k: timelike.nn.LSTM(*a, coupled=True, **k),
    "gru": lambda *a, **k: timelike.nn.GRU(*a, **k),
    "gru_reset_before": lambda *a, **k: timelike.nn.GRU(*a, reset_after=False, **k),
}


class Ours(PyTorch):
    """The layers of `timelike.nn`."""

    def versions(self) -> dict[str, str]:
        return {"timelike": f"{timelike.__version__} ({kernels.isa()})"}

    def variants(self, case: Case) -> tuple[str, ...]:
        return ("",) if case.cell == "lstm" and not case.recompute else ()

    def module(self, case: Case) -> nn.Module:
        options = {"recompute": True} if case.recompute else {}
        return _CELLS[case.cell](case.size.D, case.size.H, **options)

    def ragged(self, module: nn.Module, given: dict[str, Tensor], variant: str) -> Job:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), given["lengths"].cumsum(0)])

        def forward(x: Tensor) -> Tensor:
            return module(timelike.nn.Ragged(x, offsets))[0].values

        return of_rows(module, given["x"], forward, given["dy"], lambda rows: rows)


def peer(threads: int) -> Ours:
    return Ours(threads)
