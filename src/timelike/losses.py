"""Losses of classifications and regressions, and what regularisation adds to them.

All are sums over the events of a batch, with their weights, over the number of events, and not over the sum
of weights: that of a batch may be near zero where weights are negative. Weights of mean one over all events
give the same scale.

A regression has targets in place of labels, numbers [B, C], for the losses in `OF_TARGETS`.

Sizes: `B` sequences, `C` classes, or targets of a regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timelike.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from timelike.config import RegularisationConfig, TrainingConfig

__all__ = [
    "LOSSES",
    "OF_TARGETS",
    "check_regression",
    "cross_entropy",
    "huber",
    "loss_of",
    "penalty",
    "sigmoid_cross_entropy",
    "squared_error",
]

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
    """Give the mean of ``w (score - t)^2`` over the scores, with t as for `sigmoid_cross_entropy`.

    Of a regression, the labels are the targets t themselves, [B, C].
    """
    losses = (scores - _targets(scores, labels)).square()
    return torch.dot(losses.mean(dim=1), weights) / len(labels)


def huber(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Give the mean of ``w h(score - t)`` over the scores, with t as for `squared_error`.

    ``h(d) = d^2 / 2`` up to ``|d| = 1`` and ``|d| - 1/2`` beyond: outliers pull no more than others.

    References
    ----------
    Huber, Ann. Math. Statist. 35 (1964) 73.
    """
    losses = nn.functional.huber_loss(scores, _targets(scores, labels), reduction="none")
    return torch.dot(losses.mean(dim=1), weights) / len(labels)


def _targets(scores: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return labels
    if scores.shape[1] == 1:  # of two classes the second
        return labels[:, None].to(scores.dtype)
    return nn.functional.one_hot(labels, scores.shape[1]).to(scores.dtype)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
    "huber": huber,
}
OF_TARGETS = ("squared_error", "huber")  # those that a regression can have


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


def check_regression(
    config: TrainingConfig, *, sigmoid: bool, outputs: int, targets: npt.NDArray[np.float64] | None
) -> None:
    """Refuse what has no meaning without classes.

    Parameters
    ----------
    config : TrainingConfig
    sigmoid : bool
        Whether the network has one score for two classes.
    outputs : int
        How many numbers it gives.
    targets : array [B, K], or None

    Raises
    ------
    ConfigError
        If the loss, the metric of early stopping or the output of the network is for classes alone.
    DataError
        If there are no targets, or not as many as the network gives numbers.
    """
    if config.loss not in OF_TARGETS:
        known = ", ".join(OF_TARGETS)
        raise ConfigError(f"training.loss: {config.loss} is for classes; possible for targets: {known}")
    if sigmoid:
        raise ConfigError("network.head.output: sigmoid is for two classes; possible for targets: softmax")
    for phase in config.phases:
        if phase.early_stopping is not None and phase.early_stopping.metric == "auc":
            raise ConfigError(
                "training.early_stopping.metric: auc is for classes; possible for targets: loss"
            )
    if targets is None:
        raise DataError("the sequences have no targets")
    if targets.shape[1] != outputs:  # torch would broadcast them
        raise DataError(f"the sequences have {targets.shape[1]} targets; the network gives {outputs}")


def penalty(module: nn.Module, config: RegularisationConfig) -> Tensor:
    """Give what regularisation adds to the loss: ``strength`` times the sum of ``w^2`` or ``|w|``.

    Over all weight matrices, the recurrent ones included, and over no biases.
    """
    size = torch.square if config.name == "l2" else torch.abs
    parts = [size(weight).sum() for weight in module.parameters() if weight.ndim > 1]
    return config.strength * torch.stack(parts).sum()
