"""Loss and gradients of a network for one batch of a training.

Autograd is asked where it must be. But what follows what in a plain network is known beforehand: its layers
are called back one by one, the recurrent ones by their kernels, the others by the derivatives that autograd
would call. So the numbers are the same to the bit, and what autograd takes to remember and find them again,
which for a small network is longer than the arithmetic, is saved.

Sizes: `B` sequences, `N` rows, `D` inputs, `H` units, `K` directions, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from timelike import runtime
from timelike.batches import Batch
from timelike.cells import CELLS
from timelike.losses import Loss, cross_entropy
from timelike.network import ACTIVATIONS, Network, pool
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.recurrent import Recurrent

__all__ = ["Chain", "by_autograd"]

_aten = torch.ops.aten
_nll_loss, _nll_loss_backward = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_log_softmax_backward = _aten._log_softmax_backward_data.default
# By dL/dy, x and y of y = f(x). Those that are not here are asked of autograd.
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda dy, _x, y: _aten.threshold_backward(dy, y, 0),
    "tanh": lambda dy, _x, y: _aten.tanh_backward(dy, y),
    "sigmoid": lambda dy, _x, y: _aten.sigmoid_backward(dy, y),
}


def by_autograd(
    network: nn.Module, batch: Batch, loss: Loss, penalty: Callable[[], Tensor] | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the loss of a batch, and its gradients by all parameters that are trained.

    Parameters
    ----------
    network : torch.nn.Module
        Gives scores of the rows of a batch.
    batch : Batch
    loss : callable
        Of `timelike.losses`.
    penalty : callable, optional
        Gives what is added to the loss.

    Returns
    -------
    loss : Tensor
        One number.
    gradients : list of Tensor or None
        One for each of ``network.parameters()`` that requires a gradient; None stands for zeros.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = None
    value = loss(network(batch.rows), batch.labels, batch.weights)
    if penalty is not None:
        value = value + penalty()
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), [p.grad for p in parameters]


class Chain:
    """Loss and gradients of a plain network, without autograd.

    Parameters
    ----------
    network : Network
        One of which `is_plain` is true. What is changed in it later but the numbers of its parameters, hooks
        included, is not seen.
    loss : callable
        Of `timelike.losses`.
    gradients : sequence of Tensor
        Where the gradients go, for each of ``network.parameters()`` that requires one.
    """

    def __init__(self, network: Network, loss: Loss, gradients: Sequence[Tensor]) -> None:
        self._loss = loss
        self._config, self._per_step, self._sigmoid = network.config, network.per_step, network.sigmoid
        places = iter(gradients)
        self._recurrent = [_Recurrent(layer, places) for layer in _recurrent_layers(network)]
        layers = [layer for layer in network.head if isinstance(layer, nn.Linear)]
        names = (*network.config.head.activations, None)
        self._head = [_Dense(layer, name, places) for layer, name in zip(layers, names, strict=True)]

    @staticmethod
    def is_plain(network: nn.Module) -> bool:
        """Whether a network computes what its config says, all of it is trained, and nobody looks on."""
        return (
            type(network) is Network
            and not network.norms
            and not any(map(_is_watched, network.modules()))
            and all(type(layer) in (LSTM, GRU, RNN) for layer in network.recurrent)
            and all(type(layer) is nn.Linear for layer in network.head)
            and all(p.requires_grad or "bias" in name for name, p in network.recurrent.named_parameters())
            and all(p.requires_grad for p in network.head.parameters())
        )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Give the loss of a batch, the network being in training, and put the gradients in their places."""
        (x, offsets), config, final = batch.rows, self._config, None
        for index, layer in enumerate(self._recurrent):
            x, final = layer.forward(x, offsets, config.dropout if index else 0.0)
        states = x
        if not self._per_step:
            x = pool(Ragged(x, offsets), final, config.pooling, config.steps)
        for dense in self._head[:-1]:
            x = dense.forward(x, config.head.dropout)
        scores = self._head[-1].forward(x, 0.0)

        value, dx = self._loss_backward(nn.functional.pad(scores, (1, 0)) if self._sigmoid else scores, batch)
        if self._sigmoid:
            dx = dx[:, 1:].contiguous()
        for dense in reversed(self._head[1:]):
            dx = dense.backward(dx)
        first = self._head[0]
        if not self._recurrent:
            first.backward(dx, wanted=False)
            return value
        dy, dhT = self._pool_backward(Ragged(states, offsets), final, first.backward(dx))
        for index in reversed(range(len(self._recurrent))):
            dy, dhT = self._recurrent[index].backward(dy, dhT, wanted=index > 0), None
        return value

    def _loss_backward(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the loss and its derivative by the scores [B, C]."""
        _, labels, weights = batch
        if self._loss is cross_entropy:
            log_p = scores.log_softmax(1)
            losses, total = _nll_loss(log_p, labels, None, 0, -100)
            value = torch.dot(losses, weights) / len(labels)
            d_log_p = _nll_loss_backward(weights * (1 / len(labels)), log_p, labels, None, 0, -100, total)
            return value, _log_softmax_backward(d_log_p, log_p, 1, scores.dtype)
        with torch.enable_grad():
            leaf = scores.detach().requires_grad_()
            value = self._loss(leaf, labels, weights)
            (d_scores,) = torch.autograd.grad(value, leaf)
        return value.detach(), d_scores

    def _pool_backward(
        self, states: Ragged, final: Tensor | None, dz: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give the gradients of all states [N, K H], or of the last ones [K, B, H], from those of the pooled.

        The other of the two is None.
        """
        how, steps, y = self._config.pooling, self._config.steps, states.values
        if how == "last":
            assert final is not None
            K, B, H = final.shape
            return None, dz.view(B, K, H).transpose(0, 1)
        if how == "max":
            dy = _ask_autograd(lambda y: pool(Ragged(y, states.offsets), None, how, steps), y, dz)
        elif how == "mean":
            lengths = states.offsets.diff()
            share = dz / lengths.clamp(min=1)[:, None]
            dy = share.repeat_interleave(lengths, dim=0, output_size=len(y))
        else:
            dy = dz.reshape(y.shape)
        return dy, None


def _recurrent_layers(network: Network) -> list[Recurrent]:
    return [layer for layer in network.recurrent if isinstance(layer, Recurrent)]


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Recurrent:
    """A recurrent layer in the chain."""

    def __init__(self, layer: Recurrent, places: Iterator[Tensor]) -> None:
        self._weights = dict(layer.named_parameters())
        self._gradients = {name: next(places).numpy() for name, w in self._weights.items() if w.requires_grad}
        self._session = runtime.Recurrent.from_module(layer)
        self._has_cell_state = CELLS[self._session.cell].has_cell_state
        self._pullback: runtime.Pullback
        self._noise: Tensor | None

    def forward(self, x: Tensor, offsets: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        """Give hidden states [N, K H], and the last ones [K, B, H]."""
        self._session.update(self._weights)  # they change with every step
        x, self._noise = _dropped(x, dropout)
        (y, state), self._pullback = self._session.vjp(x.numpy(), offsets=offsets.numpy())
        h = state[0] if self._has_cell_state else state
        return torch.from_numpy(y), torch.from_numpy(h)

    def backward(self, dy: Tensor | None, dhT: Tensor | None, *, wanted: bool) -> Tensor | None:
        """Put the gradients of the weights in their places, and give dx if it is wanted."""
        pullback, noise = self._pullback, self._noise
        del self._pullback, self._noise  # so that their memory can be lent again
        dh = None if dhT is None else dhT.numpy()
        gradients = pullback(
            None if dy is None else dy.numpy(),
            (dh, None) if self._has_cell_state else dh,
            wrt_input=wanted,
            out=self._gradients,
        )
        if gradients.x is None:
            return None
        dx = torch.from_numpy(gradients.x)
        return dx if noise is None else dx * noise


class _Dense:
    """A dense layer in the chain, with its activation."""

    def __init__(self, layer: nn.Linear, activation: str | None, places: Iterator[Tensor]) -> None:
        self._weight, self._bias = layer.weight, layer.bias
        self._dW, self._db = next(places), next(places)
        self._activation = None if activation is None else ACTIVATIONS[activation]
        self._derivative = _DERIVATIVES.get(activation or "")

    def forward(self, x: Tensor, dropout: float) -> Tensor:
        """Give y [B, units] of x [B, D]."""
        self._x = x
        y = nn.functional.linear(x, self._weight, self._bias)
        if self._activation is not None:
            self._a, y = y, self._activation(y)
        self._y = y
        y, self._noise = _dropped(y, dropout)
        return y

    def backward(self, dy: Tensor, *, wanted: bool = True) -> Tensor:
        """Put the gradients of the weights in their places, and give dx (of no meaning if not wanted)."""
        if self._noise is not None:
            dy = dy * self._noise
        if self._derivative is not None:
            dy = self._derivative(dy, self._a, self._y)
        elif self._activation is not None:
            dy = _ask_autograd(self._activation, self._a, dy)
        torch.mm(dy.t(), self._x, out=self._dW)
        torch.sum(dy, 0, out=self._db)
        return dy.mm(self._weight) if wanted else dy


def _ask_autograd(function: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> Tensor:
    """Give dL/dx of a function that autograd knows."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (dx,) = torch.autograd.grad(function(leaf), leaf, dy)
    return dx


def _dropped(x: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """Drop a share of numbers, and give what all were multiplied with."""
    if not share:
        return x, None
    noise = nn.functional.dropout(torch.ones_like(x), share)
    return x * noise, noise
