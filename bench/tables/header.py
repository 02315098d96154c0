"""The C++ header: one sequence, one step, as an event loop in C++ has them."""

from __future__ import annotations

from typing import Any

from bench.cases import SEQUENCE, STEP, Case, Size
from bench.drive import PEERS, Driver
from bench.markdown import figure, paragraph, table
from bench.tables.common import Aim, peers_of, race, ratio_to

TITLE = "The C++ header"
_PEERS = ("header", "session", "onnxruntime")
_CASES = {
    "one sequence of 20 steps, 6 -> 20": Case("inference", SEQUENCE),
    "one step, 16 -> 32, with states": Case("step", STEP),
    "one sequence of 100 steps, 16 -> 64": Case("inference", Size(1, 100, 16, 64)),
}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    return {"rows": [race(driver, case, _PEERS) | {"what": what} for what, case in _CASES.items()]}


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    peers = peers_of(rows)
    text = paragraph(
        "An LSTM layer in C++, compiled with -O2 -march=native: in microseconds, many calls in one from",
        "Python, so that Python is in none of them. The others are called from Python, whose overhead counts",
        "against them: of ONNX Runtime a few microseconds a call, which its own interface of C++ has not.",
        "float32, one thread.",
    )
    lines = [
        [
            row["what"],
            *(figure(1e6 * row["times"][p]["seconds"]) if p in row["times"] else "-" for p in peers),
        ]
        for row in rows
    ]
    return text + table(["one call", *(PEERS[peer].name for peer in peers)], lines)


def aims(data: dict[str, Any]) -> list[Aim]:
    first = data["rows"][0]
    here = first["times"].get("header")
    return [
        Aim(
            "C++ header, one sequence of 20 steps, 6 -> 20",
            5.0,
            None if here is None else 1e6 * here["seconds"],
            smaller=True,
            unit="us",
        ),
        Aim("the same, against ONNX Runtime from Python", 1.0, ratio_to(first, "onnxruntime", "header")),
    ]
