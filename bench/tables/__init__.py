"""The tables, in the order in which they are measured and shown.

Each module has `TITLE`; `measure(driver, quick)`, which gives what belongs into the JSON file; `render`,
which makes Markdown of that; and `aims`, what the project wants of it.
"""

from __future__ import annotations

from types import ModuleType

from bench.tables import (
    apply,
    cells,
    epoch,
    growth,
    header,
    inference,
    latency,
    memory,
    ragged,
    threads,
    tracing,
    training,
)

__all__ = ["TABLES"]

TABLES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        training,
        inference,
        header,
        cells,
        ragged,
        threads,
        memory,
        growth,
        epoch,
        latency,
        apply,
        tracing,
    )
}
