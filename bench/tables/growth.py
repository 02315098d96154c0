"""How time and memory grow with the length of a sequence, and with the number of sequences."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.cases import Case, Size
from bench.drive import Contender, Driver, Entry
from bench.markdown import figure, paragraph, size_of, table
from bench.tables.common import Aim, say
from bench.tables.memory import peak

TITLE = "Growth"
_LENGTHS = [Size(1, T, 16, 32) for T in (100, 1000, 10_000, 100_000)]
_BATCHES = [Size(B, 30, 16, 32) for B in (1, 4, 16, 64, 256, 1024)]
_WAYS = {"ours": "timelike", "recompute": "timelike, recompute", "pytorch": "torch"}


def measure(driver: Driver, quick: bool) -> dict[str, Any]:
    lengths = _LENGTHS[:3] if quick else _LENGTHS
    return {
        "lengths": [times(driver, size) | {"peaks": peaks(driver, size)} for size in lengths],
        "batches": [times(driver, size) for size in _BATCHES],
    }


def times(driver: Driver, size: Size) -> dict[str, Any]:
    say(f"  growth {size}")
    cases = {name: Case("training", size, recompute=name == "recompute") for name in _WAYS}
    peers = {name: "ours" if name == "recompute" else name for name in _WAYS}
    entries = {
        name: Entry(Contender(peers[name]), cases[name]) for name in _WAYS if driver.present([peers[name]])
    }
    found = driver.race(entries)
    return {"size": list(size), "times": {name: asdict(timing) for name, timing in found.items()}}


def peaks(driver: Driver, size: Size) -> dict[str, int]:
    return {name: p for name in _WAYS if (p := peak(driver, name, size)) is not None}


def per_row(row: dict[str, Any], name: str) -> float:
    B, T, _, _ = row["size"]
    return float(row["times"][name]["seconds"]) / (B * T)


def render(data: dict[str, Any]) -> str:
    def there(rows: list[dict[str, Any]]) -> list[str]:
        return [name for name in _WAYS if any(name in row["times"] for row in rows)]

    def columns(row: dict[str, Any], names: list[str]) -> list[str]:
        return [
            size_of(row),
            *(figure(1e6 * per_row(row, name)) if name in row["times"] else "-" for name in names),
        ]

    lengths, batches = data["lengths"], data["batches"]
    long, wide = there(lengths), there(batches)
    memory = [
        [figure(row["peaks"][name] / 1e6) if name in row["peaks"] else "-" for name in long]
        for row in lengths
    ]
    text = paragraph(
        "A training step of an LSTM layer, float32, one thread: time for one step of one sequence, and",
        "growth of the process's peak.",
    )
    by_length = table(
        ["B, T, D, H", *(f"{_WAYS[n]}, us per step" for n in long), *(f"{_WAYS[n]}, MB" for n in long)],
        [columns(row, long) + cells for row, cells in zip(lengths, memory, strict=True)],
    )
    by_batch = table(
        ["B, T, D, H", *(f"{_WAYS[n]}, us per step" for n in wide)], [columns(row, wide) for row in batches]
    )
    return f"{text}{by_length}\n\n{by_batch}"


def aims(data: dict[str, Any]) -> list[Aim]:
    """Linear: a step of the longest costs what a step of a sequence of 1,000 does; the same for B."""
    lengths, batches = data["lengths"], data["batches"]
    by_length = per_row(lengths[-1], "ours") / per_row(lengths[1], "ours")
    by_batch = per_row(batches[-1], "ours") / per_row(batches[2], "ours")
    T, B = lengths[-1]["size"][1], batches[-1]["size"][0]
    return [
        Aim(f"time of a step, {T:,} steps over 1,000", 1.1, by_length, smaller=True, unit="times"),
        Aim(f"time of a step, {B:,} sequences over 16", 1.1, by_batch, smaller=True, unit="times"),
    ]
