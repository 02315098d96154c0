"""A recurrent network in PyTorch's own modules, and its weights from a safetensors file.

This file needs torch and safetensors, nothing else. ``load`` builds the network that a weight file describes:

    import torch
    from model import load            # this file, whatever it is called

    network = load("model.safetensors")
    scores = network(x, lengths)      # x [B, T, D], lengths [B]: steps behind them are never looked at

The weight file holds a ``state_dict`` under PyTorch's names, and in its header, as JSON under the key
"plain_torch", sizes, transforms of the variables and what stands between the layers. Nothing in it is code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

KEY = "plain_torch"

_CELLS: dict[str, Callable[..., nn.RNNBase]] = {
    "rnn_tanh": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="tanh", **options),
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "lstm": nn.LSTM,
    "lstm_projected": nn.LSTM,
    "gru": nn.GRU,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "softsign": nn.functional.softsign,
    "symmrelu": torch.abs,
    "gauss": lambda x: torch.exp(-x.square()),
    "linear": lambda x: x,
}
_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda s: s.softmax(dim=-1),
    "sigmoid": lambda s: torch.cat([torch.sigmoid(-s), torch.sigmoid(s)], dim=-1),
    "multilabel": torch.sigmoid,
    "linear": lambda s: s,
    "exponential": torch.exp,
}


class Transforms(nn.Module):
    """What is done to the variables before the first layer, computed in float64.

    Parameters
    ----------
    spec : dict
        ``names``, ``steps`` of each variable, ``mix``, ``fills``, ``indicators``.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.steps: list[list[dict[str, Any]]] = spec["steps"]
        self.fills: list[float | None] = spec["fills"] or [None] * len(self.steps)
        self.indicators = [spec["names"].index(name) for name in spec["indicators"]]
        self.mixed = spec["mix"] is not None
        for name, values in (spec["mix"] or {}).items():
            if name != "kind":
                self._number(name, values)
        for d, steps in enumerate(self.steps):
            for k, step in enumerate(steps):
                for name in ("values", "to"):
                    if name in step:
                        self._number(f"{name}_{d}_{k}", step[name])

    def _number(self, name: str, values: Any) -> None:
        # Not persistent: the state_dict is the weights alone.
        self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [..., D]."""
        told = [x[..., d].isnan().double() for d in self.indicators]
        columns = []
        for d, steps in enumerate(self.steps):
            column = x[..., d]
            fill = self.fills[d]
            if fill is not None:
                column = column.masked_fill(column.isnan(), fill)
            column = column.double()
            for k, step in enumerate(steps):
                column = self._applied(column, step, f"{d}_{k}")
            columns.append(column)
        y = torch.stack(columns, dim=-1)
        if self.mixed:
            y = (y - self.get_buffer("mean")) @ self.get_buffer("matrix").T
        return torch.cat([y, torch.stack(told, dim=-1)], dim=-1) if told else y

    def _applied(self, x: Tensor, step: dict[str, Any], where: str) -> Tensor:
        kind = step["kind"]
        if kind in ("standardise", "robust"):
            return x.sub(step["mean"]).div(step["scale"])
        if kind == "minmax":
            width = step["high"] - step["low"]
            return 2 * ((x - step["low"]) / width) - 1 if width > 0 else torch.zeros_like(x)
        if kind == "log":
            return torch.copysign(x.abs().log1p(), x)
        if kind == "clip":
            return x.clamp(step["low"], step["high"])
        if kind in ("uniform", "gauss"):
            return _along(x, self.get_buffer(f"values_{where}"), self.get_buffer(f"to_{where}"))
        if kind == "none":
            return x
        raise ValueError(f"no transform {kind!r}")


def _along(x: Tensor, values: Tensor, to: Tensor) -> Tensor:
    """Go along straight lines between knots; beyond them stay at the first and the last."""
    if len(values) == 1:
        return torch.where(x.isnan(), x, to[0])
    at = torch.searchsorted(values, x.contiguous(), right=True).clamp(1, len(values) - 1)
    low, high = values[at - 1], values[at]
    slope = (to[at] - to[at - 1]) / (high - low)
    return slope * (x.clamp(values[0], values[-1]) - low) + to[at - 1]


class PlainNetwork(nn.Module):
    """Transforms, recurrent layers, pooling over the steps, dense layers: what a weight file describes.

    Parameters
    ----------
    spec : dict
        The JSON of a weight file's header.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.dtype: torch.dtype = {"float32": torch.float32, "float64": torch.float64}[spec["dtype"]]
        self.transforms = Transforms(spec["transforms"])
        self.recurrent = nn.ModuleList()
        for layer in spec["layers"]:
            options = {"bidirectional": layer["bidirectional"], "dtype": self.dtype, "batch_first": True}
            if layer["projection"]:
                options["proj_size"] = layer["projection"]
            self.recurrent.append(_CELLS[layer["cell"]](layer["inputs"], layer["units"], **options))
        self.head = nn.ModuleList(nn.Linear(d["in"], d["out"], dtype=self.dtype) for d in spec["dense"])

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score padded sequences.

        Parameters
        ----------
        x : Tensor [B, T, D]
            Variables of each step, as ``spec["transforms"]["names"]`` orders them, not transformed.
        lengths : Tensor [B] of integers, optional
            Steps of each sequence, 0 to T; all T without it.

        Returns
        -------
        Tensor [B, C]
            Numbers that ``spec["names"]`` names; where each step has its own, [B, T, C], of which those
            behind a sequence's length mean nothing.
        """
        B, T = x.shape[:2]
        lengths = torch.full((B,), T) if lengths is None else lengths.cpu()
        x = self.transforms(x).to(self.dtype)
        if T == 0:  # PyTorch runs no sequence without steps: one step of padding
            x = x.new_zeros(B, 1, x.shape[2])
        there = (torch.arange(x.shape[1]) < lengths[:, None]).to(x.device)
        x = x.masked_fill(~there[..., None], 0.0)
        final = x.new_zeros(B, 0)
        for layer in self.recurrent:
            packed = pack_padded_sequence(x, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
            y, last = layer(packed)
            x, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
            x = x.masked_fill(~there[..., None], 0.0)
            last = last[0] if isinstance(last, tuple) else last
            final = last.transpose(0, 1).flatten(1).masked_fill(~there.any(1)[:, None], 0.0)
        x = self._pooled(x[:, :T] if self.spec["pooling"] in ("flatten", "none") else x, final, there)
        for dense, of in zip(self.head, self.spec["dense"], strict=True):
            x = _ACTIVATIONS[of["activation"]](dense(x))
        return _OUTPUTS[self.spec["output"]](x)

    def _pooled(self, x: Tensor, final: Tensor, there: Tensor) -> Tensor:
        """Reduce hidden states [B, T, H] to one vector a sequence; zeros of one without steps."""
        pooling = self.spec["pooling"]
        if pooling == "none":
            return x
        if pooling == "last":
            return final
        if pooling == "mean":
            return x.sum(1) / there.sum(1).clamp(min=1)[:, None]
        if pooling == "max":
            highest = x.masked_fill(~there[..., None], -torch.inf).amax(1)
            return highest.masked_fill(~there.any(1)[:, None], 0.0)
        steps = self.spec["steps"]
        if x.shape[1] != steps or not there.all():
            raise ValueError(f"each sequence must have {steps} steps, given up to {x.shape[1]}")
        return x.flatten(1)


def load(path: str | os.PathLike[str]) -> PlainNetwork:
    """Build the network of a weight file, ready to score.

    Parameters
    ----------
    path : path
        The safetensors file.
    """
    with safe_open(os.fspath(path), framework="pt") as file:
        spec = json.loads(file.metadata()[KEY])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network = PlainNetwork(spec)
    network.load_state_dict(weights)
    return network.eval()
