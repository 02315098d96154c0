"""Inference of an LSTM layer: whole batches, one sequence, one step."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, SEQUENCE, STEP, Case
from bench.drive import PEERS, Driver
from bench.markdown import figure, geometric_mean, paragraph, table
from bench.tables.common import (
    Aim,
    comparison,
    floor_columns,
    peers_of,
    possible,
    quick_grid,
    race,
    race_to_the_floor,
    ratio_to,
    sizes,
)

TITLE = "Inference"
_PEERS = ("ours", "session", "pytorch", "onnxruntime", "jax", "keras")
_SMALL = {
    "one step, 16 -> 32, with states": Case("step", STEP),
    "one sequence of 20 steps, 6 -> 20": Case("inference", SEQUENCE),
}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    return {
        "rows": [
            race_to_the_floor(driver, Case("inference", size), _PEERS) for size in quick_grid(GRID, quick)
        ],
        "small": [race(driver, case, _PEERS) | {"what": what} for what, case in _SMALL.items()],
    }


def render(data: dict[str, Any]) -> str:
    rows, small = data["rows"], data["small"]
    peers = peers_of(small)
    times = [
        [
            row["what"],
            *(figure(1e6 * row["times"][p]["seconds"]) if p in row["times"] else "-" for p in peers),
        ]
        for row in small
    ]
    text = paragraph(
        "Forward of one LSTM layer; float32, one thread. ONNX Runtime runs a model of one LSTM node,",
        'called with arrays or with bound memory, whichever is faster. "Prepared" is `timelike.runtime`,',
        "without PyTorch; all else is as in training.",
    )
    against = [
        ("ours", "pytorch"),
        ("ours", "onnxruntime"),
        ("session", "onnxruntime"),
        ("session", "fastest"),
    ]
    small_text = paragraph(
        "Small calls from Python, in microseconds; a step carries states from call to call."
    )
    return (
        text
        + comparison(rows, [sizes(rows)], against, floor_columns(rows))
        + "\n\n"
        + small_text
        + table(["one call", *(PEERS[peer].name for peer in peers)], times)
    )


def aims(data: dict[str, Any]) -> list[Aim]:
    ours = "session" if "session" in peers_of(data["rows"]) else "ours"
    ratios = [ratio_to(row, "onnxruntime", ours) for row in data["rows"]]
    step, sequence = (
        1e6 * row["times"][ours]["seconds"] if ours in row["times"] else None for row in data["small"]
    )
    return [
        Aim(
            "inference, against ONNX Runtime",
            1.6,
            geometric_mean(ratios),
            possible=geometric_mean(possible(row, "onnxruntime") for row in data["rows"]),
        ),
        Aim("the same, worst row", 1.0, min((r for r in ratios if r), default=None)),
        Aim("one step, B = 1, H = 32", 6.0, step, smaller=True, unit="us"),
        Aim("one sequence of 20 steps, 6 -> 20", 12.0, sequence, smaller=True, unit="us"),
    ]
