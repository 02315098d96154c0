"""Scoring events: of sequences in memory, and by `timelike apply` from file to file."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from bench.applications import APPLICATIONS, BATCH
from bench.drive import Contender, Driver, Entry
from bench.markdown import figure, geometric_mean, paragraph, ratio, size_of, table
from bench.tables.common import Aim, ratio_to, say

TITLE = "Applying a model"
_PEERS = {"applied": "timelike", "onnx_applied": "ONNX Runtime"}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    rows = []
    for case in APPLICATIONS[:1] if quick else APPLICATIONS:
        for files in (False, True):
            say(f"  apply {case.size}{', files' if files else ''}")
            entries = {
                peer: Entry(Contender(peer), replace(case, files=files)) for peer in driver.present(_PEERS)
            }
            times = {name: asdict(timing) for name, timing in driver.race(entries).items()}
            rows.append({"size": list(case.size), "events": case.events, "files": files, "times": times})
    return {"rows": rows}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    there = [peer for peer in _PEERS if any(peer in row["times"] for row in rows)]

    def thousands(row: dict[str, Any], peer: str) -> str:
        return figure(row["events"] / row["times"][peer]["seconds"] / 1e3) if peer in row["times"] else "-"

    lines = [
        [
            size_of(row),
            "file to file" if row["files"] else "in memory",
            *(thousands(row, peer) for peer in there),
            *(ratio(ratio_to(row, peer, "applied")) for peer in there[1:]),
        ]
        for row in rows
    ]
    text = paragraph(
        "Thousands of sequences per second, one thread, one process, float32: an LSTM, whose last state a",
        "dense layer and a softmax make two scores of; lengths uniform in 1 .. T. In memory timelike is",
        f"`timelike.load`, and ONNX Runtime gets {BATCH} sequences at a time, padded by NumPy, in the order",
        "of the events or those of like lengths together, whichever is faster. From a ROOT file to a ROOT",
        "file timelike is `timelike apply`, and ONNX Runtime stands in the loop that its users write:",
        "uproot, padding, a run per batch, uproot.",
    )
    return text + table(["B, T, D, H", "", *_heads(there)], lines)


def _heads(there: list[str]) -> list[str]:
    return [*(f"{_PEERS[p]}, 1000/s" for p in there), *(f"vs {_PEERS[p]}" for p in there[1:])]


def aims(data: dict[str, Any]) -> list[Aim]:
    ratios = {
        files: [ratio_to(row, "onnx_applied", "applied") for row in data["rows"] if row["files"] == files]
        for files in (False, True)
    }
    return [
        Aim("scores in memory, against ONNX Runtime", 1.6, geometric_mean(ratios[False])),
        Aim("scores from file to file, against ONNX Runtime", 1.0, geometric_mean(ratios[True])),
    ]
