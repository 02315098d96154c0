"""The command line; see `bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

from bench.aims import summary
from bench.drive import ROOT, Driver, Failure, absent, installed
from bench.report import section, write
from bench.tables import TABLES


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    if options.load:
        numbers = json.loads(options.load.read_text(encoding="utf-8"))
        for name, data in numbers["tables"].items():
            print(section(name, data))
        print(summary(numbers["tables"]))
    else:
        numbers = measure(options)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        write(numbers, ROOT / "docs")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description="How fast timelike is beside other libraries.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; by default all")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each library and row, by default 1")
    parser.add_argument("--quick", action="store_true", help="small sizes only, a tenth of a second each")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="where numbers go")
    parser.add_argument("--load", type=Path, metavar="JSON", help="show these numbers, measure nothing")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md and docs/bench.png")
    options = parser.parse_args(given)
    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        fail(f"there is no table {unknown[0]!r}; possible: {', '.join(TABLES)}")
    if not options.seconds > 0:
        fail(f"--seconds must be above 0, got {options.seconds:g}")
    if options.load and not options.load.is_file():
        fail(f"--load: there is no file {options.load}")
    return options


def fail(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
    raise SystemExit(2)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the tables, and print each when it is done."""
    chosen = [name for name in TABLES if name in options.tables or not options.tables]
    seconds, rounds = (0.1, 3) if options.quick else (options.seconds, 9)
    interpreters = installed()
    if missing := absent(interpreters):
        print(f"not installed, left out: {', '.join(missing)} (make bench-peers)\n", file=sys.stderr)
    tables = {}
    with Driver(seconds, rounds, interpreters) as driver:
        try:
            for name in chosen:
                print(TABLES[name].TITLE, file=sys.stderr)
                tables[name] = TABLES[name].measure(driver, options.quick)
                print(section(name, tables[name]), flush=True)
        except Failure as failure:
            print(f"bench: {failure}", file=sys.stderr)
            raise SystemExit(1) from None
        versions = driver.versions()
    print(summary(tables))
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions,
        "seconds": seconds,
        "rounds": rounds,
        "tables": tables,
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is: nothing that tells which one."""
    return {
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
