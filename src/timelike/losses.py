"""Losses of classifications, and what regularisation adds to them.

All are sums over the events of a batch, with their weights, over the number of events, and not over the sum
of weights: that of a batch may be near zero where weights are negative. Weights of mean one over all events
give the same scale.

Sizes: `B` sequences, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from timelike.config import RegularisationConfig, TrainingConfig

__all__ = ["LOSSES", "cross_entropy", "loss_of", "penalty", "sigmoid_cross_entropy", "squared_error"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Give the mean of ``-w log p(label)``, p by softmax.

    Parameters
    ----------
    scores : Tensor [B, C]
        Before softmax.
    labels : Tensor [B] of int64
    weights : Tensor [B]
    """
    losses = nn.functional.cross_entropy(scores, labels, reduction="none")
    return torch.dot(losses, weights) / len(labels)


def sigmoid_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Give the mean of ``-w (t log p + (1 - t) log(1 - p))`` over the scores, each p by its own sigmoid.

    The target t is 1 for the score of the event's class and 0 for all others. Computed of the scores and not
    of p, which may be rounded to 1.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(
        scores, _targets(scores, labels), reduction="none"
    )
    return torch.dot(losses.mean(dim=1), weights) / len(labels)


def squared_error(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Give the mean of ``w (score - t)^2`` over the scores, with t as for `sigmoid_cross_entropy`."""
    losses = (scores - _targets(scores, labels)).square()
    return torch.dot(losses.mean(dim=1), weights) / len(labels)


def _targets(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.shape[1] == 1:  # of two classes the second
        return labels[:, None].to(scores.dtype)
    return nn.functional.one_hot(labels, scores.shape[1]).to(scores.dtype)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
}


def loss_of(config: TrainingConfig, *, sigmoid: bool) -> Loss:
    """Give the loss of a config, of the scores as a network gives them.

    Parameters
    ----------
    config : TrainingConfig
    sigmoid : bool
        Whether the network has one score for two classes, and gives 0 and that.
    """
    loss = LOSSES[config.loss]
    if not sigmoid or config.loss == "cross_entropy":  # softmax of 0 and s is the sigmoid of s
        return loss
    return lambda scores, labels, weights: loss(scores[:, 1:], labels, weights)


def penalty(module: nn.Module, config: RegularisationConfig) -> Tensor:
    """Give what regularisation adds to the loss: ``strength`` times the sum of ``w^2`` or ``|w|``.

    Over all weight matrices, the recurrent ones included, and over no biases.
    """
    size = torch.square if config.name == "l2" else torch.abs
    parts = [size(weight).sum() for weight in module.parameters() if weight.ndim > 1]
    return config.strength * torch.stack(parts).sum()
