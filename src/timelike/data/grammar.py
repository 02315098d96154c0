"""The grammar of expressions: which texts are expressions, and the position of what is not one.

A text is prepared (backticks, ``&&``, ``||`` and ``!`` are not of Python's grammar), parsed by Python's own
parser, and checked node by node against what the language has. Nothing is evaluated here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from timelike.data.functions import ELEMENTWISE, FUNCTIONS, OPERATORS
from timelike.errors import DataError, nearest

__all__ = ["Text", "checked_names", "name_of"]

_MAX_CHARACTERS = 10_000
_MAX_DEPTH = 200  # of nested operations: Python's parser and our walker recurse
_MAX_INTEGER = int(np.iinfo(np.int64).max)
_BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor)

# What Python's grammar does not have, or reads in its own way: a name in backticks, C's words, what is
# refused outright, and line breaks.
_TOKEN = re.compile(r"`(?P<name>[^`]+)`|&&|\|\||!(?!=)|(?P<bad>[`#'\"\\\0])|\s")
_WORDS = {"&&": " and ", "||": " or ", "!": "not "}


@dataclass(frozen=True)
class Text:
    """An expression in Python's grammar, and where its characters were in what was given."""

    given: str
    prepared: str
    origin: tuple[int, ...]  # of each prepared character, the position in the given text; and that of the end
    quoted: Mapping[int, str]  # prepared position -> name in backticks there

    @classmethod
    def prepare(cls, given: str) -> Text:
        """Turn what was given into Python's grammar."""
        pieces: list[str] = []
        origin: list[int] = []
        quoted: dict[int, str] = {}

        def put(piece: str, at: int, *, one: bool = False) -> None:
            pieces.append(piece)
            origin.extend([at] * len(piece) if one else range(at, at + len(piece)))

        end = len(given) - len(given.lstrip())  # Python refuses an indented expression
        for token in _TOKEN.finditer(given, end):
            put(given[end : token.start()], end)
            end = token.end()
            at = token.start()
            if token["bad"]:
                what = (
                    "a backtick without its partner"
                    if token["bad"] == "`"
                    else f"{token['bad']!r} has no meaning"
                )
                raise DataError(f"{given!r}: character {at + 1}: {what}")
            if token["name"] is not None:
                quoted[len(origin)] = token["name"]
                put("_", at, one=True)
            else:
                put(_WORDS.get(token[0], " "), at, one=True)
        put(given[end:], end)
        if not "".join(pieces).strip():
            raise DataError("the expression is empty")
        return cls(given, "".join(pieces), (*origin, len(given)), quoted)

    def error(self, position: int, message: str) -> DataError:
        """Make an error at a position of the prepared text."""
        at = self.origin[min(max(position, 0), len(self.origin) - 1)]
        return DataError(f"{self.given!r}: character {at + 1}: {message}")

    def position(self, node: ast.expr, *, end: bool = False) -> int:
        """Give the position of a node in the prepared text; Python counts in bytes of UTF-8."""
        offset = node.end_col_offset if end else node.col_offset
        return len(self.prepared.encode()[:offset].decode())

    def of(self, node: ast.expr) -> str:
        """Give the text of a node as it was given."""
        start, end = self.position(node), self.position(node, end=True)
        return self.given[self.origin[start] : self.origin[end]]

    def parse(self) -> ast.expr:
        """Parse the text; whether the nodes are ours to evaluate is not yet asked."""
        if len(self.given) > _MAX_CHARACTERS:
            raise DataError(f"an expression of {len(self.given)} characters; {_MAX_CHARACTERS} are possible")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # such as `1or x`: Python guesses, we do not
                return ast.parse(self.prepared, mode="eval").body
        except SyntaxError as error:
            # Python gives no place for what is missing at the end.
            at = error.offset - 1 if error.offset else len(self.prepared)
            raise self.error(at, f"syntax error ({self._hint(at) or error.msg})") from error
        except (RecursionError, MemoryError, ValueError, OverflowError) as error:
            raise DataError(f"{self.given[:60]!r}...: too deeply nested, or too large a number") from error

    def _hint(self, at: int) -> str:
        """Say what Python's parser does not: why the text cannot go on, or end, at a position."""
        rest = self.prepared[at:]
        if not rest.strip():
            return "something is missing at the end"
        return "'==' compares" if rest.startswith("=") and not rest.startswith("==") else ""


def name_of(text: Text, node: ast.expr) -> str | None:
    """Give the name that a node stands for, dots included; None where it is no name.

    Raises
    ------
    DataError
        If it has too many dots.
    """
    attributes: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        attributes.append(inner.attr)
        inner = inner.value
        if len(attributes) > _MAX_DEPTH:
            raise _refused(text, node, f"nested more than {_MAX_DEPTH} deep")
    if not isinstance(inner, ast.Name):
        return None
    return ".".join([text.quoted.get(text.position(inner), inner.id), *reversed(attributes)])


def checked_names(text: Text, root: ast.expr) -> tuple[str, ...]:
    """Refuse what is not of the language, and give the names that are used.

    Parameters
    ----------
    text : Text
        The text of the expression.
    root : ast.expr
        What it was parsed to.

    Returns
    -------
    tuple of str
        Each name once, in the order of the text.

    Raises
    ------
    DataError
        Naming the first thing that cannot be used, and its position.
    """
    names: dict[str, None] = {}
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise _refused(text, node, f"nested more than {_MAX_DEPTH} deep")
        name = name_of(text, node)
        if name is not None:
            if text.position(node) not in text.quoted and any(p.startswith("__") for p in name.split(".")):
                raise _refused(text, node, f"the name '{name}' stands in backticks if it is meant")
            names[name] = None
            continue
        stack.extend((child, depth + 1) for child in reversed(_operands(text, node)))
    return tuple(names)


def _operands(text: Text, node: ast.expr) -> list[ast.expr]:
    """Check one node, and give the expressions that it works on."""
    match node:
        case ast.Constant(value=bool() | float()):
            return []
        case ast.Constant(value=int() as value):
            if value > _MAX_INTEGER:
                raise _refused(text, node, "the integer is beyond int64; write it as 1e30")
            return []
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return [left, right]
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.BoolOp(values=values):
            return values
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in OPERATORS for op in ops):
            for side in (left, *others):
                _check_side(text, side)
            return [left, *others]
        case ast.Call():
            _check_call(text, node)
            return node.args
    raise _refused(text, node, _KINDS.get(type(node), "this cannot be used"))


def _refused(text: Text, node: ast.expr, message: str) -> DataError:
    return text.error(text.position(node), message)


def _check_side(text: Text, node: ast.expr) -> None:
    """Refuse `a > 1 & b < 2`: to Python it means `a > (1 & b) < 2`, to its writer never."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, _BITWISE)):
        return
    before = text.prepared[: text.position(node)].rstrip()
    after = text.prepared[text.position(node, end=True) :].lstrip()
    if not (before.endswith("(") and after.startswith(")")):
        raise _refused(
            text, node, f"'{text.of(node)}' binds tighter than the comparison; put comparisons in parentheses"
        )


def _check_call(text: Text, node: ast.Call) -> None:
    name = name_of(text, node.func)
    if name is None or not isinstance(node.func, ast.Name) or text.position(node.func) in text.quoted:
        plain = (name or "").rpartition(".")[2]
        hint = f"; write {plain}(...)" if plain in FUNCTIONS else ""
        raise _refused(text, node, f"only functions of the language can be called{hint}")
    if name not in FUNCTIONS:
        raise _refused(text, node, f"no function '{name}'; {nearest(name, FUNCTIONS)}")
    needed = ELEMENTWISE[name][1] if name in ELEMENTWISE else 1
    given = len(node.args) + len(node.keywords)
    if node.keywords or given != needed:
        hint = f"; {name}imum takes two" if name in ("min", "max") and given == 2 else ""
        raise _refused(text, node, f"'{name}' takes {needed} argument{'s' * (needed > 1)}, not {given}{hint}")


_KINDS: Mapping[type[ast.expr], str] = {
    ast.Attribute: "a dot stands within a name only",
    ast.Subscript: "an index cannot be used; first(x), last(x) take a step, and backticks hold any name",
    ast.IfExp: "'if' cannot be used; where(condition, a, b) chooses",
    ast.Lambda: "a lambda cannot be used",
    ast.ListComp: "a comprehension cannot be used",
    ast.GeneratorExp: "a comprehension cannot be used",
    ast.SetComp: "a comprehension cannot be used",
    ast.DictComp: "a comprehension cannot be used",
    ast.Tuple: "a list cannot be used",
    ast.List: "a list cannot be used",
    ast.NamedExpr: "an assignment cannot be used",
    ast.Constant: "a constant that is no number cannot be used",
    ast.BinOp: "this operator cannot be used; possible: + - * / % ** & | ^",
    ast.Compare: "this comparison cannot be used; possible: < <= > >= == !=",
}
