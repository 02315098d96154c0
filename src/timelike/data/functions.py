"""What the operators and functions of expressions compute, on plain arrays.

Each takes arrays of one length (or of no axis) and of any type, and refuses types that it has no meaning for.
Numbers are float64 or int64, a bool counting as 0 or 1; conditions are bool.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError

__all__ = ["CONSTANTS", "ELEMENTWISE", "FUNCTIONS", "OPERATORS", "REDUCERS"]

Array: TypeAlias = npt.NDArray[Any]
Offsets: TypeAlias = npt.NDArray[np.int64]
Function: TypeAlias = Callable[..., Array]

CONSTANTS: Mapping[str, float] = {"pi": float(np.pi)}

_TOO_LARGE = 2.0**63  # the first positive number that int64 does not have


# -- types ---------------------------------------------------------------------------------------------------


def _number(values: Array) -> Array:
    """Give numbers as int64 or float64."""
    if values.dtype.kind == "f":
        return values.astype(np.float64, copy=False)
    if values.dtype == np.uint64 and np.any(values >= np.uint64(_TOO_LARGE)):
        raise DataError(f"the integer {values.max()} leaves the range of int64")
    return values.astype(np.int64, copy=False)


def _float(values: Array) -> Array:
    return values.astype(np.float64, copy=False)


def _condition(values: Array) -> Array:
    if values.dtype != bool:
        raise DataError(f"a condition is needed, not numbers ({values.dtype}); compare them, as in x != 0")
    return values


def _checked_range(result: Array, about: Callable[[], Array]) -> Array:
    """Refuse an integer result that was wrapped; `about` computes it in float64."""
    if result.dtype.kind == "i" and np.any(np.abs(about()) >= _TOO_LARGE):
        raise DataError("the integer result leaves the range of int64")
    return result


# -- operators -----------------------------------------------------------------------------------------------


def _arithmetic(ufunc: np.ufunc) -> Function:
    def function(*arguments: Array) -> Array:
        numbers = [_number(a) for a in arguments]
        return _checked_range(np.asarray(ufunc(*numbers)), lambda: ufunc(*(_float(a) for a in numbers)))

    return function


def _in_floats(ufunc: np.ufunc) -> Function:
    return lambda *arguments: np.asarray(ufunc(*(_float(a) for a in arguments)))


def _power(a: Array, b: Array) -> Array:
    result: Array = np.asarray(np.power(_float(a), _float(b)))
    a, b = _number(a), _number(b)
    integers = a.dtype.kind == b.dtype.kind == "i" and b.ndim == 0 and b >= 0
    return np.asarray(np.power(a, b)) if integers and not np.any(np.abs(result) >= _TOO_LARGE) else result


def _remainder(a: Array, b: Array) -> Array:
    a, b = _number(a), _number(b)
    if a.dtype.kind == b.dtype.kind == "i" and np.any(b == 0):
        raise DataError("the remainder of an integer divided by 0")
    return np.asarray(np.remainder(a, b))


def _bits(ufunc: np.ufunc) -> Function:
    """Work on conditions, or on the bits of integers."""

    def function(*arguments: Array) -> Array:
        bits = [a if a.dtype == bool else _number(a) for a in arguments]
        kinds = {a.dtype.kind for a in bits}
        if kinds not in ({"b"}, {"i"}):
            raise DataError("conditions are needed, or integers; put comparisons in parentheses")
        return np.asarray(ufunc(*bits))

    return function


def _compared(ufunc: np.ufunc) -> Function:
    return lambda a, b: np.asarray(ufunc(_number(a), _number(b)))


def _logical(ufunc: np.ufunc) -> Function:
    return lambda *arguments: np.asarray(ufunc(*(_condition(a) for a in arguments)))


OPERATORS: Mapping[type[ast.AST], Function] = {
    ast.Add: _arithmetic(np.add),
    ast.Sub: _arithmetic(np.subtract),
    ast.Mult: _arithmetic(np.multiply),
    ast.Div: _in_floats(np.true_divide),
    ast.Mod: _remainder,
    ast.Pow: _power,
    ast.USub: _arithmetic(np.negative),
    ast.UAdd: _arithmetic(np.positive),
    ast.BitAnd: _bits(np.bitwise_and),
    ast.BitOr: _bits(np.bitwise_or),
    ast.BitXor: _bits(np.bitwise_xor),
    ast.Invert: _bits(np.invert),
    ast.And: _logical(np.logical_and),
    ast.Or: _logical(np.logical_or),
    ast.Not: _logical(np.logical_not),
    ast.Lt: _compared(np.less),
    ast.LtE: _compared(np.less_equal),
    ast.Gt: _compared(np.greater),
    ast.GtE: _compared(np.greater_equal),
    ast.Eq: _compared(np.equal),
    ast.NotEq: _compared(np.not_equal),
}


# -- functions of numbers ------------------------------------------------------------------------------------


def _where(condition: Array, a: Array, b: Array) -> Array:
    if not a.dtype == b.dtype == bool:
        a, b = _number(a), _number(b)
    return np.where(_condition(condition), a, b)


_OF_ONE = (
    "log log10 log2 log1p exp expm1 sqrt sin cos tan arcsin arccos arctan "
    "sinh cosh tanh arcsinh arccosh arctanh sign floor ceil"
)

# Function and number of its arguments.
ELEMENTWISE: Mapping[str, tuple[Function, int]] = {
    **{name: (_in_floats(getattr(np, name)), 1) for name in _OF_ONE.split()},
    "arctan2": (_in_floats(np.arctan2), 2),
    "hypot": (_in_floats(np.hypot), 2),
    "abs": (_arithmetic(np.absolute), 1),
    "minimum": (_arithmetic(np.minimum), 2),
    "maximum": (_arithmetic(np.maximum), 2),
    "where": (_where, 3),
}


# -- functions of the steps of an event ----------------------------------------------------------------------


def _reduced(ufunc: np.ufunc, values: Array, offsets: Offsets, empty: Any) -> Array:
    """Reduce the steps of each event; `empty` is what an event without steps gets."""
    # reduceat takes all from one start to the next: events without steps must not be among the starts.
    filled = np.diff(offsets) > 0
    out = np.full(len(filled), empty, dtype=np.result_type(values.dtype, type(empty)))
    out[filled] = ufunc.reduceat(values, offsets[:-1][filled])
    return out


def _sum(values: Array, offsets: Offsets) -> Array:
    total = _reduced(np.add, _number(values), offsets, 0)
    return _checked_range(total, lambda: _reduced(np.add, _float(values), offsets, 0.0))


def _mean(values: Array, offsets: Offsets) -> Array:
    return _reduced(np.add, _float(values), offsets, 0.0) / np.diff(offsets)


def _at(values: Array, offsets: Offsets, rows: Offsets) -> Array:
    filled = np.diff(offsets) > 0
    out = np.full(len(filled), np.nan)
    out[filled] = values[rows[filled]]
    return out


REDUCERS: Mapping[str, Callable[[Array, Offsets], Array]] = {
    "num": lambda values, offsets: np.diff(offsets),
    "sum": _sum,
    "mean": _mean,
    "min": lambda values, offsets: _reduced(np.minimum, _number(values), offsets, np.nan),
    "max": lambda values, offsets: _reduced(np.maximum, _number(values), offsets, np.nan),
    "first": lambda values, offsets: _at(values, offsets, offsets[:-1]),
    "last": lambda values, offsets: _at(values, offsets, offsets[1:] - 1),
    "any": lambda values, offsets: _reduced(np.logical_or, _condition(values), offsets, False),
    "all": lambda values, offsets: _reduced(np.logical_and, _condition(values), offsets, True),
}

FUNCTIONS: tuple[str, ...] = (*ELEMENTWISE, *REDUCERS)
