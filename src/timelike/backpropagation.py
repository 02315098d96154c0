"""Loss and gradients of a network for one batch of a training.

Autograd is asked where it must be. But what follows what in a plain network is known beforehand: its layers
are called back one by one, the recurrent ones by their kernels, the others by the derivatives that autograd
would call. So the numbers are the same to the bit, and what autograd takes to remember and find them again,
which for a small network is longer than the arithmetic, is saved.

Sizes: `B` sequences, `N` rows, `H` units, `K` directions, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from timelike import autograd, layercalls
from timelike.batches import Batch
from timelike.kernels import Rows
from timelike.layerweights import LayerWeights
from timelike.layouts import Expected, batch_of
from timelike.losses import Loss, cross_entropy
from timelike.network import ACTIVATIONS, Network, pool
from timelike.nn import GRU, LSTM, RNN, Ragged
from timelike.recording import records
from timelike.recurrent import Recurrent

__all__ = ["by_autograd", "loss_and_gradients"]

_aten = torch.ops.aten
_nll_loss, _nll_loss_backward = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_log_softmax_backward = _aten._log_softmax_backward_data.default
# By dL/dy, x and y of y = f(x). Those that are not here are asked of autograd.
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda dy, _x, y: _aten.threshold_backward(dy, y, 0),
    "tanh": lambda dy, _x, y: _aten.tanh_backward(dy, y),
    "sigmoid": lambda dy, _x, y: _aten.sigmoid_backward(dy, y),
    "linear": lambda dy, _x, _y: dy,
}


def loss_and_gradients(
    network: Network, batch: Batch, loss: Loss, penalty: Callable[[], Tensor] | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the loss of a batch, and its gradients by all parameters that are trained.

    Parameters
    ----------
    network : Network
        In the mode of training.
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
    if penalty is None and records.get() is None and _is_plain(network):
        with torch.no_grad():
            return _by_hand(network, batch, loss)
    return by_autograd(network, batch, loss, penalty)


def by_autograd(
    network: Network, batch: Batch, loss: Loss, penalty: Callable[[], Tensor] | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the same for any network; see `loss_and_gradients`."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = None
    value = loss(network(batch.rows), batch.labels, batch.weights)
    if penalty is not None:
        value = value + penalty()
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), [p.grad for p in parameters]


def _is_plain(network: Network) -> bool:
    """Whether a network computes what its config says, and nobody looks on."""
    return (
        type(network) is Network
        and not network.norms
        and not _hooked(network)
        and all(type(layer) in (LSTM, GRU, RNN) and not _hooked(layer) for layer in network.recurrent)
        and all(type(layer) is nn.Linear and not _hooked(layer) for layer in network.head)
    )


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _by_hand(network: Network, batch: Batch, loss: Loss) -> tuple[Tensor, list[Tensor | None]]:
    config, offsets = network.config, batch.rows.offsets
    walks, x, final = list[_Walk](), batch.rows.values, None
    for layer in network.recurrent:
        x, noise = _dropped(x, config.dropout if walks and network.training else 0.0)
        assert isinstance(layer, Recurrent)
        walks.append(_walk(layer, Ragged(x, offsets), noise))
        x, final = walks[-1].y, walks[-1].hT
    if not network.per_step:
        x = pool(Ragged(x, offsets), final, config.pooling, config.steps)
    layers = list[_Dense]()
    for index, dense in enumerate(network.head):
        assert isinstance(dense, nn.Linear)
        given, last = x, index == len(network.head) - 1
        activation = "linear" if last else config.head.activations[index]
        a = nn.functional.linear(given, dense.weight, dense.bias)
        y = ACTIVATIONS[activation](a)
        x, noise = _dropped(y, 0.0 if last or not network.training else config.head.dropout)
        layers.append(_Dense(dense, given, activation, a, y, noise))

    value, dx = _loss(loss, nn.functional.pad(x, (1, 0)) if network.sigmoid else x, batch)
    if network.sigmoid:
        dx = dx[:, 1:].contiguous()
    of_head = list[Tensor | None]()
    for number, done in enumerate(reversed(layers), 1):
        wanted = bool(walks) or number < len(layers)
        dx, *found = _dense_backward(done, dx, wanted=wanted)
        of_head = [*found, *of_head]
    of_recurrent = list[Tensor | None]()
    if walks:
        dy, dhT = _pool_backward(walks[-1], offsets, dx, network)
        for index in reversed(range(len(walks))):
            dy, gradients = _walk_backward(walks[index], dy, dhT, wanted=index > 0)
            dhT = None
            of_recurrent = [*gradients, *of_recurrent]
    return value, [*of_recurrent, *of_head]


class _Walk(NamedTuple):
    """A recurrent layer that was run forward."""

    held: LayerWeights
    weights: list[Tensor]
    rows: Rows
    x: Tensor  # [N, D]
    noise: Tensor | None  # that x was multiplied with
    y: Tensor  # [N, K H]
    hT: Tensor  # [K, B, H]
    tape: Tensor | None


def _walk(layer: Recurrent, batch: Ragged, noise: Tensor | None) -> _Walk:
    held, weights = layer.packed()
    read = batch_of(
        batch, Expected(type(layer).__name__, layer.input_size, held.layout.dtype), batch_first=False
    )
    x, _, _ = autograd.checked(held, read.rows, read.x, None, None)
    y, hT, _, tape = layercalls.forward(held, read.rows, x, None, None, keep=True)
    return _Walk(held, weights, read.rows, x, noise, y, hT, tape)


def _walk_backward(
    walk: _Walk, dy: Tensor | None, dhT: Tensor | None, *, wanted: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Give dx, if it is wanted, and the gradients of the weights that are trained."""
    needs = (wanted, False, False, *[w.requires_grad for w in walk.weights])
    dx, _, _, *found = layercalls.backward(
        walk.held, walk.rows, needs, dy, dhT, None, walk.y, walk.tape, walk.x, None, None, *walk.weights
    )
    trained = [g for g, need in zip(found, needs[3:], strict=True) if need]
    return dx if dx is None or walk.noise is None else dx * walk.noise, trained


class _Dense(NamedTuple):
    """A dense layer that was run forward."""

    layer: nn.Linear
    x: Tensor
    activation: str
    a: Tensor  # W x + b
    y: Tensor  # the activation of it
    noise: Tensor | None  # that y was multiplied with


def _dense_backward(dense: _Dense, dy: Tensor, *, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Give dx (of no meaning if it is not wanted), dW and db."""
    if dense.noise is not None:
        dy = dy * dense.noise
    derivative = _DERIVATIVES.get(dense.activation)
    if derivative:
        da = derivative(dy, dense.a, dense.y)
    else:
        da = _ask_autograd(ACTIVATIONS[dense.activation], dense.a, dy)
    return da.mm(dense.layer.weight) if wanted else dy, da.t().mm(dense.x), da.sum(0)


def _pool_backward(
    walk: _Walk, offsets: Tensor, dz: Tensor, network: Network
) -> tuple[Tensor | None, Tensor | None]:
    """Give the gradients of all states [N, K H], or of the last ones [K, B, H], of those of the pooled."""
    how, steps = network.config.pooling, network.config.steps
    if how == "last":
        K, B, H = walk.hT.shape
        return None, dz.view(B, K, H).transpose(0, 1)
    if how == "max":
        dy = _ask_autograd(lambda y: pool(Ragged(y, offsets), None, how, steps), walk.y, dz)
    elif how == "mean":
        lengths = offsets.diff()
        share = dz / lengths.clamp(min=1)[:, None]
        dy = share.repeat_interleave(lengths, dim=0, output_size=len(walk.y))
    else:
        dy = dz.reshape(walk.y.shape)
    return dy, None


def _loss(loss: Loss, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Give a loss and its derivative by the scores [B, C]."""
    labels, weights = batch.labels, batch.weights
    if loss is cross_entropy:
        log_p = scores.log_softmax(1)
        losses, total = _nll_loss(log_p, labels, None, 0, -100)
        value = torch.dot(losses, weights) / len(labels)
        d_log_p = _nll_loss_backward(weights * (1 / len(labels)), log_p, labels, None, 0, -100, total)
        return value, _log_softmax_backward(d_log_p, log_p, 1, scores.dtype)
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        value = loss(leaf, labels, weights)
        (d_scores,) = torch.autograd.grad(value, leaf)
    return value.detach(), d_scores


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
