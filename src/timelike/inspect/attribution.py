"""Attributions: how much of an event's score comes from each variable at each step.

- `integrated_gradients`: complete, that is, the attributions of an event sum to its score minus that of the
  baseline; the one to use, at the price of `n_steps` gradients;
- `gradient_times_input`: one gradient; what the network is sensitive to here, not complete in general;
- `timelike.inspect.occlusion` and `timelike.inspect.permutation_importance` need no gradients.

Attributions are of the inputs as the network sees them, that is, transformed. The baseline is zero there:
the mean of a standardised variable. A baseline sequence has the length of the event's own. Attributions
explain the network, not nature: of two variables that say the same it may use either.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` variables, ``T`` steps of one, ``C``
classes, ``x`` input, ``x'`` baseline, ``F`` score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from timelike.errors import ConfigError, DataError
from timelike.inspect.scoring import ROWS_AT_ONCE, Subject, subject_of
from timelike.model import Model
from timelike.network import evaluating
from timelike.ragged import cuts
from timelike.sequences import Sequences

__all__ = ["Attribution", "Averages", "gradient_times_input", "integrated_gradients", "rows_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def rows_of(offsets: Integers, event: int) -> slice:
    """Give the rows of an event; negative numbers count from the end.

    Raises
    ------
    DataError
        If there is no such event.
    """
    B = len(offsets) - 1
    if not -B <= event < B:
        raise DataError(f"event {event}: there are the events 0..{B - 1}")
    b = event % B
    return slice(int(offsets[b]), int(offsets[b + 1]))


@dataclass(frozen=True, eq=False)
class Averages:
    """Attributions of the variables, summed over the steps, and averaged over the events of each class.

    Attributes
    ----------
    names : tuple of str
        Variables.
    class_names : tuple of str
        Classes that have events.
    mean, error : ndarray, shape (classes, D)
        Weighted mean and its standard error ``sqrt(sum w^2 (a - mean)^2) / sum w``.
    magnitude : ndarray, shape (classes, D)
        Weighted mean of the absolute value: large also where the sign changes from event to event.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    mean: Floats
    error: Floats
    magnitude: Floats


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each variable at each step gives to the score of its event.

    Attributes
    ----------
    values : ndarray, shape (N, D)
        Step t of event b is ``values[offsets[b] + t]``.
    offsets : ndarray of int, shape (B + 1,)
    names : tuple of str
        Variables.
    score, baseline_score : ndarray, shape (B,)
        Score of each event, and of the baseline sequence of its length.
    method : {"integrated gradients", "gradient x input"}
    target : str
        The class whose score it is.
    of : {"logit", "probability"}
        Which score; see `timelike.inspect.scoring`.
    class_names : tuple of str
    labels : ndarray of int, shape (B,), or None
        As the sequences have them.
    weights : ndarray, shape (B,), or None
        As the sequences have them.
    """

    values: Floats
    offsets: Integers
    names: tuple[str, ...]
    score: Floats
    baseline_score: Floats
    method: str
    target: str
    of: str
    class_names: tuple[str, ...]
    labels: Integers | None = None
    weights: Floats | None = None

    def __repr__(self) -> str:
        N, D = self.values.shape
        return (
            f"Attribution({self.method} of the {self.of} of {self.target!r}: {len(self)} events, {N} steps, "
            f"{D} variables, largest completeness error {np.abs(self.completeness_error).max():.2g})"
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def completeness_error(self) -> Floats:
        """Sum of an event's attributions minus ``score - baseline_score`` [B]."""
        error: Floats = self.by_variable().sum(axis=1) - (self.score - self.baseline_score)
        return error

    def by_step(self) -> Floats:
        """Sum over the variables [N]."""
        total: Floats = self.values.sum(axis=1)
        return total

    def by_variable(self) -> Floats:
        """Sum over the steps of each event [B, D]."""
        # reduceat would give an event without steps the next event's row.
        total = np.zeros((len(self), self.values.shape[1]))
        there = np.diff(self.offsets) > 0
        if there.any():
            total[there] = np.add.reduceat(self.values, self.offsets[:-1][there], axis=0)
        return total

    def at(self, event: int) -> Floats:
        """Give the attributions of an event [T, D].

        Raises
        ------
        DataError
            If there is no such event.
        """
        return self.values[rows_of(self.offsets, event)]

    def averages(self, labels: npt.ArrayLike | None = None, weights: npt.ArrayLike | None = None) -> Averages:
        """Average over the events of each class.

        Parameters
        ----------
        labels : array_like of int, shape (B,), optional
            Class of each event; that of the sequences when not given. Without any, all events are one class.
        weights : array_like, shape (B,), optional
            Event weights, of either sign; those of the sequences when not given, or ones.

        Raises
        ------
        DataError
            If a shape does not fit, a label is no class, or the weights of a class do not sum to a positive
            number.
        """
        B = len(self)
        own = self.labels if labels is None else np.asarray(labels)
        names = ("all events",) if own is None else self.class_names
        label = np.zeros(B, dtype=np.int64) if own is None else own
        given = self.weights if weights is None else weights
        weight = np.ones(B) if given is None else np.asarray(given, dtype=np.float64)
        if label.shape != (B,) or weight.shape != (B,):
            raise DataError(
                f"labels and weights have shapes {label.shape} and {weight.shape}; one number for each "
                f"of the {B} events is needed"
            )
        check_labels(label, names)
        summed, found = self.by_variable(), []
        present = [c for c in range(len(names)) if (label == c).any()]
        for c in present:
            a, w = summed[label == c], weight[label == c]
            total = w.sum()
            if not total > 0:
                raise DataError(
                    f"class {names[c]!r}: event weights sum to {total:g}; a mean needs more than 0"
                )
            mean = w @ a / total
            found.append((mean, np.sqrt(w**2 @ (a - mean) ** 2) / total, w @ np.abs(a) / total))
        mean, error, magnitude = (np.stack(rows) for rows in zip(*found, strict=True))
        return Averages(self.names, tuple(names[c] for c in present), mean, error, magnitude)


def check_labels(labels: Integers, class_names: tuple[str, ...]) -> None:
    """Raise a `DataError` for the first label that is no class."""
    bad = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(bad):
        raise DataError(f"event {bad[0]} has label {labels[bad[0]]}; classes are 0..{len(class_names) - 1}")


def integrated_gradients(
    model: Model | nn.Module,
    sequences: Sequences,
    *,
    target: str | int | None = None,
    baseline: npt.ArrayLike | None = None,
    n_steps: int = 50,
    of: str = "logit",
) -> Attribution:
    r"""Attribute scores to variables and steps by gradients along the straight way from a baseline.

    .. math:: a = (x - x') \int_0^1 \nabla F(x' + \alpha (x - x')) \, d\alpha

    The integral is taken by Gauss and Legendre. An event is a sequence of its own length throughout: nothing
    is padded.

    Parameters
    ----------
    model : timelike.model.Model or torch.nn.Module
        A module takes a `timelike.nn.Ragged` and gives logits [B, C], one sequence independent of the others.
        It is run in the mode of inference, and left as it was.
    sequences : Sequences
        As read for a model, which transforms them; as they are for a module.
    target : str or int, optional
        Class by name or number; the signal when not given, of a module the last.
    baseline : array_like, shape (D,), optional
        One value of each variable for all steps, in the order of the network, transformed; zeros when not
        given.
    n_steps : int
        Points of the quadrature.
    of : {"logit", "probability"}
        What is attributed: ``z_target - z_other`` of two classes, ``z_target`` of more, or the probability.

    Returns
    -------
    Attribution
        Its `completeness_error` says how good the quadrature is.

    Raises
    ------
    ConfigError
        If the target, `of`, the number of points or the shape of the baseline is not possible, or the module
        does not give [B, C].
    DataError
        If there are no sequences, a variable is missing, or a value is not finite.

    References
    ----------
    Sundararajan, Taly, Yan, ICML 2017 (arXiv:1703.01365), section 3; completeness is their proposition 1.

    Examples
    --------
    >>> from timelike.nn import LSTM
    >>> class Last(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = LSTM(3, 4), torch.nn.Linear(4, 2)
    ...     def forward(self, batch):
    ...         return self.head(self.lstm(batch)[1][0][0])
    >>> _ = torch.manual_seed(1)
    >>> events = Sequences(torch.randn(5, 3).numpy(), [0, 2, 5])
    >>> found = integrated_gradients(Last(), events)
    >>> found.at(1).shape, bool(abs(found.completeness_error).max() < 1e-6)
    ((3, 3), True)
    """
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ConfigError(f"n_steps={n_steps!r}: an integer of 1 or more is possible")
    subject = subject_of(model, sequences, of)
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights  # of [-1, 1], so of [0, 1]
    return _attribute(subject, target, baseline, of, nodes, weights, "integrated gradients")


def gradient_times_input(
    model: Model | nn.Module,
    sequences: Sequences,
    *,
    target: str | int | None = None,
    of: str = "logit",
) -> Attribution:
    """Attribute scores to variables and steps by ``x dF/dx``.

    Exact for a score that is linear in its inputs, and the first order of it elsewhere: the
    `Attribution.completeness_error`, against a baseline of zeros, says how far the network is from that.

    Parameters
    ----------
    model, sequences, target, of
        As for `integrated_gradients`.

    Returns
    -------
    Attribution

    Raises
    ------
    ConfigError, DataError
        As `integrated_gradients`.

    References
    ----------
    Shrikumar, Greenside, Shcherbina, Kundaje, arXiv:1605.01713 (2016); Ancona, Ceolini, Öztireli, Gross,
    ICLR 2018 (arXiv:1711.06104), section 2.
    """
    subject, one = subject_of(model, sequences, of), np.ones(1)
    return _attribute(subject, target, None, of, one, one, "gradient x input")


def _attribute(
    subject: Subject,
    target: str | int | None,
    baseline: npt.ArrayLike | None,
    of: str,
    nodes: Floats,
    weights: Floats,
    method: str,
) -> Attribution:
    ready, column = subject.ready, subject.target(target)
    start = _baseline(baseline, ready)
    with evaluating(subject.module):
        values = _along_the_way(subject, column, start, of, nodes, weights)
        # The score of a baseline depends on the length of the sequence alone.
        lengths, which = np.unique(ready.lengths, return_inverse=True)
        logits = [
            subject.logits(np.tile(start, (int(T), 1)), np.array([0, T], dtype=np.int64)) for T in lengths
        ]
    return Attribution(
        values=values,
        offsets=ready.offsets,
        names=ready.names,
        score=subject.scores(subject.outputs, column, of),
        baseline_score=subject.scores(np.concatenate(logits), column, of)[which],
        method=method,
        target=subject.class_names[column],
        of=of,
        class_names=subject.class_names,
        labels=ready.labels,
        weights=ready.weights,
    )


def _baseline(given: npt.ArrayLike | None, ready: Sequences) -> Floats:
    D = ready.n_variables
    if given is None:
        return np.zeros(D)
    found = np.asarray(given, dtype=np.float64)
    if found.shape != (D,) or not np.isfinite(found).all():
        what = f"shape {found.shape}" if found.shape != (D,) else f"values {found.tolist()}"
        raise ConfigError(
            f"the baseline has {what}; [{D}] finite numbers are needed: {', '.join(ready.names)}"
        )
    return found


def _along_the_way(
    subject: Subject, column: int, start: Floats, of: str, nodes: Floats, weights: Floats
) -> Floats:
    """Sum weighted gradients at points between baseline and input, times their distance [N, D]."""
    ready = subject.ready
    found = np.empty((ready.n_rows, ready.n_variables))
    for first, last in cuts(ready.offsets, ROWS_AT_ONCE):
        own = ready.offsets[first : last + 1]
        rows, offsets = slice(int(own[0]), int(own[-1])), own - own[0]
        n = int(offsets[-1])
        if n == 0:
            continue
        x = torch.tensor(ready.values[rows], dtype=torch.float64)
        base = torch.from_numpy(start)
        total = torch.zeros_like(x)
        at_once = max(1, ROWS_AT_ONCE // n)  # short batches: many points of the way together
        for k in range(0, len(nodes), at_once):
            alpha = torch.from_numpy(nodes[k : k + at_once])
            points = base + alpha[:, None, None] * (x - base)  # [points, n, D]
            ends = offsets[1:] + n * np.arange(len(alpha))[:, None]
            tiled = np.concatenate([[0], ends.ravel()])
            gradient = subject.gradient(points.reshape(-1, x.shape[1]), tiled, column, of)
            total += torch.einsum(
                "k,knd->nd", torch.from_numpy(weights[k : k + at_once]), gradient.view_as(points)
            )
        found[rows] = ((x - base) * total).numpy()
    return found
