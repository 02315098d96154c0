"""What the project wants of its speed, and what was measured: one line for each aim."""

from __future__ import annotations

from typing import Any

from bench.markdown import figure, table
from bench.tables import TABLES
from bench.tables.common import Aim

__all__ = ["summary"]


def summary(tables: dict[str, Any]) -> str:
    """Give a table of the aims of all tables that were measured."""
    found = [aim for name, data in tables.items() for aim in TABLES[name].aims(data)]
    return table(["aim", "wanted", "measured", "reached", "possible here"], [line(aim) for aim in found])


def line(aim: Aim) -> list[str]:
    unit = aim.unit or "times"
    wanted = f"{'<=' if aim.smaller else '>='} {figure(aim.wanted)} {unit}"
    if aim.reached is None:
        return [aim.what, wanted, "-", "-", "-"]
    reached = aim.reached <= aim.wanted if aim.smaller else aim.reached >= aim.wanted
    possible = "-" if aim.possible is None else figure(aim.possible)
    return [aim.what, wanted, figure(aim.reached), "yes" if reached else "no", possible]
