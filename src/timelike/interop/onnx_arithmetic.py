"""Operators of ONNX that compute: number by number, over axes, with matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.interop.onnx_calls import Call, Result, Table, axis_of
from timelike.interop.onnx_file import dtype_of

__all__ = ["ARITHMETIC"]

Array: TypeAlias = npt.NDArray[Any]

ARITHMETIC = Table()


def _of_floats(call: Call, index: int = 0) -> Array:
    x = call.needed(index)
    if x.dtype.kind != "f":
        raise ValueError(f"input {index} is {x.dtype}; expected floating-point numbers")
    return x


# --- number by number ---------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e).astype(x.dtype) / (1 + e))


_OF_ONE: dict[str, Callable[[Array], Array]] = {
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
}
_OF_ANY: dict[str, Callable[[Array], Array]] = {
    "Abs": np.abs,
    "Neg": np.negative,
    "Sign": np.sign,
    "Relu": lambda x: np.maximum(x, 0),
}


@ARITHMETIC.put(*_OF_ONE)
def _apply_one(call: Call) -> Array:
    function = _OF_ONE[call.node.op]
    x = _of_floats(call)
    return np.asarray(function(x)).astype(x.dtype, copy=False)


@ARITHMETIC.put(*_OF_ANY)
def _apply_any(call: Call) -> Array:
    x = call.needed(0)
    if x.dtype == bool:
        raise ValueError("input 0 is bool; expected numbers")
    return np.asarray(_OF_ANY[call.node.op](x)).astype(x.dtype, copy=False)


@ARITHMETIC.put("LeakyRelu", "Elu", "Selu", "HardSigmoid", "ThresholdedRelu", attributes="alpha beta gamma")
def _with_parameters(call: Call) -> Array:
    x, op = _of_floats(call), call.node.op
    if op == "HardSigmoid":
        y = np.clip(call.attribute("alpha", 0.2) * x + call.attribute("beta", 0.5), 0, 1)
    elif op == "LeakyRelu":
        y = np.where(x >= 0, x, call.attribute("alpha", 0.01) * x)
    elif op == "ThresholdedRelu":
        y = np.where(x > call.attribute("alpha", 1.0), x, 0)
    else:
        alpha = call.attribute("alpha", 1.0 if op == "Elu" else 1.67326319217681884765625)
        gamma = 1.0 if op == "Elu" else call.attribute("gamma", 1.05070102214813232421875)
        y = gamma * np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))
    return np.asarray(y.astype(x.dtype, copy=False))


@ARITHMETIC.put("Not")
def _not(call: Call) -> Array:
    return np.asarray(np.logical_not(call.needed(0)))


@ARITHMETIC.put("IsNaN")
def _is_nan(call: Call) -> Array:
    return np.asarray(np.isnan(_of_floats(call)))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.true_divide(a, b))
    if not np.all(b):
        raise ValueError("a whole number divided by 0")
    quotient = np.floor_divide(a, b)  # ONNX rounds towards 0
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)), a.dtype)


_OF_TWO: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Max": np.maximum,
    "Min": np.minimum,
    "Sum": np.add,
}


@ARITHMETIC.put(*_OF_TWO)
def _apply_two(call: Call) -> Array:
    """Of two arrays, or of Max, Min and Sum of any number of them."""
    op, result = call.node.op, call.needed(0)
    numbers, arrays = range(1, len(call.inputs)), ("And", "Or")
    if op not in ("Max", "Min", "Sum") and len(call.inputs) != 2:
        raise ValueError(f"{len(call.inputs)} inputs; expected 2")
    if (result.dtype == bool) != (op in arrays) and op != "Equal":
        raise ValueError(f"input 0 is {result.dtype}")
    for index in numbers:
        other = call.needed(index)
        if other.dtype != result.dtype:
            raise ValueError(f"inputs of {result.dtype} and of {other.dtype}; expected one type")
        call.fit(np.broadcast_shapes(result.shape, other.shape), result.dtype)
        result = np.asarray(_OF_TWO[op](result, other))
    return result


@ARITHMETIC.put("Pow")
def _power(call: Call) -> Array:
    x, exponent = _of_floats(call), call.needed(1)
    call.fit(np.broadcast_shapes(x.shape, exponent.shape), x.dtype)
    return np.asarray(np.power(x, exponent.astype(x.dtype)))


@ARITHMETIC.put("Where")
def _where(call: Call) -> Array:
    condition, x, y = (call.needed(index) for index in range(3))
    if condition.dtype != bool or x.dtype != y.dtype:
        raise ValueError(f"inputs of {condition.dtype}, {x.dtype}, {y.dtype}; expected bool, and two alike")
    call.fit(np.broadcast_shapes(condition.shape, x.shape, y.shape), x.dtype)
    return np.where(condition, x, y)


@ARITHMETIC.put("Clip", attributes="min max")
def _clip(call: Call) -> Array:
    x = call.needed(0)
    low, high = call.given(1), call.given(2)
    if call.opset < 11:
        low, high = (np.asarray(call.attribute(name, default)) for name, default in _CLIP.items())
    for bound in (low, high):
        if bound is not None and bound.size != 1:
            raise ValueError(f"a bound of shape {bound.shape}; expected one number")
    if low is not None:
        x = np.maximum(x, low.astype(x.dtype).reshape(()))
    return x if high is None else np.minimum(x, high.astype(x.dtype).reshape(()))


_CLIP = {"min": float(np.finfo(np.float32).min), "max": float(np.finfo(np.float32).max)}


@ARITHMETIC.put("Cast", attributes="to saturate round_mode")
def _cast(call: Call) -> Array:
    return call.needed(0).astype(dtype_of(call.attribute("to", 0)))


# --- over an axis -------------------------------------------------------------------------------------------


@ARITHMETIC.put("Softmax", "LogSoftmax", attributes="axis")
def _softmax(call: Call) -> Array:
    x = _of_floats(call)
    if not x.ndim:
        raise ValueError("a number without axes")
    if call.opset < 13:  # all axes from this one on are taken together
        axis = axis_of(call.attribute("axis", 1), x.ndim)
        rows = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return _normalised(rows, 1, call.node.op).reshape(x.shape)
    return _normalised(x, axis_of(call.attribute("axis", -1), x.ndim), call.node.op)


def _normalised(x: Array, axis: int, op: str) -> Array:
    if not x.size:
        return x
    shifted = x - x.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(total) if op == "LogSoftmax" else np.exp(shifted) / total)


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
}


@ARITHMETIC.put(*_REDUCTIONS, attributes="axes keepdims noop_with_empty_axes")
def _reduce(call: Call) -> Array:
    x, axes = call.needed(0), call.integers(1, "axes")
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return x
    over = tuple(axis_of(axis, x.ndim) for axis in axes) if axes else tuple(range(x.ndim))
    if not math.prod(x.shape[axis] for axis in over):
        call.fit([1 if k in over else n for k, n in enumerate(x.shape)], x.dtype)
    options = {"initial": _least(x.dtype)} if call.node.op == "ReduceMax" else {}
    options |= {"initial": _largest(x.dtype)} if call.node.op == "ReduceMin" else {}
    reduced = _REDUCTIONS[call.node.op](x, axis=over, keepdims=bool(call.attribute("keepdims", 1)), **options)
    return np.asarray(reduced).astype(x.dtype, copy=False)


def _least(dtype: np.dtype[Any]) -> Any:
    """Give what ReduceMax is of nothing."""
    if dtype.kind in "fb":
        return dtype.type(-np.inf) if dtype.kind == "f" else False
    return np.iinfo(dtype).min


def _largest(dtype: np.dtype[Any]) -> Any:
    """Give what ReduceMin is of nothing."""
    if dtype.kind in "fb":
        return dtype.type(np.inf) if dtype.kind == "f" else True
    return np.iinfo(dtype).max


@ARITHMETIC.put("ArgMax", "ArgMin", attributes="axis keepdims select_last_index")
def _arg(call: Call) -> Array:
    x, last = call.needed(0), call.attribute("select_last_index", 0)
    axis = axis_of(call.attribute("axis", 0), x.ndim)
    function = np.argmax if call.node.op == "ArgMax" else np.argmin
    found = function(np.flip(x, axis) if last else x, axis=axis, keepdims=bool(call.attribute("keepdims", 1)))
    return np.asarray(x.shape[axis] - 1 - found if last else found, np.int64)


@ARITHMETIC.put("CumSum", attributes="exclusive reverse")
def _cumulate(call: Call) -> Array:
    x, axis = call.needed(0), call.integers(1, "axis")
    if not axis:
        raise ValueError("no axis")
    along = axis_of(axis[0], x.ndim)
    x = np.flip(x, along) if call.attribute("reverse", 0) else x
    total = np.cumsum(x, axis=along, dtype=x.dtype)
    if call.attribute("exclusive", 0):
        total = total - x
    return np.flip(total, along) if call.attribute("reverse", 0) else total


# --- matrices and layers ------------------------------------------------------------------------------------


@ARITHMETIC.put("MatMul")
def _product(call: Call) -> Array:
    a, b = call.needed(0), call.needed(1)
    if a.dtype != b.dtype or a.dtype == bool or not a.ndim or not b.ndim:
        raise ValueError(f"{a.dtype} of shape {a.shape} by {b.dtype} of shape {b.shape}")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    call.fit((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *rows, *columns), a.dtype)
    return np.asarray(np.matmul(a, b))


@ARITHMETIC.put("Gemm", attributes="alpha beta transA transB")
def _gemm(call: Call) -> Array:
    a, b, c = _of_floats(call), _of_floats(call, 1), call.given(2)
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype:
        raise ValueError(f"{a.dtype} of shape {a.shape} by {b.dtype} of shape {b.shape}")
    a = a.T if call.attribute("transA", 0) else a
    b = b.T if call.attribute("transB", 0) else b
    shape = (a.shape[0], b.shape[1])
    call.fit(shape, a.dtype)
    y = a @ b
    if (alpha := call.attribute("alpha", 1.0)) != 1:
        y = y * a.dtype.type(alpha)
    if c is None:
        return y
    if c.dtype != a.dtype or np.broadcast_shapes(shape, c.shape) != shape:
        raise ValueError(f"{c.dtype} of shape {c.shape} added to {a.dtype} of shape {shape}")
    return np.asarray(y + c * a.dtype.type(call.attribute("beta", 1.0)))


@ARITHMETIC.put("BatchNormalization", attributes="epsilon momentum training_mode spatial")
def _batch_norm(call: Call) -> Array:
    x, (scale, shift, mean, variance) = _of_floats(call), (call.needed(index) for index in range(1, 5))
    if call.attribute("training_mode", 0) or call.attribute("spatial", 1) != 1:
        raise ValueError("training_mode 0 and spatial 1 are supported")
    shape = (-1, *(1,) * (x.ndim - 2))
    if x.ndim < 2 or any(part.shape != x.shape[1:2] for part in (scale, shift, mean, variance)):
        raise ValueError(f"x of shape {x.shape}, scale of shape {scale.shape}")
    factor = scale / np.sqrt(variance + variance.dtype.type(call.attribute("epsilon", 1e-5)))
    y = (x - mean.reshape(shape)) * factor.reshape(shape) + shift.reshape(shape)
    return np.asarray(y).astype(x.dtype, copy=False)


@ARITHMETIC.put("LayerNormalization", attributes="axis epsilon stash_type")
def _layer_norm(call: Call) -> Result:
    x, scale, shift = _of_floats(call), call.needed(1), call.given(2)
    axes = tuple(range(axis_of(call.attribute("axis", -1), x.ndim), x.ndim))
    for part in (scale, shift):
        if part is not None and np.broadcast_shapes(x.shape, part.shape) != x.shape:
            raise ValueError(f"x of shape {x.shape}, scale or bias of shape {part.shape}")
    mean = np.asarray(x.mean(axis=axes, keepdims=True))
    variance = np.square(x - mean).mean(axis=axes, keepdims=True)
    inverse = np.asarray(1 / np.sqrt(variance + x.dtype.type(call.attribute("epsilon", 1e-5))))
    y = (x - mean) * inverse * scale + (0 if shift is None else shift)
    return np.asarray(y).astype(x.dtype, copy=False), mean, inverse
