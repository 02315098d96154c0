"""What all recurrent layers share: arguments, parameters, states, and the walk through the layers.

Use `timelike.nn`: its classes say which cell they are made of, and take the arguments of `torch.nn`.

Letters: ``B`` sequences, ``H`` units, ``R`` numbers of the hidden state (``H``, but for a projection), ``K``
directions.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from timelike import autograd, ops
from timelike.autograd import LayerWeights
from timelike.cells import CELLS, parameter_shapes
from timelike.layouts import Batch, Expected, batch_of, conform
from timelike.recording import records
from timelike.vjp import Pullback, States, Walked, outside_of_graphs, refuse_forward_mode, refuse_transforms

__all__ = ["Recurrent", "require_bool"]

_DTYPES = (torch.float32, torch.float64)


class Recurrent(nn.Module):
    """A stack of recurrent layers of one cell, in one direction or both.

    Parameters
    ----------
    cell : str
        One of `timelike.cells.CELLS`.
    inner_bias : bool
        Whether there is ``bias_hh`` where there are biases.
    recompute : bool or int
        Whether to keep states in place of a tape.

    The others are those of `torch.nn`; see `timelike.nn`.
    """

    mode: str  # as torch has it
    _kind: str  # for messages
    _usual: ClassVar[dict[str, Any]] = {
        "proj_size": 0,
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "recompute": False,
    }

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        inner_bias: bool = True,
        recompute: bool | int = False,
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
        if not isinstance(recompute, int) or recompute < 0:
            raise ValueError(f"recompute should be a bool or a positive number of steps, got {recompute!r}")
        self.recompute = recompute
        self._cell = cell
        self._n_directions = 2 if bidirectional else 1
        self._names: list[list[str]] = []  # of the parameters of each layer, one direction after the other
        for layer in range(num_layers):
            columns = input_size if layer == 0 else self.output_size
            n_biases = (2 if inner_bias else 1) if bias else 0
            shapes = parameter_shapes(cell, columns, hidden_size, proj_size=proj_size, n_biases=n_biases)
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
    def held(self) -> tuple[LayerWeights | None, ...]:
        """Weights of each layer as they were packed last; None before the first call."""
        return tuple(self._held)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Parameters of each layer and direction, as in `torch.nn`."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _all_weights(self) -> list[list[str]]:
        """Names of them: private in `torch.nn` too, but many a script finds the biases by it."""
        n = len(self._names[0]) // self._n_directions
        return [names[k : k + n] for names in self._names for k in range(0, len(names), n)]

    @property
    def output_size(self) -> int:
        """Width K R of the outputs."""
        return self._n_directions * self.state_size

    @property
    def state_size(self) -> int:
        """Numbers R of the hidden state."""
        return self.proj_size or self.hidden_size

    def extra_repr(self) -> str:
        """Arguments that differ from the defaults, as in `torch.nn`."""
        given = [
            f"{name}={getattr(self, name)}"
            for name, usual in self._usual.items()
            if getattr(self, name) != usual
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *given])

    def __getstate__(self) -> dict[str, Any]:
        # What is packed is made again from the parameters at the next call.
        return self.__dict__ | {"_held": [None] * self.num_layers}

    def forward(
        self, input: Any, hx: States | None = None, *, mask: Tensor | None = None
    ) -> tuple[Any, States]:
        """Run all layers over a batch.

        Parameters
        ----------
        input : Tensor, PackedSequence, Ragged, Sequences or jagged nested tensor
            Tensors are (T, B, D), (B, T, D) with ``batch_first``, or (T, D).
        hx : Tensor, shape (layers K, B, R), optional
            Initial hidden states, by default zeros; K is 2 if bidirectional, else 1. An LSTM takes a tuple of
            them and its initial cell states, (layers K, B, H). Without the axis B for unbatched input.
        mask : Tensor of bool, shape (T, B), (B, T) with ``batch_first``, or (T,), optional
            Which steps of a padded tensor there are: True for a step, False for padding or a hole. A sequence
            is walked as if the others were not in it: they are not read, and outputs and gradients are zero
            there.

        Returns
        -------
        output
            Hidden states of the last layer, K R wide, in the layout of the input (`Ragged` for `Sequences`).
        h_n : Tensor, or tuple of two for an LSTM
            Last states of each sequence, of all layers and directions, shaped like `hx`.
        """
        refuse_transforms(self._kind)
        if torch.compiler.is_compiling():
            if ops.can_trace(input, mask, recompute=self.recompute):
                return self._run(input, hx, mask, traced=True)
            return outside_of_graphs(self._run, input, hx, mask)  # type: ignore[no-any-return]
        return self._run(input, hx, mask)

    def vjp(
        self, input: Any, hx: States | None = None, *, mask: Tensor | None = None
    ) -> tuple[tuple[Any, States], Pullback]:
        """Run all layers over a batch, and give the way back beside the result: no autograd.

        As `torch.func.vjp`, of which this is the vector-Jacobian product. The numbers are those of a call and
        of autograd, to the bit; what autograd takes to remember what was done, longer than the arithmetic of
        a small layer, is saved. Gradients have the type of the parameters, under autocast too. There are no
        derivatives of higher order.

        Parameters
        ----------
        input, hx, mask
            As of a call.

        Returns
        -------
        (output, h_n)
            As of a call; they belong to no graph.
        pullback : `timelike.vjp.Pullback`
            Takes gradients of the output and, optionally, of the last states. It gives those of the
            ``input``, of ``hx`` and of the ``parameters`` that require one, by name.

        Raises
        ------
        RuntimeError
            Where only autograd finds the way: if weights are made of other parameters (parametrisations,
            pruning), if two of them are one tensor, for modules with hooks, and while a trace keeps what
            layers compute.
        NotImplementedError
            Within transforms of `torch.func`, and in forward mode.

        References
        ----------
        Werbos, Proc. IEEE 78 (1990) 1550. The equations are derived in ``docs/equations.md``.

        Examples
        --------
        >>> from timelike.nn import LSTM
        >>> lstm = LSTM(3, 4)
        >>> (output, (h_n, c_n)), pullback = lstm.vjp(torch.randn(5, 2, 3))
        >>> gradients = pullback(2 * output)  # of the sum of squares
        >>> gradients.input.shape, gradients.parameters["weight_hh_l0"].shape
        (torch.Size([5, 2, 3]), torch.Size([16, 4]))
        """
        refuse_transforms(self._kind)
        refuse_forward_mode(self._kind)
        if torch.compiler.is_compiling():
            return outside_of_graphs(self.vjp, input, hx, mask=mask)  # type: ignore[no-any-return]
        if why := self._only_autograd_can():
            raise RuntimeError(f"{self._kind}.vjp: {why}; call the layer itself, under autograd")
        walked: list[Walked] = []
        with torch.no_grad():
            batch, weights = self._read(input, mask)
            output, states = self._walk(batch, weights, hx, walked)
        return (output, states), Pullback(self._kind, batch, walked, output, states, hx is not None)

    def _only_autograd_can(self) -> str:
        """Say what stands against a way back without autograd; nothing, where nothing does."""
        if records.get() is not None:
            return "it would leave nothing in the trace"
        if self._forward_pre_hooks or self._forward_hooks or self._backward_pre_hooks or self._backward_hooks:
            return "the module has hooks, which it would not run"
        own = self._parameters
        for names in self._names:
            for name in names:
                if own.get(name) is None:
                    return f"{name} is made of other parameters"
        if len({id(parameter) for parameter in own.values()}) < len(own):
            return "some of its parameters are the same tensor"
        return ""

    def _run(
        self, input: Any, hx: States | None, mask: Tensor | None, *, traced: bool = False
    ) -> tuple[Any, States]:
        batch, weights = self._read(input, mask, traced=traced)
        return self._walk(batch, weights, hx)

    def _read(
        self, input: Any, mask: Tensor | None, *, traced: bool = False
    ) -> tuple[Batch, list[list[Tensor]]]:
        """Read a batch, and give it with the weights of each layer."""
        weights = self._weights()
        expected = Expected(self._kind, self.input_size, weights[0][0].dtype)
        read = ops.traced_batch if traced else batch_of
        return read(input, expected, batch_first=self.batch_first, mask=mask), weights

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
                f"{self._kind}: parameters are on device {first.device}, but these kernels run on the CPU: "
                "use module.to('cpu'), or torch.nn there"
            )
        if first.dtype not in _DTYPES:
            raise TypeError(
                f"{self._kind}: parameters are {first.dtype}; possible: torch.float32, torch.float64: "
                "use module.float() or module.double()"
            )
        return weights  # type: ignore[no-any-return]

    def _hold(self, layer: int, weights: Sequence[Tensor]) -> LayerWeights:
        """Pack the weights of a layer, unless they are those packed last."""
        held = self._held[layer]
        if held is None:
            held = self._held[layer] = LayerWeights(self._cell, weights, self._n_directions)
        elif not held.hold(weights):
            held = self._held[layer] = held.renewed(weights)
        return held

    # States

    def _initial(self, hx: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Check the initial states and give them, [layers K, B, R or H], in the order of the batch's rows."""
        axes = 2 if batch.unbatched else 3
        if not CELLS[self._cell].has_cell_state:
            if not isinstance(hx, Tensor):
                raise TypeError(f"{self._kind}: hx must be a tensor h_0, got {_kinds(hx)}")
            if hx.dim() != axes:
                raise _wrong_axes(axes, hx)
            return self._state(hx, "hidden", self.state_size, batch), None
        if not _is_pair(hx):
            raise TypeError(f"{self._kind}: hx must be a tuple (h_0, c_0) of two tensors, got {_kinds(hx)}")
        h0, c0 = hx
        if h0.dim() != axes or c0.dim() != axes:
            raise _wrong_axes(axes, h0, c0)
        h0 = self._state(h0, "hidden[0]", self.state_size, batch)
        return h0, self._state(c0, "hidden[1]", self.hidden_size, batch)

    def _state(self, state: Tensor, name: str, size: int, batch: Batch) -> Tensor:
        if batch.unbatched:
            state = state.unsqueeze(1)
        expected = (self.num_layers * self._n_directions, batch.rows.n_sequences, size)
        if state.shape != expected:
            raise RuntimeError(f"Expected {name} size {expected}, got {list(state.shape)}")
        state = conform(state, name, self._kind, batch.x.dtype, RuntimeError)
        return state if batch.order is None else state.index_select(1, batch.order)

    # The walk through the layers

    def _walk(
        self, batch: Batch, weights: list[list[Tensor]], hx: States | None, walked: list[Walked] | None = None
    ) -> tuple[Any, States]:
        """Run all layers, by autograd, or with the way back of each left in `walked`."""
        x, L = batch.x, self.num_layers
        h0, c0 = (None, None) if hx is None else self._initial(hx, batch)
        c_n: Tensor | None
        if L == 1:
            x, h_n, c_n = self._layer(0, batch.rows, x, h0, c0, weights[0], walked)
        else:
            h0s, c0s = ((None,) * L if s is None else s.chunk(L) for s in (h0, c0))
            h_last, c_last = [], []
            for layer in range(L):
                if layer and self.dropout and self.training:
                    noise = self._noise(x)
                    x = x * noise
                    if walked is not None:
                        walked[-1] = walked[-1]._replace(noise=noise)
                x, h_n, c_n = self._layer(
                    layer, batch.rows, x, h0s[layer], c0s[layer], weights[layer], walked
                )
                h_last.append(h_n)
                c_last += [] if c_n is None else [c_n]
            h_n, c_n = torch.cat(h_last), torch.cat(c_last) if c_last else None
        if batch.inverse is not None:
            h_n = h_n.index_select(1, batch.inverse)
            c_n = None if c_n is None else c_n.index_select(1, batch.inverse)
        if batch.unbatched:
            h_n, c_n = h_n.squeeze(1), None if c_n is None else c_n.squeeze(1)
        return x if batch.output is None else batch.output(x), h_n if c_n is None else (h_n, c_n)

    def _layer(
        self,
        layer: int,
        rows: Any,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        weights: list[Tensor],
        walked: list[Walked] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if isinstance(rows, ops.TracedRows):
            return ops.layer(
                self._cell,
                rows,
                x,
                h0,
                c0,
                weights,
                n_directions=self._n_directions,
                recompute=self.recompute,
            )
        held = self._hold(layer, weights)
        if walked is None:
            return autograd.layer(held, rows, x, h0, c0, weights, recompute=self.recompute)
        outputs, back = autograd.layer_and_back(held, rows, x, h0, c0, recompute=self.recompute)
        walked.append(Walked(back, self._names[layer], weights))
        return outputs

    def _noise(self, x: Tensor) -> Tensor:
        """Draw what dropout multiplies the inputs of a layer with."""
        if self.batch_first and x.dim() == 3:  # torch draws for (T, B, ...), whatever lies in memory
            B, T, width = x.shape
            return nn.functional.dropout(x.new_ones(T, B, width), self.dropout).transpose(0, 1)
        return nn.functional.dropout(torch.ones_like(x), self.dropout)


def _is_pair(hx: Any) -> bool:
    return (
        isinstance(hx, (tuple, list))
        and len(hx) == 2
        and isinstance(hx[0], Tensor)
        and isinstance(hx[1], Tensor)
    )


def _kinds(hx: Any) -> Any:
    return [type(s).__name__ for s in hx] if isinstance(hx, (tuple, list)) else type(hx).__name__


def _wrong_axes(axes: int, *states: Tensor) -> RuntimeError:
    kind, given = "unbatched" if axes == 2 else "batched", [f"{state.dim()}-D" for state in states]
    if len(given) == 1:
        names, got = "hx", f"{given[0]} tensor"
    else:
        names, got = "hx and cx", f"({', '.join(given)}) tensors"
    return RuntimeError(f"For {kind} {axes}-D input, {names} should also be {axes}-D but got {got}")


def require_bool(**flags: Any) -> None:
    """Refuse what is not a bool, by its name, as `torch.nn` does.

    Raises
    ------
    TypeError
        If one is not.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")


def _check_arguments(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    proj_size: int,
) -> None:
    """Refuse what `torch.nn` refuses, with its types of error."""
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            f"dropout should be a number in range [0, 1] representing the probability of an element being "
            f"zeroed, got {dropout!r}"
        )
    require_bool(bias=bias, batch_first=batch_first)
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if not isinstance(proj_size, int):
        raise TypeError(f"proj_size should be of type int, got: {type(proj_size).__name__}")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,
        )
