"""Traces: every gate, every state and every gradient at every step, as the layers computed them.

`trace` runs a model or a layer forward and backward over a batch and gives a `Trace`: for each layer and
direction a `LayerTrace` with the numbers of every step, from the tape of the native kernels. They are the
numbers that a training step computes, and obey the equations of ``docs/equations.md`` to rounding.

Letters: ``B`` sequences, ``T`` steps of one, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units,
``R`` numbers of the hidden state (``H``, but for a projection), ``G`` gates. Rows are those of a ragged batch
whatever the layout of the input: sequence ``b`` has the rows ``offsets[b]:offsets[b + 1]``, in the order of
time in both directions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.cells import CELLS
from timelike.errors import ConfigError, DataError, nearest, require
from timelike.files import replacing
from timelike.kernels import Rows
from timelike.model import Model, ragged
from timelike.ragged import gather, offsets_of
from timelike.recording import Record, recording
from timelike.recurrent import Recurrent
from timelike.sequences import Sequences

__all__ = ["LayerTrace", "Trace", "layer_traces", "trace"]

Array = npt.NDArray[Any]
Loss = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One layer in one direction: values and gradients at every step.

    Gradients are of the loss of the trace, and have the shape of what they belong to. Those of gates come
    twice, as in `timelike.reference`: ``dgates`` with respect to the argument of sigmoid or tanh,
    ``dgate_values`` with respect to its value.

    Attributes
    ----------
    name : str
        Name of the module, and behind a colon the number of the layer where it has several.
    direction : {"forward", "reverse"}
    cell : str
        One of `timelike.cells.CELLS`.
    offsets : ndarray of int, shape (B + 1,)
    x : ndarray, shape (N, D)
        What the layer read at each step.
    h : ndarray, shape (N, R)
        Hidden state after each step.
    c : ndarray, shape (N, H), or None
        Cell state after each step; None where the cell has none, as all that is about it.
    gates : dict of str to ndarray, shape (N, H)
        Values of each gate by its letter: ``i f g o``, ``i g o`` (coupled), ``r z n``, or ``h``.
    h0, c0 : ndarray, shapes (B, R) and (B, H)
        States before the first step.
    weights : dict of str to ndarray
        ``W`` [G H, D], ``U`` [G H, R], and where there are any ``b_ih``, ``b_hh`` [G H], ``peephole`` [3 H],
        ``projection`` [R, H].
    dh, dc : ndarray, shapes (N, R) and (N, H)
        Gradients of the states after each step, by all paths: for h from its output and from the step after,
        for c through h of its own step too.
    dgates : dict of str to ndarray, shape (N, H)
    dh0, dc0 : ndarray, shapes (B, R) and (B, H)
    dweights : dict of str to ndarray
        Gradients of the weights, by the same names.
    """

    name: str
    direction: str
    cell: str
    offsets: npt.NDArray[np.int64]
    x: Array
    h: Array
    c: Array | None
    gates: dict[str, Array]
    h0: Array
    c0: Array | None
    weights: dict[str, Array]
    dh: Array
    dc: Array | None
    dgates: dict[str, Array]
    dh0: Array
    dc0: Array | None
    dweights: dict[str, Array]
    inner: Array | None = field(default=None, repr=False)  # of a GRU with reset after: U_n h' + b_hn [N, H]

    def __repr__(self) -> str:
        N, D = self.x.shape
        return (
            f"LayerTrace({self.name!r}, {self.direction}, {self.cell}: {self.n_sequences} sequences, "
            f"{N} steps, {D} inputs, {self.units} units)"
        )

    @property
    def n_sequences(self) -> int:
        """Number of sequences B."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps of each sequence [B]."""
        return np.diff(self.offsets)

    @property
    def units(self) -> int:
        """Number of units H."""
        return int(next(iter(self.gates.values())).shape[1])

    @property
    def reverse(self) -> bool:
        """Whether the layer walks from the last step to the first."""
        return self.direction == "reverse"

    def rows(self, sequence: int) -> slice:
        """Give the rows of a sequence.

        Raises
        ------
        DataError
            If there is no such sequence.
        """
        B = self.n_sequences
        if not -B <= sequence < B:
            raise DataError(f"sequence {sequence}: the trace has the sequences 0..{B - 1}")
        b = sequence % B
        return slice(int(self.offsets[b]), int(self.offsets[b + 1]))

    # What the step before left

    @cached_property
    def h_prev(self) -> Array:
        """Hidden state before each step [N, R]."""
        return self._before(self.h, self.h0)

    @cached_property
    def c_prev(self) -> Array | None:
        """Cell state before each step [N, H]."""
        return None if self.c is None or self.c0 is None else self._before(self.c, self.c0)

    def _before(self, states: Array, first: Array) -> Array:
        before = np.empty_like(states)
        there = self.lengths > 0
        if self.reverse:
            before[:-1] = states[1:]
            before[self.offsets[1:][there] - 1] = first[there]
        else:
            before[1:] = states[:-1]
            before[self.offsets[:-1][there]] = first[there]
        return before

    @cached_property
    def distance(self) -> npt.NDArray[np.int64]:
        """Steps from each row to the end of its walk [N]: 0 at the last step that the layer takes."""
        step = np.arange(len(self.x)) - np.repeat(self.offsets[:-1], self.lengths)
        return step if self.reverse else np.repeat(self.lengths, self.lengths) - 1 - step

    # Gradients that follow from those that the kernels give

    @cached_property
    def dx(self) -> Array:
        """Gradient of the input by this direction [N, D]: ``dx = W^T da``."""
        return self.dgates_stacked @ self.weights["W"]

    @cached_property
    def dgates_stacked(self) -> Array:
        """Gradients of all gates before their activation [N, G H], in the order of W's rows."""
        return np.concatenate(list(self.dgates.values()), axis=1)

    @cached_property
    def dgates_of_state(self) -> Array:
        """The same beside ``U h'`` [N, G H]: of a GRU with reset after, the candidate's is times r."""
        if self.cell != "gru":
            return self.dgates_stacked
        d = self.dgates
        return np.concatenate([d["r"], d["z"], d["n"] * self.gates["r"]], axis=1)

    @cached_property
    def dgate_values(self) -> dict[str, Array]:
        """Gradients of the gates' values by letter, each [N, H]."""
        return _VALUES[self.cell](self)

    # Each step's own contribution to the gradients of the weights

    def contribution_norms(self) -> dict[str, Array]:
        """Euclidean norm of each step's own contribution to the gradient of each weight.

        The contributions of a step are outer products, so their norms are products of norms: nothing of the
        size of the weights is computed.

        Returns
        -------
        dict of str to ndarray, shape (N,)
            By the names of `weights`.
        """
        found: dict[str, Array] = {}
        for name, terms in self._contributions().items():
            squares = [_squares(left) * (1 if right is None else _squares(right)) for left, right in terms]
            found[name] = np.sqrt(np.sum(squares, axis=0))
        return found

    def contributions(self, sequence: int) -> dict[str, Array]:
        """Each step's own contribution to the gradient of each weight, in full, for one sequence.

        Summed over the steps of all sequences they are `dweights`.

        Parameters
        ----------
        sequence : int
            Which; ``T`` numbers for each weight and each step can be many.

        Returns
        -------
        dict of str to ndarray, shape (T, *shape of the weight)
            By the names of `weights`.

        Raises
        ------
        DataError
            If there is no such sequence.
        """
        rows = self.rows(sequence)
        found: dict[str, Array] = {}
        for name, terms in self._contributions().items():
            blocks = [
                left[rows] if right is None else left[rows, :, None] * right[rows, None, :]
                for left, right in terms
            ]
            found[name] = np.concatenate(blocks, axis=1)
        return found

    def _contributions(self) -> dict[str, list[tuple[Array, Array | None]]]:
        """For each weight blocks of rows: left factor [N, rows], right factor [N, columns] or none."""
        da, da_state, found = self.dgates_stacked, self.dgates_of_state, {}
        H = self.units
        for name in self.weights:
            terms: list[tuple[Array, Array | None]]
            if name == "W":
                terms = [(da, self.x)]
            elif name == "U" and self.cell == "gru_reset_before":
                inner = self.gates["r"] * self.h_prev
                terms = [(da[:, : 2 * H], self.h_prev), (da[:, 2 * H :], inner)]
            elif name == "U":
                terms = [(da_state, self.h_prev)]
            elif name == "b_ih":
                terms = [(da, None)]
            elif name == "b_hh":
                terms = [(da_state, None)]
            elif name == "projection":
                assert self.c is not None
                terms = [(self.dh, self.gates["o"] * np.tanh(self.c))]
            else:  # peephole
                assert self.c is not None
                assert self.c_prev is not None
                d = self.dgates
                terms = [(d["i"] * self.c_prev, None), (d["f"] * self.c_prev, None), (d["o"] * self.c, None)]
            found[name] = terms
        return found

    # Out of here

    def arrays(self) -> dict[str, Array]:
        """Give all that there is at every step, by name: ``x``, ``h``, ``gate_i``, ``dgate_i`` and so on.

        Returns
        -------
        dict of str to ndarray, shape (N, ...)
            ``dgate_i`` is with respect to the gate's argument, ``dgate_value_i`` to its value; the last are
            norms of contributions, ``norm_dW`` [N] and so on.
        """
        found: dict[str, Array | None] = {"x": self.x, "h": self.h, "c": self.c}
        found |= {f"gate_{letter}": values for letter, values in self.gates.items()}
        found |= {"dx": self.dx, "dh": self.dh, "dc": self.dc}
        found |= {f"dgate_{letter}": values for letter, values in self.dgates.items()}
        found |= {f"dgate_value_{letter}": values for letter, values in self.dgate_values.items()}
        found |= {f"norm_d{name}": norms for name, norms in self.contribution_norms().items()}
        return {name: values for name, values in found.items() if values is not None}


def _squares(array: Array) -> Array:
    squares: Array = np.einsum("ni,ni->n", array, array)
    return squares


# Gradients of the gates' values: the lines of backward in `timelike.reference`, for all steps at once.


def _values_rnn(t: LayerTrace) -> dict[str, Array]:
    return {"h": t.dh}


def _values_lstm(t: LayerTrace) -> dict[str, Array]:
    assert t.c is not None
    assert t.dc is not None
    assert t.c_prev is not None
    dm = t.dh if "projection" not in t.weights else t.dh @ t.weights["projection"]
    return {
        "i": t.dc * t.gates["g"],
        "f": t.dc * t.c_prev,
        "g": t.dc * t.gates["i"],
        "o": dm * np.tanh(t.c),
    }


def _values_coupled(t: LayerTrace) -> dict[str, Array]:
    assert t.c is not None
    assert t.dc is not None
    assert t.c_prev is not None
    return {"i": t.dc * (t.gates["g"] - t.c_prev), "g": t.dc * t.gates["i"], "o": t.dh * np.tanh(t.c)}


def _values_gru(t: LayerTrace) -> dict[str, Array]:
    if t.cell == "gru":
        assert t.inner is not None
        dr = t.dgates["n"] * t.inner
    else:  # reset before: n = tanh(W_n x + U_n (r h'))
        dr = t.dgates["n"] @ t.weights["U"][2 * t.units :] * t.h_prev
    return {"r": dr, "z": t.dh * (t.h_prev - t.gates["n"]), "n": t.dh * (1 - t.gates["z"])}


_VALUES: dict[str, Callable[[LayerTrace], dict[str, Array]]] = {
    "rnn_tanh": _values_rnn,
    "rnn_relu": _values_rnn,
    "lstm": _values_lstm,
    "lstm_peephole": _values_lstm,
    "lstm_projected": _values_lstm,
    "lstm_coupled": _values_coupled,
    "gru": _values_gru,
    "gru_reset_before": _values_gru,
}


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
        What the model gave: for a `timelike.model.Model` the probabilities of the classes [B, C].
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
                    starts = pa.array(np.arange(N + 1) * array.shape[1], pa.int32())
                    columns[name] = pa.ListArray.from_arrays(starts, flat)
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
        sum of the events' cross entropies, without event weights, or where there are no labels the logit of
        the signal. By default, for a layer, it is the sum of the last hidden states; any other module needs
        one.
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
    layers = _layers(model, kept)
    D = layers[0].x.shape[1]
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
    training = model.network.training
    model.network.eval()
    try:
        kept, value, logits = _run(model.network, _loss_of_model(model, sequences, loss), batch)
    finally:
        model.network.train(training)
    probabilities = logits.double().softmax(dim=1).numpy()
    return Trace(_layers(model.network, kept), value, probabilities, model.variables, sequences)


def _loss_of_model(model: Model, sequences: Sequences, loss: str | Loss | None) -> Loss:
    if callable(loss):
        return loss
    if loss is None and sequences.labels is not None:
        labels = torch.from_numpy(np.array(sequences.labels))
        return lambda logits: nn.functional.cross_entropy(logits, labels, reduction="sum")
    name = model.signal if loss is None else loss
    if name not in model.class_names:
        raise ConfigError(f"loss {name!r}: there is no such class; {nearest(name, model.class_names)}")
    index = model.class_names.index(name)
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
    torch.autograd.grad(value.reshape(()), [record.anchor for record in kept], allow_unused=True)
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


def _layers(module: nn.Module, kept: Sequence[Record]) -> tuple[LayerTrace, ...]:
    names: dict[int, str] = {}
    for name, part in module.named_modules():
        if isinstance(part, Recurrent):
            for number, held in enumerate(part.held):
                label = name if part.num_layers == 1 else f"{name}:{number}"
                names[id(held)] = label
    found = []
    for record in kept:
        found += layer_traces(names.get(id(record.held), ""), record)
    return tuple(found)


def layer_traces(name: str, record: Record) -> list[LayerTrace]:
    """Make readable what a layer left, forward and backward.

    Parameters
    ----------
    name : str
        What the layer is called.
    record : Record
        After backward.

    Returns
    -------
    list of LayerTrace
        One for each direction, rows in the order of a ragged batch.
    """
    layout, rows = record.held.layout, record.rows
    kind, N, B = CELLS[layout.cell], rows.n_rows, rows.n_sequences
    D, H, R, GH = layout.input_size, layout.units, layout.state_size, layout.shapes[0][0]
    index, offsets = _order(rows)

    def put(array: Tensor) -> Array:
        values: Array = array.numpy()
        return values if index is None else values[index]

    x = put(record.x.reshape(N, D))
    y = record.y.reshape(N, layout.n_directions * R)
    found = []
    for k, direction in enumerate(("forward", "reverse")[: layout.n_directions]):
        assert record.gradients is not None
        assert record.dh0 is not None
        back = record.gradients[k * N * layout.record : (k + 1) * N * layout.record]
        da, dh = put(back[: N * GH].view(N, GH)), put(back[N * GH : N * (GH + R)].view(N, R))
        dc = put(back[N * (GH + R) :].view(N, H)) if kind.has_cell_state else None
        h = put(y[:, k * R : (k + 1) * R])
        values, inner, c = {"h": h}, None, None
        if record.tape is not None:
            tape = record.tape[k * N * layout.tape : (k + 1) * N * layout.tape]
            gates = put(tape[: N * layout.tape_gates].view(N, layout.tape_gates))
            blocks = [gates[:, g * H : (g + 1) * H] for g in range(layout.tape_gates // H)]
            values = dict(zip(kind.gates, blocks, strict=False))
            inner = blocks[3] if layout.cell == "gru" else None
            c = put(tape[N * layout.tape_gates :].view(N, H)) if kind.has_cell_state else None
        own = slice(k * layout.n_weights, (k + 1) * layout.n_weights)
        h0, c0 = (
            np.zeros((B, size), x.dtype) if state is None else state[k].numpy()
            for state, size in ((record.h0, R), (record.c0, H))
        )
        found.append(
            LayerTrace(
                name=name,
                direction=direction,
                cell=layout.cell,
                offsets=offsets,
                x=x,
                h=h,
                c=c,
                gates=values,
                h0=h0,
                c0=c0 if kind.has_cell_state else None,
                weights=_weights(layout.slots, record.weights[own]),
                dh=dh,
                dc=dc,
                dgates={g: da[:, j * H : (j + 1) * H] for j, g in enumerate(kind.gates)},
                dh0=record.dh0[k].numpy(),
                dc0=None if record.dc0 is None else record.dc0[k].numpy(),
                dweights=_weights(layout.slots, record.d_weights[own]),
                inner=inner,
            )
        )
    return found


def _weights(slots: Sequence[int], weights: Sequence[Tensor]) -> dict[str, Array]:
    names = ("W", "U", "b_ih", "b_hh", "peephole", "projection")
    return {name: weights[slot].numpy() for name, slot in zip(names, slots, strict=True) if slot >= 0}


@lru_cache(maxsize=16)  # layers and training steps see the same few rows again and again
def _order(rows: Rows) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
    """Where the rows of a ragged batch lie, None where they lie in that order, and its offsets."""
    lengths = rows.lengths
    offsets = offsets_of(lengths)
    ragged_start = rows.complete and rows.index is None and np.array_equal(rows.start, offsets[:-1])
    if ragged_start and np.array_equal(rows.step, np.arange(len(rows.step))):
        return None, offsets
    step = gather(np.zeros_like(lengths), lengths)[0]
    index = np.repeat(rows.start, lengths) + rows.step[step]
    if rows.index is not None:
        index = rows.index[index]
    return index, offsets
