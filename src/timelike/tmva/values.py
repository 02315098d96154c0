"""The values of a macro's expressions, as far as they can be read off: text, numbers, lists, files, trees.

A small parser by precedence over tokens. What it cannot read is `UNREAD`; text that was put together with it
has the character `HOLE` in that place. It calls nothing of the macro, and values stay small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timelike.tmva.source import Source, Token

__all__ = ["HOLE", "UNREAD", "File", "Reader", "Symbol", "Tree", "Unread", "constructed", "is_text"]

HOLE = "\0"
_LONGEST = 20_000  # characters, entries
_LARGEST = 10**15
_DEEPEST = 60
_PRECEDENCE = {
    "or": 1, "||": 1, "and": 2, "&&": 2, "==": 3, "!=": 3, "<": 4, ">": 4, "<=": 4, ">=": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "%": 6,
}  # fmt: skip
_TEXTS = ("TString", "string", "String", "str", "TCut", "char", "to_string", "Data", "c_str", "GetTitle")
_FORMS = ("Form", "TString::Format", "TString.Format", "ROOT.TString.Format", "ROOT.Form")
_WORDS = {"true": True, "false": False, "True": True, "False": False, "kTRUE": True, "kFALSE": False}
_TYPES = ("TTree", "TFile", "TChain", "TObject", "char", "int", "float", "double")
_CONVERSION = re.compile(r"%(%|-?0?([0-9]{1,2})?(?:\.([0-9]))?(?:l{0,2}|z)([diufegs]))")


class Unread:
    """What could not be read."""

    def __repr__(self) -> str:
        return "UNREAD"


UNREAD = Unread()


@dataclass(frozen=True)
class Symbol:
    """A name without a value: ``TMVA::Types::kDL``, with dots for Python."""

    name: str


@dataclass
class File:
    """A file of trees."""

    name: str


@dataclass
class Tree:
    """A tree, or a chain of them."""

    name: str
    files: list[str] = field(default_factory=list)


def is_text(value: Any) -> bool:
    """Say whether a value is text without a hole."""
    return isinstance(value, str) and HOLE not in value


class Reader:
    """Reads expressions of a source, with the values that names have.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names: dict[str, Any] = {}
        self._depth = 0

    def arguments(self, opening: int) -> tuple[list[Any], dict[str, Any]]:
        """Read what stands between brackets: values in order, and Python's by name."""
        source, end = self.source, self.source.partner[opening]
        values: list[Any] = []
        named: dict[str, Any] = {}
        at = opening + 1
        while at < end:
            name = ""
            if source[at].kind == "name" and source[at + 1].text == "=" and source.python:
                name, at = source[at].text, at + 2
            value, after = self.expression(at, end)
            stop = self.skip(after, end, ",")
            if stop != after:
                value = UNREAD
            if name:
                named[name] = value
            else:
                values.append(value)
            at = stop + 1
        return values, named

    def skip(self, at: int, end: int, *texts: str) -> int:
        """Give the next place of one of some texts outside of brackets, or the end."""
        source = self.source
        while at < end and source[at].text not in texts:
            at = max(at, source.partner[at]) + 1
        return min(at, end)

    def expression(self, at: int, end: int, above: int = 0) -> tuple[Any, int]:
        """Read an expression, as far as it goes; give its value and where it ends."""
        if self._depth > _DEEPEST:
            return UNREAD, end
        self._depth += 1
        try:
            value, at = self._operand(at, end)
            while at < end:
                word = self.source[at].text if self.source[at].kind in ("op", "name") else ""
                if word == "?" and not above and not self.source.python:
                    return self._choice(value, at, end)
                precedence = _PRECEDENCE.get(word, 0)
                if precedence <= above:
                    break
                right, at = self.expression(at + 1, end, precedence)
                value = _applied(word, value, right)
            if self.source.python and at < end and self.source[at].text == "if" and not above:
                condition, middle = self.expression(at + 1, end, 1)
                other, at = self.expression(middle + 1, end)
                return (UNREAD if isinstance(condition, Unread) else value if condition else other), at
            return value, at
        finally:
            self._depth -= 1

    def _choice(self, condition: Any, at: int, end: int) -> tuple[Any, int]:
        first, at = self.expression(at + 1, end)
        second, at = self.expression(self.skip(at, end, ":", ",") + 1, end)
        if isinstance(condition, Unread | Symbol):
            return UNREAD, at
        return (first if condition else second), at

    def _operand(self, at: int, end: int) -> tuple[Any, int]:
        source = self.source
        if at >= end:
            return UNREAD, at
        token = source[at]
        if token.text in ("!", "not", "-", "+", "*", "&") and token.kind in ("op", "name"):
            value, at = self.expression(at + 1, end, 7)
            return _signed(token.text, value), at
        if token.text == "new" and token.kind == "name":
            return self.expression(at + 1, end, 7)
        value, at = self._primary(token, at, end)
        while at < end:
            if source[at].text in (".", "->") and source[at + 1].kind == "name":
                value, at = self._member(value, at + 1, end)
            elif source[at].text == "[":
                index, _ = self.arguments(at)
                value, at = _item(value, index), source.partner[at] + 1
            elif source[at].text == "(":
                value, at = self._called(value, at), source.partner[at] + 1
            else:
                break
        return value, at

    def _primary(self, token: Token, at: int, end: int) -> tuple[Any, int]:
        source = self.source
        if token.kind in ("string", "template"):
            pieces = []
            while at < end and source[at].kind in ("string", "template"):
                text = source[at].text
                pieces.append(self._filled(text) if source[at].kind == "template" else text.replace(HOLE, ""))
                at += 1
            return "".join(pieces)[:_LONGEST], at
        if token.kind == "number":
            return _number(token.text), at + 1
        if token.kind == "name":
            if token.text in _WORDS:
                return _WORDS[token.text], at + 1
            return self.names.get(token.text, Symbol(token.text)), at + 1
        closing = source.partner[at]
        if token.text == "(":
            inner = [source[i].text for i in range(at + 1, min(closing, at + 5))]
            cast = inner[-1:] == ["*"] or (len(inner) == 1 and inner[0] in _TYPES)
            if cast and closing + 1 < end and closing - at <= 4 and source[closing + 1].text not in ",;":
                return self.expression(closing + 1, end, 7)
            values, _ = self.arguments(at)
            return (values[0] if len(values) == 1 else values), closing + 1
        if token.text in ("{", "["):
            values, _ = self.arguments(at)
            return values, closing + 1
        return UNREAD, at + 1

    def _member(self, value: Any, at: int, end: int) -> tuple[Any, int]:
        """Read what stands behind a dot: a method with its arguments, or a part of a name."""
        source, name = self.source, self.source[at].text
        after = at + 1
        if source[after].text == "<":  # Get<TTree>(...)
            after = self.skip(after, min(end, after + 8), ">") + 1
        if source[after].text != "(" or after >= end:
            return (Symbol(f"{value.name}.{name}") if isinstance(value, Symbol) else UNREAD), at + 1
        if isinstance(value, Symbol):
            return self._called(Symbol(f"{value.name}.{name}"), after), source.partner[after] + 1
        arguments, _ = self.arguments(after)
        return _method(value, name, arguments), source.partner[after] + 1

    def _called(self, function: Any, opening: int) -> Any:
        values, _ = self.arguments(opening)
        if not isinstance(function, Symbol):
            return UNREAD
        return constructed(function.name, values)

    def _filled(self, text: str) -> str:
        """Fill in the names of one of Python's f-strings."""

        def value(match: re.Match[str]) -> str:
            return _as_text(self.names.get(match[1], UNREAD)) if match[1] else HOLE

        filled = re.sub(r"\{(?:([A-Za-z_]\w*)|[^{}]*)\}", value, text.replace("{{", "\1").replace("}}", "\2"))
        return filled.replace("\1", "{").replace("\2", "}")


def constructed(name: str, values: list[Any]) -> Any:
    """Give what a function or a constructor of a known name gives."""
    last = re.split(r"::|\.", name)[-1]
    if name in _FORMS and values:
        return _formatted(values[0], values[1:])
    if last in _TEXTS:
        return _as_text(values[0]) if values else ""
    if last in ("Open", "TFile") and values:
        return File(values[0]) if is_text(values[0]) else UNREAD
    if last == "TChain" and values:
        return Tree(values[0]) if is_text(values[0]) else UNREAD
    if (
        name == "range"
        and 1 <= len(values) <= 3
        and all(type(v) is int and abs(v) < _LARGEST for v in values)
    ):
        if len(values) == 3 and not values[2]:
            return UNREAD
        return list(range(*values)[:_LONGEST])
    if name in ("int", "float") and len(values) == 1 and isinstance(values[0], int | float):
        return int(values[0]) if name == "int" else float(values[0])
    if name == "len" and len(values) == 1 and isinstance(values[0], list | str):
        return len(values[0])
    return UNREAD


def _method(value: Any, name: str, arguments: list[Any]) -> Any:
    first = arguments[0] if arguments else None
    if isinstance(value, File) and name == "Get":
        return Tree(str(first), [value.name]) if is_text(first) else UNREAD
    if isinstance(value, str):
        if name in ("Data", "c_str", "GetTitle", "Strip", "strip"):
            return value
        if name == "format":
            return _braced(value, arguments)
        if name == "join" and isinstance(first, list):
            return value.join(_as_text(v) for v in first[:1000])[:_LONGEST]
    if isinstance(value, list) and name == "size":
        return len(value)
    return UNREAD


def _item(value: Any, index: list[Any]) -> Any:
    if len(index) != 1:
        return UNREAD
    if isinstance(value, File) and is_text(index[0]):
        return Tree(index[0], [value.name])
    if isinstance(value, list) and type(index[0]) is int and -len(value) <= index[0] < len(value):
        return value[index[0]]
    return UNREAD


def _number(text: str) -> Any:
    plain = text.replace("'", "").replace("_", "").rstrip("lLuU")
    try:
        if re.fullmatch(r"[0-9]{1,15}", plain):
            return int(plain)
        return float(plain.rstrip("fF"))
    except ValueError:
        return UNREAD


def _as_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return HOLE
    return str(value)


def _signed(sign: str, value: Any) -> Any:
    if sign in ("*", "&"):
        return value
    if sign in ("!", "not"):
        return UNREAD if isinstance(value, Unread | Symbol) else not value
    if isinstance(value, int | float):
        return -value if sign == "-" else value
    return UNREAD


def _applied(operator: str, left: Any, right: Any) -> Any:
    if operator == "%" and isinstance(left, str):
        return _formatted(left, right if isinstance(right, list) else [right])
    if isinstance(left, str) or isinstance(right, str):
        if operator == "+":
            text = _as_text(left) + _as_text(right)
            return text if len(text) <= _LONGEST else UNREAD
        if operator in ("&&", "and") and isinstance(left, str) and isinstance(right, str):
            return f"({left}) && ({right})"  # of two TCut
        if operator in ("==", "!=") and is_text(left) and is_text(right):
            return (left == right) == (operator == "==")
        return UNREAD
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        return UNREAD
    return _computed(operator, left, right)


def _computed(operator: str, left: float, right: float) -> Any:
    if operator in ("/", "%") and not right:
        return UNREAD
    whole = isinstance(left, int) and isinstance(right, int)
    results: Mapping[str, Any] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left // right if whole else left / right,
        "%": lambda: left % right,
        "==": lambda: left == right,
        "!=": lambda: left != right,
        "<": lambda: left < right,
        ">": lambda: left > right,
        "<=": lambda: left <= right,
        ">=": lambda: left >= right,
        "&&": lambda: bool(left and right),
        "and": lambda: bool(left and right),
        "||": lambda: bool(left or right),
        "or": lambda: bool(left or right),
    }
    value = results[operator]()
    return value if abs(value) <= _LARGEST else UNREAD


def _formatted(form: Any, values: list[Any]) -> Any:
    """Format as printf does, whole numbers, floating ones and text."""
    if not isinstance(form, str):
        return UNREAD
    rest = iter(values)

    def one(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        value = next(rest, UNREAD)
        if match[4] == "s":
            return _as_text(value)
        if isinstance(value, bool) and match[4] in "diu":
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return HOLE
        return match[0].replace("l", "").replace("z", "") % value

    text = _CONVERSION.sub(one, form)
    return text if len(text) <= _LONGEST else UNREAD


def _braced(form: str, values: list[Any]) -> str:
    rest = iter(values)

    def one(match: re.Match[str]) -> str:
        if match[1]:
            index = int(match[1])
            return _as_text(values[index]) if index < len(values) else HOLE
        return _as_text(next(rest, UNREAD))

    return re.sub(r"\{([0-9]{0,3})\}", one, form)[:_LONGEST]
