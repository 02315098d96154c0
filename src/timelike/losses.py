"""Losses of classifications and regressions, and what regularisation adds to them.

All are sums over the events of a batch, with their weights, over the number of events, and not over the sum
of weights: that of a batch may be near zero where weights are negative. Weights of mean one over all events
give the same scale.

A regression has targets in place of labels, numbers [B, C]; so has a multilabel task, 1 where a label holds
and else 0. Where each step has its own answer, the steps of a batch stand in place of its events.

Sizes: `B` sequences, `C` classes, labels or targets, `Q` quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from timelike.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from timelike.config import HeadConfig, RegularisationConfig, TrainingConfig

__all__ = [
    "LOSSES",
    "check_targets",
    "cross_entropy",
    "huber",
    "loss_of",
    "penalty",
    "poisson",
    "quantile",
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


def quantile(scores: Tensor, labels: Tensor, weights: Tensor, shares: Sequence[float]) -> Tensor:
    """Give the mean of ``w max(q d, (q - 1) d)``, d = t - score, over targets and quantiles.

    Its smallest value is where the share q of the targets is below the score.

    Parameters
    ----------
    scores : Tensor [B, C Q]
        The quantiles of the first target, then those of the next.
    labels : Tensor [B, C]
        The targets t.
    weights : Tensor [B]
    shares : sequence of Q float
        The q, each between 0 and 1.

    References
    ----------
    Koenker & Bassett, Econometrica 46 (1978) 33, equation 3.1.
    """
    q = torch.as_tensor(shares, dtype=scores.dtype)
    d = labels[:, :, None] - scores.view(len(scores), -1, len(q))
    losses = torch.maximum(q * d, (q - 1) * d)
    return torch.dot(losses.mean(dim=(1, 2)), weights) / len(labels)


def poisson(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Give the mean of ``w (exp(s) - t s)``, the negative logarithm of a Poisson probability of t.

    Without the term ``log t!``, which the scores do not change: s is the logarithm of the expected number.
    """
    losses = nn.functional.poisson_nll_loss(scores, labels, log_input=True, full=False, reduction="none")
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
    "poisson": poisson,
}


def loss_of(config: TrainingConfig, head: HeadConfig) -> Loss:
    """Give the loss of a config, of the scores as a network gives them.

    Parameters
    ----------
    config : TrainingConfig
    head : HeadConfig
        Of the network. With the output ``sigmoid`` it has one score for two classes, and gives 0 and that.
    """
    if config.loss == "quantile":
        return partial(quantile, shares=head.quantiles)
    loss = LOSSES[config.loss]
    # the softmax of 0 and s is the sigmoid of s
    if head.output != "sigmoid" or config.loss == "cross_entropy":
        return loss
    return lambda scores, labels, weights: loss(scores[:, 1:], labels, weights)


def check_targets(
    config: TrainingConfig, head: HeadConfig, *, outputs: int, targets: npt.NDArray[np.float64] | None
) -> None:
    """Refuse what has no meaning for targets, or without classes.

    Parameters
    ----------
    config : TrainingConfig
    head : HeadConfig
        Of the network.
    outputs : int
        How many numbers it gives.
    targets : array [B, K], or None

    Raises
    ------
    ConfigError
        If loss and output of the network do not belong together, or are for classes alone.
    DataError
        If there are no targets, not as many as the network gives numbers, or for the Poisson loss a negative
        one.
    """
    of_output = {
        "linear": ("quantile",) if head.quantiles else ("squared_error", "huber"),
        "exponential": ("poisson",),
        "multilabel": ("sigmoid_cross_entropy",),
    }
    if head.output not in of_output:
        raise ConfigError(
            f"network.head.output: {head.output} is for classes; possible for targets: {', '.join(of_output)}"
        )
    if config.loss not in of_output[head.output]:
        raise ConfigError(
            f"training.loss: {config.loss} does not fit network.head.output: {head.output}; "
            f"possible: {', '.join(of_output[head.output])}"
        )
    if targets is None:
        raise DataError("the sequences have no targets")
    needed = outputs // (len(head.quantiles) or 1)
    if targets.shape[1] != needed:  # torch would broadcast them
        raise DataError(f"the sequences have {targets.shape[1]} targets; the network gives {needed}")
    if config.loss == "poisson" and (targets < 0).any():
        b, k = np.argwhere(targets < 0)[0]
        raise DataError(
            f"training.loss: poisson: target {k} is {targets[b, k]:g} in row {b}; 0 or more is needed"
        )


def penalty(module: nn.Module, config: RegularisationConfig) -> Tensor:
    """Give what regularisation adds to the loss: ``strength`` times the sum of ``w^2`` or ``|w|``.

    Over all weight matrices, the recurrent ones included, and over no biases.
    """
    size = torch.square if config.name == "l2" else torch.abs
    parts = [size(weight).sum() for weight in module.parameters() if weight.ndim > 1]
    return config.strength * torch.stack(parts).sum()
