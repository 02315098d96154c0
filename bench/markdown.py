"""Tables as Markdown, aligned so that they read well as plain text too."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from bench.cases import Size

__all__ = ["figure", "geometric_mean", "milliseconds", "paragraph", "ratio", "size_of", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give the lines of a table; the first column stands left, the others right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "| " + " | ".join([line[0].ljust(widths[0]), *cells[1:]]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def paragraph(*sentences: str) -> str:
    """Sentences as lines of text, and an empty line after them."""
    return textwrap.fill(" ".join(sentences), 118, break_long_words=False, break_on_hyphens=False) + "\n\n"


def size_of(row: dict[str, Any]) -> str:
    return str(Size(*row["size"]))


def figure(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))) if value else 2
    return f"{value:,.{max(0, digits)}f}".replace(",", " ")


def milliseconds(timing: dict[str, Any] | None) -> str:
    return "-" if timing is None else figure(1e3 * timing["seconds"])


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 1 else figure(value)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return statistics.geometric_mean(given) if given else None
