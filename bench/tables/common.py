"""What the tables share: races over sizes, and columns of times and ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from bench.cases import Case, Size
from bench.drive import PEERS, Contender, Driver, Entry
from bench.markdown import geometric_mean, milliseconds, ratio, size_of, table

__all__ = ["Aim", "Row", "comparison", "fastest", "peers_of", "race", "ratio_to", "say"]

Row = dict[str, Any]  # of the JSON file: "size", and "times" by peer
Column = tuple[str, list[str]]  # a heading, and a cell for each line of a table


class Aim(NamedTuple):
    """What the project wants of a table, and what was measured; none where the rival is not there."""

    what: str
    wanted: float
    reached: float | None
    smaller: bool = False  # whether less is better
    unit: str = ""  # of both; by default times a rival's speed


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def race(driver: Driver, case: Case, peers: Iterable[str], **extra: Entry) -> Row:
    """Race peers, as far as they are there, on one thread each."""
    say(f"  {case.kind} {case.cell} {case.dtype} {case.size}")
    entries = {peer: Entry(Contender(peer), case) for peer in driver.present(peers)}
    found = driver.race(entries | extra)
    return {"size": list(case.size), "times": {name: asdict(timing) for name, timing in found.items()}}


def peers_of(rows: Sequence[Row], *without: str) -> list[str]:
    """Peers that have a time in any row, in their usual order."""
    return [peer for peer in PEERS if peer not in without and any(peer in row["times"] for row in rows)]


def ratio_to(row: Row, rival: str | None, ours: str = "ours") -> float | None:
    """How many times as long the rival takes."""
    times = row["times"]
    return times[rival]["seconds"] / times[ours]["seconds"] if rival in times and ours in times else None


def fastest(row: Row, ours: Sequence[str] = ("ours", "session")) -> str | None:
    """The fastest rival."""
    rivals = [peer for peer in row["times"] if peer in PEERS and peer not in ours]
    return min(rivals, key=lambda peer: row["times"][peer]["seconds"], default=None)


def comparison(
    rows: Sequence[Row],
    first: Sequence[Column],
    against: Sequence[tuple[str, str]],
    more: Sequence[Column] = (),
) -> str:
    """Make a table of the times of all peers, and of ratios with their geometric means.

    Parameters
    ----------
    rows : sequence of Row
    first, more : sequence of Column
        What stands before and after these.
    against : sequence of tuple
        Which of ours is compared with which rival, or with the fastest; where both are there.
    """
    peers = peers_of(rows)
    columns = [*first]
    for peer in peers:
        columns.append(
            (f"{PEERS[peer].name}, ms", [milliseconds(row["times"].get(peer)) for row in rows] + [""])
        )
    for ours, rival in against:
        values = [ratio_to(row, fastest(row) if rival == "fastest" else rival, ours) for row in rows]
        if all(value is None for value in values):
            continue
        name = "fastest" if rival == "fastest" else PEERS[rival].name
        head = f"prepared vs {name}" if ours == "session" else f"vs {name}"
        columns.append((head, [ratio(value) for value in [*values, geometric_mean(values)]]))
    columns += more
    return table([head for head, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def sizes(rows: Sequence[Row]) -> Column:
    """The first column of most tables."""
    return "B, T, D, H", [*(size_of(row) for row in rows), "geometric mean"]


def quick_grid(grid: Sequence[Size], quick: bool) -> Sequence[Size]:
    """All sizes, or those whose training step takes less than 20 ms or so."""
    return [size for size in grid if size.B * size.T * size.H * (size.D + size.H) < 3e7] if quick else grid
