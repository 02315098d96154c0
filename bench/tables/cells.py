"""The other cells, and the other precision."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case
from bench.drive import Driver
from bench.markdown import figure, geometric_mean, milliseconds, paragraph, ratio, size_of, table
from bench.tables.common import Aim, floor, possible, quick_grid, race_to_the_floor, ratio_to

TITLE = "Cells"
_SIZES = [GRID[k - 1] for k in (1, 3, 5, 8)]
_CELLS = {  # what the table calls them, with and without a rival
    "GRU": ("gru", "float32"),
    "RNN, tanh": ("rnn_tanh", "float32"),
    "RNN, relu": ("rnn_relu", "float32"),
    "LSTM, float64": ("lstm", "float64"),
    "LSTM, projected to H / 2": ("lstm_projected", "float32"),
    "LSTM, peepholes": ("lstm_peephole", "float32"),
    "LSTM, coupled gates": ("lstm_coupled", "float32"),
    "GRU, reset before": ("gru_reset_before", "float32"),
}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    return {
        "rows": [
            {
                "what": what,
                **race_to_the_floor(driver, Case("training", size, cell, dtype), ("ours", "pytorch")),
            }
            for what, (cell, dtype) in _CELLS.items()
            for size in quick_grid(_SIZES, quick)
        ]
    }


def render(data: dict[str, Any]) -> str:
    lines = [
        [
            row["what"],
            size_of(row),
            milliseconds(row["times"].get("ours")),
            milliseconds(row["times"].get("pytorch")),
            ratio(ratio_to(row, "pytorch")),
            figure(1e3 * floor(row)),
            ratio(possible(row, "pytorch")),
        ]
        for row in data["rows"]
    ]
    lines.append(["geometric mean", "", "", "", ratio(_mean(data)), "", ratio(_possible(data))])
    text = paragraph(
        "A training step as above; one thread, float32 unless it says float64. The last three cells have",
        "no rival: torch has none of them.",
    )
    head = ["cell", "B, T, D, H", "timelike, ms", "torch, ms", "vs torch", "floor, ms", "possible vs torch"]
    return text + table(head, lines)


def _mean(data: dict[str, Any]) -> float | None:
    return geometric_mean(ratio_to(row, "pytorch") for row in data["rows"])


def _possible(data: dict[str, Any]) -> float | None:
    return geometric_mean(possible(row, "pytorch") for row in data["rows"])


def aims(data: dict[str, Any]) -> list[Aim]:
    ratios = [r for row in data["rows"] if (r := ratio_to(row, "pytorch")) is not None]
    return [
        Aim(
            "GRU, RNN, float64, projection: training step, against torch",
            8.0,
            _mean(data),
            possible=_possible(data),
        ),
        Aim(
            "the same, worst row",
            2.0,
            min(ratios, default=None),
            possible=min((p for row in data["rows"] if (p := possible(row, "pytorch"))), default=None),
        ),
    ]
