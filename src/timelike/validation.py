"""The judge of a training: what the validation events say of the weights after each epoch.

Figures of merit that can choose the best epoch and end a training, by the name that a config has for them:

============================================  =========================================================
``loss``                                      what is minimised, regularisation included
``auc``                                       area under the ROC curve of the signal against the rest;
                                              of a multilabel task the mean of all labels, those left
                                              out that hold for all validation events or for none
``accuracy``, ``balanced_accuracy``           share of right decisions; the mean of the classes' own
``log_loss``                                  mean of ``-log p`` of the true class
``signal_efficiency_at_background_X``         at the background efficiency X, such as 0.01
``rejection_at_signal_X``                     1 / background efficiency at the signal efficiency X
``rmse``, ``mae``, ``r2``                     of a regression, the mean over its targets
============================================  =========================================================

All are weighted as the loss is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from timelike.batches import Answers, answers
from timelike.config import TrainingConfig
from timelike.config.training import metric_of
from timelike.errors import DataError, TimelikeError
from timelike.losses import loss_of, penalty
from timelike.network import Network, logits, outputs
from timelike.regression import middle
from timelike.roc import roc_curve
from timelike.sequences import Sequences
from timelike.streams import Validation

__all__ = ["Judge", "Judged", "TrainingError"]

Floats = npt.NDArray[np.float64]


class TrainingError(TimelikeError, ArithmeticError):
    """A training cannot go on: the loss is no longer a number."""


@dataclass(frozen=True)
class Judged:
    """What the validation events say of the weights."""

    loss: float
    auc: float | None  # None of a regression, and where no label has an area
    metric: float | None  # that of early stopping, where it is another than these two


class Judge:
    """Computes the figures of merit of the validation events.

    Parameters
    ----------
    validation : Sequences, or a stream of them
        Transformed, with what is to be found.
    weights : array [B], or [N] where each step is judged
        For the loss.
    network : Network
        Which kind of network will be judged.
    config : TrainingConfig
        Whose metrics are asked for.
    signal : int, optional
        Index of the signal class; None without classes.

    Raises
    ------
    ConfigError
        If the metric of early stopping does not fit what is to be found.
    DataError
        If the events do not have what is to be found.
    """

    def __init__(
        self,
        validation: Sequences | Validation,
        weights: Floats,
        network: Network,
        config: TrainingConfig,
        signal: int | None,
    ) -> None:
        self._sequences, self._signal, self._weights = validation, signal, weights
        known = validation.known if isinstance(validation, Validation) else validation
        self._answers: Answers = answers(
            known, torch.float64, targets=signal is None, per_step=network.per_step
        )
        self._kind = "classes" if signal is not None else _KIND[network.config.head.output]
        for phase in config.phases:
            if phase.early_stopping is not None:
                metric_of(phase.early_stopping.metric, self._kind)

    def __call__(self, network: Network, config: TrainingConfig, number: int) -> Judged:
        """Judge the weights after an epoch.

        Raises
        ------
        TrainingError
            If the loss is not finite.
        """
        given = self._sequences
        pieces = given if isinstance(given, Validation) else (given,)
        scores = torch.cat([logits(network, piece) for piece in pieces]).double()
        weights = torch.from_numpy(self._weights)
        loss = float(loss_of(config, network.config.head)(scores, self._answers.values, weights))
        if config.regularisation is not None:
            loss += penalty(network, config.regularisation).detach().item()
        if not np.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after epoch {number}: "
                "try a smaller learning rate, or clip_norm"
            )
        said = outputs(scores, network.config.head.output).numpy()
        answered = self._answers.answered
        chosen = slice(None) if answered is None else answered
        truth = (said[chosen], self._answers.values.numpy()[chosen], self._weights[chosen], self._signal)
        auc = None if self._kind == "regression" else _auc(*truth)
        wanted = config.early_stopping.metric if config.early_stopping else "loss"
        if wanted == "auc" and auc is None:
            raise DataError("validation: each label holds for all events, or for none; an area needs both")
        metric = None
        if wanted not in ("loss", "auc"):
            metric = _measure(wanted, truth, network.config.head.quantiles)
            if math.isnan(metric):
                why = ": a target is the same for all of them" if wanted == "r2" else ""
                raise TrainingError(
                    f"{wanted} of the validation events cannot be computed after epoch {number}{why}"
                )
        return Judged(loss, auc, metric)


_KIND = {"multilabel": "multilabel", "linear": "regression", "exponential": "regression"}
_Truth = tuple[Floats, npt.NDArray[np.int64] | Floats, Floats, int | None]


def _measure(name: str, truth: _Truth, quantiles: tuple[float, ...]) -> float:
    said, _, weights, _ = truth
    base, at = metric_of(name)
    if quantiles:  # of each target the quantile that is nearest to the median
        truth = (said[:, middle(quantiles) :: len(quantiles)], *truth[1:])
    if at is not None:
        roc = roc_curve(said[:, truth[3]], truth[1] == truth[3], weights)
        if base == "signal_efficiency_at_background":
            return float(roc.signal_efficiency_at(at))
        left = float(roc.background_efficiency_at(at))
        return 1.0 / left if left > 0 else math.inf
    return _MEASURES[base](*truth)


def _auc(
    said: Floats, labels: npt.NDArray[np.int64] | Floats, weights: Floats, signal: int | None
) -> float | None:
    if signal is not None:
        return roc_curve(said[:, signal], labels == signal, weights).auc
    told = [k for k in range(said.shape[1]) if 0 < np.count_nonzero(labels[:, k]) < len(labels)]
    if not told:
        return None
    return float(np.mean([roc_curve(said[:, k], labels[:, k] == 1, weights).auc for k in told]))


def _accuracy(
    said: Floats, labels: npt.NDArray[np.int64] | Floats, weights: Floats, signal: int | None
) -> float:
    right = (
        said.argmax(axis=1) == labels if signal is not None else ((said > 0.5) == (labels == 1)).mean(axis=1)
    )
    return float(np.average(right, weights=weights))


def _balanced(
    said: Floats, labels: npt.NDArray[np.int64] | Floats, weights: Floats, signal: int | None
) -> float:
    right = said.argmax(axis=1) == labels
    classes = range(said.shape[1])
    return float(np.mean([np.average(right[labels == c], weights=weights[labels == c]) for c in classes]))


def _log_loss(
    said: Floats, labels: npt.NDArray[np.int64] | Floats, weights: Floats, signal: int | None
) -> float:
    own = np.take_along_axis(said, labels[:, None].astype(np.int64), axis=1)[:, 0]
    return float(np.average(-np.log(np.maximum(own, np.finfo(np.float64).tiny)), weights=weights))


def _rmse(said: Floats, targets: Floats, weights: Floats, signal: int | None) -> float:
    return float(np.sqrt(np.average((said - targets) ** 2, axis=0, weights=weights)).mean())


def _mae(said: Floats, targets: Floats, weights: Floats, signal: int | None) -> float:
    return float(np.average(np.abs(said - targets), axis=0, weights=weights).mean())


def _r2(said: Floats, targets: Floats, weights: Floats, signal: int | None) -> float:
    left = np.average((said - targets) ** 2, axis=0, weights=weights)
    spread = np.average(
        (targets - np.average(targets, axis=0, weights=weights)) ** 2, axis=0, weights=weights
    )
    return float(np.mean(1 - left / np.where(spread > 0, spread, np.nan)))


_MEASURES: dict[str, Callable[..., float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced,
    "log_loss": _log_loss,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
}
