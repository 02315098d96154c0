"""What is planted: the list of planted.yaml, and how a mutant takes its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import yaml

__all__ = ["MUTANTS", "Mutant", "mutated"]

_END = re.compile(r"^(};?$|}  //|def |class |@)", re.MULTILINE)  # of a section


class Mutant(NamedTuple):
    """A mistake in a file: `new` in place of `old`, somewhere behind `section`."""

    path: str
    section: str
    old: str
    new: str
    why: str


def _read(path: Path) -> tuple[Mutant, ...]:
    planted = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(
        Mutant(name, m.get("in", ""), m["from"], m["to"], m["why"])
        for name, mutants in planted.items()
        for m in mutants
    )


def mutated(text: str, mutant: Mutant) -> str:
    """Plant a mutant in the text of its file.

    Raises
    ------
    ValueError
        If its section, or what is replaced there, is not found exactly once.
    """
    begin, end = 0, len(text)
    if mutant.section:
        _once(text, mutant.section, mutant.path)
        begin = text.index(mutant.section) + len(mutant.section)
        closed = _END.search(text, begin)
        end = closed.start() if closed else end
    _once(text[begin:end], mutant.old, mutant.path)
    return text[:begin] + text[begin:end].replace(mutant.old, mutant.new) + text[end:]


def _once(text: str, part: str, path: str) -> None:
    if text.count(part) != 1:
        raise ValueError(f"{path}: {part!r} is there {text.count(part)} times")


MUTANTS = _read(Path(__file__).with_name("planted.yaml"))
