"""The other cells, and the other precision."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case
from bench.drive import Driver
from bench.markdown import paragraph, size_of
from bench.tables.common import Aim, aims_against, comparison, floor_columns, quick_grid, race_to_the_floor

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
                **race_to_the_floor(
                    driver, Case("training", size, cell, dtype), ("ours", "session", "pytorch")
                ),
            }
            for what, (cell, dtype) in _CELLS.items()
            for size in quick_grid(_SIZES, quick)
        ]
    }


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    cells = "cell", [*(row["what"] for row in rows), "geometric mean"]
    sizes = "B, T, D, H", [*(size_of(row) for row in rows), ""]
    text = paragraph(
        "A training step as above; one thread, float32 unless it says float64. The last three cells have",
        "no rival: torch has none of them.",
    )
    against = [("ours", "pytorch"), ("session", "pytorch")]
    return text + comparison(rows, [cells, sizes], against, floor_columns(rows))


def aims(data: dict[str, Any]) -> list[Aim]:
    return aims_against(
        data["rows"],
        "GRU, RNN, float64, projection: training step, against torch",
        "pytorch",
        8.0,
        2.0,
    )
