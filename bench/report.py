"""From the numbers to the document: `docs/benchmarks.md` and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.aims import summary
from bench.markdown import paragraph
from bench.tables import TABLES

__all__ = ["document", "section", "write"]


def section(name: str, data: dict[str, Any]) -> str:
    """One table with its heading."""
    return f"## {TABLES[name].TITLE}\n\n{TABLES[name].render(data)}\n"


def document(numbers: dict[str, Any]) -> str:
    """All tables as a page."""
    machine = numbers["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    how = paragraph(
        "Written by `make bench`, which measures all of this on the machine at hand. Every case was first",
        "checked against float64 in the same run: timelike may be at most twice as far off as PyTorch.",
        "Then all libraries ran in turn, some milliseconds each, in processes of their own on the same",
        "processor. Times are medians: of processor time, of all threads of the process, where one thread",
        "runs; of wall time where two do. Read the ratios, not the times.",
    )
    where = paragraph(
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}, Python",
        f"{machine['python']}; {versions}. {numbers['date']}, {numbers['seconds']:g} s for each library",
        "and row.",
    )
    picture = "![Times as fast as other libraries, for each size](bench.png)\n\n"
    head = f"# Benchmarks\n\n{how}{where}{picture}"
    parts = [section(name, data) for name, data in numbers["tables"].items()]
    return head + "## Aims\n\n" + summary(numbers["tables"]) + "\n\n" + "\n".join(parts)


def write(numbers: dict[str, Any], folder: Path) -> None:
    """Write the page and its picture."""
    from bench.plot import draw

    draw(numbers["tables"], folder / "bench.png")
    (folder / "benchmarks.md").write_text(document(numbers), encoding="utf-8")
