"""Transforms of variables, fitted on the steps of training events with their weights.

Of one variable, one after the other:

============  ====================================================================================
none          as it is
standardise   ``(x - mean) / s``, s the standard deviation
robust        ``(x - median) / s``, s half the distance of the quantiles at 16 % and 84 %
minmax        the smallest value to -1, the largest to 1
log           ``sign(x) log(1 + |x|)``, which keeps the sign of what falls over decades
clip          values beyond the quantiles at 0.1 % and 99.9 %, or given limits, to these
uniform       to the share of smaller values, from 0 to 1
gauss         to the number below which a normal distribution has that share
============  ====================================================================================

Then of all variables together: ``decorrelate`` (by the inverse root of the covariance, which changes the
variables as little as can be) or ``pca`` (principal components, the widest first). Missing values, where a
config allows them, are filled with the median, and may be told to the network by an indicator.

All is kept as numbers, so that a model file holds it without code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.data.moments import Moments
from timelike.errors import DataError, ModelFileError, nearest
from timelike.modelheader import brief
from timelike.rowwise import blocks
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import DataConfig

__all__ = ["KINDS", "MIXES", "FittedTransforms", "Mix", "Step", "check_names", "quantiles"]

Floats = npt.NDArray[np.float64]
Numbers = dict[str, Any]  # of a step: floats, and lists of them

MIXES = ("decorrelate", "pca")
_BLOCK = 16  # rows of a matrix product
_KNOTS = 256  # shares at which a distribution is kept
_ROWS_AT_ONCE = 1 << 14  # of float64: what is between the transforms stays in cache, and memory small


# -- one variable -------------------------------------------------------------------------------------------


def _standard(x: Floats, weights: Floats | None) -> Numbers:
    """Give mean and standard deviation."""
    numbers: Numbers = dict(Moments.of(x, weights).standard())
    return numbers


def _robust(x: Floats, weights: Floats | None) -> Numbers:
    low, median, high = quantiles(x, weights, [0.16, 0.5, 0.84]).tolist()
    return {"mean": median, "scale": (high - low) / 2 if high > low else 1.0}


def _range(x: Floats, weights: Floats | None) -> Numbers:
    return {"low": float(x.min()), "high": float(x.max())}


def _limits(x: Floats, weights: Floats | None) -> Numbers:
    low, high = quantiles(x, weights, [0.001, 0.999]).tolist()
    return {"low": low, "high": high}


def _distribution(x: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    """Give values in rising order, no two the same, and the share of the weight below each."""
    shares = (np.arange(_KNOTS) + 0.5) / _KNOTS
    values, where = np.unique(quantiles(x, weights, shares), return_inverse=True)
    return values, np.bincount(where, shares) / np.bincount(where)


def _uniform(x: Floats, weights: Floats | None) -> Numbers:
    values, shares = _distribution(x, weights)
    return {"values": values.tolist(), "to": shares.tolist()}


def _gauss(x: Floats, weights: Floats | None) -> Numbers:
    from statistics import NormalDist  # 8 ms, which who only applies transforms need not wait for

    values, shares = _distribution(x, weights)
    return {"values": values.tolist(), "to": [NormalDist().inv_cdf(share) for share in shares]}


def _affine(x: Floats, mean: float, scale: float) -> Floats:
    return (x - mean) / scale


def _to_range(x: Floats, low: float, high: float) -> Floats:
    return 2 * ((x - low) / (high - low)) - 1 if high > low else np.zeros_like(x)


def _log(x: Floats) -> Floats:
    return np.copysign(np.log1p(np.abs(x)), x)


def _clip(x: Floats, low: float, high: float) -> Floats:
    return np.clip(x, low, high)


def _along(x: Floats, values: list[float], to: list[float]) -> Floats:
    found: Floats = np.interp(x, values, to)
    return found


def _nothing(x: Floats, weights: Floats | None) -> Numbers:
    return {}


Fit = Callable[[Floats, Floats | None], Numbers]
_STEPS: dict[
    str, tuple[Fit, Callable[..., Floats], tuple[str, ...]]
] = {  # fit, apply, and names of its numbers
    "none": (_nothing, lambda x: x, ()),
    "standardise": (_standard, _affine, ("mean", "scale")),
    "robust": (_robust, _affine, ("mean", "scale")),
    "minmax": (_range, _to_range, ("low", "high")),
    "log": (_nothing, _log, ()),
    "clip": (_limits, _clip, ("low", "high")),
    "uniform": (_uniform, _along, ("values", "to")),
    "gauss": (_gauss, _along, ("values", "to")),
}
KINDS = tuple(_STEPS)


@dataclass(frozen=True)
class Step:
    """One fitted transform of a variable.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    numbers : dict of str to float or list of float
        ``mean``, ``scale``; ``low``, ``high``; or ``values`` in rising order and what they go ``to``: between
        them on straight lines, beyond them to the first and the last.
    """

    kind: str
    numbers: Numbers

    @classmethod
    def fit(cls, kind: str, x: Floats, weights: Floats | None, given: Numbers | None = None) -> Step:
        """Fit to values [N] with weights; what is given is not fitted."""
        return cls(kind, _STEPS[kind][0](x, weights) | (given or {}))

    def apply(self, x: Floats) -> Floats:
        """Transform values [N]."""
        return _STEPS[self.kind][1](x, **self.numbers)

    @property
    def identity(self) -> bool:
        """Whether it changes nothing."""
        return self.kind == "none" or (
            _STEPS[self.kind][1] is _affine and (self.numbers["mean"], self.numbers["scale"]) == (0.0, 1.0)
        )

    @classmethod
    def from_dict(cls, values: Numbers) -> Step:
        """Make it again of ``{"kind": ..., **numbers}``, checked."""
        kind = values["kind"]
        if kind not in KINDS:
            raise ModelFileError(f"transforms: no transform {brief(kind)}; {nearest(str(kind)[:100], KINDS)}")
        names = _STEPS[kind][2]
        if names == ("values", "to"):
            numbers: Numbers = {name: list(map(float, values[name])) for name in names}
        else:
            numbers = {name: float(values[name]) for name in names}
        flat = np.concatenate([np.ravel(number) for number in numbers.values()]) if names else np.zeros(0)
        if not np.isfinite(flat).all() or numbers.get("scale", 1.0) <= 0.0:
            raise ModelFileError(
                f"transforms: {kind} with numbers that are not finite, or a scale that is not above 0"
            )
        if names == ("values", "to"):
            knots = numbers["values"]
            if not knots or len(knots) != len(numbers["to"]):
                raise ModelFileError(f"transforms: {kind} needs as many numbers to go to as values")
            if np.any(np.diff(knots) <= 0):
                raise ModelFileError(f"transforms: the values of {kind} do not rise")
        return cls(kind, numbers)


# -- all variables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mix:
    """What is done to all variables together: ``matrix (x - mean)``.

    Attributes
    ----------
    kind : {"decorrelate", "pca"}
    mean : ndarray, shape (D,)
    matrix : ndarray, shape (D, D)
    """

    kind: str
    mean: Floats
    matrix: Floats

    @classmethod
    def fit(cls, kind: str, x: Floats, weights: Floats | None) -> Mix:
        """Fit to values [N, D].

        Raises
        ------
        DataError
            If a variable, or a sum of variables, never changes.
        """
        mean = np.average(x, axis=0, weights=weights)
        covariance = np.atleast_2d(np.cov(x.T, aweights=weights, bias=True))
        widths, axes = np.linalg.eigh(covariance)
        if widths[0] <= 1e-12 * widths[-1] or widths[-1] == 0.0:
            raise DataError(
                f"data.mix: {kind}: a variable, or a sum of some, never changes; leave one of them out"
            )
        if kind == "decorrelate":
            return cls(kind, mean, (axes / np.sqrt(widths)) @ axes.T)
        # Widest first, each with the sign that makes its largest part positive.
        axes = axes[:, ::-1]
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
        return cls(kind, mean, (axes * signs).T)

    def apply(self, x: Floats) -> Floats:
        """Transform values [N, D]."""
        mixed = np.matmul(blocks(x - self.mean, _BLOCK), self.matrix.T)
        found: Floats = mixed.reshape(-1, len(self.matrix))[: len(x)]
        return found


@dataclass(frozen=True, eq=False)
class FittedTransforms:
    """What is done to the variables before the network reads them.

    Made by `FittedTransforms.fit`, or `FittedTransforms.unchanged`.

    Parameters
    ----------
    names : tuple of D str
        The variables, in the order that the network takes them in.
    steps : tuple of D tuples of Step
        What is done to each.
    mix : Mix, optional
        What is then done to all.
    fills : tuple of D (float or None), optional
        What a missing value of each is; None where none may be missing.
    indicators : tuple of str
        Variables of which the network is told where they are missing: 1 there, 0 elsewhere, behind the rest.

    Examples
    --------
    >>> s = Sequences(np.array([[1.0], [3.0]]), [0, 1, 2], names=["pt"])
    >>> fitted = FittedTransforms.fit(s)
    >>> fitted.apply(s).values.ravel()
    array([-1.,  1.])
    """

    names: tuple[str, ...]
    steps: tuple[tuple[Step, ...], ...]
    mix: Mix | None = None
    fills: tuple[float | None, ...] = ()
    indicators: tuple[str, ...] = ()

    @classmethod
    def unchanged(cls, names: tuple[str, ...]) -> FittedTransforms:
        """Give those that leave the variables as they are."""
        return cls(names, ((Step("none", {}),),) * len(names))

    @property
    def identity(self) -> bool:
        """Whether they change nothing."""
        return (
            self.mix is None
            and not any(fill is not None for fill in self.fills)
            and all(step.identity for steps in self.steps for step in steps)
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the network reads."""
        mixed = self.mix is not None and self.mix.kind == "pca"
        names = tuple(f"component {k + 1}" for k in range(len(self.names))) if mixed else self.names
        return names + tuple(f"{name} missing" for name in self.indicators)

    @classmethod
    def fit(cls, sequences: Sequences, data: DataConfig | None = None) -> FittedTransforms:
        """Fit the transforms of all variables.

        Every step counts with the absolute weight of its event: where negative weights cancel positive ones,
        the network is still shown the steps of both. A variable that never changes keeps its scale.

        Parameters
        ----------
        sequences : Sequences
            Training events, their event weights included.
        data : DataConfig, optional
            Says the transforms of each variable; "standardise" for all when not given.

        Returns
        -------
        FittedTransforms

        Raises
        ------
        DataError
            If there are no steps, or their weights are all 0, a transform is of no variable, or a variable is
            missing everywhere.
        """
        names = sequences.names
        if data is not None:
            check_names(data, names)
        values, weights = sequences.values, None
        if sequences.weights is not None:
            per_step = np.repeat(np.abs(sequences.weights), sequences.lengths)
            # A step of weight 0 must not count for the range of a variable either.
            values, weights = values[per_step > 0], per_step[per_step > 0]
        if len(values) == 0:
            raise DataError(
                "transforms cannot be fitted: no training event has a step of weight other than 0"
            )
        missing = {} if data is None else dict(data.missing)
        columns, steps, fills = np.empty(values.shape), [], []
        for d, name in enumerate(names):
            x = values[:, d].astype(np.float64)
            fill = None
            if name in missing:
                there = ~np.isnan(x)
                if not there.any():
                    raise DataError(f"variable '{name}' is missing in every training step")
                own = None if weights is None else weights[there]
                fill = float(quantiles(x[there], own, 0.5))
                x = np.where(there, x, fill)
            fills.append(fill)
            done = []
            for kind, given in [("standardise", {})] if data is None else data.transforms_of(name):
                done.append(Step.fit(kind, x, weights, given))
                x = done[-1].apply(x)
            steps.append(tuple(done))
            columns[:, d] = x
        mix = None if data is None or data.mix is None else Mix.fit(data.mix, columns, weights)
        told = tuple(name for name in names if missing.get(name) == "indicator")
        return cls(names, tuple(steps), mix, tuple(fills), told)

    def apply(self, sequences: Sequences) -> Sequences:
        """Transform the variables of sequences.

        Parameters
        ----------
        sequences : Sequences
            With these variables, in any order; others beside them are left out.

        Returns
        -------
        Sequences
            With the variables in the order of `names`, in the type that they had; computed in float64. They
            keep their names, but for principal components; indicators follow.

        Raises
        ------
        DataError
            If a variable is missing.
        """
        given = self.chosen(sequences)
        values = np.empty((len(given), len(self.outputs)), given.dtype)
        for start in range(0, len(given), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            values[some] = self.rows(given[some])
        return sequences.replace(values=values, names=self.outputs)

    def chosen(self, sequences: Sequences) -> npt.NDArray[Any]:
        """Give the columns [N, D] of the variables in the order of `names`; shared where they have it.

        Raises
        ------
        DataError
            If a variable is missing.
        """
        if sequences.names == self.names:
            return sequences.values
        for name in self.names:
            if name not in sequences.names:
                raise DataError(f"the data have no variable '{name}'; {nearest(name, sequences.names)}")
        return sequences.values[:, [sequences.names.index(name) for name in self.names]]

    def rows(self, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Transform rows [N, D], or one row [D], the columns being those of `names`.

        Returns
        -------
        array [N, D'] or [D'], of the same type
            The columns are those of `outputs`.
        """
        if self._affine is not None:  # all columns at once: for few rows the number of calls is what counts
            mean, scale = self._affine
            x = given.astype(np.float64)
            x -= mean  # in place: new memory for each of thousands of rows takes longer than the arithmetic
            x /= scale
            return x.astype(given.dtype)
        if given.ndim == 1:
            one: npt.NDArray[Any] = self.rows(given[None])[0]
            return one
        D = len(self.names)
        values = np.empty((len(given), D + len(self.indicators)), dtype=given.dtype)
        exact = np.empty((len(given), D)) if self.mix is not None else values
        for d, name in enumerate(self.names):
            x = given[:, d]
            fill = self.fills[d] if self.fills else None
            if fill is not None:
                absent = np.isnan(x)
                if name in self.indicators:
                    values[:, D + self.indicators.index(name)] = absent
                x = np.where(absent, np.asarray(fill, x.dtype), x)
            if not all(step.kind == "none" for step in self.steps[d]):
                x = x.astype(np.float64)
                for step in self.steps[d]:
                    x = step.apply(x)
            exact[:, d] = x
        if self.mix is not None:
            values[:, :D] = self.mix.apply(exact)
        return values

    @cached_property
    def _affine(self) -> tuple[Floats, Floats] | None:
        """Mean and scale [D] of all variables, where nothing else is done to any; 0 and 1 change nothing."""
        if self.mix is not None or any(fill is not None for fill in self.fills):
            return None
        mean, scale = np.zeros(len(self.names)), np.ones(len(self.names))
        for d, steps in enumerate(self.steps):
            own = [step for step in steps if step.kind != "none"]
            if len(own) > 1 or any(_STEPS[step.kind][1] is not _affine for step in own):
                return None
            if own:
                mean[d], scale[d] = own[0].numbers["mean"], own[0].numbers["scale"]
        return mean, scale

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that JSON holds without loss."""
        mix = self.mix and {
            "kind": self.mix.kind,
            "mean": self.mix.mean.tolist(),
            "matrix": self.mix.matrix.tolist(),
        }
        return {
            "names": list(self.names),
            "steps": [[{"kind": step.kind, **step.numbers} for step in steps] for steps in self.steps],
            "mix": mix,
            "fills": list(self.fills),
            "indicators": list(self.indicators),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedTransforms:
        """Make it again of what `to_dict` gave.

        Raises
        ------
        ModelFileError
            If the values are not what `to_dict` gives.
        """
        try:
            names = tuple(map(str, values["names"]))
            D = len(names)
            if "steps" in values:
                steps = tuple(tuple(map(Step.from_dict, given)) for given in values["steps"])
                mix = _mix(values["mix"], D)
                fills = tuple(None if fill is None else float(fill) for fill in values["fills"])
                indicators = tuple(map(str, values["indicators"]))
            else:  # as files of model format 1 had it first: one transform of each variable, all affine
                given = zip(values["kinds"], values["mean"], values["scale"], strict=True)
                steps = tuple(
                    (Step.from_dict({"kind": kind, "mean": mean, "scale": scale}),)
                    for kind, mean, scale in given
                )
                mix, fills, indicators = None, (), ()
        except ModelFileError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = " ".join(str(error).split())[:200]
            raise ModelFileError(f"transforms: {type(error).__name__} for {why}") from error
        if len(steps) != D or len(fills) not in (0, D):
            raise ModelFileError(f"transforms: {D} names, {len(steps)} transforms, {len(fills)} fills")
        if not all(fill is None or np.isfinite(fill) for fill in fills):
            raise ModelFileError("transforms: what is filled in is not finite")
        for name in indicators:
            if name not in names or not fills or fills[names.index(name)] is None:
                raise ModelFileError(f"transforms: an indicator of {brief(name)}, which is never missing")
        return cls(names, steps, mix, fills, indicators)


def check_names(data: DataConfig, names: tuple[str, ...]) -> None:
    """Refuse transforms and missing values of variables that the data do not have.

    Raises
    ------
    DataError
    """
    for name in (*data.transforms, *data.missing):
        if name != "default" and name not in names:
            key = "transforms" if name in data.transforms else "missing"
            raise DataError(f"data.{key}: the data have no variable '{name}'; {nearest(name, names)}")


def quantiles(x: Floats, weights: Floats | None, shares: npt.ArrayLike) -> Floats:
    """Give the values below which these shares of the weight are.

    Parameters
    ----------
    x : array [N]
    weights : array [N], optional
    shares : array
        From 0 to 1.
    """
    order = np.argsort(x, kind="stable")
    w = np.ones(len(x)) if weights is None else weights[order]
    middle = np.cumsum(w) - w / 2
    found: Floats = np.interp(np.asarray(shares) * w.sum(), middle, x[order])
    return found


def _mix(values: dict[str, Any] | None, D: int) -> Mix | None:
    if values is None:
        return None
    kind, mean = values["kind"], np.array(values["mean"], np.float64)
    matrix = np.array(values["matrix"], np.float64)
    if kind not in MIXES:
        raise ModelFileError(f"transforms: no mix {brief(kind)}; {nearest(str(kind)[:100], MIXES)}")
    if (
        mean.shape != (D,)
        or matrix.shape != (D, D)
        or not (np.isfinite(mean).all() and np.isfinite(matrix).all())
    ):
        raise ModelFileError(f"transforms: {kind} of {D} variables with other numbers than these need")
    return Mix(kind, mean, matrix)
