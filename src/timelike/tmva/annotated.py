"""A config as YAML text with comments beside the keys that they are about."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from timelike.errors import require
from timelike.yamlfile import write_yaml

__all__ = ["Annotated", "comment"]

_WIDTH = 100
Path = tuple[str | int, ...]


def comment(text: str, indent: int = 0) -> list[str]:
    """Give the lines of a comment; whatever breaks lines or cannot be seen in a text becomes a blank.

    Examples
    --------
    >>> comment("one" + chr(10) + "two", 2)
    ['  # one two']
    """
    plain = "".join(c if c.isprintable() else " " for c in text)
    margin = " " * indent + "# "
    lines = textwrap.wrap(plain, _WIDTH - len(margin), break_on_hyphens=False) or [""]
    return [(margin + line).rstrip() for line in lines]


class Annotated:
    """The values of a config, and comments on them.

    Examples
    --------
    >>> config = Annotated("made by hand")
    >>> config.values["training"] = {"epochs": 21}
    >>> config.note(("training", "epochs"), "asked every 7 epochs")
    >>> print(config.text(), end="")
    # made by hand
    <BLANKLINE>
    training:
      # asked every 7 epochs
      epochs: 21
    """

    def __init__(self, *head: str) -> None:
        self.head = list(head)
        self.values: dict[str, Any] = {}
        self._notes: list[tuple[Path, str]] = []

    def note(self, path: Path, text: str) -> None:
        """Put a comment above a key, or above the nearest key that there is."""
        self._notes.append((path, text))

    def text(self) -> str:
        """Write it all."""
        written = write_yaml(self.values)
        places: dict[Path, tuple[int, int]] = dict(_places(written))
        above: dict[int, list[str]] = {}
        for path, text in self._notes:
            while path and path not in places:
                path = path[:-1]
            if not path:
                self.head.append(text)
                continue
            at, column = places[path]
            above.setdefault(at, []).extend(comment(text, column))
        lines = [row for text in self.head for row in comment(text)]
        for number, line in enumerate(written.split("\n")[:-1]):
            if line[:1] not in (" ", "-", "#"):
                lines.append("")  # between the sections
            lines.extend(above.get(number, []))
            lines.append(line)
        return "\n".join(lines) + "\n"


def _places(text: str) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Give line and column of every key and every item."""
    yaml = require("yaml", "data")
    stack: list[tuple[Path, Any]] = [((), yaml.compose(text, Loader=yaml.SafeLoader))]
    while stack:
        path, node = stack.pop()
        if node.id == "mapping":
            for key, value in node.value:
                yield (*path, key.value), (key.start_mark.line, key.start_mark.column)
                stack.append(((*path, key.value), value))
        elif node.id == "sequence":
            for index, item in enumerate(node.value):
                column = item.start_mark.column - 2 * (not node.flow_style)
                yield (*path, index), (item.start_mark.line, column)
                stack.append(((*path, index), item))
