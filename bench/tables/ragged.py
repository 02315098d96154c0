"""A training step on sequences of different lengths."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case
from bench.drive import Driver
from bench.markdown import geometric_mean, paragraph
from bench.tables.common import Aim, comparison, quick_grid, race, ratio_to, sizes

TITLE = "Ragged batches"


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    return {
        "rows": [race(driver, Case("ragged", size), ("ours", "pytorch")) for size in quick_grid(GRID, quick)]
    }


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    ways = [row["times"].get("pytorch", {}).get("variant", "-") for row in rows]
    text = paragraph(
        "A training step of an LSTM layer, lengths uniform in 1 .. T, N(0, 1) gradients of the outputs;",
        "float32, one thread. timelike takes the rows as they are. torch's time is the better of padding,",
        "and of a PackedSequence that was packed before the clock started.",
    )
    return text + comparison(
        rows, [sizes(rows)], [("ours", "pytorch")], [("torch's better way", [*ways, ""])]
    )


def aims(data: dict[str, Any]) -> list[Aim]:
    ratios = [r for row in data["rows"] if (r := ratio_to(row, "pytorch")) is not None]
    return [
        Aim("ragged training step, against torch's better way", 3.5, geometric_mean(ratios)),
        Aim("the same, worst row", 2.5, min(ratios, default=None)),
    ]
