"""Sequences summed up in numbers of the event, as TMVA's ranking and correlations need them.

A sequence has no single value of a variable. Each event is therefore described by its length and, for each
variable, by the mean over its steps, the first step and the last, in the order in which the network reads
them (with ``direction: backward`` the first step is the last of the file). An event without steps has 0 for
all of them, as if it were padded. The values are those of the data, before any transform: ``Id`` in TMVA.

Sizes: `B` events, `D` variables of a step, `V = 1 + 3 D` summary variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timelike.sequences import Sequences

__all__ = [
    "Binned",
    "Summary",
    "binned",
    "clean",
    "correlation",
    "edges_of",
    "separation",
    "summarise",
    "unique",
    "weighted_moments",
]

Floats = NDArray[np.float64]

BINS = 40  # of a variable, as many as TMVA takes
RANGE = 8.0  # standard deviations around the mean, as far as TMVA draws a variable
_OPERATORS = {"+": "_P_", "-": "_M_", "*": "_T_", "/": "_D_"}  # TMVA's names for them


@dataclass(frozen=True, eq=False)
class Summary:
    """Numbers of each event.

    Parameters
    ----------
    names : tuple of V str
        Unique, of letters, digits and underscores: good for a branch.
    values : ndarray of float64, shape [B, V]
        The numbers.
    """

    names: tuple[str, ...]
    values: Floats


def clean(name: str) -> str:
    """Turn an expression into a name for a branch, as TMVA does: operators by letters, others by ``_``.

    Examples
    --------
    >>> clean("part_pt/1000"), clean("log(E + 1)")
    ('part_pt_D_1000', 'log_E__P__1_')
    """
    good = "".join(_OPERATORS.get(c, c if c.isascii() and (c.isalnum() or c == "_") else "_") for c in name)
    return good if good and not good[0].isdigit() else f"_{good}"


def unique(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Give numbers to names that occur again or are taken.

    Examples
    --------
    >>> unique(["a", "b", "a"], taken=["b"])
    ('a', 'b_2', 'a_2')
    """
    given: list[str] = []
    for name in names:
        other, k = name, 1
        while other in given or other in taken:
            k += 1
            other = f"{name}_{k}"
        given.append(other)
    return tuple(given)


def summarise(sequences: Sequences) -> Summary:
    """Describe each sequence by its length and each variable's mean, first and last value.

    Parameters
    ----------
    sequences : Sequences
        B events of D variables, in the order in which they are read.

    Returns
    -------
    Summary
        ``length``, then ``<variable>_mean``, ``_first`` and ``_last`` of each variable.

    Examples
    --------
    >>> events = Sequences.from_list([np.array([[1.0], [4.0], [1.0]]), np.zeros((0, 1))], names=["pt"])
    >>> found = summarise(events)
    >>> found.names
    ('length', 'pt_mean', 'pt_first', 'pt_last')
    >>> found.values
    array([[3., 2., 1., 1.],
           [0., 0., 0., 0.]])
    """
    lengths = sequences.lengths
    filled = lengths > 0
    shape = (len(sequences), sequences.n_variables)
    mean, first, last = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    if filled.any():
        starts, ends = sequences.offsets[:-1][filled], sequences.offsets[1:][filled]
        sums = np.add.reduceat(sequences.values, starts, axis=0, dtype=np.float64)
        mean[filled] = sums / lengths[filled, None]
        first[filled], last[filled] = sequences.values[starts], sequences.values[ends - 1]
    columns = np.stack([mean, first, last], axis=2).reshape(len(sequences), -1)
    names = [f"{clean(name)}_{kind}" for name in sequences.names for kind in ("mean", "first", "last")]
    return Summary(unique(["length", *names]), np.column_stack([lengths.astype(np.float64), columns]))


@dataclass(frozen=True, eq=False)
class Binned:
    """Weighted histograms of one variable, of all classes in the same bins.

    Parameters
    ----------
    edges : ndarray, shape [K + 1]
        Edges of the bins, equally wide.
    sums : ndarray, shape [C, K + 2]
        Sum of weights of each class in each bin, the first below and the last above the range.
    squares : ndarray, shape [C, K + 2]
        Sums of squared weights: the variances.
    entries : ndarray of int, shape [C]
        Number of events.
    """

    edges: Floats
    sums: Floats
    squares: Floats
    entries: NDArray[np.int64]


def binned(values: Floats, weights: Floats, members: Sequence[NDArray[np.bool_]], edges: Floats) -> Binned:
    """Fill one histogram for each set of members; a value on the last edge belongs to the last bin.

    Parameters
    ----------
    values, weights : ndarray, shape [B]
        One number and one weight of each event.
    members : sequence of ndarray of bool, shape [B]
        Which events a histogram takes.
    edges : ndarray, shape [K + 1]
        Rising edges.
    """
    bins = len(edges) - 1
    index = np.searchsorted(edges, values, side="right")
    index[values == edges[-1]] = bins
    sums = [np.bincount(index[m], weights=weights[m], minlength=bins + 2) for m in members]
    squares = [np.bincount(index[m], weights=weights[m] ** 2, minlength=bins + 2) for m in members]
    return Binned(edges, np.stack(sums), np.stack(squares), np.array([m.sum() for m in members]))


def edges_of(values: Floats, weights: Floats) -> Floats:
    """Choose the bins of a variable as TMVA does.

    40 bins over the values within 8 standard deviations of the mean; integers have bins of their own.

    Examples
    --------
    >>> edges_of(np.array([2.0, 4.0, 3.0]), np.ones(3))
    array([2., 3., 4., 5.])
    """
    low, high = float(values.min()), float(values.max())
    if high - low <= 1000 and max(-low, high) < 2**31 and not np.any(values % 1):
        return np.arange(low, high + 2)
    mean, spread = weighted_moments(values[:, None], weights)
    deviation = float(np.sqrt(spread[0, 0])) if spread[0, 0] > 0 else high - low
    low, high = max(low, mean[0] - RANGE * deviation), min(high, mean[0] + RANGE * deviation)
    if not high > low:  # negative weights may put the mean outside of the values
        low, high = float(values.min()), float(values.max())
    if not high > low:
        high = low + max(1.0, 0.1 * abs(low))
    return np.linspace(low, high, BINS + 1)


def separation(s: Floats, b: Floats) -> float:
    """Give the separation 1/2 int (s - b)^2 / (s + b) of two histograms in the same bins.

    The convention is that of `timelike.roc.separation`: a bin whose weights sum to less than nothing counts
    as empty.

    Parameters
    ----------
    s, b : ndarray, shape [K]
        Sums of weights; their scale does not matter.

    Returns
    -------
    float
        0 for equal distributions, 1 for distributions without overlap; NaN where one of them has nothing.

    Examples
    --------
    >>> separation(np.array([1.0, 1.0]), np.array([0.0, 5.0]))
    0.3333333333333333
    """
    s, b = np.maximum(s, 0.0), np.maximum(b, 0.0)
    if not (s.sum() > 0 and b.sum() > 0):
        return float("nan")
    s, b = s / s.sum(), b / b.sum()
    both = s + b
    return float(0.5 * np.sum(np.divide((s - b) ** 2, both, out=np.zeros_like(both), where=both > 0)))


def weighted_moments(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Give the weighted means [V] and the covariance matrix [V, V], ``sum w (x - m)(y - m) / sum w``.

    Parameters
    ----------
    values : ndarray, shape [B, V]
    weights : ndarray, shape [B]
        Of either sign, with a positive sum.
    """
    total = weights.sum()
    mean = weights @ values / total
    centred = values - mean
    covariance: Floats = (centred.T * weights) @ centred / total
    return mean, covariance


def correlation(values: Floats, weights: Floats) -> Floats:
    """Give the matrix of linear correlation coefficients.

    A variable that does not vary, or whose variance is not positive because of negative weights, has 0 with
    all others, as in TMVA. With negative weights a coefficient may leave [-1, 1].

    Parameters
    ----------
    values : ndarray, shape [B, V]
    weights : ndarray, shape [B]
        Of either sign, with a positive sum.

    Returns
    -------
    ndarray, shape [V, V]
        With 1 on the diagonal.

    Examples
    --------
    >>> correlation(np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]), np.ones(3)).round(12)
    array([[1., 1.],
           [1., 1.]])
    """
    _, covariance = weighted_moments(values, weights)
    variance = np.diagonal(covariance)
    # A constant has a variance of rounding errors: of the size of the squared value and eps.
    floor = (8 * np.finfo(np.float64).eps * np.abs(values).max(axis=0, initial=0.0)) ** 2
    varies = variance > floor
    scale = np.sqrt(np.where(varies, variance, 1.0))
    matrix = np.where(np.outer(varies, varies), covariance / np.outer(scale, scale), 0.0)
    np.fill_diagonal(matrix, 1.0)
    return matrix
