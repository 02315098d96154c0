"""A whole epoch of training a small classifier."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.drive import Contender, Driver, Entry
from bench.epochs import EPOCHS
from bench.markdown import geometric_mean, milliseconds, paragraph, ratio, size_of, table
from bench.tables.common import Aim, ratio_to, say

TITLE = "Training epoch"
_PEERS = {"fit": "timelike", "loop": "PyTorch", "keras_fit": "Keras"}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    rows = []
    for case in EPOCHS[:1] if quick else EPOCHS:
        say(f"  epoch {case.size}")
        found = driver.race({peer: Entry(Contender(peer), case) for peer in driver.present(_PEERS)})
        times = {name: asdict(timing) for name, timing in found.items()}
        rows.append({"size": list(case.size), "events": case.events, "times": times})
    return {"rows": rows}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    there = [peer for peer in _PEERS if any(peer in row["times"] for row in rows)]
    lines = [
        [
            size_of(row),
            f"{row['events']:,}".replace(",", " "),
            *(milliseconds(row["times"].get(peer)) for peer in there),
            *(ratio(ratio_to(row, peer, "fit")) for peer in there[1:]),
        ]
        for row in rows
    ]
    text = paragraph(
        "An epoch of training a classifier (LSTM, last state, two logits; cross entropy, Adam) on",
        "sequences of lengths uniform in 1 .. T, in memory, B sequences in a batch, shuffled; float32,",
        "one thread. timelike runs the loop of `timelike train`; PyTorch a `DataLoader` with",
        "`pad_sequence`, `nn.LSTM` on the padded or the packed batch, whichever is faster, and `Adam`;",
        "Keras `fit` with a mask, plain or compiled by XLA. All start from the same weights, and have the",
        "same losses in the first batches.",
    )
    times, ratios = [f"{_PEERS[p]}, ms" for p in there], [f"vs {_PEERS[p]}" for p in there[1:]]
    return text + table(["B, T, D, H", "events", *times, *ratios], lines)


def aims(data: dict[str, Any]) -> list[Aim]:
    return [
        Aim(
            f"training epoch, against {_PEERS[peer]}",
            4.0,
            geometric_mean(ratio_to(row, peer, "fit") for row in data["rows"]),
        )
        for peer in ("loop", "keras_fit")
    ]
