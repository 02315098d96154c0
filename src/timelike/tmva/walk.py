"""Walks through the statements of a macro in their order, and tells of each call of a method that is known.

Loops with bounds that can be read are gone through as often as they say, others once; of an ``if`` whose
condition can be read one branch, of any other both. Functions of the macro are read where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from timelike.errors import ConfigError
from timelike.tmva.source import Source
from timelike.tmva.values import UNREAD, File, Reader, Symbol, Tree, Unread, constructed, is_text

__all__ = ["Call", "walk"]

_DEEPEST = 50
_MOST_TURNS = 1000  # of a loop
_MOST_TOKENS = 300_000  # that are gone through, again and again in loops
_BLOCKS = ("struct", "class", "namespace", "enum", "union", "extern")
_KEYWORDS = ("return", "delete", "if", "else", "for", "while", "import", "from", "using", "continue", "break")


class Call:
    """A call of a method: ``owner->name(arguments)``, with what could be read."""

    def __init__(
        self, owner: str, name: str, arguments: list[Any], named: dict[str, Any], line: int, text: str
    ) -> None:
        self.owner, self.name, self.line, self.text = owner, name, line, text
        self.arguments, self.named = arguments, named


def walk(source: Source, known: Collection[str], tell: Callable[[Call], None]) -> Reader:
    """Walk through a macro.

    Parameters
    ----------
    source : Source
    known : collection of str
        Names of the methods to tell of.
    tell : callable
        Takes each `Call`.

    Raises
    ------
    ConfigError
        If blocks are nested too deeply, or loops go on for too long.
    """
    walker = _Walker(source, frozenset(known), tell)
    walker.run(0, len(source), 0)
    return walker.reader


class _Walker:
    def __init__(self, source: Source, known: frozenset[str], tell: Callable[[Call], None]) -> None:
        self.source, self.known, self.tell = source, known, tell
        self.reader = Reader(source)
        self.left = _MOST_TOKENS

    def run(self, at: int, end: int, depth: int) -> None:
        """Go through the statements of a range of tokens."""
        source = self.source
        if depth > _DEEPEST:
            raise ConfigError(f"line {source[at].line}: blocks nested more than {_DEEPEST} deep")
        while at < end:
            word = source[at].text if source[at].kind in ("name", "op") else ""
            if word == "for":
                at = self._for(at, end, depth)
            elif word == "if":
                at = self._if(at, end, depth)
            elif word in ("{", ";", "}", ":", "else") or source[at].kind == "block":
                at += 1
            else:
                stop = self._statement_end(at, end)
                self._statement(at, stop)
                at = max(stop, at + 1)

    # -- extents ---------------------------------------------------------------------------------------------

    def _statement_end(self, at: int, end: int) -> int:
        """Give where a simple statement ends: behind its ';', or where a block begins."""
        source = self.source
        start = at
        while at < end:
            text, kind = source[at].text, source[at].kind
            if kind == "block" or (kind == "op" and text in (";", "}")):
                return at
            if kind == "op" and text == "{" and not source.python:
                before = source[at - 1].text
                if before in (")", "else", "do", "try", "const") or source[start].text in _BLOCKS:
                    return at
            if kind == "op" and text == ":" and source.python:
                return at
            at = max(at, source.partner[at]) + 1
        return end

    def _body(self, at: int, end: int, depth: int) -> tuple[int, int, int]:
        """Give begin and end of the body of a loop or a condition, and where the text goes on."""
        source = self.source
        if source[at].text in (":", ";") and source.python:
            at += 1
        if source.python and source[at].text == ";" and source[at + 1].text == "indent":
            at += 1
        if source[at].text in ("{", "indent") and source[at].kind in ("op", "block"):
            return at + 1, min(source.partner[at], end), min(source.partner[at] + 1, end)
        stop = self._whole(at, end, depth)
        return at, stop, stop

    def _whole(self, at: int, end: int, depth: int) -> int:
        """Give the end of a statement that may be a loop or a condition."""
        source = self.source
        if depth > _DEEPEST:
            raise ConfigError(f"line {source[at].line}: statements nested more than {_DEEPEST} deep")
        if source[at].text in ("for", "while", "if") and source[at + 1].text == "(" and not source.python:
            _, _, at = self._body(source.partner[at + 1] + 1, end, depth + 1)
            while source[at].text == "else" and at < end:
                _, _, at = self._body(at + 1, end, depth + 1)
            return at
        return min(self._statement_end(at, end) + 1, end)

    def _header(self, at: int, end: int) -> tuple[int, int, int]:
        """Give begin and end of what stands in the header of a loop or a condition, and where it is over."""
        if not self.source.python and self.source[at + 1].text == "(":
            closing = min(self.source.partner[at + 1], end)
            return at + 2, closing, closing + 1
        stop = self.reader.skip(at + 1, end, ":", ";")
        return at + 1, stop, stop

    # -- loops and conditions --------------------------------------------------------------------------------

    def _for(self, at: int, end: int, depth: int) -> int:
        start, stop, after = self._header(at, end)
        first, last, after = self._body(after, end, depth)
        name, values = self._turns(start, stop)
        for value in values:
            if name:
                self.reader.names[name] = value
            self._spend(last - first)
            self.run(first, last, depth + 1)
        return max(after, at + 1)

    def _turns(self, start: int, stop: int) -> tuple[str, list[Any]]:
        """Give the variable of a loop, and its values; one that is unread where they are not known."""
        source, reader = self.source, self.reader
        within = reader.skip(start, stop, "in") if source.python else reader.skip(start, stop, ":", ";")
        name = source[within - 1].text
        if source[within].text in ("in", ":") and within < stop:
            values, _ = reader.expression(within + 1, stop)
            return name, values[:_MOST_TURNS] if isinstance(values, list) else [UNREAD]
        equals = reader.skip(start, within, "=")
        name = source[equals - 1].text
        begin, _ = reader.expression(equals + 1, within)
        bound: Any = UNREAD
        sign = source[within + 2].text
        if source[within + 1].text == name and sign in ("<", "<=", "!="):
            bound, _ = reader.expression(within + 3, reader.skip(within + 1, stop, ";"))
        step = source.tokens[reader.skip(within + 1, stop, ";") + 1 : stop] if within < stop else []
        by_one = "++" in [token.text for token in step]
        if type(begin) is int and type(bound) is int and by_one:
            return name, list(range(begin, min(bound + (sign == "<="), begin + _MOST_TURNS)))
        return name, [UNREAD]

    def _if(self, at: int, end: int, depth: int) -> int:
        """Go through one branch of a condition that can be read, or through all."""
        source = self.source
        taken = False
        while True:
            start, stop, after = self._header(at, end)
            value, read = self.reader.expression(start, stop)
            unknown = read < stop or isinstance(value, Unread | Symbol | str)
            first, last, after = self._body(after, end, depth)
            if not taken and (unknown or value):
                self._spend(last - first)
                self.run(first, last, depth + 1)
                taken = not unknown
            after = max(after, at + 1)
            if source[after].text != "else" or after >= end:
                return after
            if source[after + 1].text == "if":
                at = after + 1
                continue
            first, last, after = self._body(after + 1, end, depth)
            if not taken:
                self.run(first, last, depth + 1)
            return max(after, at + 1)

    def _spend(self, tokens: int) -> None:
        self.left -= tokens + 10
        if self.left < 0:
            raise ConfigError("the loops of the macro go on for too long to be read")

    # -- statements ------------------------------------------------------------------------------------------

    def _statement(self, at: int, end: int) -> None:
        source = self.source
        index = at - 1
        while (index := index + 1) < end:
            token = source[index]
            if token.kind == "name" and token.text in self.known and source[index + 1].text == "(":
                owner = source[index - 2].text if source[index - 1].text in (".", "->") else ""
                arguments, named = self.reader.arguments(index + 1)
                text = source.text_of(index, min(source.partner[index + 1] + 1, end))
                self.tell(Call(owner, token.text, arguments, named, token.line, text))
                index = source.partner[index + 1]
        if source[at].text == "def" or source[end].text == "{":
            opening = self.reader.skip(at, end, "(")
            self._defaults(opening, min(source.partner[opening], end) if opening < end else end)
        elif source[at].text == "with":
            value, read = self.reader.expression(at + 1, end)
            self._set(source[read + 1].text if source[read].text == "as" else "", value)
        elif source[at].text not in _KEYWORDS:
            self._assignments(at, end)

    def _defaults(self, at: int, end: int) -> None:
        """Take the values that parameters of a function have when they are not given."""
        at += 1
        while at < end:
            stop = self.reader.skip(at, end, ",")
            equals = self.reader.skip(at, stop, "=")
            if equals < stop:
                self._set(source_name(self.source, at, equals), self.reader.expression(equals + 1, stop)[0])
            at = stop + 1

    def _assignments(self, at: int, end: int) -> None:
        """Take over ``x = 1, y = 2``, ``s += "..."``, ``TString s("...")`` and what changes in place."""
        source, reader = self.source, self.reader
        equals = reader.skip(at, end, "=", "+=")
        if equals >= end:
            self._declared(at, end)
            return
        while equals < end:
            stop = end if source.python else reader.skip(equals + 1, end, ",")
            name = source_name(source, at, equals)
            value, read = reader.expression(equals + 1, stop)
            if read < stop:
                value = UNREAD
            if source[equals].text == "+=":
                old = reader.names.get(name, UNREAD)
                both = isinstance(old, str | int | float) and isinstance(value, str | int | float)
                value = _added(old, value) if both else _holed(old)
            self._set(name, value)
            at, equals = stop + 1, reader.skip(stop + 1, end, "=", "+=")

    def _set(self, name: str, value: Any) -> None:
        if name:
            self.reader.names[name] = value

    def _declared(self, at: int, end: int) -> None:
        source, reader = self.source, self.reader
        opening = reader.skip(at, end, "(", "{")
        if opening >= end or opening - at < 1:
            return
        name = source[opening - 1].text
        if source[opening - 2].text in (".", "->"):
            self._changed(source[opening - 3].text, name, opening)
        elif source[opening - 2].kind == "name" and opening - 2 >= at and not source.python:
            values, _ = reader.arguments(opening)
            made = constructed(source[at].text, values)
            self._set(name, values if isinstance(made, Unread) and source[opening].text == "{" else made)

    def _changed(self, owner: str, method: str, opening: int) -> None:
        """Take over what changes a value in place: ``Append``, ``Add`` of a chain, ``GetObject``."""
        reader = self.reader
        if method not in ("Append", "append", "Add", "GetObject", "push_back"):
            return
        value = reader.names.get(owner, UNREAD)
        arguments, _ = reader.arguments(opening)
        if not arguments:
            return
        if isinstance(value, str):
            reader.names[owner] = _added(value, arguments[0])
        elif isinstance(value, list) and len(value) < _MOST_TURNS:
            reader.names[owner] = [*value, arguments[0]]
        elif isinstance(value, Tree) and is_text(arguments[0]):
            value.files.append(arguments[0])
        elif isinstance(value, File) and method == "GetObject" and len(arguments) > 1:
            tree = Tree(arguments[0], [value.name]) if is_text(arguments[0]) else UNREAD
            self._set(self.source[self.source.partner[opening] - 1].text, tree)


def _added(old: Any, new: Any) -> Any:
    if isinstance(old, str):
        text = old + (str(new) if isinstance(new, str | int | float) else "\0")
        return text if len(text) <= 20_000 else UNREAD
    value = UNREAD if isinstance(new, str) else old + new
    return value if not isinstance(value, int | float) or abs(value) < 1e15 else UNREAD


def _holed(old: Any) -> Any:
    return old + "\0" if isinstance(old, str) and len(old) < 20_000 else UNREAD


def source_name(source: Source, at: int, equals: int) -> str:
    """Give the name that is assigned to: the last one before '=', without an index behind it."""
    index = equals - 1
    if source[index].text == "]":
        while index >= at and source[index].text != "[":
            index -= 1
        index -= 1
    token = source[index]
    return token.text if token.kind == "name" and index >= at and source[index - 1].text != "." else ""
