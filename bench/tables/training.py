"""A training step of an LSTM layer."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case, Size
from bench.drive import Driver
from bench.markdown import paragraph
from bench.tables.common import (
    Aim,
    aims_against,
    comparison,
    floor_columns,
    peaks,
    quick_grid,
    race_to_the_floor,
    share,
    sizes,
)

TITLE = "Training step"
_PEERS = ("ours", "session", "pytorch", "jax", "keras")


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    cases = (Case("training", size) for size in quick_grid(GRID, quick))
    return {"rows": [race_to_the_floor(driver, case, _PEERS) for case in cases]}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    text = paragraph(
        "Forward and backward of one LSTM layer with dx, dW, dU, db, for N(0, 1) gradients of every",
        "output; float32, one thread. A ratio above 1 says that timelike is faster. timelike is",
        "`timelike.nn` under PyTorch's autograd, as torch is; prepared it is `vjp` of `timelike.runtime`, on",
        "NumPy arrays, with the weights packed anew in each step. JAX runs `lax.scan` under `jit` with",
        "`vjp`; TensorFlow is `keras.layers.LSTM`, plain or compiled by XLA, whichever is faster. The floor",
        "is the time of the matrix products at the processor's peak, by multiply-adds on registers",
        f"({peaks(rows)}). What is possible is the fastest rival's time over the floor, and the share of the",
        "peak that of the prepared layer. An empty call is what autograd takes for a layer that computes",
        "nothing.",
    )
    against = [(ours, rival) for ours in _PEERS[:2] for rival in (*_PEERS[2:], "fastest")]
    return text + comparison(rows, [sizes(rows)], against, floor_columns(rows))


def aims(data: dict[str, Any]) -> list[Aim]:
    rows = data["rows"]
    wide = [row for row in rows if Size(*row["size"]).H >= 64 and Size(*row["size"]).B >= 32]
    return [
        *aims_against(rows, "training step, against the fastest of each row", None, 2.2, 1.0),
        *aims_against(rows, "training step, against torch", "pytorch", 3.0, None),
        Aim(
            "share of peak in training, prepared, worst row with H >= 64 and B >= 32",
            0.6,
            min((s for row in wide if (s := share(row)) is not None), default=None),
            unit="of peak",
        ),
    ]
