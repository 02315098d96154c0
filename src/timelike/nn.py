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
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from timelike import autograd
from timelike.autograd import LayerWeights
from timelike.layouts import Batch, Expected, Ragged, batch_of, conform

__all__ = ["LSTM", "Ragged"]

_DTYPES = (torch.float32, torch.float64)

States: TypeAlias = tuple[Tensor, Tensor]


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
        self._names: list[list[str]] = []  # of the parameters of each layer, one direction after the other
        for layer in range(num_layers):
            columns = input_size if layer == 0 else hidden_size * self._n_directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, columns),
                "weight_hh": (rows, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            self._names.append([])
            for suffix in ("", "_reverse")[: self._n_directions]:
                for name, shape in shapes.items():
                    values = torch.empty(shape, device=device, dtype=dtype)
                    self.register_parameter(f"{name}_l{layer}{suffix}", nn.Parameter(values))
                    self._names[layer].append(f"{name}_l{layer}{suffix}")
        self._held: list[LayerWeights | None] = [None] * num_layers
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
        n = len(self._names[0]) // self._n_directions
        weights = [[getattr(self, name) for name in names] for names in self._names]
        return [of_layer[k : k + n] for of_layer in weights for k in range(0, len(of_layer), n)]

    @property
    def _n_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        """Arguments that differ from the defaults, as in `torch.nn`."""
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        given = [f"{name}={getattr(self, name)}" for name in usual if getattr(self, name) != usual[name]]
        return ", ".join([str(self.input_size), str(self.hidden_size), *given])

    def __getstate__(self) -> dict[str, Any]:
        # What is packed is made again from the parameters at the next call.
        return self.__dict__ | {"_held": [None] * self.num_layers}

    # Weights

    def _weights(self) -> list[list[Tensor]]:
        """Weights of each layer, whoever put them there: parametrisations make attributes of them."""
        own = self._parameters
        try:
            weights: Any = [[own[name] for name in names] for names in self._names]
        except KeyError:
            weights = [[getattr(self, name) for name in names] for names in self._names]
        first = weights[0][0]
        if not first.is_cpu:
            raise NotImplementedError(
                f"{self.mode}: parameters are on device {first.device}, but these kernels run on the CPU: "
                "use module.to('cpu'), or torch.nn there"
            )
        if first.dtype not in _DTYPES:
            raise TypeError(
                f"{self.mode}: parameters are {first.dtype}; possible: torch.float32, torch.float64: "
                "use module.float() or module.double()"
            )
        return weights  # type: ignore[no-any-return]

    def _hold(self, layer: int, weights: Sequence[Tensor]) -> LayerWeights:
        """Pack the weights of a layer, unless they are those packed last."""
        held = self._held[layer]
        if held is None or not held.hold(weights):
            held = self._held[layer] = LayerWeights(weights, self._n_directions)
        return held

    # The walk through the layers

    def _initial(self, state: Tensor, name: str, batch: Batch) -> Tensor:
        """Check an initial state and give it as [layers K, B, H], in the order of the batch's rows."""
        if state.dim() != (2 if batch.unbatched else 3):
            kind = "unbatched 2-D" if batch.unbatched else "batched"
            axes = "2-D (layers, H)" if batch.unbatched else "3-D (layers, B, H)"
            raise RuntimeError(f"For {kind} input, {name} should be {axes}, but it is {state.dim()}-D")
        if batch.unbatched:
            state = state.unsqueeze(1)
        expected = (self.num_layers * self._n_directions, batch.rows.n_sequences, self.hidden_size)
        if state.shape != expected:
            raise RuntimeError(f"Expected {name} size {expected}, got {list(state.shape)}")
        state = conform(state, name, self.mode, batch.x.dtype, RuntimeError)
        return state if batch.order is None else state.index_select(1, batch.order)

    def _walk(
        self, batch: Batch, weights: list[list[Tensor]], h0: Tensor | None, c0: Tensor | None
    ) -> tuple[Any, Tensor, Tensor]:
        if torch._C._are_functorch_transforms_active():
            raise NotImplementedError(
                f"{self.mode}: transforms of torch.func (vmap, grad, jvp, ...) are not supported; "
                "use torch.autograd"
            )
        x, L = batch.x, self.num_layers
        if L == 1:
            x, h_n, c_n = autograd.layer(self._hold(0, weights[0]), batch.rows, x, h0, c0, weights[0])
        else:
            initial = [None if s is None else s.chunk(L) for s in (h0, c0)]
            last = []
            for layer in range(L):
                if layer and self.dropout and self.training:
                    x = nn.functional.dropout(x, self.dropout)
                h, c = (None if s is None else s[layer] for s in initial)
                held = self._hold(layer, weights[layer])
                x, *states = autograd.layer(held, batch.rows, x, h, c, weights[layer])
                last.append(states)
            h_n, c_n = (torch.cat(s) for s in zip(*last, strict=True))
        if batch.inverse is not None:
            h_n, c_n = h_n.index_select(1, batch.inverse), c_n.index_select(1, batch.inverse)
        if batch.unbatched:
            h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
        return x if batch.output is None else batch.output(x), h_n, c_n


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
        if torch.compiler.is_compiling():
            return _outside_of_graphs(self, input, hx)  # type: ignore[no-any-return]
        return self._run(input, hx)

    def _run(self, input: Any, hx: States | None) -> tuple[Any, States]:
        weights = self._weights()
        expected = Expected(self.mode, self.input_size, weights[0][0].dtype)
        batch = batch_of(input, expected, batch_first=self.batch_first)
        h0 = c0 = None
        if hx is not None:
            h0, c0 = _pair(hx)
            h0, c0 = self._initial(h0, "hidden[0]", batch), self._initial(c0, "hidden[1]", batch)
        output, h_n, c_n = self._walk(batch, weights, h0, c0)
        return output, (h_n, c_n)


@torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable, but it does not load the compiler
def _outside_of_graphs(module: LSTM, input: Any, hx: States | None) -> Any:
    """Run a layer between two graphs of `torch.compile`, which cannot look into native calls."""
    return module._run(input, hx)


def _pair(hx: Any) -> tuple[Tensor, Tensor]:
    if isinstance(hx, (tuple, list)) and len(hx) == 2 and all(isinstance(s, Tensor) for s in hx):
        return hx[0], hx[1]
    given = [type(s).__name__ for s in hx] if isinstance(hx, (tuple, list)) else type(hx).__name__
    raise TypeError(f"LSTM: hx must be a tuple (h_0, c_0) of two tensors, got {given}")


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
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
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
            stacklevel=3,
        )
