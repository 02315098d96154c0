"""Gradient flow: how far back in time the gradient reaches, and what stands in its way.

- `gradient_flow`: how large the gradients of the loss are at so many steps from the end, as traced;
- `memory`: how much of the *state* so many steps ago is left in the last hidden state, whatever the loss:
  from exact Jacobian products, and the *horizon*, after which nine tenths are gone;
- `jacobians`, `largest_singular_values`: these products themselves, for one sequence;
- `saturation`: gates that stand at the end of their range, and units that never move.

The Jacobian products are rows of our own backpropagation: the gradient of ``h_T[r]`` with respect to the
states of all steps is one sequence with a unit vector upstream. They are computed in float64.

Letters: ``T`` steps of a sequence, ``H`` units, ``R`` numbers of the hidden state, ``d`` steps to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import kernels
from timelike.errors import ConfigError, DataError
from timelike.inspect.layertrace import LayerTrace
from timelike.kernels import Rows

__all__ = [
    "GONE",
    "GradientFlow",
    "Memory",
    "Saturation",
    "gradient_flow",
    "jacobians",
    "largest_singular_values",
    "memory",
    "saturation",
]

Floats = npt.NDArray[np.float64]

GONE = 0.1
"""Of the gradient at the end: where less than this is left, nine tenths are gone."""
NEAR_THE_END = 0.05
"""A sigmoid within this of 0 or 1 is saturated: its slope is below a fifth of the largest, and falls on."""
STILL = 1e-4
"""A unit is dead if its hidden state moves by less than this over all steps: largest minus smallest."""

_MOST_NUMBERS = 1 << 23  # of the tape of one call


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Norms of the gradients of the loss against the distance from the end of the walk.

    Attributes
    ----------
    layer : str
        Name and direction.
    distance : ndarray of int, shape (T,)
        0 at the last step, T - 1 at the first of the longest sequence.
    dh, dc : ndarray, shape (T,), or None
        Mean over the sequences that reach so far of the norm of dL/dh_t and dL/dc_t; no dc without
        cell state.
    dh_quantiles, dc_quantiles : ndarray, shape (3, T), or None
        16 %, 50 % and 84 % of these norms.
    count : ndarray of int, shape (T,)
        Sequences that reach so far.
    """

    layer: str
    distance: npt.NDArray[np.int64]
    dh: Floats
    dc: Floats | None
    dh_quantiles: Floats
    dc_quantiles: Floats | None
    count: npt.NDArray[np.int64]


def gradient_flow(layer: LayerTrace) -> GradientFlow:
    """Give the norms of dL/dh_t and dL/dc_t by the distance from the end of the walk.

    Parameters
    ----------
    layer : LayerTrace

    Returns
    -------
    GradientFlow

    Raises
    ------
    DataError
        If no sequence has a step.

    References
    ----------
    Hochreiter, diploma thesis, TU Munich (1991); Bengio, Simard & Frasconi, IEEE Trans. Neural Netw. 5 (1994)
    157, section 3.
    """
    dh, dc, count = mean_norms(layer)
    order, ends = np.argsort(layer.distance, kind="stable"), np.cumsum(count)[:-1]

    def quantiles(gradient: npt.NDArray[Any]) -> Floats:
        here = np.split(_norms(gradient)[order], ends)
        return np.array([np.quantile(norms, [0.16, 0.5, 0.84]) for norms in here]).T

    of_dc = None if layer.dc is None else quantiles(layer.dc)
    return GradientFlow(label(layer), np.arange(len(count)), dh, dc, quantiles(layer.dh), of_dc, count)


def mean_norms(layer: LayerTrace) -> tuple[Floats, Floats | None, npt.NDArray[np.int64]]:
    """Give `dh`, `dc` and `count` of `GradientFlow` alone; parameters and errors as of `gradient_flow`."""
    if not layer.n_steps:
        raise DataError(f"layer {label(layer)}: there is no step to look at")
    count = np.bincount(layer.distance)
    dh, dc = (
        None if gradient is None else np.bincount(layer.distance, _norms(gradient), len(count)) / count
        for gradient in (layer.dh, layer.dc)
    )
    assert dh is not None
    return dh, dc, count


def _norms(gradient: npt.NDArray[Any]) -> Floats:
    norms: Floats = np.linalg.norm(gradient.astype(np.float64), axis=1)
    return norms


def label(layer: LayerTrace) -> str:
    """Name a layer and its direction, where it has a name."""
    return f"{layer.name} {layer.direction}".strip()


# Jacobian products


def jacobians(
    layer: LayerTrace, sequence: int, *, upstream: npt.ArrayLike | None = None
) -> tuple[Floats, Floats | None]:
    """Give the products of Jacobians dh_T/dh_t and dh_T/dc_t of one sequence, for all t.

    ``h_T`` is the hidden state after the last step of the walk. The derivative by ``h_t`` is taken at
    constant ``c_t``, that by ``c_t`` counts the way through ``h_t``, with peepholes also that through ``o``.

    Parameters
    ----------
    layer : LayerTrace
    sequence : int
    upstream : array_like, shape (V, R), optional
        Rows that the products are multiplied with from the left; by default those of the identity.

    Returns
    -------
    of_h : ndarray, shape (T, V, R)
        In the order of rows; at the last step of the walk it is `upstream`.
    of_c : ndarray, shape (T, V, H), or None
        None for a cell without cell state.

    Raises
    ------
    DataError
        If there is no such sequence.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013, arXiv:1211.5063, equation 5.
    """
    rows = layer.rows(sequence)
    b = sequence % layer.n_sequences
    x = layer.x[rows].astype(np.float64)
    T, R, H = len(x), layer.h.shape[1], layer.units
    given = np.eye(R) if upstream is None else np.asarray(upstream, np.float64)
    if given.ndim != 2 or given.shape[1] != R:
        raise DataError(f"upstream: shape {given.shape}, expected (V, {R})")
    weights = {name: w.astype(np.float64) for name, w in layer.weights.items()}
    states: dict[str, Any] = {"h0": layer.h0[[b]].astype(np.float64)}
    if layer.c0 is not None:
        states["c0"] = layer.c0[[b]].astype(np.float64)
    out = kernels.run(layer.cell, x, [0, T], **weights, **states, reverse=layer.reverse)  # type: ignore[arg-type]
    V = len(given)
    of_h, of_c = np.empty((T, V, R)), None if out.cells is None else np.empty((T, V, H))
    at_once = max(1, _MOST_NUMBERS // max(1, T * 12 * H))
    for first in range(0, V, at_once):
        part = np.ascontiguousarray(given[first : first + at_once])
        n = len(part)
        # Each row of the products is a sequence of its own, with a copy of the one tape.
        y, gates, cells = (None if a is None else np.tile(a, (n, 1)) for a in (out.y, out.gates, out.cells))
        dh, dc = np.empty((n * T, R)), None if of_c is None else np.empty((n * T, H))
        kernels.backward(
            out.weights,
            Rows.ragged(np.arange(n + 1) * T),
            np.tile(x, (n, 1)),
            y,
            gates,
            cells,
            **{name: np.tile(state, (n, 1)) for name, state in states.items()},  # type: ignore[arg-type]
            dhT=part,
            dhidden=dh,
            dcells=dc,
            reverse=layer.reverse,
        )
        of_h[:, first : first + n] = dh.reshape(n, T, R).transpose(1, 0, 2)
        if of_c is not None and dc is not None:
            of_c[:, first : first + n] = dc.reshape(n, T, H).transpose(1, 0, 2)
    return of_h, of_c


def largest_singular_values(
    matrices: npt.NDArray[Any], *, exact_up_to: int = 64, tolerance: float = 1e-9, seed: int = 0
) -> Floats:
    """Give the largest singular value of each of some matrices.

    Parameters
    ----------
    matrices : ndarray, shape (T, V, R)
    exact_up_to : int
        Smaller sides up to which LAPACK decomposes; beyond, power iteration on ``J^T J``.
    tolerance : float
        Relative change of a value at which power iteration ends. It approaches from below, the slower the
        nearer the second value is; it then errs by less than these are apart.
    seed : int
        Of the vectors it starts from.

    Returns
    -------
    ndarray, shape (T,)

    Raises
    ------
    ConfigError
        If power iteration has not ended after 10,000 rounds.

    References
    ----------
    Golub & Van Loan, Matrix Computations, 4th ed. (2013), section 8.2.

    Examples
    --------
    >>> float(largest_singular_values(np.diag([3.0, 1.0])[None])[0])
    3.0
    """
    if min(matrices.shape[1:]) <= exact_up_to:
        found: Floats = np.linalg.norm(matrices.astype(np.float64), ord=2, axis=(1, 2))
        return found
    J = matrices.astype(np.float64)
    v = np.random.default_rng(seed).standard_normal((len(J), J.shape[2], 1))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    value = np.zeros(len(J))
    for _ in range(10_000):
        u = J @ v
        before = value
        value = np.linalg.norm(u, axis=(1, 2))
        if (np.abs(value - before) <= tolerance * value).all():
            return np.asarray(value, np.float64)
        v = J.transpose(0, 2, 1) @ u
        size = np.linalg.norm(v, axis=1, keepdims=True)
        v /= np.where(size == 0, 1.0, size)
    raise ConfigError(f"power iteration did not reach a tolerance of {tolerance:g}; give a larger one")


# Memory


@dataclass(frozen=True, eq=False)
class Memory:
    """How much of the state so many steps ago is left in the last hidden state.

    Attributes
    ----------
    layer : str
        Name and direction.
    state : {"c", "h"}
        Which state: the cell state where there is one.
    sequences : ndarray of int
        Which sequences were looked at.
    left : ndarray, shape (T,)
        Frobenius norm of dh_T/ds_t at each distance over that at distance 0: geometric mean over the
        sequences that reach so far; inf where it is beyond float64.
    horizons : ndarray, shape as `sequences`
        Steps after which less than a tenth is left; inf where that is not so within the sequence.
    lengths : ndarray of int
        Steps of these sequences.
    """

    layer: str
    state: str
    sequences: npt.NDArray[np.int64]
    left: Floats
    horizons: Floats
    lengths: npt.NDArray[np.int64]

    @property
    def horizon(self) -> float:
        """Median over the sequences; inf if most remember from the first step to the last."""
        return float(np.median(self.horizons))

    def __str__(self) -> str:
        length = float(np.median(self.lengths))
        if np.isinf(self.horizon):
            return f"more than all {length:g} steps"
        return f"{self.horizon:g} of {length:g} steps"


def memory(layer: LayerTrace, *, most: int = 16, probes: int = 64, seed: int = 0) -> Memory:
    """Say how far back a layer remembers, by exact Jacobian products.

    Parameters
    ----------
    layer : LayerTrace
    most : int
        Sequences to look at: evenly among those of at least two steps.
    probes : int
        Of a Jacobian with more rows than this, so many numbers of the hidden state, the norm is estimated by
        so many rows of random signs, whose mean square is that of the Frobenius norm: off by about
        ``sqrt(1 / (2 probes))``, a twelfth for 64, where one singular value is all there is, and by less
        else.
    seed : int
        Of these rows.

    Returns
    -------
    Memory

    Raises
    ------
    DataError
        If no sequence has two steps, or a state or a weight is not finite.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013, arXiv:1211.5063, section 2. Hutchinson, Commun. Stat. Simul. 18
    (1989) 1059 (the estimate).
    """
    long_enough = np.flatnonzero(layer.lengths >= 2)
    if not len(long_enough):
        raise DataError(f"layer {label(layer)}: no sequence has two steps, there is nothing to remember")
    if not is_finite(layer):
        raise DataError(f"layer {label(layer)}: its states or weights are not finite")
    chosen = long_enough[np.linspace(0, len(long_enough) - 1, min(most, len(long_enough))).astype(int)]
    R = layer.h.shape[1]
    rows = None
    if probes < R:
        rows = np.random.default_rng(seed).choice([-1.0, 1.0], (probes, R))
    curves = [_left(layer, int(b), rows) for b in chosen]
    T = max(map(len, curves))
    total, count = np.zeros(T), np.zeros(T)
    for curve in curves:
        total[: len(curve)] += np.log(np.maximum(curve, 1e-300))
        count[: len(curve)] += 1
    return Memory(
        label(layer),
        "h" if layer.c is None else "c",
        chosen,
        np.exp(total / count),
        np.array([_first_below(curve) for curve in curves]),
        layer.lengths[chosen],
    )


def is_finite(layer: LayerTrace) -> bool:
    """Whether states, their gradients and the weights are finite at every step."""
    given = (layer.x, layer.h, layer.c, layer.dh, layer.dc, *layer.weights.values())
    return all(bool(np.isfinite(array).all()) for array in given if array is not None)


def _left(layer: LayerTrace, sequence: int, upstream: Floats | None) -> Floats:
    """Norm of dh_T/ds_t by distance, over that at distance 0."""
    of_h, of_c = jacobians(layer, sequence, upstream=upstream)
    norms = _frobenius(of_h if of_c is None else of_c)
    curve = norms if layer.reverse else norms[::-1]
    return curve / curve[0] if curve[0] > 0 else np.zeros_like(curve)


def _frobenius(matrices: Floats) -> Floats:
    """Norm of each matrix; inf where one is beyond float64, whose squares are so long before."""
    largest = np.abs(matrices).max(axis=(1, 2))
    usable = np.isfinite(largest)
    scale = np.where(usable & (largest > 0), largest, 1.0)
    scaled = np.where(usable[:, None, None], matrices, 0.0) / scale[:, None, None]
    norms: Floats = np.where(usable, scale * np.linalg.norm(scaled, axis=(1, 2)), np.inf)
    return norms


def _first_below(curve: Floats) -> float:
    gone = curve < GONE
    return float(gone.argmax()) if gone.any() else np.inf


# Saturation


@dataclass(frozen=True, eq=False)
class Saturation:
    """Gates at the ends of their range, and units that never move.

    Attributes
    ----------
    layer : str
        Name and direction.
    low, high : dict of str to float
        Share of each gate's values within 0.05 of the lower end (0, for a candidate -1) and of the upper (1).
    by_unit : dict of str to ndarray, shape (H,)
        Share at either end of each unit.
    means : dict of str to float
        Mean of each gate.
    dead : ndarray of int
        Units whose hidden state stays within 1e-4 over all steps of all sequences. None
        can be named for a layer with projection, whose hidden states are no units, and by a single step.
    """

    layer: str
    low: dict[str, float]
    high: dict[str, float]
    by_unit: dict[str, Floats]
    means: dict[str, float]
    dead: npt.NDArray[np.int64]


def saturation(layer: LayerTrace) -> Saturation:
    """Count saturated gate values and dead units.

    Parameters
    ----------
    layer : LayerTrace

    Returns
    -------
    Saturation
        A rectifier has no ends: for it there are dead units alone.

    Raises
    ------
    DataError
        If no sequence has a step.
    """
    if not layer.n_steps:
        raise DataError(f"layer {label(layer)}: there is no step to look at")
    low, high, by_unit, means = {}, {}, {}, {}
    for letter, values in layer.gates.items():
        means[letter] = float(values.mean())
        if layer.cell == "rnn_relu":
            continue
        bottom = -1.0 if letter in "gnh" else 0.0
        at_low, at_high = values < bottom + NEAR_THE_END, values > 1 - NEAR_THE_END
        low[letter], high[letter] = float(at_low.mean()), float(at_high.mean())
        by_unit[letter] = (at_low | at_high).mean(axis=0)
    moves = np.ptp(layer.h, axis=0)
    tells = layer.h.shape[1] == layer.units and len(layer.h) > 1
    dead = np.flatnonzero(moves < STILL) if tells else np.zeros(0, np.int64)
    return Saturation(label(layer), low, high, by_unit, means, dead)
