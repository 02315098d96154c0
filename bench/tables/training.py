"""A training step of an LSTM layer."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case, Size
from bench.drive import Driver
from bench.markdown import geometric_mean, paragraph
from bench.tables.common import (
    Aim,
    comparison,
    fastest,
    floor_columns,
    peaks,
    possible,
    quick_grid,
    race_to_the_floor,
    ratio_to,
    share,
    sizes,
)

TITLE = "Training step"
_PEERS = ("ours", "pytorch", "jax", "keras")


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    cases = (Case("training", size) for size in quick_grid(GRID, quick))
    return {"rows": [race_to_the_floor(driver, case, _PEERS) for case in cases]}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    text = paragraph(
        "Forward and backward of one LSTM layer with dx, dW, dU, db, for N(0, 1) gradients of every",
        "output; float32, one thread. A ratio above 1 says that timelike is faster. JAX runs `lax.scan`",
        "under `jit` with `vjp`; TensorFlow is `keras.layers.LSTM`, plain or compiled by XLA, whichever",
        "is faster. The floor is the time of the matrix products at the processor's peak, by multiply-adds",
        f"on registers ({peaks(rows)}), and of an autograd call that computes nothing. What is possible is",
        "the fastest rival's time over the floor.",
    )
    against = [("ours", rival) for rival in (*_PEERS[1:], "fastest")]
    return text + comparison(rows, [sizes(rows)], against, floor_columns(rows))


def aims(data: dict[str, Any]) -> list[Aim]:
    rows = data["rows"]
    best = [ratio_to(row, fastest(row)) for row in rows]
    torchs = [ratio_to(row, "pytorch") for row in rows]
    wide = [share(row) for row in rows if Size(*row["size"]).H >= 64 and Size(*row["size"]).B >= 32]
    return [
        Aim(
            "training step, against the fastest of each row",
            2.2,
            geometric_mean(best),
            possible=geometric_mean(possible(row, fastest(row)) for row in rows),
        ),
        Aim("the same, worst row", 1.0, min((r for r in best if r), default=None)),
        Aim(
            "training step, against torch",
            3.0,
            geometric_mean(torchs),
            possible=geometric_mean(possible(row, "pytorch") for row in rows),
        ),
        Aim(
            "share of peak in training, worst row with H >= 64 and B >= 32",
            0.6,
            min(wide, default=None),
            unit="of peak",
        ),
    ]
