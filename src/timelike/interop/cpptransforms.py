"""The transforms of the variables as C++: in float64, as in Python, and then in the type of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from timelike.data.transforms import FittedTransforms, Step
from timelike.errors import ConfigError
from timelike.interop.cppweights import numbers

__all__ = ["transform"]

_ALONG = """\
// Along the straight lines through `n` points; beyond them the first and the last.  from rises
inline double along(double x, const double* from, const double* to, int n) {
  if (!(x > from[0])) return x == x ? to[0] : x;
  if (x >= from[n - 1]) return to[n - 1];
  int low = 0, high = n - 1;  // from[low] <= x < from[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (from[middle] <= x ? low : high) = middle;
  }
  return (to[high] - to[low]) / (from[high] - from[low]) * (x - from[low]) + to[low];
}

"""


def transform(transforms: FittedTransforms) -> str:
    """Write ``transform(x, inputs)``: the variables of a step to what the first layer reads.

    Parameters
    ----------
    transforms : FittedTransforms

    Raises
    ------
    ConfigError
        If one of them has no counterpart here.
    """
    D, fills, mix = len(transforms.names), transforms.fills or (None,) * len(transforms.names), transforms.mix
    constants, lines = "", []
    to = "exact" if mix else "inputs"
    if mix:
        lines.append(f"  double exact[{D}];")
    for d, (name, steps) in enumerate(zip(transforms.names, transforms.steps, strict=True)):
        value, own = f"x[{d}]", []
        if fills[d] is not None:
            value = f"(std::isnan(x[{d}]) ? real({_double(fills[d])}) : x[{d}])"
        for k, step in enumerate(steps):
            if step.kind not in _STEPS:
                raise ConfigError(f"variable {name!r}: the transform {step.kind!r} cannot be written as C++")
            if step.kind in ("uniform", "gauss"):
                constants += _points(f"{d}_{k}", step)
            own += _STEPS[step.kind](step, f"{d}_{k}")
        comment = f"  // {_comment(name)}: {', '.join(step.kind for step in steps)}"
        if not own:
            lines += [comment, f"  {to}[{d}] = {value};"]
            continue
        result = "v" if mix else "real(v)"
        lines += [comment, "  {", f"    double v = {value};", *(f"    {line}" for line in own)]
        lines += [f"    {to}[{d}] = {result};", "  }"]
    if mix:
        constants += _array("mix_mean", mix.mean) + _array("mix_matrix", mix.matrix.ravel())
        lines += [
            f"  // all together: {mix.kind}",
            f"  for (int j = 0; j < {D}; ++j) {{",
            "    double sum = 0;",
            f"    for (int k = 0; k < {D}; ++k) sum += (exact[k] - mix_mean[k]) * mix_matrix[j * {D} + k];",
            "    inputs[j] = real(sum);",
            "  }",
        ]
    for k, name in enumerate(transforms.indicators):
        at = transforms.names.index(name)
        lines.append(
            f"  inputs[{D + k}] = std::isnan(x[{at}]) ? real(1) : real(0);  // {_comment(name)} missing"
        )
    along = _ALONG if "points_" in constants else ""
    body = "\n".join(lines)
    return f"{along}{constants}inline void transform(const real* x, real* inputs) {{\n{body}\n}}\n"


def _affine(step: Step, at: str) -> list[str]:
    if step.identity:
        return []
    mean, scale = _double(step.numbers["mean"]), _double(step.numbers["scale"])
    return [f"v = (v - {_behind(mean)}) / {scale};"]


def _to_range(step: Step, at: str) -> list[str]:
    low, high = step.numbers["low"], step.numbers["high"]
    if not high > low:
        return ["v = 0;"]
    return [f"v = 2 * ((v - {_behind(_double(low))}) / {_double(high - low)}) - 1;"]


def _clip(step: Step, at: str) -> list[str]:
    low, high = _double(step.numbers["low"]), _double(step.numbers["high"])
    # numpy.clip, which also says what happens where the limits are in the wrong order; a NaN stays
    return [f"if (v < {low}) v = {low};", f"if (v > {high}) v = {high};"]


def _log(step: Step, at: str) -> list[str]:
    return ["v = std::copysign(std::log1p(std::fabs(v)), v);"]


def _along(step: Step, at: str) -> list[str]:
    return [f"v = along(v, points_{at}, points_{at}_to, {len(step.numbers['values'])});"]


_STEPS: dict[str, Callable[[Step, str], list[str]]] = {
    "none": lambda step, at: [],
    "standardise": _affine,
    "robust": _affine,
    "minmax": _to_range,
    "log": _log,
    "clip": _clip,
    "uniform": _along,
    "gauss": _along,
}


def _points(at: str, step: Step) -> str:
    values, to = step.numbers["values"], step.numbers["to"]
    return _array(f"points_{at}", values) + _array(f"points_{at}_to", to)


def _array(name: str, values: Any) -> str:
    given = np.asarray(values, np.float64)
    return f"inline constexpr double {name}[{len(given)}] = {{\n{numbers(given)}}};\n"


def _double(value: float | None) -> str:
    return repr(value)


def _behind(number: str) -> str:
    """Write a number behind a minus."""
    return f"({number})" if number.startswith("-") else number


def _comment(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/")
