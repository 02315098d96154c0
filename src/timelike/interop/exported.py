"""What an export says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timelike.files import shown

__all__ = ["Exported"]


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it was checked; its ``str`` is the line for the reader.

    Attributes
    ----------
    path : Path
    what : str
        What was written.
    checked : str
        On what, and against whom.
    difference : float
        The largest between its scores and our own.
    bound : float
        What rounding explains.
    """

    path: Path
    what: str
    checked: str
    difference: float
    bound: float

    def __str__(self) -> str:
        return (
            f"{shown(self.path)}: {self.what}; checked {self.checked}: "
            f"largest difference {self.difference:.1e} (bound {self.bound:.1e})"
        )
