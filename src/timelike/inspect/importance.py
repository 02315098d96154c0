"""Which steps and which variables a network needs: what happens to it when they are taken away.

- `occlusion`: of one event, its score with each step taken out;
- `permutation_importance`: of a sample, how much worse it is told apart with each variable shuffled.

Neither needs gradients. Letters: ``B`` events, ``N`` rows (steps of all events), ``D`` variables, ``R``
repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from timelike.errors import ConfigError, DataError
from timelike.inspect.attribution import check_labels, rows_of
from timelike.inspect.scoring import ROWS_AT_ONCE, Subject, subject_of
from timelike.model import Model
from timelike.network import evaluating
from timelike.ragged import cuts, gather, offsets_of
from timelike.roc import TieGroups, roc_curve, trapezoid
from timelike.sequences import Sequences
from timelike.statistics import bootstrap_weights, format_measurement

__all__ = ["METRICS", "Occlusion", "PermutationImportance", "occlusion", "permutation_importance"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

METRICS = ("auc", "log_loss")
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What taking out each step does to the score of its event.

    Attributes
    ----------
    effect : ndarray, shape (N,)
        Score without the step minus the score: negative where the step speaks for the target.
    offsets : ndarray of int, shape (B + 1,)
    score : ndarray, shape (B,)
        Of the whole events.
    target : str
    of : {"logit", "probability"}
    """

    effect: Floats
    offsets: Integers
    score: Floats
    target: str
    of: str

    def __repr__(self) -> str:
        B, N = len(self.score), len(self.effect)
        return f"Occlusion(of the {self.of} of {self.target!r}: {B} events, {N} steps)"

    def at(self, event: int) -> Floats:
        """Give the effects of an event's steps [T].

        Raises
        ------
        DataError
            If there is no such event.
        """
        return self.effect[rows_of(self.offsets, event)]


def occlusion(
    model: Model | nn.Module, sequences: Sequences, *, target: str | int | None = None, of: str = "logit"
) -> Occlusion:
    """Score each event with each of its steps taken out.

    The sequence gets shorter by the step; nothing stands in its place. An event of T steps is scored T times
    with T - 1 steps, many of them in one batch.

    Parameters
    ----------
    model, sequences, target, of
        As for `timelike.inspect.integrated_gradients`.

    Returns
    -------
    Occlusion

    Raises
    ------
    ConfigError, DataError
        As `timelike.inspect.integrated_gradients`.

    References
    ----------
    Zeiler, Fergus, ECCV 2014 (arXiv:1311.2901), section 4.2, who cover parts of an image.
    """
    subject = subject_of(model, sequences, of)
    column, ready = subject.target(target), subject.ready
    score = subject.scores(subject.outputs, column, of)
    sequence = np.repeat(np.arange(len(ready)), ready.lengths)
    starts = ready.offsets[sequence]  # of the shortened sequence that each row makes by its absence
    lengths = ready.lengths[sequence] - 1
    without = np.empty(ready.n_rows)
    with evaluating(subject.module):
        for first, last in cuts(offsets_of(lengths), 4 * ROWS_AT_ONCE):
            here = slice(first, last)
            rows, offsets = gather(starts[here], lengths[here])
            rows += rows >= np.repeat(np.arange(first, last), lengths[here])  # skip the row itself
            without[here] = subject.scores(subject.logits(ready.values[rows], offsets), column, of)
    return Occlusion(without - score[sequence], ready.offsets, score, subject.class_names[column], of)


@dataclass(frozen=True, eq=False)
class PermutationImportance:
    """How much worse a sample is told apart with each variable shuffled.

    Attributes
    ----------
    names : tuple of str
        Variables.
    metric : {"auc", "log_loss"}
    reference : float
        The metric of the sample as it is.
    reference_error : float or None
        Its standard deviation over bootstrap replicas.
    repeats : ndarray, shape (D, R)
        Loss by each shuffle: the fall of the AUC, or the rise of the log loss.
    error : ndarray, shape (D,), or None
        Statistical uncertainty of the `importance`: standard deviation over bootstrap replicas of the events,
        in which the sample as it is and the shuffled ones have the same events. The chance of the shuffles is
        in it, as an event's shuffled scores are drawn with it. None for fewer than two replicas.
    n_events : int
    """

    names: tuple[str, ...]
    metric: str
    reference: float
    reference_error: float | None
    repeats: Floats
    error: Floats | None
    n_events: int

    def __repr__(self) -> str:
        D, R = self.repeats.shape
        return (
            f"PermutationImportance({self.metric} {self.reference:.4g}: {self.n_events} events, "
            f"{D} variables, {R} repeats)"
        )

    def __str__(self) -> str:
        width = max(map(len, self.names), default=0)
        lines = [f"{name:{width}}  {format_measurement(*found)}" for name, *found in self.table()]
        return "\n".join(lines)

    @property
    def importance(self) -> Floats:
        """Mean loss over the shuffles [D]."""
        mean: Floats = self.repeats.mean(axis=1)
        return mean

    @property
    def spread(self) -> Floats:
        """Standard deviation over the shuffles of the same events [D]; NaN for one shuffle."""
        D, R = self.repeats.shape
        return np.full(D, np.nan) if R < 2 else np.std(self.repeats, axis=1, ddof=1)

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """Variables from the most important down; equal ones in their own order [D]."""
        return np.argsort(-self.importance, kind="stable")

    def table(self) -> list[tuple[str, float, float | None]]:
        """Give name, importance and error of each variable, from the most important down."""
        mean, error = self.importance, self.error
        return [
            (self.names[d], float(mean[d]), None if error is None else float(error[d])) for d in self.order
        ]


def permutation_importance(
    model: Model | nn.Module,
    sequences: Sequences,
    *,
    n_repeats: int = 10,
    seed: int = 0,
    metric: str = "auc",
    n_bootstrap: int = 100,
) -> PermutationImportance:
    """Shuffle each variable in turn, and see how much worse the classes are told apart.

    The values of a variable are shuffled among all steps of all events. Its distribution stays; what it has
    to do with the class, with the other variables of the step, with its place in the sequence and with its
    values at other steps is lost. Where variables are correlated, the shuffled steps are ones that never
    occur, and of two variables that say the same each may seem of little use.

    Parameters
    ----------
    model : timelike.model.Model or torch.nn.Module
        A module takes a `timelike.nn.Ragged` and gives logits [B, C]; its last class is the signal.
    sequences : Sequences
        With labels; event weights may have either sign.
    n_repeats : int
        Shuffles of each variable, R.
    seed : int
        Of shuffles and bootstrap replicas.
    metric : {"auc", "log_loss"}
        Area under the ROC curve of the signal, of three classes or more the mean of each class against the
        rest; or the weighted mean of minus the logarithm of the true class's probability.
    n_bootstrap : int
        Bootstrap replicas of the events for the uncertainties; 0 for none.

    Returns
    -------
    PermutationImportance

    Raises
    ------
    ConfigError
        If an option is not possible, or the module does not give [B, C].
    DataError
        If there are no labels, a label is no class, or the weights of a class do not sum to more than 0.

    References
    ----------
    Breiman, Machine Learning 45 (2001) 5, section 10; Fisher, Rudin, Dominici, J. Mach. Learn. Res. 20 (2019)
    177, section 3.
    """
    for name, given, least in (
        ("n_repeats", n_repeats, 1),
        ("n_bootstrap", n_bootstrap, 0),
        ("seed", seed, 0),
    ):
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ConfigError(f"{name}={given!r}: an integer of {least} or more is possible")
    if metric not in METRICS:
        raise ConfigError(f"metric={metric!r}: possible are {', '.join(map(repr, METRICS))}")
    subject = subject_of(model, sequences)
    sample = _Sample(subject, metric, n_bootstrap, seed)
    reference = sample.rows(subject.outputs)
    values = subject.ready.values
    N, D = values.shape
    repeats, replicas = np.empty((D, n_repeats)), np.empty((D, n_bootstrap))
    sign = 1.0 if metric == "auc" else -1.0
    with evaluating(subject.module):
        for d in range(D):
            rng = np.random.default_rng((seed, d))  # a stream of its own: the same whatever else is shuffled
            lost = np.empty((n_repeats, n_bootstrap + 1))
            for r in range(n_repeats):
                shuffled = values.copy()
                shuffled[:, d] = values[rng.permutation(N), d]
                lost[r] = sign * (reference - sample.rows(subject.all_logits(shuffled)))
            repeats[d], replicas[d] = lost[:, 0], lost[:, 1:].mean(axis=0)
    error = None if n_bootstrap < 2 else np.array([_deviation(row) for row in replicas])
    own = None if n_bootstrap < 2 else _deviation(reference[1:])
    names = subject.ready.names
    return PermutationImportance(names, metric, float(reference[0]), own, repeats, error, len(subject.ready))


def _deviation(replicas: Floats) -> float:
    """Give the standard deviation of the replicas that could be computed: negative weights may spoil one."""
    usable = replicas[np.isfinite(replicas)]
    return float(np.std(usable, ddof=1)) if len(usable) > 1 else float("nan")


class _Sample:
    """What events are, and the metric of any scores of them: its value and its replicas."""

    def __init__(self, subject: Subject, metric: str, n_bootstrap: int, seed: int) -> None:
        labels, weights = subject.ready.labels, subject.ready.weights
        if labels is None:
            raise DataError("permutation importance needs labels: the sequences have none")
        C = len(subject.class_names)
        check_labels(labels, subject.class_names)
        self.labels = labels
        self.weights = np.ones(len(labels)) if weights is None else weights
        self.metric, self.n_bootstrap, self.seed = metric, n_bootstrap, seed
        self.ranked = [subject.signal] if C == 2 else list(range(C))
        if metric == "auc":
            for c in self.ranked:
                roc_curve(subject.outputs[:, c], labels == c, self.weights)  # says what it cannot do
        elif not self.weights.sum() > 0:
            raise DataError(f"event weights sum to {self.weights.sum():g}; a mean needs more than 0")

    def rows(self, outputs: Floats) -> Floats:
        """Give the metric [1 + replicas] of logits [B, C]; the same replicas in every call."""
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        if self.metric == "log_loss":
            own = np.take_along_axis(probabilities, self.labels[:, None], axis=1)[:, 0]
            surprise = -np.log(np.maximum(own, _TINY))  # as `timelike.evaluate` does
            totals = [(w @ surprise, w.sum(axis=1)) for w in self._blocks()]
            top, bottom = (np.concatenate(parts) for parts in zip(*totals, strict=True))
            loss: Floats = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
            return loss
        groups = [TieGroups.of(probabilities[:, c], self.labels == c) for c in self.ranked]
        areas = [
            np.mean([trapezoid(*group.efficiencies(weights)) for group in groups], axis=0)
            for weights in self._blocks()
        ]
        return np.concatenate(areas)

    def _blocks(self) -> Iterator[Floats]:
        # Made again each time, from the same seed: all of them together may not fit into memory.
        stream = (self.seed, *b"bootstrap")
        return bootstrap_weights(self.weights, self.labels, self.n_bootstrap, stream)
