"""From the numbers to the document: `docs/benchmarks.md` and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.aims import summary
from bench.tables import TABLES

__all__ = ["document", "section", "write"]


def section(name: str, data: dict[str, Any]) -> str:
    """One table with its heading."""
    return f"## {TABLES[name].TITLE}\n\n{TABLES[name].render(data)}\n"


def document(numbers: dict[str, Any]) -> str:
    """All tables as a page."""
    machine = numbers["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    head = (
        "# Benchmarks\n\n"
        "Written by `make bench`, which measures all of this on the machine at hand. Every case was first checked against\n"
        "float64 in the same run: timelike may be at most twice as far off as PyTorch. Then all libraries ran in turn, a\n"
        "few milliseconds each, in processes of their own, pinned to the same processor; times are medians, on one thread\n"
        "of the processor time of the whole process. Read the ratios, not the times.\n\n"
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}, Python {machine['python']};\n"
        f"{versions}.\n{numbers['date']}, {numbers['seconds']:g} s for each library and row.\n\n"
        "![Times as fast as other libraries, for each size](bench.png)\n\n"
    )
    parts = [section(name, data) for name, data in numbers["tables"].items()]
    return head + "## Aims\n\n" + summary(numbers["tables"]) + "\n\n" + "\n".join(parts)


def write(numbers: dict[str, Any], folder: Path) -> None:
    """Write the page and its picture."""
    from bench.plot import draw

    draw(numbers["tables"], folder / "bench.png")
    (folder / "benchmarks.md").write_text(document(numbers), encoding="utf-8")
