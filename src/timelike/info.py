"""What this installation is and what it runs on: version, instruction set, threads, what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from timelike import __version__, kernels, threads

__all__ = ["collect", "lines"]

_CPUINFO = Path("/proc/cpuinfo")


def collect() -> dict[str, Any]:
    """Tell everything, as it can be written to JSON.

    Returns
    -------
    dict
        ``timelike`` and ``python``: versions; ``platform``; ``processor``: its name; ``processors``: how many
        this process may use; ``threads``: how many the kernels use at most; ``instruction_set``: the
        ``active`` one, whether ``TIMELIKE_ISA`` has ``forced`` it, and those ``available``, the fastest last;
        ``packages``: for ``base`` and each extra the version of what it needs, None where that is missing.

    Raises
    ------
    TimelikeError
        If ``TIMELIKE_ISA`` or ``OMP_NUM_THREADS`` asks for what there is not.

    Examples
    --------
    >>> facts = collect()
    >>> facts["instruction_set"]["active"] in facts["instruction_set"]["available"]
    True
    """
    return {
        "timelike": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads.get_num_threads(),
        "instruction_set": {
            "active": kernels.isa(),
            "forced": bool(os.environ.get("TIMELIKE_ISA")),
            "available": list(kernels.available()),
        },
        "packages": _packages(),
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """Put the facts of `collect` into lines, a word in front of each."""
    isa = facts["instruction_set"]
    there = ", ".join(isa["available"])
    why = f"forced by TIMELIKE_ISA; there are {there}" if isa["forced"] else f"the fastest of {there}"
    table = {
        "timelike": facts["timelike"],
        "python": f"{facts['python']}, {facts['platform']}",
        "processor": f"{facts['processor']}, {facts['processors']} for this process",
        "kernels": f"{isa['active']} ({why}), threads: {facts['threads']}",
    }
    for extra, packages in facts["packages"].items():
        name = extra if extra == "base" else f"[{extra}]"
        table[name] = ", ".join(f"{package} {version or 'missing'}" for package, version in packages.items())
    width = max(map(len, table))
    return [f"{name.ljust(width)}  {value}" for name, value in table.items()]


def _processor() -> str:
    """Name the processor, as far as the system tells it."""
    if _CPUINFO.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(errors="replace"), re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.processor() or platform.machine()


def _packages() -> dict[str, dict[str, str | None]]:
    """Give the version of what the package and each of its extras need."""
    packages: dict[str, dict[str, str | None]] = {}
    for requirement in importlib.metadata.requires("timelike") or ():
        match = re.match(r"([\w.-]+)(?:.*;.*extra == ['\"](\w+)['\"])?", requirement)
        if match is None or match[1] == "timelike":
            continue
        try:
            version: str | None = importlib.metadata.version(match[1])
        except importlib.metadata.PackageNotFoundError:
            version = None
        packages.setdefault(match[2] or "base", {})[match[1]] = version
    return packages
