"""The part of a header that is the same for all networks: lanes, products, cells, activations.

The texts are in ``templates/cpp``; what depends on the type of the numbers is put in here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

__all__ = ["activations", "arithmetic", "cells"]

_FOLDER = Path(__file__).parents[1] / "templates" / "cpp"

# As in src/kernels/math.h, which tells where they come from.
_CONSTANTS = {
    "float": {
        "BITS": "std::uint32_t",
        "PD": "ps",
        "NEON_TYPE": "float32x4_t",
        "NEON": "f32",
        "LOW": "-87",
        "HIGH": "88",
        "TANH_RANGE": "9.25f",
        "TANH_ULP": "2.7",
        "ROUNDER": "12582912.0",
        "BIAS": "127",
        "SHIFT": "23",
        "LN2_HIGH": "0x1.62e4p-1",
        "LN2_LOW": "1.4286068203094173e-06",
    },
    "double": {
        "BITS": "std::uint64_t",
        "PD": "pd",
        "NEON_TYPE": "float64x2_t",
        "NEON": "f64",
        "LOW": "-708",
        "HIGH": "709",
        "TANH_RANGE": "20.0",
        "TANH_ULP": "2.8",
        "ROUNDER": "6755399441055744.0",
        "BIAS": "1023",
        "SHIFT": "52",
        "LN2_HIGH": "0x1.62e42feep-1",
        "LN2_LOW": "1.9082149292705877e-10",
    },
}
_POLYNOMIALS = {  # g, from its constant term on
    "float": ("0.16666625840667634", "-0.0027667638876337761"),
    "double": (
        "0.16666666666666602351",
        "-0.0027777777777017595641",
        "6.6137563220124996648e-5",
        "-1.6533902817212750232e-6",
        "4.1381587163541344276e-8",
    ),
}
_STORED = {"float32": "plain.h", "float64": "plain.h", "float16": "float16.h", "int8": "int8.h"}


def arithmetic(real: str, weights: str) -> str:
    """Give lanes and products.

    Parameters
    ----------
    real : {"float", "double"}
        Type of the numbers.
    weights : {"float32", "float64", "float16", "int8"}
        How the weights are stored.
    """
    text = _text("lanes.h").replace("$POLYNOMIAL", _horner(_POLYNOMIALS[real]))
    for name, value in sorted(_CONSTANTS[real].items(), reverse=True):  # NEON_TYPE before NEON
        text = text.replace(f"${name}", value)
    products = _text("product.h").replace(
        "$STORED\n", _text(_STORED[weights]).replace("$DOUBLE", str(int(real == "double")))
    )
    return text + "\n" + products + (_text("int8_product.h") if weights == "int8" else "")


def cells(names: Collection[str]) -> str:
    """Give the cells of these names, of `timelike.cells.CELLS`."""
    head = "// -- Cells: one step each. x: inputs; h and c: those of the step before, which become those of "
    texts = [_text(f"cells/{name}.h") for name in sorted(names)]
    return f"{head}this\n\n" + "\n".join(texts) if texts else ""


def activations(names: Collection[str]) -> str:
    """Give the activations of these names, as far as they are not there without."""
    known = dict(re.findall(r"^@(\w+)\n((?:(?!@).*\n)+)", _text("activations.h"), re.MULTILINE))
    return "\n".join(text for name, text in known.items() if name in names)


def has_activation(name: str) -> bool:
    """Tell whether an activation can be written."""
    return name in ("tanh", "sigmoid", "linear") or f"@{name}\n" in _text("activations.h")


def _horner(terms: tuple[str, ...]) -> str:
    """Write g for each K: the polynomial is that of r, and the terms take the powers of K."""
    lines = []
    for order in reversed(range(len(terms))):
        power = " * ".join(["k"] * (2 * order + 1))
        term = f"all(real({terms[order]} * ({power})))" if order else f"all(real({terms[0]} * k))"
        first = order == len(terms) - 1
        lines.append(f"  Lanes g = {term};" if first else f"  g = multiply_add(g, y, {term});")
    return "\n".join(lines)


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
