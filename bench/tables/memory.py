"""Memory that a training step needs."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case, Size
from bench.drive import Contender, Driver
from bench.markdown import figure, paragraph, size_of, table
from bench.tables.common import Aim, quick_grid, say

TITLE = "Memory"
_SIZES = [GRID[k - 1] for k in (2, 4, 5, 6)]  # those whose rows take more than their weights
_LONGER = 4
_WAYS = {"ours": "timelike", "recompute": "timelike, recompute", "pytorch": "torch"}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    rows = []
    for size in quick_grid(_SIZES, quick):
        say(f"  memory {size}")
        longer = size._replace(T=_LONGER * size.T)
        peaks = {name: [peak(driver, name, s) for s in (size, longer)] for name in _WAYS}
        rows.append({"size": list(size), "peaks": {name: p for name, p in peaks.items() if None not in p}})
    return {"rows": rows}


def peak(driver: Driver, name: str, size: Size) -> int | None:
    """Bytes by which a fresh process grows in a training step; none if it cannot compute that."""
    contender = Contender("ours" if name == "recompute" else name)
    case = Case("training", size, recompute=name == "recompute")
    if contender.peer not in driver.interpreters or not driver.ask(contender, "variants", case):
        return None
    return int(driver.ask_once(contender, "peak", case, ""))


def numbers(row: dict[str, Any], name: str) -> float | None:
    """Numbers per row and unit, by the growth from T to 4 T, less what the caller gets: y and dx."""
    if name not in row["peaks"]:
        return None
    B, T, D, H = row["size"]
    less, more = row["peaks"][name]
    return (more - less) / 4 / ((_LONGER - 1) * B * T * H) - 1 - D / H


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    there = [name for name in _WAYS if any(name in row["peaks"] for row in rows)]
    head = [
        "B, T, D, H",
        *(f"{_WAYS[name]}, MB" for name in there),
        *(f"{_WAYS[name]}, numbers" for name in there),
    ]
    lines = [
        [
            size_of(row),
            *(figure(row["peaks"][name][0] / 1e6) for name in there),
            *(figure(numbers(row, name) or 0.0) for name in there),
        ]
        for row in rows
    ]
    text = paragraph(
        "How far the peak of a process rises in its first training step of an LSTM layer, float32, one",
        "thread: inputs, weights and upstream gradients lie ready. Numbers: what a row (a step of a",
        "sequence) takes per unit beside y and dx, from the difference of T and 4 T steps, in which",
        "weights and libraries cancel.",
    )
    return text + table(head, lines)


def aims(data: dict[str, Any]) -> list[Aim]:
    def worst(name: str) -> float | None:
        # In tenths: a process grows by pages, and the rows' addresses take some numbers in a hundred rows.
        found = [round(n, 1) for row in data["rows"] if (n := numbers(row, name)) is not None]
        return max(found, default=None)

    unit = "numbers"
    return [
        Aim("memory per row and unit in training, worst row", 5.0, worst("ours"), smaller=True, unit=unit),
        Aim("the same with recompute", 2.0, worst("recompute"), smaller=True, unit=unit),
    ]
