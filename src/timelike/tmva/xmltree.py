"""Reading XML of unknown origin: one pass, bounded in bytes, depth and elements, every mishap one line.

A document type declaration is refused, and with it every entity but XML's own five: nothing grows when it is
read, and nothing outside the file is looked up. Elements remember their line, so that whoever reads them can
say where something is wrong.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, ModelFileError, nearest, require

__all__ = ["MAX_BYTES", "Element", "read_xml", "short"]

MAX_BYTES = 64 << 20
"""Size of a file up to which it is read, unless more is asked for: some four million numbers."""

_MAX_DEPTH = 32  # TMVA nests its elements seven deep
_MAX_ELEMENTS = 100_000
_MAX_ATTRIBUTES = 1_000_000
_SLICE = 1 << 20  # characters of text that are made numbers at a time
_SPACE = re.compile(r"\s")
_FOREIGN = re.compile(r"[^0-9eE+\-.\s]")
_DIGITS = re.compile(r"[0-9]{1,9}")


def short(text: str, most: int = 60) -> str:
    """Quote what a file says, on one line and not at any length."""
    return repr(text if len(text) <= most else text[:most] + "...")


@dataclass(eq=False)
class Element:
    """An element of a file."""

    name: str
    attributes: dict[str, str]
    path: Path
    line: int
    children: list[Element] = field(default_factory=list, repr=False)
    chunks: list[str] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        """What stands between its tags, without its children."""
        return "".join(self.chunks)

    def error(self, message: str) -> ModelFileError:
        """Make an error that says where this element is."""
        return ModelFileError(f"{self.path}:{self.line}: <{self.name[:60]}>: {message}")

    def refusal(self, message: str) -> ConfigError:
        """Make an error of something that is well written and cannot be carried out."""
        return ConfigError(f"{self.path}:{self.line}: <{self.name[:60]}>: {message}")

    def named(self, name: str) -> list[Element]:
        """Give the children of a name."""
        return [child for child in self.children if child.name == name]

    def optional(self, name: str) -> Element | None:
        """Give the child of a name, or None.

        Raises
        ------
        ModelFileError
            If there are several.
        """
        found = self.named(name)
        if len(found) > 1:
            raise found[1].error(f"there is one already, in line {found[0].line}")
        return found[0] if found else None

    def child(self, name: str) -> Element:
        """Give the child of a name.

        Raises
        ------
        ModelFileError
            If there is none, or several.
        """
        found = self.optional(name)
        if found is None:
            names = [child.name[:60] for child in self.children[:100]]
            raise self.error(f"<{name}> is missing; {nearest(name, dict.fromkeys(names))}")
        return found

    def attribute(self, name: str) -> str:
        """Give an attribute.

        Raises
        ------
        ModelFileError
            If it is missing.
        """
        if name not in self.attributes:
            names = [key[:60] for key in list(self.attributes)[:100]]
            raise self.error(f"attribute {name!r} is missing; {nearest(name, names)}")
        return self.attributes[name]

    def integer(self, name: str, low: int = 0) -> int:
        """Give an attribute that is a whole number of at most nine digits.

        Raises
        ------
        ModelFileError
            If it is missing, no such number, or below `low`.
        """
        text = self.attribute(name)
        if not _DIGITS.fullmatch(text) or int(text) < low:
            raise self.error(
                f"attribute {name!r} is {short(text)}; a whole number from {low} to 999999999 is needed"
            )
        return int(text)

    def number(self, name: str) -> float:
        """Give an attribute that is a finite number.

        Raises
        ------
        ModelFileError
            If it is missing, or no such number.
        """
        text = self.attribute(name).strip()  # TMVA pads some
        value = float(text) if _is_number(text) else math.nan
        if not math.isfinite(value):
            raise self.error(f"attribute {name!r} is {short(text)}; a finite number is needed")
        return value

    def choice(self, name: str, known: str) -> str:
        """Give an attribute that is one of some letters.

        Raises
        ------
        ModelFileError
            If it is missing, or another.
        """
        text = self.attribute(name)
        if len(text) != 1 or text not in known:
            raise self.error(f"attribute {name!r} is {short(text)}; possible: {', '.join(known)}")
        return text

    def matrix(self, rows: int, columns: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Give a matrix that is told by ``Rows``, ``Columns`` and numbers row by row.

        The sizes are compared before any number is looked at; no more memory is taken than the text needs.

        Parameters
        ----------
        rows, columns : int
            The sizes that are needed.
        dtype : dtype
            Of the result.

        Raises
        ------
        ModelFileError
            If it has other sizes or another count of numbers, or one of them is no finite number of `dtype`.
        """
        given = self.integer("Rows"), self.integer("Columns")
        if given != (rows, columns):
            raise self.error(f"is {given[0]} x {given[1]}; {rows} x {columns} is needed")
        count, parts = 0, []
        for words in _words(self.text):
            if count + len(words) > rows * columns:
                raise self.error(f"has more numbers than its {rows} x {columns} = {rows * columns}")
            parts.append(self._numbers(words, count, dtype))
            count += len(words)
        if count != rows * columns:
            raise self.error(f"has {count} numbers; {rows} x {columns} = {rows * columns} are needed")
        return np.concatenate([np.empty(0, dtype), *parts]).reshape(rows, columns)

    def _numbers(self, words: list[str], before: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        try:
            if _FOREIGN.search(
                " ".join(words)
            ):  # float() takes more than C++ does: "inf", "1_000", other scripts
                raise ValueError
            values = np.array(words, dtype=np.float64)
        except ValueError:
            index = next(k for k, word in enumerate(words) if not _is_number(word))
            raise self.error(
                f"number {before + index + 1} is {short(words[index])}; a finite number is needed"
            ) from None
        with np.errstate(over="ignore"):  # what does not fit is told below
            values = values.astype(dtype)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            index = int(wrong[0])
            raise self.error(
                f"number {before + index + 1} is {short(words[index])}; that is beyond {np.dtype(dtype)}"
            )
        return values


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return not _FOREIGN.search(word)


def _words(text: str) -> Iterator[list[str]]:
    """Split a text at white space, a slice at a time: all words at once would take many times its size."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + _SLICE)
        stop = space.start() if space else len(text)
        yield text[start:stop].split()
        start = stop


class _Builder:
    """What the parser tells as it goes: the elements are built of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parser: Any = None  # which knows the line
        self.root: Element | None = None
        self.stack: list[Element] = []
        self.count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        element = Element(name, dict(attributes), self.path, self.parser.CurrentLineNumber)
        self.count += 1
        if self.count > _MAX_ELEMENTS:
            raise element.error(f"the file has more than {_MAX_ELEMENTS} elements")
        if len(self.stack) >= _MAX_DEPTH:
            raise element.error(f"the elements are nested deeper than {_MAX_DEPTH}")
        if self.stack:
            self.stack[-1].children.append(element)
        else:
            self.root = element
        self.stack.append(element)

    def data(self, text: str) -> None:
        self.stack[-1].chunks.append(text)

    def end(self, name: str) -> None:
        self.stack.pop()

    def close(self) -> Element | None:
        return self.root


def read_xml(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Element:
    """Read an XML file of UTF-8, or of UTF-16 where its first bytes show it, whatever it declares.

    Parameters
    ----------
    path : path
        The file.
    max_bytes : int
        Size up to which it is read.

    Returns
    -------
    Element
        The outermost element.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is larger, is no well-formed XML, declares a document type or entities, or
        has more than 100,000 elements, some nested deeper than 32, or more than a million signs "=".
    MissingExtraError
        If defusedxml is not installed.
    """
    path = Path(path)
    defused = require("defusedxml", "tmva")
    tree = require("defusedxml.ElementTree", "tmva")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(content) > max_bytes:
        raise ModelFileError(f"{path}: larger than {max_bytes} bytes; max_bytes allows more")
    if content.count(b"=") > _MAX_ATTRIBUTES:  # each needs one; the parser takes all of an element at once
        raise ModelFileError(f"{path}: may have more than {_MAX_ATTRIBUTES} attributes")
    builder = _Builder(path)
    parser = tree.DefusedXMLParser(target=builder, encoding="utf-8", forbid_dtd=True)
    builder.parser = parser.parser
    try:
        # All at once: fed in pieces, an unfinished token would be looked at again with each of them.
        parser.feed(content)
        root: Element | None = parser.close()
    except tree.ParseError as error:
        line = error.position[0]
        raise ModelFileError(f"{path}:{line}: no well-formed XML ({' '.join(str(error).split())})") from None
    except defused.DefusedXmlException as error:
        what = "document type declaration" if isinstance(error, defused.DTDForbidden) else "entity"
        line = builder.parser.CurrentLineNumber
        raise ModelFileError(f"{path}:{line}: has a {what}, which is not read") from None
    assert root is not None  # the parser wants an element
    return root
