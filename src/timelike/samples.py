"""From what users of scikit-learn have to `Sequences`.

===============================  ==========================================================================
list of arrays [T, D]            a sequence each, T being free; also an array of objects
awkward array                    records ``B * var * {pt: ..., eta: ...}``, rows ``B * var * D * number``, or
                                 ``B * var * number`` for one variable
array [B, T, D]                  steps whose D values are all NaN are padding, wherever they stand
`Sequences`                      as it is
array [B, D], data frame         B sequences of one step of D variables
===============================  ==========================================================================

A list of awkward arrays, one per sequence, is what scikit-learn makes of an awkward array in
cross-validation.
Whole numbers become float64. NaN that is no padding is refused, and so is infinity.

Variables have names in records, data frames, and `Sequences` with other names than x0, x1, ... . Names are
scikit-learn's ``feature_names_in_``; of records and `Sequences` variables are then found by name, their order
being free.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, require
from timelike.sequences import Sequences

__all__ = ["as_sequences"]

Array = npt.NDArray[Any]
_FLOATS = (np.float64, np.float32)


def as_sequences(estimator: Any, X: Any, *, reset: bool) -> Sequences:
    """Take samples as sequences.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Its ``n_features_in_`` and ``feature_names_in_`` are set, or the samples are held to them.
    X : list, awkward array, array or Sequences
        See the head of this module.
    reset : bool
        Whether to set the attributes: in a fit.

    Returns
    -------
    Sequences
        Of float32 or float64, finite.

    Raises
    ------
    ValueError
        If the samples have not the shape, the number of variables, or the type that is needed.
    DataError
        The same (it is a ValueError), where scikit-learn has no words for it.
    """
    ragged = _ragged(estimator, X)
    if ragged is None:
        validate_data = require("sklearn.utils.validation", "sklearn").validate_data
        values = validate_data(estimator, X, reset=reset, dtype=_FLOATS)
        names = tuple(getattr(estimator, "feature_names_in_", ()))
        sequences = Sequences(values, np.arange(len(values) + 1), names)
    else:
        sequences = _named(estimator, ragged, reset=reset)
    sequences.check_finite("X")
    return sequences


def _ragged(estimator: Any, X: Any) -> Sequences | None:
    """Give sequences, or None for what scikit-learn itself knows."""
    if isinstance(X, Sequences):
        return X
    awkward = sys.modules.get("awkward")
    if awkward is not None and isinstance(X, awkward.Array):
        return Sequences.from_awkward(_of_floats(X))
    of_objects = isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1
    if (isinstance(X, list | tuple) or of_objects) and len(X):
        if awkward is not None and isinstance(X[0], awkward.Array):
            # Ten times as fast as to join them as lists.
            joined = awkward.unflatten(awkward.concatenate(list(X)), [len(x) for x in X])
            return Sequences.from_awkward(_of_floats(joined))
        if _depth(X[0]) >= 2:
            return _of_list(X)
    if getattr(X, "ndim", 0) == 3:
        check_array = require("sklearn.utils", "sklearn").check_array
        how = {"allow_nd": True, "ensure_all_finite": False, "dtype": _FLOATS}
        padded = check_array(X, input_name="X", estimator=estimator, **how)
        return Sequences.from_padded(padded, ~np.isnan(padded).all(axis=2))
    return None


def _depth(x: Any) -> int:
    """How many axes something has, as far as its first entries tell."""
    if hasattr(x, "ndim"):
        return int(x.ndim)
    return 1 + (_depth(x[0]) if len(x) else 0) if isinstance(x, list | tuple) else 0


def _of_list(X: Any) -> Sequences:
    arrays: list[Array] = []
    for b, x in enumerate(X):
        try:
            arrays.append(np.asarray(x))
        except ValueError:
            raise DataError(f"X: the steps of sequence {b} have different numbers of variables") from None
        if arrays[b].dtype.kind not in "biuf":
            raise DataError(f"X: sequence {b} is of {arrays[b].dtype}; real numbers are needed")
    kind = np.result_type(*arrays)
    dtype = kind if kind in _FLOATS else np.dtype(np.float64)
    try:
        return Sequences.from_list([x.astype(dtype, copy=False) for x in _of_rank_two(arrays)])
    except DataError as error:
        raise DataError(f"X: {error}") from None


def _of_rank_two(arrays: list[Array]) -> list[Array]:
    for b, x in enumerate(arrays):
        if x.ndim != 2:
            raise DataError(f"X: sequence {b} has shape {x.shape}; [steps, variables] is needed")
    return arrays


def _of_floats(array: Any) -> Any:
    """Turn an awkward array of numbers into one of floats."""
    ak = require("awkward", "data")
    columns = [array[name] for name in ak.fields(array)] or [array]
    dtypes = [np.asarray(ak.flatten(column, axis=None)).dtype for column in columns]
    if all(dtype in _FLOATS for dtype in dtypes) or any(dtype.kind not in "biuf" for dtype in dtypes):
        return array
    return ak.values_astype(array, np.float64)


def _named(estimator: Any, sequences: Sequences, *, reset: bool) -> Sequences:
    """Set what an estimator knows of its variables, or hold sequences to it."""
    width = sequences.n_variables
    if width == 0:
        raise DataError("X has 0 feature(s) while a minimum of 1 is required")
    numbered = tuple(f"x{d}" for d in range(width))
    has_names = sequences.names != numbered
    if reset:
        estimator.n_features_in_ = width
        if has_names:
            estimator.feature_names_in_ = np.array(sequences.names, dtype=object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return sequences
    fitted = tuple(getattr(estimator, "feature_names_in_", ()))
    if has_names and fitted:
        return sequences  # found by name when they are transformed
    who = type(estimator).__name__
    if width != estimator.n_features_in_:
        raise DataError(
            f"X has {width} features, but {who} is expecting {estimator.n_features_in_} features as input"
        )
    if has_names or fitted:
        has, was = ("has", "without") if has_names else ("does not have valid", "with")
        warnings.warn(f"X {has} feature names, but {who} was fitted {was} feature names", stacklevel=4)
    return sequences.replace(names=fitted or numbered)
