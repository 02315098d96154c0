"""What the tables share: races over sizes, and columns of times and ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from bench.cases import Case, Size, operations
from bench.drive import PEERS, Contender, Driver, Entry
from bench.markdown import figure, geometric_mean, milliseconds, ratio, size_of, table

__all__ = [
    "Aim",
    "Row",
    "aims_against",
    "comparison",
    "fastest",
    "floor",
    "floor_columns",
    "peaks",
    "peers_of",
    "possible",
    "race",
    "race_to_the_floor",
    "ratio_to",
    "say",
    "share",
]

Row = dict[str, Any]  # of the JSON file: "size", and "times" by peer
Column = tuple[str, list[str]]  # a heading, and a cell for each line of a table


class Aim(NamedTuple):
    """What the project wants of a table, and what was measured; none where the rival is not there.

    `possible` is what it would be if ours took no more than the floor: nobody can do better here.
    """

    what: str
    wanted: float
    reached: float | None
    smaller: bool = False  # whether less is better
    unit: str = ""  # of both; by default times a rival's speed
    possible: float | None = None


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def race(driver: Driver, case: Case, peers: Iterable[str], **extra: Entry) -> Row:
    """Race peers, as far as they are there, on one thread each."""
    say(f"  {case.kind} {case.cell} {case.dtype} {case.size}")
    entries = {peer: Entry(Contender(peer), case) for peer in driver.present(peers)}
    found = driver.race(entries | extra)
    return {"size": list(case.size), "times": {name: asdict(timing) for name, timing in found.items()}}


def race_to_the_floor(driver: Driver, case: Case, peers: Iterable[str]) -> Row:
    """Race, and measure in the same turns the least that can be taken.

    The row gets ``operations``, the processor's ``peak`` in operations per second, by multiply-adds on
    registers, and for a training step the seconds of an empty ``call``: one of a layer that computes nothing.
    """
    extra = {"peak": Entry(Contender("session"), replace(case, kind="peak"))}
    if case.trains and driver.present(["empty"]):
        extra["empty"] = Entry(Contender("empty"), replace(case, kind="training"))
    row = race(driver, case, peers, **extra)
    times = row["times"]
    peak = operations(extra["peak"].case) / times.pop("peak")["seconds"]  # type: ignore[arg-type]
    call = times.pop("empty")["seconds"] if "empty" in times else 0.0
    return row | {"operations": operations(case), "peak": peak, "call": call}


def floor(row: Row, ours: str = "session") -> float:
    """Seconds of the matrix products at the processor's peak; by autograd also those of an empty call."""
    return float(row["operations"] / row["peak"] + (row["call"] if ours == "ours" else 0.0))


def share(row: Row) -> float | None:
    """Operations of the matrix products per time of prepared layers, as a share of the peak."""
    times = row["times"]
    return row["operations"] / times["session"]["seconds"] / row["peak"] if "session" in times else None


def possible(row: Row, rival: str | None, ours: str = "session") -> float | None:
    """How many times as long as the floor the rival takes: what nobody can surpass."""
    times = row["times"]
    return times[rival]["seconds"] / floor(row, ours) if rival in times else None


def floor_columns(rows: Sequence[Row]) -> list[Column]:
    """The floor, how many times as fast as the fastest rival it is, and the share of the peak."""
    most = [possible(row, fastest(row)) for row in rows]
    columns = [
        ("floor, ms", [*(figure(1e3 * floor(row)) for row in rows), ""]),
        ("possible vs fastest", [ratio(r) for r in [*most, geometric_mean(most)]]),
        ("share of peak", [*("-" if s is None else f"{s:.0%}" for s in map(share, rows)), ""]),
    ]
    if any(row["call"] for row in rows):
        columns.append(("empty call, ms", [*(figure(1e3 * row["call"]) for row in rows), ""]))
    return columns


def aims_against(
    rows: Sequence[Row], what: str, rival: str | None, mean: float, worst: float | None
) -> list[Aim]:
    """Aims of a training step, prepared and by autograd; rival None is the fastest of each row."""
    found = []
    for ours, way in (("session", "prepared"), ("ours", "by autograd")):
        rivals = [rival or fastest(row) for row in rows]
        ratios = [ratio_to(row, name, ours) for row, name in zip(rows, rivals, strict=True)]
        most = [possible(row, name, ours) for row, name in zip(rows, rivals, strict=True)]
        there = [(r, m) for r, m in zip(ratios, most, strict=True) if r is not None and m is not None]
        found.append(Aim(f"{what}, {way}", mean, geometric_mean(ratios), possible=geometric_mean(most)))
        if worst is not None:
            r, m = (
                (min(values, default=None) for values in zip(*there, strict=True)) if there else (None, None)
            )
            found.append(Aim("the same, worst row", worst, r, possible=m))
    return found


def peaks(rows: Sequence[Row]) -> str:
    """The peaks that were measured, for a text."""
    rates = [row["peak"] / 1e9 for row in rows]
    return f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s in these rows"


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
