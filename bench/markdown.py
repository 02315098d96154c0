"""Tables as Markdown, aligned so that they read well as plain text too."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.cases import Size

__all__ = ["figure", "geometric_mean", "milliseconds", "ratio", "size_of", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give the lines of a table; the first column stands left, the others right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "| " + " | ".join([line[0].ljust(widths[0]), *cells[1:]]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def size_of(row: dict[str, Any]) -> str:
    return str(Size(*row["size"]))


def figure(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 2
    while digits > 0 and abs(value) >= 10 ** (3 - digits):
        digits -= 1
    if 0 < abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:,.{digits}f}".replace(",", " ")


def milliseconds(timing: dict[str, Any] | None) -> str:
    return "-" if timing is None else figure(1e3 * timing["seconds"])


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 9.995 else figure(value)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return statistics.geometric_mean(given) if given else None
