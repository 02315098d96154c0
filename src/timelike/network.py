"""The network of a config as a torch module: recurrent layers, pooling over steps, dense head.

`Network` takes ragged batches and is what training works on; `logits` are its scores of many sequences.
Transforms of the variables are no part of it: see `timelike.model`.

Sizes: `B` sequences, `N` rows, `D` variables, `H` units, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.config import GRUConfig, LSTMConfig, NetworkConfig, RNNConfig
from timelike.errors import DataError
from timelike.initialisers import initialise
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.ragged import cuts
from timelike.sequences import Sequences

__all__ = ["ACTIVATIONS", "Network", "evaluating", "logits", "outputs", "pool", "ragged"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
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
# Rows of a batch where only scores are wanted: enough to keep the kernels busy, a few MB of activations.
_ROWS_AT_ONCE = 1 << 16


class Network(nn.Module):
    """Recurrent layers, pooling over the steps of each sequence, dense layers: a ragged batch to logits.

    Parameters
    ----------
    config : NetworkConfig
        Layers, pooling and head.
    n_variables : int
        Inputs of each step, D.
    n_classes : int
        Classes, labels or targets, C; of targets with quantiles there is a number for each of these.
    dtype : torch.dtype
        float32 or float64.
    """

    def __init__(
        self, config: NetworkConfig, n_variables: int, n_classes: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = config
        self.n_classes = n_classes * (len(config.head.quantiles) or 1)
        self.recurrent = nn.ModuleList()
        size = n_variables
        for layer in config.recurrent:
            made = _layer(layer, size, dtype)
            self.recurrent.append(made)
            size = made.output_size
        size *= config.steps or 1
        self.head, self.norms = nn.ModuleList(), nn.ModuleDict()
        norm = config.head.batch_norm
        for index, units in enumerate((*config.head.units, 1 if self.sigmoid else self.n_classes)):
            if norm is not None and index in norm.before:
                self.norms[str(index)] = nn.BatchNorm1d(
                    size, eps=norm.epsilon, momentum=norm.momentum, dtype=dtype
                )
            self.head.append(nn.Linear(size, units, dtype=dtype))
            size = units
        initialise(self, config.initialiser)

    def rescale(self, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        """Let what the last layer gives, y [C], be ``mean + scale y`` from now on.

        Parameters
        ----------
        mean, scale : array [C]
        """
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # In float64 and then rounded once, so that a large mean costs no more than it must.
            weight, bias = (parameter.double().numpy() for parameter in (last.weight, last.bias))
            last.weight.copy_(torch.from_numpy(weight * scale[:, None]))
            last.bias.copy_(torch.from_numpy(mean + scale * bias))

    @property
    def sigmoid(self) -> bool:
        """Whether there is one score for two classes."""
        return self.config.head.output == "sigmoid"

    @property
    def per_step(self) -> bool:
        """Whether every step has scores of its own."""
        return self.config.pooling == "none"

    def forward(self, batch: Ragged) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        batch : Ragged
            Values [N, D] and offsets [B+1].

        Returns
        -------
        Tensor
            Logits [B, C], or where each step has its own [N, C].
        """
        final = None
        for index, layer in enumerate(self.recurrent):
            if index:
                dropped = nn.functional.dropout(batch.values, self.config.dropout, self.training)
                batch = Ragged(dropped, batch.offsets)
            batch, last = layer(batch)
            final = last[0] if isinstance(last, tuple) else last
        x = batch.values
        if not self.per_step:
            x = pool(batch, final, self.config.pooling, self.config.steps)
        for index, (layer, activation) in enumerate(
            zip(self.head, self.config.head.activations, strict=False)
        ):
            x = ACTIVATIONS[activation](layer(self._normed(index, x)))
            x = nn.functional.dropout(x, self.config.head.dropout, self.training)
        scores: Tensor = self.head[-1](self._normed(len(self.head) - 1, x))
        # The sigmoid of a number is the softmax of it and 0.
        return nn.functional.pad(scores, (1, 0)) if self.sigmoid else scores

    def _normed(self, index: int, x: Tensor) -> Tensor:
        """Give the inputs of a dense layer, normalised where the config says so."""
        normed: Tensor = self.norms[str(index)](x) if str(index) in self.norms else x
        return normed


def _layer(config: LSTMConfig | GRUConfig | RNNConfig, size: int, dtype: torch.dtype) -> LSTM | GRU | RNN:
    options: dict[str, Any] = {"bidirectional": config.bidirectional, "dtype": dtype}
    made: LSTM | RNN
    if isinstance(config, GRUConfig):
        options |= {"reset_after": config.reset_after, "inner_bias": config.inner_bias}
        return GRU(size, config.units, **options)
    if isinstance(config, LSTMConfig):
        options |= {"proj_size": config.projection, "peephole": config.peephole, "coupled": config.coupled}
        made = LSTM(size, config.units, **options)
    else:
        made = RNN(size, config.units, nonlinearity=config.cell.removeprefix("rnn_"), **options)
    for name, parameter in made.named_parameters():
        if name.startswith("bias_hh") and not config.inner_bias:
            parameter.requires_grad_(False).zero_()
    return made


def pool(batch: Ragged, final: Tensor | None, how: str, steps: int | None = None) -> Tensor:
    """Reduce the hidden states of each sequence to one vector; zeros for a sequence without steps.

    Parameters
    ----------
    batch : Ragged
        Hidden states [N, H dirs] of all steps, and offsets [B+1].
    final : Tensor [dirs, B, H], or None
        Each direction's state after its last step, for "last".
    how : {"last", "mean", "max", "flatten"}
        "last" takes the final states, so for the backward direction that at the first step; "flatten" the
        states of all steps one behind the other.
    steps : int, optional
        With "flatten" the number T of steps that every sequence must have.

    Returns
    -------
    Tensor
        Shape [B, H dirs], with "flatten" [B, T H dirs].

    Raises
    ------
    DataError
        With "flatten", if a sequence has another number of steps.
    """
    if how == "flatten":
        assert steps is not None
        wrong = (batch.offsets.diff() != steps).nonzero()
        if len(wrong):
            b = int(wrong[0])
            n = int(batch.offsets[b + 1] - batch.offsets[b])
            raise DataError(
                f"a sequence has {n} steps; the network takes {steps}, not more, not less (pooling: flatten)"
            )
        return batch.values.reshape(len(batch.offsets) - 1, -1)
    if how == "last":
        assert final is not None
        # After no step the state is still the initial one, zero.
        return final.transpose(0, 1).flatten(1)
    lengths = batch.offsets.diff()[:, None]
    if how == "mean":
        total: Tensor = torch.segment_reduce(batch.values, "sum", offsets=batch.offsets, axis=0)
        return total / lengths.clamp(min=1)
    highest: Tensor = torch.segment_reduce(batch.values, "max", offsets=batch.offsets, axis=0)
    return highest.masked_fill(lengths == 0, 0.0)


def ragged(sequences: Sequences, dtype: torch.dtype) -> Ragged:
    """Give sequences as a batch for a network; the rows are shared where their type allows."""
    return Ragged(_tensor(sequences.values).to(dtype), _tensor(sequences.offsets))


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    # torch has no read-only tensors and warns of such arrays
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def logits(network: Network, sequences: Sequences) -> Tensor:
    """Compute logits [B, C], or [N, C] of each step, without gradients, in batches of many rows.

    Parameters
    ----------
    network : Network
    sequences : Sequences
        Transformed already, variables in the network's order.
    """
    dtype = next(network.parameters()).dtype
    with evaluating(network), torch.no_grad():
        parts = [
            network(ragged(sequences[start:stop], dtype))
            for start, stop in cuts(sequences.offsets, _ROWS_AT_ONCE)
        ]
    return torch.cat(parts) if parts else torch.empty(0, network.n_classes, dtype=dtype)


def outputs(scores: Tensor, output: str) -> Tensor:
    """Give what a network says of its logits: probabilities, or numbers.

    Parameters
    ----------
    scores : Tensor [..., C]
    output : str
        As in a config, see `timelike.description.OUTPUTS`; the one number of ``sigmoid`` stands behind a 0.
    """
    if output == "multilabel":
        return scores.sigmoid()
    if output == "exponential":
        return scores.exp()
    return scores if output == "linear" else scores.softmax(dim=-1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into the mode of inference for a block; each of its parts gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
