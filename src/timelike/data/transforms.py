"""Transforms of variables, fitted on the steps of training events.

- "standardise": ``(x - mean) / scale``, mean and standard deviation over all steps;
- "none": as it is.

A fitted transform is a mean and a scale per variable, so that a model file holds it as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, ModelFileError, nearest
from timelike.sequences import Sequences

if TYPE_CHECKING:
    from timelike.config import DataConfig

__all__ = ["KINDS", "FittedTransforms"]

KINDS = ("standardise", "none")


@dataclass(frozen=True, eq=False)
class FittedTransforms:
    """What is done to each variable: ``(x - mean) / scale``.

    Made by `FittedTransforms.fit`.

    Parameters
    ----------
    names : tuple of D str
        The variables, in the order that the network takes them in.
    kinds : tuple of D str
        Name of the transform of each.
    mean, scale : array [D] of float64
        In the units of the variable; 0 and 1 where the transform is "none".

    Examples
    --------
    >>> s = Sequences(np.array([[1.0], [3.0]]), [0, 1, 2], names=["pt"])
    >>> fitted = FittedTransforms.fit(s)
    >>> fitted.apply(s).values.ravel()
    array([-1.,  1.])
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, sequences: Sequences, data: DataConfig | None = None) -> FittedTransforms:
        """Fit the transform of each variable.

        Every step counts with the absolute weight of its event: where negative weights cancel positive ones,
        the network is still shown the steps of both. A variable that never changes gets scale 1.

        Parameters
        ----------
        sequences : Sequences
            Training events, their event weights included.
        data : DataConfig, optional
            Says the transform of each variable; "standardise" for all when not given.

        Returns
        -------
        FittedTransforms

        Raises
        ------
        DataError
            If there are no steps, or their weights are all 0, or a transform is of no variable.
        """
        for name in () if data is None else data.transforms:
            if name != "default" and name not in sequences.names:
                near = nearest(name, sequences.names)
                raise DataError(f"data.transforms: the data have no variable '{name}'; {near}")
        kinds = tuple("standardise" if data is None else data.transform_of(name) for name in sequences.names)
        values, weights = sequences.values, None
        if sequences.weights is not None:
            per_step = np.repeat(np.abs(sequences.weights), sequences.lengths)
            # A step of weight 0 must not count for the range of a variable either.
            values, weights = values[per_step > 0], per_step[per_step > 0]
        if len(values) == 0:
            raise DataError(
                "transforms cannot be fitted: no training event has a step of weight other than 0"
            )
        fits = [
            _standard(values[:, d].astype(np.float64), weights) if kind == "standardise" else (0.0, 1.0)
            for d, kind in enumerate(kinds)
        ]
        mean, scale = np.array(fits, dtype=np.float64).reshape(-1, 2).T
        return cls(sequences.names, kinds, mean, scale)

    def apply(self, sequences: Sequences) -> Sequences:
        """Transform the variables of sequences.

        Parameters
        ----------
        sequences : Sequences
            With these variables, in any order; others beside them are left out.

        Returns
        -------
        Sequences
            With the variables in the order of `names`, in the type that they had; computed in float64.

        Raises
        ------
        DataError
            If a variable is missing.
        """
        values = np.empty((sequences.n_rows, len(self.names)), dtype=sequences.values.dtype)
        for d, name in enumerate(self.names):
            if name not in sequences.names:
                raise DataError(f"the data have no variable '{name}'; {nearest(name, sequences.names)}")
            x = sequences.values[:, sequences.names.index(name)]
            values[:, d] = (
                x if self.kinds[d] == "none" else (x.astype(np.float64) - self.mean[d]) / self.scale[d]
            )
        return sequences.replace(values=values, names=self.names)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that JSON holds without loss."""
        return {
            "names": list(self.names),
            "kinds": list(self.kinds),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FittedTransforms:
        """Make it again of what `to_dict` gave.

        Raises
        ------
        ModelFileError
            If the values are not what `to_dict` gives.
        """
        try:
            names, kinds = tuple(map(str, values["names"])), tuple(map(str, values["kinds"]))
            mean = np.array(values["mean"], dtype=np.float64)
            scale = np.array(values["scale"], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(f"transforms: {type(error).__name__} for {error}") from error
        if not len(names) == len(kinds) == mean.size == scale.size or mean.ndim != 1 or scale.ndim != 1:
            raise ModelFileError(
                f"transforms: {len(names)} names, {len(kinds)} kinds, {mean.size} means, {scale.size} scales"
            )
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ModelFileError(f"transforms: no transform '{unknown[0]}'; {nearest(unknown[0], KINDS)}")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ModelFileError("transforms: a mean is not finite, or a scale not finite and above 0")
        return cls(names, kinds, mean, scale)


def _standard(x: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None) -> tuple[float, float]:
    """Give mean and standard deviation of one variable, [N]."""
    low, high = float(x.min()), float(x.max())
    if low == high:
        # Asked of the numbers themselves: of equal numbers, rounding makes a spread that is not 0.
        return low, 1.0
    mean = float(np.average(x, weights=weights))
    away = x - mean
    # In units of the largest, so that squares neither overflow nor vanish.
    largest = float(np.abs(away).max())
    spread = largest * float(np.sqrt(np.average((away / largest) ** 2, weights=weights)))
    # All but nothing of the weight may be on equal numbers.
    return mean, spread if spread > 0 else 1.0
