"""Traces: every gate, every state and every gradient at every step, as the layers computed them.

`trace` runs a model or a layer forward and backward over a batch and gives a `Trace`: for each layer and
direction a `LayerTrace` with the numbers of every step, from the tape of the native kernels. They are the
numbers that a training step computes, and obey the equations of ``docs/equations.md`` to rounding.

Letters as in `timelike.inspect.layertrace`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.errors import ConfigError, DataError, nearest, require
from timelike.files import replacing
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.records import layers_of
from timelike.model import Model
from timelike.network import evaluating, outputs, ragged
from timelike.recording import Record, recording
from timelike.recurrent import Recurrent
from timelike.sequences import Sequences

__all__ = ["Trace", "trace"]

Array = npt.NDArray[Any]
Loss = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Trace:
    """A run of a model or a layer, forward and backward: what every layer computed at every step.

    Attributes
    ----------
    layers : tuple of LayerTrace
        In the order in which they ran, the reverse direction of a layer behind its forward one.
    loss : float
        What the gradients are of.
    output
        What the model gave: for a `timelike.model.Model` what it says, as `timelike.model.predict` gives it.
    names : tuple of str
        Names of the inputs of the first layer.
    sequences : Sequences or None
        What a `timelike.model.Model` was given, as read.
    """

    layers: tuple[LayerTrace, ...]
    loss: float
    output: Any
    names: tuple[str, ...]
    sequences: Sequences | None = None

    def __repr__(self) -> str:
        return f"Trace(loss {self.loss:.6g}, {len(self.layers)} layers: {', '.join(map(repr, self.layers))})"

    def __getitem__(self, key: int | str | tuple[str, str]) -> LayerTrace:
        """Give a layer by its place, its name, or its name and direction.

        Raises
        ------
        ConfigError
            If there is no such layer.
        """
        if isinstance(key, int):
            if not -len(self.layers) <= key < len(self.layers):
                raise ConfigError(f"layer {key}: the trace has the layers 0..{len(self.layers) - 1}")
            return self.layers[key]
        name, direction = (key, None) if isinstance(key, str) else key
        for layer in self.layers:
            if layer.name == name and direction in (None, layer.direction):
                return layer
        known = [
            layer.name if direction is None else f"{layer.name} {layer.direction}" for layer in self.layers
        ]
        asked = name if direction is None else f"{name} {direction}"
        raise ConfigError(f"no layer {asked!r} in the trace; {nearest(asked, list(dict.fromkeys(known)))}")

    def to_numpy(self) -> dict[str, dict[str, Array]]:
        """Give the arrays of each layer, by ``name/direction`` and then as `LayerTrace.arrays` names them."""
        return {_label(layer): layer.arrays() for layer in self.layers}

    def to_xarray(self) -> dict[str, Any]:
        """Give an `xarray.Dataset` for each layer: dimensions ``row``, ``input``, ``unit`` and ``state``.

        Each row has the coordinates ``sequence`` and ``step``.

        Raises
        ------
        MissingExtraError
            If xarray is not installed.
        """
        xarray = require("xarray", "inspect")
        found = {}
        for at, layer in enumerate(self.layers):
            sequence, step = _places(layer.offsets)
            dims = {"x": "input", "dx": "input", "h": "state", "dh": "state"}
            values = {
                name: (("row", dims.get(name, "unit"))[: array.ndim], array)
                for name, array in layer.arrays().items()
            }
            coords: dict[str, Any] = {"sequence": ("row", sequence), "step": ("row", step)}
            if at == 0 or layer.name == self.layers[0].name:
                coords["input"] = list(self.names)
            attrs = {"name": layer.name, "direction": layer.direction, "cell": layer.cell, "loss": self.loss}
            found[_label(layer)] = xarray.Dataset(values, coords, attrs)
        return found

    def to_awkward(self) -> dict[str, Any]:
        """Give an `awkward.Array` for each layer: a record of lists of steps for each sequence.

        Raises
        ------
        MissingExtraError
            If awkward is not installed.
        """
        ak = require("awkward", "data")
        found = {}
        for layer in self.layers:
            lists = {
                name: ak.Array(
                    ak.contents.ListOffsetArray(
                        ak.index.Index64(layer.offsets), ak.from_numpy(np.ascontiguousarray(array)).layout
                    )
                )
                for name, array in layer.arrays().items()
            }
            found[_label(layer)] = ak.zip(lists, depth_limit=1)
        return found

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write a table with a line for each step of each layer, to a Parquet file.

        Its columns are ``layer``, ``direction``, ``sequence``, ``step``, and lists of numbers named as by
        `LayerTrace.arrays`, empty where a layer has none of them.

        Parameters
        ----------
        path : path
            The file; an older one is replaced.

        Raises
        ------
        ConfigError
            If the file cannot be written there.
        MissingExtraError
            If pyarrow is not installed.
        """
        pa = require("pyarrow", "data")
        require("pyarrow.parquet", "data")
        tables = []
        for layer in self.layers:
            sequence, step = _places(layer.offsets)
            N = len(sequence)
            columns: dict[str, Any] = {
                "layer": pa.array([layer.name] * N, pa.string()),
                "direction": pa.array([layer.direction] * N, pa.string()),
                "sequence": sequence,
                "step": step,
            }
            for name, array in layer.arrays().items():
                flat = pa.array(np.ascontiguousarray(array).reshape(-1))
                if array.ndim == 1:
                    columns[name] = flat
                else:
                    starts = pa.array(np.arange(N + 1) * array.shape[1])
                    columns[name] = pa.LargeListArray.from_arrays(starts, flat)
            tables.append(pa.table(columns))
        with replacing(path) as part:
            pa.parquet.write_table(pa.concat_tables(tables, promote_options="default"), part)
        return Path(path)


def _label(layer: LayerTrace) -> str:
    return f"{layer.name}/{layer.direction}" if layer.name else layer.direction


def _places(offsets: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Sequence and step of each row."""
    lengths = np.diff(offsets)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    return sequence, np.arange(len(sequence)) - offsets[sequence]


def trace(
    model: Model | nn.Module,
    input: Any,
    *,
    loss: str | Loss | None = None,
    names: Sequence[str] | None = None,
    **arguments: Any,
) -> Trace:
    """Run a model or a layer forward and backward, and keep every gate and gradient of every step.

    Parameters
    ----------
    model : timelike.model.Model or torch.nn.Module
        A trained model, a layer of `timelike.nn`, or any module that has such layers in it. It is run in
        the mode it is in (`timelike.model.Model` in that of inference), and is left as it was: gradients of
        its parameters go to the trace alone.
    input
        For a `timelike.model.Model` `Sequences` as read, not transformed. For a module whatever it takes:
        for a layer a padded or packed batch, `timelike.nn.Ragged`, a `Sequences`.
    loss : callable or str, optional
        What the gradients are of. A callable takes the output and gives a number: for a
        `timelike.model.Model` the output are logits [B, C], for a layer ``(output, h_n)`` as it returns
        them. For a model the name of a class stands for the sum of its logits, and by default it is the
        sum of the events' cross entropies, without event weights; where there are no labels, or only steps
        have some, the logit of the signal; of a regression or of several labels the sum of all numbers
        before the output. By default, for a layer, it is the sum of the last hidden states; any other
        module needs one.
    names : sequence of str, optional
        Names of the inputs of the first layer; for a model its variables.
    **arguments
        More arguments of a module's ``forward``: ``hx``, ``mask``.

    Returns
    -------
    Trace

    Raises
    ------
    ConfigError
        If there is no recurrent layer of ours in the model, no loss for it, or no class of that name.
    DataError
        If a variable of the model is missing, or the loss does not come from a layer's output.

    References
    ----------
    Werbos, Proc. IEEE 78 (1990) 1550. The equations of every number are in ``docs/equations.md``.

    Examples
    --------
    >>> import torch, timelike
    >>> from timelike.nn import LSTM
    >>> _ = torch.manual_seed(1)
    >>> found = timelike.trace(LSTM(3, 4), torch.randn(5, 2, 3))[0]
    >>> found
    LayerTrace('', forward, lstm: 2 sequences, 10 steps, 3 inputs, 4 units)
    >>> found.gates["f"].shape, found.dc.shape
    ((10, 4), (10, 4))
    >>> steps = sum(found.contributions(b)["W"].sum(axis=0) for b in range(2))
    >>> bool(abs(steps - found.dweights["W"]).max() < 1e-6)
    True
    """
    if isinstance(model, Model):
        return _trace_model(model, input, loss)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"a {type(model).__name__} cannot be traced; possible: a timelike.model.Model, a torch module"
        )
    modules = [m for m in model.modules() if isinstance(m, Recurrent)]
    if not modules:
        raise ConfigError(f"{type(model).__name__} has no recurrent layer of timelike.nn to be traced")
    if isinstance(loss, str):
        raise ConfigError(
            f"loss {loss!r}: a name stands for a class of a timelike.model.Model; give a callable"
        )
    if loss is None:
        if not isinstance(model, Recurrent):
            raise ConfigError(f"{type(model).__name__}: no loss was given: loss=lambda output: ...")
        loss = _last_states
    kept, value, output = _run(model, loss, input, **arguments)
    layers = layers_of(model, kept)
    D = layers[0].weights["W"].shape[1]
    if names is None:
        names = input.names if isinstance(input, Sequences) else [f"x{k}" for k in range(D)]
    if len(names) != D:
        raise ConfigError(f"{len(names)} names for {D} inputs: {', '.join(map(repr, names))}")
    return Trace(layers, value, output, tuple(names))


def _last_states(output: Any) -> Tensor:
    last = output[1]
    return (last[0] if isinstance(last, tuple) else last).sum()  # type: ignore[no-any-return]


def _trace_model(model: Model, sequences: Sequences, loss: str | Loss | None) -> Trace:
    if not isinstance(sequences, Sequences):
        raise ConfigError(f"a model is traced over Sequences, got {type(sequences).__name__}")
    ready = model.transforms.apply(sequences)
    batch = ragged(ready, next(model.network.parameters()).dtype)
    with evaluating(model.network):
        kept, value, logits = _run(model.network, _loss_of_model(model, sequences, loss), batch)
    said = outputs(logits.double(), model.network.config.head.output).numpy()
    return Trace(layers_of(model.network, kept), value, said, model.inputs, sequences)


def _loss_of_model(model: Model, sequences: Sequences, loss: str | Loss | None) -> Loss:
    if callable(loss):
        return loss
    if loss is None and sequences.labels is not None:
        labels = torch.from_numpy(np.array(sequences.labels))
        return lambda logits: nn.functional.cross_entropy(logits, labels, reduction="sum")
    if loss is None and not model.data.exclusive:
        return lambda logits: logits.sum()
    name = model.signal if loss is None else loss
    if name not in model.output_names:
        raise ConfigError(f"loss {name!r}: there is no such class; {nearest(name, model.output_names)}")
    index = model.output_names.index(name)
    return lambda logits: logits[:, index].sum()


def _run(module: nn.Module, loss: Loss, input: Any, **arguments: Any) -> tuple[list[Record], float, Any]:
    """Run forward and backward; give the records, the loss and the output without its graph."""
    with torch.enable_grad(), recording() as kept:
        output = module(input, **arguments)
        if not kept:
            raise ConfigError(f"{type(module).__name__}: no layer of timelike.nn ran that could be traced")
        value = loss(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
        raise ConfigError(f"the loss gave {what}; one number is needed, as a tensor")
    if not value.requires_grad:
        raise DataError("the loss does not depend on the layers: it was computed without a graph")
    torch.autograd.grad(value, [record.anchor for record in kept], torch.ones_like(value), allow_unused=True)
    for record in kept:
        if record.gradients is None:
            raise DataError("the loss does not depend on every layer: give one that does")
    return kept, float(value.detach()), _without_graph(output)


def _without_graph(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple):
        parts = [_without_graph(part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
    return output
