"""The tokens of a macro in C++ or Python, in one form: brackets with their partners, and blocks.

Nothing is executed, and the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from timelike.errors import ConfigError

__all__ = ["Source", "Token"]

MOST_CHARACTERS = 1_000_000

_OPERATORS = r"->|\+=|==|!=|<=|>=|&&|\|\||\+\+|--|\*\*|:=|[-+*/%=<>!&|^~?:;,.(){}\[\]@]"
_NUMBER = r"\.?[0-9](?:[eE][-+][0-9]|[0-9A-Za-z_.])*"
_CPP = re.compile(
    r'(?P<space>\s+|//[^\n]*)|(?P<comment>/\*)|(?P<raw>R"\()|(?P<string>"(?:[^"\\\n]|\\[\s\S])*"?)'
    r"|(?P<char>'(?:[^'\\\n]|\\[\s\S])*'?)|(?P<number>"
    + _NUMBER.replace("|[0-9A-Z", "|'[0-9]|[0-9A-Z")
    + r")"
    r"|(?P<name>[A-Za-z_]\w*(?:::[A-Za-z_~]\w*)*)|(?P<op>" + _OPERATORS + r")|(?P<other>[\s\S])"
)
_PYTHON = re.compile(
    r"(?P<newline>\n)|(?P<space>[^\S\n]+|\\\n|\#[^\n]*)"
    r"|(?P<prefix>[rRbBuUfF]{0,2})(?:(?P<long>\"\"\"|''')|(?P<string>\"(?:[^\"\\\n]|\\[\s\S])*\"?"
    r"|'(?:[^'\\\n]|\\[\s\S])*'?))"
    r"|(?P<number>" + _NUMBER + r")|(?P<name>[A-Za-z_]\w*)|(?P<op>" + _OPERATORS + r")|(?P<other>[\s\S])"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\n": ""}
_PAIRS = {")": "(", "]": "[", "}": "{", "dedent": "indent"}


@dataclass(frozen=True)
class Token:
    """A token: its kind ("name", "number", "string", "template", "op", "block", "end"), text and line."""

    kind: str
    text: str
    line: int


_END = Token("end", "", 0)


class Source:
    """The tokens of a macro.

    Parameters
    ----------
    text : str
    python : bool
        Whether it is Python; its lines then end with ``;``, and its blocks stand between "indent" and
        "dedent".
    """

    def __init__(self, text: str, *, python: bool) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"a macro of {len(text)} characters; {MOST_CHARACTERS} are possible")
        self.python = python
        text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(8)
        self.lines = text.split("\n")
        self.tokens = _python(text) if python else _cpp(text)
        self.partner = _partners(self.tokens)

    def __getitem__(self, index: int) -> Token:
        return self.tokens[index] if 0 <= index < len(self.tokens) else _END

    def __len__(self) -> int:
        return len(self.tokens)

    def text_of(self, start: int, end: int) -> str:
        """Give the lines that tokens stand on, shortened."""
        first, last = self[start].line, self[max(start, end - 1)].line
        # Cut before they are joined: a macro may be one line, and each of its calls is shown.
        lines = " ".join(line[:400] for line in self.lines[first - 1 : min(last, first + 10)])
        lines = " ".join(lines.split())
        return lines if len(lines) <= 160 else lines[:157] + "..."


def _partners(tokens: list[Token]) -> list[int]:
    """Give for each opening bracket the index of the closing one; for any other token its own."""
    partner = list(range(len(tokens)))
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind not in ("op", "block"):
            continue
        if token.text in ("(", "[", "{", "indent"):
            opened.append(index)
        elif token.text in _PAIRS and opened and tokens[opened[-1]].text == _PAIRS[token.text]:
            partner[opened.pop()] = index
    for index in opened:
        partner[index] = len(tokens)
    return partner


def _unescaped(body: str) -> str:
    return re.sub(r"\\([\s\S])", lambda m: _ESCAPES.get(m[1], m[1]), body)


def _cpp(text: str) -> list[Token]:
    tokens: list[Token] = []
    at, line, fresh = 0, 1, True  # fresh: nothing but blanks before on this line
    while at < len(text):
        if fresh and text[at] == "#":
            end = at
            while True:  # a directive goes on behind a backslash
                end = text.find("\n", end + 1)
                if end < 0 or text[end - 1] != "\\":
                    break
            end = len(text) if end < 0 else end
            line += text.count("\n", at, end)
            at = end
            continue
        match = _CPP.match(text, at)
        assert match is not None  # "other" takes any character
        kind, word = str(match.lastgroup), match[0]
        at = match.end()
        if kind == "comment":
            end = text.find("*/", at)
            at = len(text) if end < 0 else end + 2
            word = text[match.start() : at]
        elif kind == "raw":
            end = text.find(')"', at)
            tokens.append(Token("string", text[at : len(text) if end < 0 else end], line))
            at = len(text) if end < 0 else end + 2
            word = text[match.start() : at]
        elif kind in ("string", "char"):
            tokens.append(Token("string", _unescaped(word[1:].removesuffix(word[0])), line))
        elif kind in ("name", "number", "op"):
            tokens.append(Token(kind, word, line))
        fresh = (fresh or "\n" in word) and kind in ("space", "comment")
        line += word.count("\n")
    return tokens


def _python(text: str) -> list[Token]:
    tokens: list[Token] = []
    indents = [0]
    at, line, depth = 0, 1, 0
    while at < len(text):
        match = _PYTHON.match(text, at)
        assert match is not None
        start, at = at, match.end()
        kind = "string" if match["long"] or match["string"] else match.lastgroup or ""
        if (
            kind in ("name", "number", "string", "op")
            and (not tokens or tokens[-1].text == ";")
            and not depth
        ):
            _indented(tokens, indents, start - (text.rfind("\n", 0, start) + 1), line)
        if kind == "newline":
            if not depth and tokens and tokens[-1].text != ";":
                tokens.append(Token("op", ";", line))
        elif kind == "string":
            if match["long"]:
                end = text.find(match["long"], at)
                body, at = text[at : len(text) if end < 0 else end], len(text) if end < 0 else end + 3
            else:
                body = match["string"][1:].removesuffix(match["string"][0])
            prefix = match["prefix"].lower()
            body = body if "r" in prefix else _unescaped(body)
            tokens.append(Token("template" if "f" in prefix else "string", body, line))
        elif kind in ("name", "number", "op"):
            word = match[0]
            if kind == "op":
                depth = max(0, depth + (word in "([{") - (word in ")]}"))
            words = ("else", "if") if word == "elif" else (word,)
            tokens.extend(Token(kind, w, line) for w in words)
        line += text.count("\n", start, at)
    tokens.append(Token("op", ";", line))
    tokens.extend(Token("block", "dedent", line) for _ in indents[1:])
    return tokens


def _indented(tokens: list[Token], indents: list[int], column: int, line: int) -> None:
    """Open or close blocks where a line begins at another column."""
    if column > indents[-1]:
        indents.append(column)
        tokens.append(Token("block", "indent", line))
    while column < indents[-1]:
        indents.pop()
        tokens.append(Token("block", "dedent", line))
