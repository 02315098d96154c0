"""Operators of ONNX that move numbers and do not change them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.interop.onnx_calls import Call, Result, Table, axis_of

__all__ = ["SHAPES"]

Array: TypeAlias = npt.NDArray[Any]

SHAPES = Table()


@SHAPES.put("Identity")
def _identity(call: Call) -> Array:
    return call.needed(0)


@SHAPES.put("Dropout", attributes="ratio seed is_test")
def _dropout(call: Call) -> Result:
    x, training = call.needed(0), call.given(2)
    if training is not None and np.any(training):
        raise ValueError("training_mode is not supported")
    return x if len(call.node.outputs) < 2 else (x, np.ones(x.shape, bool))


@SHAPES.put("Transpose", attributes="perm")
def _transpose(call: Call) -> Array:
    x, order = call.needed(0), call.integers(1, "perm")
    if order is not None and sorted(order) != list(range(x.ndim)):
        raise ValueError(f"perm {order} of an array with {x.ndim} axes")
    return x.transpose(order)


@SHAPES.put("Reshape", attributes="allowzero")
def _reshape(call: Call) -> Array:
    x, sizes = call.needed(0), call.integers(1, "shape")
    if sizes is None:
        raise ValueError("no shape is given")
    if not call.attribute("allowzero", 0):
        if any(n == 0 and k >= x.ndim for k, n in enumerate(sizes)):
            raise ValueError(f"shape {sizes} of an array of shape {x.shape}")
        sizes = [n or x.shape[k] for k, n in enumerate(sizes)]
    if sum(n == -1 for n in sizes) > 1 or min(sizes, default=0) < -1:
        raise ValueError(f"shape {sizes}; expected sizes, and once at most -1")
    if not x.size:
        call.fit([max(n, 0) for n in sizes], x.dtype)
    return x.reshape(sizes)


@SHAPES.put("Flatten", attributes="axis")
def _flatten(call: Call) -> Array:
    x, axis = call.needed(0), call.attribute("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} of an array with {x.ndim} axes")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@SHAPES.put("Squeeze", attributes="axes")
def _squeeze(call: Call) -> Array:
    x, axes = call.needed(0), call.integers(1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axis_of(axis, x.ndim) for axis in axes))


@SHAPES.put("Unsqueeze", attributes="axes")
def _unsqueeze(call: Call) -> Array:
    x, axes = call.needed(0), call.integers(1, "axes")
    if axes is None or x.ndim + len(axes) > 32:
        raise ValueError("no axes are given, or too many")
    return np.expand_dims(x, tuple(axis_of(axis, x.ndim + len(axes)) for axis in axes))


@SHAPES.put("Concat", attributes="axis")
def _concat(call: Call) -> Array:
    parts = [call.needed(index) for index in range(len(call.inputs))]
    if not parts or len({part.dtype for part in parts}) > 1:
        raise ValueError(f"{len(parts)} inputs, of types {sorted({str(part.dtype) for part in parts})}")
    first = parts[0]
    axis = axis_of(call.attribute("axis", 1 if call.opset < 4 else 0), first.ndim)
    shape = list(first.shape)
    shape[axis : axis + 1] = [sum(part.shape[axis] if axis < part.ndim else 0 for part in parts)]
    call.fit(shape, first.dtype)
    return np.concatenate(parts, axis)


@SHAPES.put("Split", attributes="axis split num_outputs")
def _split(call: Call) -> Result:
    x, sizes = call.needed(0), call.integers(1, "split")
    axis, n = axis_of(call.attribute("axis", 0), x.ndim), len(call.node.outputs)
    if sizes is None:  # as equal as can be, the last one the smallest
        size = -(-x.shape[axis] // n)
        sizes = [min(size, max(0, x.shape[axis] - k * size)) for k in range(n)]
    if len(sizes) != n or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        raise ValueError(f"{n} outputs of sizes {sizes} from an axis of {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@SHAPES.put("Slice", attributes="starts ends axes")
def _slice(call: Call) -> Array:
    x = call.needed(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    axes, steps = call.integers(3, "axes"), call.integers(4, "steps")
    if starts is None or ends is None:
        raise ValueError("starts and ends are needed")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    along = [axis_of(axis, x.ndim) for axis in axes]
    if not len(starts) == len(ends) == len(axes) == len(steps) == len(set(along)) or 0 in steps:
        raise ValueError(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit together")
    cuts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, along, steps, strict=True):
        cuts[axis] = _cut(start, end, step, x.shape[axis])
    return np.asarray(x[tuple(cuts)])


def _cut(start: int, end: int, step: int, size: int) -> slice:
    """Give Python's slice: ONNX's starts and ends beyond an axis are moved to its ends."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start, end = (n + size if n < 0 else n for n in (start, end))
    start, end = max(0, min(start, high)), max(low, min(end, high))
    return slice(start, None if end < 0 else end, step)


def _positions(indices: Array, size: int) -> Array:
    """Check indices into an axis; those below 0 count from its end."""
    if indices.dtype.kind not in "iu":
        raise ValueError(f"indices are {indices.dtype}; expected integers")
    if indices.size and not (indices.min() >= -size and indices.max() < size):
        raise ValueError(f"indices {indices.min()} to {indices.max()} into an axis of {size}")
    return np.where(indices < 0, indices + size, indices)


@SHAPES.put("Gather", attributes="axis")
def _gather(call: Call) -> Array:
    x, indices = call.needed(0), call.needed(1)
    axis = axis_of(call.attribute("axis", 0), x.ndim)
    if not x.ndim:
        raise ValueError("a number without axes")
    call.fit((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, _positions(indices, x.shape[axis]), axis)


@SHAPES.put("GatherElements", attributes="axis")
def _gather_elements(call: Call) -> Array:
    x, indices = call.needed(0), call.needed(1)
    axis = axis_of(call.attribute("axis", 0), x.ndim)
    others = [k for k in range(x.ndim) if k != axis]
    if indices.ndim != x.ndim or any(indices.shape[k] > x.shape[k] for k in others):
        raise ValueError(f"indices of shape {indices.shape} into an array of shape {x.shape}")
    call.fit(indices.shape, x.dtype)
    box = x[tuple(slice(None) if k == axis else slice(indices.shape[k]) for k in range(x.ndim))]
    return np.take_along_axis(box, _positions(indices, x.shape[axis]), axis)


@SHAPES.put("GatherND", attributes="batch_dims")
def _gather_nd(call: Call) -> Array:
    x, indices, shared = call.needed(0), call.needed(1), call.attribute("batch_dims", 0)
    depth = indices.shape[-1] if indices.ndim else 0
    if not 0 <= shared < max(indices.ndim, 1) or not 1 <= depth <= x.ndim - shared:
        raise ValueError(f"indices of shape {indices.shape} into an array of shape {x.shape}")
    if x.shape[:shared] != indices.shape[:shared]:
        raise ValueError(f"batch_dims {shared} of shapes {x.shape} and {indices.shape}")
    call.fit((*indices.shape[:-1], *x.shape[shared + depth :]), x.dtype)
    at = [_positions(indices[..., k], x.shape[shared + k]) for k in range(depth)]
    outer = np.ix_(*(np.arange(n) for n in indices.shape[:shared])) if shared else ()
    widened = tuple(part.reshape(*part.shape, *(1,) * (indices.ndim - 1 - shared)) for part in outer)
    return np.asarray(x[(*widened, *at)])


@SHAPES.put("ScatterElements", attributes="axis reduction")
def _scatter_elements(call: Call) -> Array:
    x, indices, updates = (call.needed(index) for index in range(3))
    axis = axis_of(call.attribute("axis", 0), x.ndim)
    if call.attribute("reduction", "none") != "none":
        raise ValueError("reduction 'none' alone is supported")
    others = [k for k in range(x.ndim) if k != axis]
    if indices.ndim != x.ndim or any(indices.shape[k] > x.shape[k] for k in others):
        raise ValueError(f"indices of shape {indices.shape} into an array of shape {x.shape}")
    if updates.shape != indices.shape or updates.dtype != x.dtype:
        raise ValueError(f"{updates.dtype} of shape {updates.shape} at indices of shape {indices.shape}")
    y = x.copy()
    box = y[tuple(slice(None) if k == axis else slice(indices.shape[k]) for k in range(x.ndim))]
    np.put_along_axis(box, _positions(indices, x.shape[axis]), updates, axis)
    return y


@SHAPES.put("TopK", attributes="axis k largest sorted")
def _top(call: Call) -> Result:
    x, count = call.needed(0), call.integers(1, "k")
    if call.opset < 10:
        count = [call.attribute("k", 0)]
    axis = axis_of(call.attribute("axis", -1), x.ndim)
    if count is None or len(count) != 1 or not 0 <= count[0] <= x.shape[axis]:
        raise ValueError(f"k {count} of an axis of {x.shape[axis]}")
    if call.attribute("largest", 1):  # of equal ones those with the lower index come first
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, np.arange(count[0]), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


@SHAPES.put("Expand")
def _expand(call: Call) -> Array:
    x, sizes = call.needed(0), call.integers(1, "shape")
    shape = np.broadcast_shapes(x.shape, _sizes(sizes))
    call.fit(shape, x.dtype)
    return np.broadcast_to(x, shape)


@SHAPES.put("Tile")
def _tile(call: Call) -> Array:
    x, times = call.needed(0), _sizes(call.integers(1, "repeats"))
    if len(times) != x.ndim:
        raise ValueError(f"repeats {times} of an array with {x.ndim} axes")
    call.fit([n * k for n, k in zip(x.shape, times, strict=True)], x.dtype)
    return np.tile(x, times)


@SHAPES.put("Pad", attributes="mode pads value")
def _pad(call: Call) -> Array:
    x, pads, axes = call.needed(0), call.integers(1, "pads"), call.integers(3, "axes")
    if call.attribute("mode", "constant") != "constant":
        raise ValueError("mode 'constant' alone is supported")
    over = list(range(x.ndim)) if axes is None else [axis_of(axis, x.ndim) for axis in axes]
    if pads is None or len(pads) != 2 * len(over) or min(pads, default=0) < 0:
        raise ValueError(f"pads {pads}; expected {2 * len(over)} numbers from 0 on")
    value = call.given(2) if call.opset >= 11 else np.asarray(call.attribute("value", 0.0))
    if value is not None and value.size != 1:
        raise ValueError(f"a value of shape {value.shape}; expected one number")
    widths = [(0, 0)] * x.ndim
    for k, axis in enumerate(over):
        widths[axis] = (pads[k], pads[k + len(over)])
    call.fit([n + sum(width) for n, width in zip(x.shape, widths, strict=True)], x.dtype)
    fill = x.dtype.type(0) if value is None else value.astype(x.dtype).reshape(())
    return np.pad(x, widths, constant_values=fill)


@SHAPES.put("Range")
def _range(call: Call) -> Array:
    start, limit, delta = (call.needed(index) for index in range(3))
    if any(part.size != 1 or part.dtype != start.dtype for part in (start, limit, delta)):
        raise ValueError("start, limit and delta must be numbers of one type")
    first, last, by = (part.reshape(()).item() for part in (start, limit, delta))
    if not by or not all(math.isfinite(part) for part in (first, last, by)):
        raise ValueError(f"from {first} to {last} by {by}")
    n = max(0, math.ceil((last - first) / by))
    call.fit((n,), np.int64)
    return np.asarray((first + np.arange(n) * by).astype(start.dtype))


@SHAPES.put("Shape", attributes="start end")
def _shape(call: Call) -> Array:
    shape = call.needed(0).shape
    end = call.node.attributes.get("end")
    return np.array(shape[call.attribute("start", 0) : end], np.int64)


@SHAPES.put("Size")
def _size(call: Call) -> Array:
    return np.array(call.needed(0).size, np.int64)


@SHAPES.put("Constant", attributes="value value_float value_floats value_int value_ints")
def _constant(call: Call) -> Array:
    if len(call.node.attributes) != 1:
        raise ValueError(f"{len(call.node.attributes)} values; expected one")
    (name, value), *_ = call.node.attributes.items()
    if name == "value":
        if not isinstance(value, np.ndarray):
            raise ValueError("value is no tensor")
        return value
    return np.array(value, np.float32 if "float" in name else np.int64)


@SHAPES.put("ConstantOfShape", attributes="value")
def _constant_of_shape(call: Call) -> Array:
    shape = _sizes(call.integers(0, "input"))
    value = call.node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise ValueError("value is no tensor of one number")
    call.fit(shape, value.dtype)
    return np.full(shape, value.reshape(()))


@SHAPES.put("ReverseSequence", attributes="batch_axis time_axis")
def _reverse(call: Call) -> Array:
    x, lengths = call.needed(0), call.needed(1)
    time, batch = call.attribute("time_axis", 0), call.attribute("batch_axis", 1)
    if x.ndim < 2 or sorted((time, batch)) != [0, 1]:
        raise ValueError(f"time_axis {time}, batch_axis {batch} of an array with {x.ndim} axes")
    steps = x if time == 0 else x.swapaxes(0, 1)
    T, B = steps.shape[:2]
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
        raise ValueError(f"lengths: {lengths.dtype} of shape {lengths.shape}; expected integers, {B} of them")
    if B and not (lengths.min() >= 0 and lengths.max() <= T):
        raise ValueError(f"lengths {lengths.min()} to {lengths.max()}; possible: 0 to {T}")
    t = np.arange(T)[:, None]
    reversed_steps = steps[np.where(t < lengths, lengths - 1 - t, t), np.arange(B)]
    return reversed_steps if time == 0 else reversed_steps.swapaxes(0, 1)


def _sizes(sizes: list[int] | None) -> tuple[int, ...]:
    if sizes is None or len(sizes) > 32 or min(sizes, default=0) < 0:
        raise ValueError(f"sizes {None if sizes is None else sizes[:33]}; expected at most 32, from 0 on")
    return tuple(sizes)
