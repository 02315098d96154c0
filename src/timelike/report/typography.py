"""Numbers as the report writes them: rounded to what is known, thousands apart, true minus signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timelike.report.page import Cell
from timelike.statistics import format_measurement

__all__ = [
    "FEW",
    "cell",
    "coarse",
    "count",
    "measurement",
    "number",
    "percent",
    "rejection_cell",
    "rejection_words",
]

# With fewer background events than this behind a rejection, its error is no longer symmetric: the interval
# is shown in its place.
FEW = 10


def number(value: float, digits: int = 3) -> str:
    """Write a number without uncertainty."""
    return _typeset(format_measurement(value, digits=digits))


def coarse(value: float) -> str:
    """Write a number that is known to ten per cent at best: two digits."""
    return count(float(f"{value:.2g}")) if value >= 10 else number(value, 2)


def count(value: float) -> str:
    """Write a number of events, thousands apart."""
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
    return text.replace(",", "\u202f").replace("-", "\u2212")


def percent(share: float) -> str:
    """Write a share of one as a percentage."""
    return f"{100 * share:.3g}\u202f%"


def measurement(measured: Mapping[str, Any], digits: int = 3) -> str:
    """Write a value with its uncertainty."""
    return _typeset(format_measurement(measured["value"], measured["error"], digits=digits))


def _typeset(text: str) -> str:
    return text.replace("-", "\u2212").replace(" ± ", "\u00a0±\u00a0")


def cell(measured: Mapping[str, Any], digits: int = 3) -> Cell:
    """Write a value with its uncertainty into the two halves of a table's cell."""
    value, plus_minus, error = measurement(measured, digits).partition("\u00a0±\u00a0")
    return Cell(value, f"±\u00a0{error}" if plus_minus else "")


def rejection_cell(measured: Mapping[str, Any]) -> Cell:
    """Write a rejection: with its error, with its interval where few events are behind it, or as a limit."""
    left = measured["background_events"]
    if measured["value"] is None:
        reason = "no background left" if left == 0 else "background weights cancel"
        return Cell(f"> {coarse(measured['lower_limit'])}", "95\u202f% CL", reason)
    interval = measured.get("interval_68")
    if interval is None or (left >= FEW and None not in interval):
        return cell(measured)
    low, high = (None if bound is None else coarse(bound) for bound in interval)
    spread = f"{low} to {high}" if low and high else f"over {low}" if low else ""
    return Cell(coarse(measured["value"]), spread, f"{left} background event{'s' * (left != 1)} left")


def rejection_words(measured: Mapping[str, Any]) -> str:
    """Say what a rejection means."""
    if measured["value"] is None:
        return f"fewer than one background event in {coarse(measured['lower_limit'])} passes (95\u202f% CL)"
    return f"one background event in {coarse(measured['value'])} passes"
