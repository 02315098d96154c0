"""One thread and two."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from bench.cases import GRID, Case
from bench.drive import Contender, Driver, Entry, Failure
from bench.markdown import geometric_mean, milliseconds, paragraph, ratio, size_of, table
from bench.tables.common import Aim, quick_grid, say

TITLE = "Threads"
_COUNTS = (1, 2)
_SAME_BITS = (1, 2, 3, 8)
_LONG = 5e-3  # seconds from which two threads are to gain much


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    if len(os.sched_getaffinity(0)) < max(_COUNTS):
        raise Failure("threads: two processors are needed, this process may use one")
    rows = []
    for size in quick_grid(GRID, quick):
        case = Case("training", size)
        say(f"  threads {size}")
        entries = {
            f"{peer} {n}": Entry(Contender(peer, n), case)
            for peer in driver.present(["ours", "pytorch"])
            for n in _COUNTS
        }
        times = {name: asdict(timing) for name, timing in driver.race(entries, clock="wall").items()}
        rows.append({"size": list(size), "times": times, "same_bits": same_bits(driver, case)})
    return {"rows": rows, "counts": list(_SAME_BITS)}


def same_bits(driver: Driver, case: Case) -> bool:
    """Whether all outputs and gradients are the same with any number of threads, to the bit."""
    ours = Contender("ours", max(_COUNTS))
    found = set()
    for n in _SAME_BITS:
        driver.ask(ours, "set_threads", n)
        driver.ask(ours, "prepare", "bits", case, "")
        results = driver.ask(ours, "results", "bits")
        found.add(b"".join(results[name].tobytes() for name in sorted(results)))
    driver.ask(ours, "set_threads", ours.threads)
    driver.ask(ours, "forget")
    return len(found) == 1


def render(data: dict[str, Any]) -> str:
    rows = data["rows"]
    lines = []
    for row in rows:
        times = row["times"]
        lines.append([size_of(row)])
        for peer in ("ours", "pytorch"):
            lines[-1] += [*(milliseconds(times.get(f"{peer} {n}")) for n in _COUNTS), ratio(gain(row, peer))]
        lines[-1] += ["yes" if row["same_bits"] else "NO"]
    means = (ratio(geometric_mean(gain(row, peer) for row in rows)) for peer in ("ours", "pytorch"))
    ours, torchs = means
    lines.append(["geometric mean", "", "", ours, "", "", torchs, ""])
    counts = ", ".join(map(str, data["counts"]))
    head = ["B, T, D, H", "timelike 1, ms", "2", "gain", "torch 1, ms", "2", "gain", "same bits"]
    text = paragraph(
        "A training step of an LSTM layer by one thread and by two, float32, wall time. The last column",
        f"says whether all outputs and gradients of timelike are the same with {counts} threads, to the",
        "bit.",
    )
    return text + table(head, lines)


def gain(row: dict[str, Any], peer: str) -> float | None:
    """How many times as fast two threads are."""
    one, two = (row["times"].get(f"{peer} {n}") for n in _COUNTS)
    return one["seconds"] / two["seconds"] if one and two else None


def aims(data: dict[str, Any]) -> list[Aim]:
    gains = [(row["times"]["ours 1"]["seconds"], gain(row, "ours")) for row in data["rows"]]
    long = [g for seconds, g in gains if seconds >= _LONG and g is not None]
    return [
        Aim("two threads against one, worst row above 5 ms", 1.8, min(long, default=None)),
        Aim("the same, worst of all rows", 1.0, min((g for _, g in gains if g), default=None)),
    ]
