"""A training step on sequences of different lengths."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case
from bench.drive import Driver
from bench.markdown import paragraph
from bench.tables.common import (
    Aim,
    aims_against,
    comparison,
    floor_columns,
    quick_grid,
    race_to_the_floor,
    sizes,
)

TITLE = "Ragged batches"


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    return {
        "rows": [
            race_to_the_floor(driver, Case("ragged", size), ("ours", "session", "pytorch"))
            for size in quick_grid(GRID, quick)
        ]
    }


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    ways = [row["times"].get("pytorch", {}).get("variant", "-") for row in rows]
    text = paragraph(
        "A training step of an LSTM layer, lengths uniform in 1 .. T, N(0, 1) gradients of the outputs;",
        "float32, one thread; columns as above. timelike takes the rows as they are. torch's time is the",
        "better of padding, and of a PackedSequence that was packed before the clock started.",
    )
    return text + comparison(
        rows,
        [sizes(rows)],
        [("ours", "pytorch"), ("session", "pytorch")],
        [*floor_columns(rows), ("torch's better way", [*ways, ""])],
    )


def aims(data: dict[str, Any]) -> list[Aim]:
    return aims_against(data["rows"], "ragged training step, against torch's better way", "pytorch", 3.5, 2.5)
