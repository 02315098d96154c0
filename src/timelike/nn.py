"""Recurrent layers for PyTorch: in place of those of `torch.nn`, with our kernels underneath.

- `LSTM` takes what `torch.nn.LSTM` takes (padded, batch-first, unbatched, packed) and gives what it gives.
- For batches of sequences of different lengths, give `Ragged`: no padding, no sorting, nothing copied.
  `timelike.sequences.Sequences` and jagged nested tensors are taken as they are, too.

The kernels run on the CPU, in float32 and float64. Under ``torch.autocast`` a layer keeps the precision of
its parameters: floating-point inputs are converted to it, and the outputs have it.

A sequence's results depend on nothing but that sequence: not on padding, on the layout, or on the others in
its batch, to the last bit.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from timelike import autograd
from timelike.kernels import Rows
from timelike.sequences import Sequences

__all__ = ["LSTM", "Ragged"]

_DTYPES = (torch.float32, torch.float64)
_DENSE_AXES = (2, 3)

States: TypeAlias = tuple[Tensor, Tensor]


class Ragged(NamedTuple):
    """Sequences of different lengths, one after another, without padding.

    Step ``t`` of sequence ``b`` is ``values[offsets[b] + t]``.

    Parameters
    ----------
    values : Tensor, shape (N, D)
        Steps of all sequences.
    offsets : Tensor, shape (B + 1,), int64, on the CPU
        From 0 to N, never falling. A sequence may have no steps.

    Examples
    --------
    >>> lstm = LSTM(3, 4)
    >>> output, (h_n, c_n) = lstm(Ragged(torch.randn(5, 3), torch.tensor([0, 2, 2, 5])))
    >>> output.values.shape, h_n.shape
    (torch.Size([5, 4]), torch.Size([1, 3, 4]))
    """

    values: Tensor
    offsets: Tensor


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch in whatever layout it came."""

    x: Tensor  # (..., D), all axes but the last together are the rows
    rows: Rows
    output: Callable[[Tensor], Any]  # puts (..., K H) into the layout of the input
    order: Tensor | None = None  # the caller's sequences in the order of `rows`
    inverse: Tensor | None = None
    unbatched: bool = False


class _Recurrent(nn.Module):
    """What all recurrent layers share: arguments, parameters, layouts, and the walk through the layers."""

    mode: str
    _n_gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        dtype = dtype or torch.get_default_dtype()
        if dtype not in _DTYPES:
            raise TypeError(f"{type(self).__name__}: dtype {dtype}; possible: torch.float32, torch.float64")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        rows = self._n_gates * hidden_size
        self._all_weights: list[list[str]] = []  # names, per layer and direction
        for layer in range(num_layers):
            columns = input_size if layer == 0 else hidden_size * self._n_directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, columns),
                "weight_hh": (rows, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            for suffix in ("", "_reverse")[: self._n_directions]:
                names = [f"{name}_l{layer}{suffix}" for name in shapes]
                for name, shape in zip(names, shapes.values(), strict=True):
                    values = torch.empty(shape, device=device, dtype=dtype)
                    self.register_parameter(name, nn.Parameter(values))
                self._all_weights.append(names)
        self._packed = [autograd.PackedWeights() for _ in self._all_weights]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-k, k), k = 1 / sqrt(hidden_size), in the order of `torch.nn`."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing: these layers pack their weights by themselves. There so that callers need not ask."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Parameters of each layer and direction, as in `torch.nn`."""
        return [self._weights(names) for names in self._all_weights]

    @property
    def _n_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        """Arguments that differ from the defaults, as in `torch.nn`."""
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        given = [f"{k}={getattr(self, k)}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *given])

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_packed"]  # made from the parameters at the next call
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._packed = [autograd.PackedWeights() for _ in self._all_weights]

    # Weights

    def _weights(self, names: Sequence[str]) -> list[Tensor]:
        """Tensors of these names, whoever put them there: parametrisations make attributes of them."""
        found = [self._parameters.get(name) for name in names]
        return [getattr(self, name) if w is None else w for name, w in zip(names, found, strict=True)]

    def _check_weights(self, weights: Sequence[Tensor]) -> None:
        weight = weights[0]
        if not weight.is_cpu:
            raise NotImplementedError(
                f"{type(self).__name__}: parameters are on device {weight.device}, but these kernels "
                "run on the CPU: use module.to('cpu'), or torch.nn there"
            )
        if weight.dtype not in _DTYPES:
            raise TypeError(
                f"{type(self).__name__}: parameters are {weight.dtype}; possible: torch.float32, "
                "torch.float64: use module.float() or module.double()"
            )

    # Layouts

    def _batch(self, input: Any) -> _Batch:
        if isinstance(input, Tensor):
            return self._nested(input) if input.is_nested else self._dense(input)
        if isinstance(input, PackedSequence):
            return self._packed_sequence(input)
        if isinstance(input, Sequences):
            input = _ragged_of(input)
        if isinstance(input, Ragged):
            return self._ragged(input)
        raise TypeError(
            f"{type(self).__name__}: input is {type(input).__name__}; "
            "possible: Tensor, PackedSequence, Ragged, Sequences, jagged nested tensor"
        )

    def _dense(self, x: Tensor) -> _Batch:
        if x.dim() not in _DENSE_AXES:
            raise ValueError(f"{self.mode}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        x = self._checked(x)
        unbatched = x.dim() == 2
        if unbatched:
            T, rows = x.shape[0], Rows.time_major(x.shape[0], 1)
        elif self.batch_first:
            T, rows = x.shape[1], Rows.batch_major(x.shape[0], x.shape[1])
        else:
            T, rows = x.shape[0], Rows.time_major(x.shape[0], x.shape[1])
        if T == 0:
            raise RuntimeError(
                f"{self.mode}: Expected sequence length to be larger than 0, got input of shape "
                f"{tuple(x.shape)}; use Ragged for sequences without steps"
            )
        return _Batch(x, rows, lambda y: y, unbatched=unbatched)

    def _packed_sequence(self, packed: PackedSequence) -> _Batch:
        if packed.data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")
        return _Batch(
            self._checked(packed.data),
            Rows.packed(packed.batch_sizes.numpy()),
            lambda y: PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices),
            packed.sorted_indices,
            packed.unsorted_indices,
        )

    def _ragged(self, ragged: Ragged) -> _Batch:
        values, offsets = ragged
        if values.dim() != 2:
            raise ValueError(f"{self.mode}: Expected Ragged.values to be 2D, got {values.dim()}D instead")
        if offsets.dtype != torch.int64 or not offsets.is_cpu or offsets.dim() != 1 or len(offsets) == 0:
            raise ValueError(
                f"{self.mode}: Expected Ragged.offsets to be a 1D int64 tensor of B + 1 numbers on the CPU, "
                f"got {tuple(offsets.shape)}, {offsets.dtype} on {offsets.device}"
            )
        values = self._checked(values)
        ends = int(offsets[0]), int(offsets[-1])
        if ends != (0, len(values)):
            raise ValueError(
                f"{self.mode}: Expected Ragged.offsets to go from 0 to the {len(values)} rows of values, "
                f"got {ends[0]} to {ends[1]}"
            )
        return _Batch(values, Rows.ragged(offsets.numpy()), lambda y: Ragged(y, offsets))

    def _nested(self, x: Tensor) -> _Batch:
        if x.layout != torch.jagged or x.dim() != 3 or x._ragged_idx != 1:  # type: ignore[attr-defined]
            raise ValueError(
                f"{self.mode}: Expected a nested tensor of layout torch.jagged and shape (B, jagged, D), "
                f"got {x.layout} and {tuple(x.shape)}"
            )
        offsets, lengths = x.offsets(), x.lengths()  # type: ignore[attr-defined]
        values = self._checked(x.values())
        if lengths is None:
            rows = Rows.ragged(offsets.numpy())
        else:  # a narrowed tensor: rows between the sequences belong to none
            rows = Rows(offsets[:-1].numpy(), range(int(lengths.max())), lengths.numpy(), len(values))
        return _Batch(values, rows, lambda y: torch.nested.nested_tensor_from_jagged(y, offsets, lengths))

    def _checked(self, x: Tensor) -> Tensor:
        """Rows of the right type and size."""
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        return self._converted(x, "input", ValueError)

    def _converted(self, x: Tensor, name: str, error: type[Exception]) -> Tensor:
        weight = self._weights(self._all_weights[0][:1])[0]
        if not x.is_cpu:
            raise error(
                f"{self.mode}: {name} is on device {x.device}, but the parameters are on {weight.device}"
            )
        if x.dtype == weight.dtype:
            return x
        if torch.is_autocast_enabled("cpu") and x.is_floating_point():
            return x.to(weight.dtype)
        raise error(
            f"{self.mode} {name} dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert {name}: {name}.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )

    # The walk through the layers

    def _initial(self, state: Tensor | None, name: str, batch: _Batch) -> Tensor | None:
        """Check an initial state [layers K, B, H] and put it in the order of the batch's rows."""
        if state is None:
            return None
        if batch.unbatched:
            state = state.unsqueeze(1)
        expected = (self.num_layers * self._n_directions, batch.rows.n_sequences, self.hidden_size)
        if state.shape != expected:
            raise RuntimeError(f"Expected {name} size {expected}, got {list(state.shape)}")
        state = self._converted(state, name, RuntimeError)
        return state if batch.order is None else state.index_select(1, batch.order)

    def _walk(self, batch: _Batch, h0: Tensor | None, c0: Tensor | None) -> tuple[Any, Tensor, Tensor]:
        x, K, L = batch.x, self._n_directions, self.num_layers
        hs, cs = [], []
        for layer in range(L):
            directions = slice(layer * K, (layer + 1) * K)
            weights = [self._weights(names) for names in self._all_weights[directions]]
            for w in weights:
                self._check_weights(w)
            packed = [p.of(w) for p, w in zip(self._packed[directions], weights, strict=True)]
            if layer and self.dropout and self.training:
                x = nn.functional.dropout(x, self.dropout)
            x, h, c = autograd.layer(
                batch.rows,
                packed,
                x,
                h0 if h0 is None or L == 1 else h0[directions],
                c0 if c0 is None or L == 1 else c0[directions],
                [w for of_direction in weights for w in of_direction],
            )
            hs.append(h)
            cs.append(c)
        h_n, c_n = (s[0] if L == 1 else torch.cat(s) for s in (hs, cs))
        if batch.inverse is not None:
            h_n, c_n = h_n.index_select(1, batch.inverse), c_n.index_select(1, batch.inverse)
        if batch.unbatched:
            h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
        return batch.output(x), h_n, c_n


class LSTM(_Recurrent):
    """Long short-term memory, in place of `torch.nn.LSTM`: gates ``i f g o``, two biases, no peepholes.

    Each layer computes, for every step of every sequence::

        i = sigmoid(W_i x + U_i h' + b_i)    f = sigmoid(W_f x + U_f h' + b_f)
        g = tanh(W_g x + U_g h' + b_g)       o = sigmoid(W_o x + U_o h' + b_o)
        c = f c' + i g                       h = o tanh(c)

    where ``h'`` and ``c'`` are the states of the step before and ``b`` is the sum of both biases.

    Parameters
    ----------
    input_size : int
        Inputs D of each step.
    hidden_size : int
        Units H.
    num_layers : int
        Layers, each fed with the hidden states of the one before.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether padded batches are (B, T, D) instead of (T, B, D). States are (layers, B, H) all the same.
    dropout : float
        Probability with which each output of all layers but the last is dropped in training.
    bidirectional : bool
        Whether each layer also walks from the last step to the first; outputs are then 2 H wide.
    proj_size : int
        Must be 0: projections are not there yet.
    device, dtype : optional
        Of the parameters. Computation is on the CPU, in float32 or float64.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ... : Parameter
        W [4 H, D], U [4 H, H] and the biases [4 H] of each layer and direction, named, ordered and drawn as
        in `torch.nn.LSTM`: state dictionaries fit both ways.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `torch.nn.LSTM`; `TypeError` for dtypes other than float32 and float64.
    NotImplementedError
        For ``proj_size``, and at a call for parameters that are not on the CPU.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735; Gers, Schmidhuber & Cummins, Neural
    Computation 12 (2000) 2451.

    Examples
    --------
    >>> lstm = LSTM(input_size=10, hidden_size=20, num_layers=2)
    >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    mode = "LSTM"
    _n_gates = 4

    def forward(self, input: Any, hx: States | None = None) -> tuple[Any, States]:
        """Run all layers over a batch.

        Parameters
        ----------
        input : Tensor, PackedSequence, Ragged, Sequences or jagged nested tensor
            Tensors are (T, B, D), (B, T, D) with ``batch_first``, or (T, D).
        hx : tuple of two Tensors, shape (layers K, B, H) each, optional
            Initial hidden and cell states, by default zeros; K is 2 if bidirectional, else 1. Without the
            axis B for unbatched input.

        Returns
        -------
        output
            Hidden states of the last layer, K H wide, in the layout of the input (`Ragged` for `Sequences`).
        (h_n, c_n) : tuple of Tensor
            Last states of each sequence, of all layers and directions, shaped like `hx`.
        """
        batch = self._batch(input)
        h0, c0 = self._states(hx, batch)
        output, h_n, c_n = self._walk(batch, h0, c0)
        return output, (h_n, c_n)

    def _states(self, hx: States | None, batch: _Batch) -> tuple[Tensor | None, Tensor | None]:
        if hx is None:
            return None, None
        if not (isinstance(hx, (tuple, list)) and len(hx) == 2 and all(isinstance(s, Tensor) for s in hx)):
            raise TypeError(
                f"{self.mode}: hx must be a tuple (h_0, c_0) of two tensors, got {type(hx).__name__}"
            )
        axes = 2 if batch.unbatched else 3
        if any(s.dim() != axes for s in hx):
            raise RuntimeError(
                f"For {'unbatched 2-D' if batch.unbatched else 'batched'} input, hx and cx should also be "
                f"{axes}-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        return self._initial(hx[0], "hidden[0]", batch), self._initial(hx[1], "hidden[1]", batch)


def _check_arguments(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    proj_size: int,
) -> None:
    """Refuse what `torch.nn.LSTM` refuses, with its types of error."""
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            f"dropout should be a number in range [0, 1] representing the probability of an element being "
            f"zeroed, got {dropout!r}"
        )
    for name, flag in {"bias": bias, "batch_first": batch_first}.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    for name, size in {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
    }.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")
    if proj_size:
        raise NotImplementedError(
            f"proj_size={proj_size}: projections are not there yet; possible: proj_size=0"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,
        )


def _ragged_of(sequences: Sequences) -> Ragged:
    """Share the rows with tensors; copy them where they are read-only, which no tensor can be."""
    values, offsets = (a if a.flags.writeable else a.copy() for a in (sequences.values, sequences.offsets))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))
