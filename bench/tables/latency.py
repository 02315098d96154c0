"""A trained classifier as it is deployed: one event, one step, many events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.drive import Contender, Driver, Entry
from bench.markdown import figure, paragraph, ratio, table
from bench.scores import SCORES
from bench.tables.common import Aim, ratio_to, say

TITLE = "Latency of a whole model"
_PEERS = {"scorer": "timelike", "scores_torch": "torch", "scores_onnxruntime": "ONNX Runtime"}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    rows = []
    for what, case in SCORES.items():
        if quick and case.kind == "ragged":
            continue
        say(f"  {what}")
        found = driver.race({peer: Entry(Contender(peer), case) for peer in driver.present(_PEERS)})
        times = {name: asdict(timing) for name, timing in found.items()}
        rows.append({"what": what, "size": list(case.size), "times": times})
    return {"rows": rows}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    there = [peer for peer in _PEERS if any(peer in row["times"] for row in rows)]
    lines = [
        [
            row["what"],
            *(figure(1e6 * row["times"][p]["seconds"]) if p in row["times"] else "-" for p in there),
            *(ratio(ratio_to(row, peer, "scorer")) for peer in there[1:]),
        ]
        for row in rows
    ]
    text = paragraph(
        "A classifier of sequences of 6 variables: standardised, LSTM of 20 units, dense layer of 32 units,",
        "two probabilities; float32, one thread, in microseconds from Python. timelike is `timelike.load`;",
        "ONNX Runtime runs all of it as one graph, called with arrays or with bound memory, whichever is",
        "faster, and a step of a stream hands its states in and out. Many events are ragged for timelike;",
        "for the others they are padded ready before the clock starts, and packed by torch where that is",
        "faster.",
    )
    times, ratios = [f"{_PEERS[p]}, us" for p in there], [f"vs {_PEERS[p]}" for p in there[1:]]
    return text + table(["one call", *times, *ratios], lines)


def aims(data: dict[str, Any]) -> list[Aim]:
    return [
        Aim(f"{row['what']}, against ONNX Runtime", 1.6, ratio_to(row, "scores_onnxruntime", "scorer"))
        for row in data["rows"]
    ]
