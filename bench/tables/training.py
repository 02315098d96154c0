"""A training step of an LSTM layer."""

from __future__ import annotations

from typing import Any

from bench.cases import GRID, Case, Size, operations
from bench.drive import Contender, Driver, Entry
from bench.markdown import figure, geometric_mean, paragraph
from bench.tables.common import Aim, comparison, fastest, quick_grid, race, ratio_to, sizes

TITLE = "Training step"
_PEERS = ("ours", "pytorch", "jax", "keras")


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    rows = []
    for size in quick_grid(GRID, quick):
        case, product = Case("training", size), Case("matmul", size)
        row = race(driver, case, _PEERS, product=Entry(Contender("pytorch"), product))
        rate = operations(product) / row["times"].pop("product")["seconds"]
        row |= {"operations": operations(case), "product_rate": rate}
        rows.append(row)
    return {"rows": rows}


def share(row: dict[str, Any]) -> float:
    """Operations of ours per time, over those of a large matrix product."""
    return row["operations"] / row["times"]["ours"]["seconds"] / row["product_rate"]


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    floor = [figure(1e3 * row["operations"] / row["product_rate"]) for row in rows]
    shares = [f"{share(row):.0%}" for row in rows]
    rates = [row["product_rate"] / 1e9 for row in rows]
    text = paragraph(
        "Forward and backward of one LSTM layer with dx, dW, dU, db, for N(0, 1) gradients of every",
        "output; float32, one thread. A ratio above 1 says that timelike is faster. JAX runs `lax.scan`",
        "under `jit` with `vjp`; TensorFlow is `keras.layers.LSTM`, plain or compiled by XLA, whichever",
        "is faster. The floor is the time of the matrix products at the rate of one large product",
        f"({min(rates):.0f} to {max(rates):.0f} GFLOP/s in these rows), and the share is floor over time.",
    )
    return text + comparison(
        rows,
        [sizes(rows)],
        [("ours", rival) for rival in (*_PEERS[1:], "fastest")],
        [("floor, ms", [*floor, ""]), ("share", [*shares, ""])],
    )


def aims(data: dict[str, Any]) -> list[Aim]:
    rows = data["rows"]
    best = [ratio_to(row, fastest(row)) for row in rows]
    torchs = [ratio_to(row, "pytorch") for row in rows]
    wide = [share(row) for row in rows if Size(*row["size"]).H >= 64 and Size(*row["size"]).B >= 32]
    return [
        Aim("training step, against the fastest of each row", 2.2, geometric_mean(best)),
        Aim("the same, worst row", 1.0, min((r for r in best if r), default=None)),
        Aim("training step, against torch", 3.0, geometric_mean(torchs)),
        Aim(
            "share of peak in training, worst row with H >= 64 and B >= 32",
            0.6,
            min(wide, default=None),
            unit="of peak",
        ),
    ]
