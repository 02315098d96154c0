"""Statistics of weighted events: effective numbers, limits, Kolmogorov-Smirnov, bootstrap, rounding.

All of it is NumPy alone and takes weights of either sign. Shapes and finiteness are checked by the callers
(`timelike.evaluate`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE_LEVEL",
    "KSTest",
    "bootstrap_weights",
    "decimals_of",
    "effective_events",
    "efficiency_upper_limit",
    "format_measurement",
    "format_probability",
    "kolmogorov",
    "ks_test",
]

Floats = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
_GAUSS_ONE_SIDED = 1.6448536269514722  # standard deviations of a one-sided limit at that level

_BLOCK = 4_000_000  # numbers in a block of replicas: 32 MB for each array made of it


def effective_events(weights: Floats) -> float:
    """Give the number of unweighted events with the same relative uncertainty, (sum w)^2 / sum w^2.

    Examples
    --------
    >>> effective_events(np.array([1.0, 1.0, 1.0, -1.0]))
    1.0
    """
    largest = float(np.abs(weights).max(initial=0.0))
    if largest == 0:
        return 0.0
    scaled = np.ldexp(weights, -math.frexp(largest)[1])  # exact, and no square overflows or vanishes
    return float(np.sum(scaled)) ** 2 / float(np.sum(scaled * scaled))


def efficiency_upper_limit(weights: Floats, passing: NDArray[np.bool_]) -> float:
    """Give the upper limit at 95 % on an efficiency whose passing weights sum to nothing.

    Where none of n events pass, efficiencies above ``1 - 0.05^(1/n)`` are excluded (Clopper and Pearson;
    about 3/n), n being the effective number. Where events pass whose weights cancel, the fluctuation of
    their sum sets a scale too, and the larger of the two limits is given.

    Parameters
    ----------
    weights : ndarray, shape [B]
        Weights of all events of the class.
    passing : ndarray of bool, shape [B]
        Which of them pass.

    Returns
    -------
    float
        The limit, at most 1.

    References
    ----------
    C. J. Clopper and E. S. Pearson, Biometrika 26 (1934) 404.

    Examples
    --------
    >>> round(efficiency_upper_limit(np.ones(1000), np.zeros(1000, dtype=bool)), 6)
    0.002991
    """
    none_left = -math.expm1(math.log1p(-CONFIDENCE_LEVEL) / effective_events(weights))
    fluctuation = float(np.linalg.norm(weights[passing] / np.sum(weights)))
    return min(1.0, max(none_left, _GAUSS_ONE_SIDED * fluctuation))


@dataclass(frozen=True)
class KSTest:
    """Result of a two-sample Kolmogorov-Smirnov test.

    Parameters
    ----------
    distance : float
        Largest difference of the two cumulative distributions.
    p_value : float
        Probability of a larger one if both samples came from one distribution.
    n_effective : tuple of float
        Effective numbers of events of the two samples.
    """

    distance: float
    p_value: float
    n_effective: tuple[float, float]


def kolmogorov(z: float) -> float:
    """Give the Kolmogorov distribution's upper tail, Q(z) = 2 sum_k (-1)^(k-1) exp(-2 k^2 z^2).

    Below z = 1 its other form is summed, 1 - sqrt(2 pi)/z sum_k exp(-(2k-1)^2 pi^2 / (8 z^2)): either
    series is exact to rounding after five terms on its side.

    Examples
    --------
    >>> round(kolmogorov(1.3580986393225505), 12)  # the 5 % point
    0.05
    """
    if z <= 0.0:
        return 1.0
    if z < 1.0:
        terms = (math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8.0 * z * z)) for k in range(1, 6))
        return 1.0 - math.sqrt(2.0 * math.pi) / z * math.fsum(terms)
    return 2.0 * math.fsum((-1.0) ** (k - 1) * math.exp(-2.0 * k * k * z * z) for k in range(1, 6))


def ks_test(first: Floats, first_weights: Floats, second: Floats, second_weights: Floats) -> KSTest:
    """Compare two weighted samples with the Kolmogorov-Smirnov test, unbinned.

    The distance is exact, tied values included. Its probability is the asymptotic one with Stephens'
    correction for small samples and with effective numbers of events,
    ``Q((sqrt(n) + 0.12 + 0.11/sqrt(n)) D)`` with ``n = n1 n2 / (n1 + n2)``: within 0.35/sqrt(n) of the
    exact one, n being the smaller number (0.011 at 1,000 events), and nearer where it is small. With
    weights it assumes that they do not depend on the value; with weights of both signs it is a guide.

    Parameters
    ----------
    first, second : ndarray, shape [n]
        The values.
    first_weights, second_weights : ndarray, shape [n]
        Their weights, each with a positive sum.

    Returns
    -------
    KSTest
        Distance, probability, effective numbers of events.

    References
    ----------
    M. A. Stephens, J. Royal Stat. Soc. B 32 (1970) 115.

    Examples
    --------
    >>> ks_test(np.array([1.0, 2.0]), np.ones(2), np.array([2.0, 3.0]), np.ones(2)).distance
    0.5
    """
    values = np.concatenate([first, second])
    order = np.argsort(values, kind="stable")
    rising = values[order]
    ends = np.append(rising[1:] != rising[:-1], [True])  # a step of tied values is taken as one
    cumulative = []
    for members, weights in (
        (slice(0, len(first)), first_weights),
        (slice(len(first), None), second_weights),
    ):
        spread = np.zeros(len(values))
        spread[members] = weights
        running = np.cumsum(spread[order])
        cumulative.append(running[ends] / running[-1])
    distance = float(np.max(np.abs(cumulative[0] - cumulative[1])))
    numbers = (effective_events(first_weights), effective_events(second_weights))
    root = math.sqrt(numbers[0] * numbers[1] / (numbers[0] + numbers[1]))
    return KSTest(distance, kolmogorov((root + 0.12 + 0.11 / root) * distance), numbers)


def bootstrap_weights(
    weights: Floats,
    classes: NDArray[np.int64] | None,
    n: int,
    seed: int | Sequence[int],
    groups: NDArray[np.int64] | None = None,
) -> Iterator[Floats]:
    """Make the sets of weights from which values and their uncertainties are computed.

    Row 0 of the first block holds the weights themselves. Each further row is a bootstrap replica: of each
    class as many events are drawn with replacement as it has, and an event's weight is multiplied by how
    often it was drawn. Numbers of events per class are thus kept, and no class can come out empty.

    What hangs together is drawn together: of the steps of events, whole events are drawn, and then a class
    of steps can come out with more or fewer of them, or with none.

    Parameters
    ----------
    weights : ndarray, shape [B]
        Event weights.
    classes : ndarray of int, shape [B], or None
        Class of each event; None where there are none.
    n : int
        Number of replicas.
    seed : int or sequence of int
        Seed of the draws.
    groups : ndarray of int, shape [B], optional
        The event to which each row belongs, where rows are steps: 0 to the number of events less one.

    Yields
    ------
    ndarray, shape [rows, B]
        Blocks of sets of weights, n + 1 rows in all, each block small enough for the memory at hand.

    References
    ----------
    B. Efron, Ann. Statist. 7 (1979) 1.
    """
    rng = np.random.default_rng(seed)
    drawn_apart = np.zeros(len(weights), np.int64) if classes is None else classes
    if groups is not None:
        drawn_apart = np.zeros(int(groups.max()) + 1, np.int64)
    members = [np.flatnonzero(drawn_apart == c) for c in np.unique(drawn_apart)]
    rows_per_block = max(1, _BLOCK // len(weights))
    for start in range(0, n + 1, rows_per_block):
        times = np.empty((min(rows_per_block, n + 1 - start), len(drawn_apart)))
        for chosen in members:
            shape = (len(times), len(chosen))
            drawn = rng.integers(0, len(chosen), size=shape) + len(chosen) * np.arange(len(times))[:, None]
            counts = np.bincount(drawn.ravel(), minlength=times.shape[0] * len(chosen))
            times[:, chosen] = counts.reshape(shape)
        block = (times if groups is None else times[:, groups]) * weights
        if start == 0:
            block[0] = weights
        yield block


def decimals_of(error: float) -> int:
    """Give the number of decimals to which a value with this uncertainty is written.

    The rule of the Particle Data Group: of the three leading digits of the uncertainty, 100 to 354 are
    rounded to two digits, 355 to 949 to one, and 950 to 999 up to 1000, again two.

    Examples
    --------
    >>> [decimals_of(error) for error in (0.0354, 0.0355, 0.0949, 0.0951, 12.0, 870.0)]
    [3, 2, 2, 2, 0, -2]
    """
    exponent = math.floor(math.log10(error))
    leading = round(error / 10.0**exponent * 100)
    if leading <= 354:
        return 1 - exponent
    return -exponent


def format_probability(p: float) -> str:
    """Write a probability; a tiny one by its bound.

    Examples
    --------
    >>> format_probability(0.2774), format_probability(0.01234), format_probability(1e-9)
    ('0.28', '0.012', '< 0.001')
    """
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def format_measurement(value: float | None, error: float | None = None, *, digits: int = 3) -> str:
    """Write a value and its uncertainty, rounded to the uncertainty.

    Parameters
    ----------
    value : float or None
        The value; None gives a dash.
    error : float or None
        Its uncertainty; without one (or with 0) the value is written to `digits` significant digits.
    digits : int
        Significant digits where there is no uncertainty.

    Returns
    -------
    str
        For example "0.952 ± 0.004".

    References
    ----------
    Particle Data Group, Review of Particle Physics, Introduction, section "Rounding".

    Examples
    --------
    >>> format_measurement(0.95234, 0.00412)
    '0.952 ± 0.004'
    >>> format_measurement(0.95234, 0.00287)
    '0.9523 ± 0.0029'
    >>> format_measurement(39.4, 9.7)
    '39 ± 10'
    >>> format_measurement(15320.0, 870.0)
    '15300 ± 900'
    >>> format_measurement(0.5)
    '0.500'
    """
    if value is None:
        return "–"
    if error is not None and error < 1e-12 * abs(value):  # rounding, and no uncertainty
        error = None
    if error is None or error == 0:
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}" if decimals < 10 else f"{value:.{digits - 1}e}"
    decimals = decimals_of(error)
    shown = max(decimals, 0)
    return f"{round(value, decimals):.{shown}f} ± {round(error, decimals):.{shown}f}"
