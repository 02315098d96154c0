"""Transforms of variables as nodes of an ONNX graph; `timelike.data.transforms` tells what they are.

Where all of them are shifts and scales, which is what most networks have, they are computed in the type of
the network, with the mean in two parts, so that a mean that is large beside the spread costs no digits.
All others are computed in float64, as Timelike does itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from timelike.data.transforms import FittedTransforms, Mix, Step
from timelike.interop.onnx_graph import Graph

__all__ = ["transformed"]

Floats = npt.NDArray[np.float64]


def transformed(graph: Graph, x: str, transforms: FittedTransforms) -> str:
    """Add the transforms of x [..., ..., D], and give the name of what the network reads."""
    indicators = None
    if any(fill is not None for fill in transforms.fills):
        x, indicators = _filled(graph, x, transforms)
    if all(_affine(step) for steps in transforms.steps for step in steps):
        mean, scale = np.transpose([_chain(steps) for steps in transforms.steps])
        if transforms.mix is None:
            x = _shifted(graph, x, mean, scale)
        else:
            x = graph.cast(x, np.float64)
            x = graph("Div", graph("Sub", x, _double(graph, mean)), _double(graph, scale))
            x = graph.cast(_mixed(graph, x, transforms.mix), graph.dtype)
    else:
        x = _by_column(graph, graph.cast(x, np.float64), transforms.steps)
        if transforms.mix is not None:
            x = _mixed(graph, x, transforms.mix)
        x = graph.cast(x, graph.dtype)
    return x if indicators is None else graph("Concat", x, indicators, axis=2)


def _filled(graph: Graph, x: str, transforms: FittedTransforms) -> tuple[str, str | None]:
    """Fill missing values; of those that the network is told of, give where they are missing."""
    allowed = [fill is not None for fill in transforms.fills]
    missing = graph("And", graph("IsNaN", x), graph.constant(allowed, np.bool_))
    x = graph("Where", missing, graph.number([fill or 0.0 for fill in transforms.fills]), x)
    if not transforms.indicators:
        return x, None
    columns = graph.integers(*(transforms.names.index(name) for name in transforms.indicators))
    return x, graph.cast(graph("Gather", missing, columns, axis=2), graph.dtype)


def _affine(step: Step) -> bool:
    """Whether a step is a shift and a scale."""
    if step.kind == "minmax":
        return bool(step.numbers["high"] > step.numbers["low"])
    return step.kind in ("none", "standardise", "robust")


def _chain(steps: tuple[Step, ...]) -> tuple[float, float]:
    """Give mean and scale of affine steps in a row, ``(x - mean) / scale``."""
    mean, scale = 0.0, 1.0
    for step in steps:
        its_mean, its_scale = _mean_and_scale(step)
        mean, scale = mean + scale * its_mean, scale * its_scale
    return mean, scale


def _mean_and_scale(step: Step) -> tuple[float, float]:
    if step.kind == "none":
        return 0.0, 1.0
    if step.kind == "minmax":
        low, high = step.numbers["low"], step.numbers["high"]
        return (low + high) / 2, (high - low) / 2
    return step.numbers["mean"], step.numbers["scale"]


def _shifted(graph: Graph, x: str, mean: Floats, scale: Floats) -> str:
    """Shift and scale in the type of the graph."""
    if mean.any():
        rounded = mean.astype(graph.dtype)
        x = graph("Sub", x, graph.number(rounded))
        rest = mean - rounded
        if rest.any():
            x = graph("Sub", x, graph.number(rest))
    return x if (scale == 1.0).all() else graph("Div", x, graph.number(scale))


def _by_column(graph: Graph, x: str, steps: tuple[tuple[Step, ...], ...]) -> str:
    columns = []
    for d, of_variable in enumerate(steps):
        column = graph("Gather", x, graph.integers(d), axis=2)  # [..., ..., 1]
        for step in of_variable:
            column = _step(graph, column, step)
        columns.append(column)
    return graph("Concat", *columns, axis=2)


def _step(graph: Graph, x: str, step: Step) -> str:
    """Add one step of one variable [..., ..., 1], in float64."""
    numbers = step.numbers
    if _affine(step):
        mean, scale = _mean_and_scale(step)
        if (mean, scale) == (0.0, 1.0):
            return x
        return graph("Div", graph("Sub", x, _double(graph, mean)), _double(graph, scale))
    if step.kind == "log":
        size = graph("Log", graph("Add", graph("Abs", x), _double(graph, 1.0)))
        return graph("Mul", graph("Sign", x), size)
    if step.kind == "clip":
        return graph("Clip", x, _double(graph, numbers["low"]), _double(graph, numbers["high"]))
    if step.kind == "minmax":  # of a variable that never changes
        return graph("Mul", x, _double(graph, 0.0))
    return _along(graph, x, np.array(numbers["values"]), np.array(numbers["to"]))


def _along(graph: Graph, x: str, values: Floats, to: Floats) -> str:
    """Go along straight lines between knots, [..., ..., 1]."""
    if len(values) == 1:
        return graph("Add", graph("Mul", x, _double(graph, 0.0)), _double(graph, to[0]))
    x = graph("Clip", x, _double(graph, values[0]), _double(graph, values[-1]))
    # Of two knots none is inside; one that is beyond all stands for it.
    inner = values[1:-1] if len(values) > 2 else np.array([np.inf])
    beyond = graph.cast(graph("GreaterOrEqual", x, _double(graph, inner)), np.int64)  # [..., ..., knots]
    line = graph("ReduceSum", beyond, graph.integers(2), keepdims=1)
    slope, start, first = (
        graph("Gather", _double(graph, numbers), line, axis=0)
        for numbers in (np.diff(to) / np.diff(values), values[:-1], to[:-1])
    )
    return graph("Add", first, graph("Mul", slope, graph("Sub", x, start)))


def _mixed(graph: Graph, x: str, mix: Mix) -> str:
    x = graph("Sub", x, _double(graph, mix.mean))
    return graph("MatMul", x, _double(graph, mix.matrix.T))


def _double(graph: Graph, values: npt.ArrayLike) -> str:
    return graph.constant(values, np.float64)
