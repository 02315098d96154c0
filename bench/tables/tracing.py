"""What it costs to look inside."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case
from bench.drive import Driver
from bench.markdown import geometric_mean, milliseconds, paragraph, ratio, size_of, table
from bench.tables.common import Aim, Row, quick_grid, race

TITLE = "Tracing"
_CELLS = {"lstm": "LSTM", "gru": "GRU"}
_BATCH = 32  # sequences from which it is a batch


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    peers = ("ours", "traced", "derived")
    return {
        "rows": [
            race(driver, Case("training", size, cell), peers) | {"cell": cell}
            for cell in _CELLS
            for size in quick_grid(GRID, quick)
        ]
    }


def render(data: dict[str, Any]) -> str:
    text = paragraph(
        "A training step as above, plain, and traced: every gate, state and gradient of every step is kept.",
        "The last two columns add what is worked out only when asked for: all arrays in the order of a",
        "ragged batch, gradients of the gates' values and of the inputs, norms of each step's contribution",
        "to the weights' gradients. float32, one thread.",
    )
    lines = []
    for row in data["rows"]:
        times = row["times"]
        costs = [[milliseconds(times.get(name)), ratio(cost(row, name))] for name in ("traced", "derived")]
        lines.append(
            [_CELLS[row["cell"]], size_of(row), milliseconds(times.get("ours")), *costs[0], *costs[1]]
        )
    means = [geometric_mean(cost(row, name) for row in data["rows"]) for name in ("traced", "derived")]
    lines.append(["geometric mean", "", "", "", ratio(means[0]), "", ratio(means[1])])
    head = ["cell", "B, T, D, H", "plain, ms", "traced, ms", "times", "all derived, ms", "times"]
    return text + table(head, lines)


def cost(row: Row, name: str) -> float | None:
    """How many times as long as a plain step."""
    times = row["times"]
    return times[name]["seconds"] / times["ours"]["seconds"] if {name, "ours"} <= times.keys() else None


def aims(data: dict[str, Any]) -> list[Aim]:
    batches = [row for row in data["rows"] if row["size"][0] >= _BATCH]
    worst = max((c for row in batches if (c := cost(row, "traced"))), default=None)
    return [Aim("tracing a batch, worst row", 2.0, worst, smaller=True, unit="times a plain step")]
