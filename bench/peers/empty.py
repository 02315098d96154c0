"""A layer that computes nothing: it makes room for its outputs and its gradients.

What it takes is what autograd takes, of any layer that is an operation of PyTorch's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.peers.pytorch import PyTorch


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, R: int, H: int, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        T, B, _ = x.shape
        outputs = x.new_empty(T, B, R), x.new_empty(1, B, R), *([x.new_empty(1, B, H)] if H else [])
        ctx.save_for_backward(x, outputs[0], *weights)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        x, _y, *weights = ctx.saved_tensors
        return None, None, x.new_empty(x.shape), *(w.new_empty(w.shape) for w in weights)


def _run(weights: list[Tensor], R: int, H: int, x: Tensor) -> tuple[Tensor, Any]:
    y, *states = _Nothing.apply(R, H, x, *weights)
    return y, tuple(states) if H else states[0]


class Empty(PyTorch):
    """A layer of `torch.nn` whose forward does nothing."""

    def versions(self) -> dict[str, str]:
        return {}

    def module(self, case: Case) -> nn.Module:
        layer = super().module(case)
        H = case.size.H if case.has_cell_state else 0
        layer.forward = partial(_run, list(layer.parameters()), case.state_size, H)
        return layer


def peer(threads: int) -> Empty:
    return Empty(threads)
