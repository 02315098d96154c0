"""Formulas of TTree::Draw in the language of `timelike.data.expressions`, where both mean the same."""

from __future__ import annotations

import ast
import re

from timelike.data.expressions import Expression
from timelike.data.grammar import Text
from timelike.errors import DataError

__all__ = ["translated"]

_MOST = 5000
_FUNCTIONS = {
    **{
        f"TMath::{name}": name.lower() for name in ("Abs", "Sqrt", "Log", "Exp", "Log10", "Cos", "Sin", "Tan")
    },
    **{f"TMath::{name}": f"arc{name[1:].lower()}" for name in ("ACos", "ASin", "ATan", "ATan2")},
    "TMath::Max": "maximum",
    "TMath::Min": "minimum",
    "TMath::Hypot": "hypot",
    "TMath::Power": "pow",
    "TMath::Pi": "pi",
    "fabs": "abs",
    "acos": "arccos",
    "asin": "arcsin",
    "atan": "arctan",
    "atan2": "arctan2",
    "max": "maximum",
    "min": "minimum",
}
_TOKEN = re.compile(
    r"TMath::\w+|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|\^|!(?!=)|\[|\]|\$|@|%|&&|\|\||&|\||[^\s]|\s+"
)
_COMPARED = re.compile(r"\s*[\w.]+\s*(?:[<>=+*/^%-]|!=)")
_OPENING = re.compile(r"\s*\(")


def translated(formula: str) -> str | None:
    """Translate a formula; None where it cannot be, or would mean something else.

    ``^`` is a power there, and ``max`` takes two numbers. Refused are indices, ``Sum$`` and its like, bits, a
    comparison of a comparison, and a negation before a comparison: ``!a == b`` is ``(!a) == b`` there.

    Examples
    --------
    >>> translated("pt > 20 && TMath::Abs(eta) < 2.5")
    'pt > 20 && abs(eta) < 2.5'
    >>> translated("Sum$(jet_pt) > 100") is None
    True
    """
    if len(formula) > _MOST:
        return None
    pieces: list[str] = []
    given = formula.strip()
    for match in _TOKEN.finditer(given):
        word = match[0]
        if word in ("[", "]", "$", "@", "&", "|", "`"):
            return None
        if word == "!" and _COMPARED.match(given, match.end()):
            return None
        called = _OPENING.match(given, match.end()) is not None
        if word in _FUNCTIONS and (called or word == "TMath::Pi"):
            word = _FUNCTIONS[word]
        elif word.startswith("TMath::") or (word == "pow" and called):
            return None
        pieces.append("**" if word == "^" else word)
    text = "".join(pieces).replace("pi()", "pi")
    try:
        Expression.parse(text)
        node = Text.prepare(text).parse()
    except DataError:
        return None
    for part in ast.walk(node):
        if isinstance(part, ast.Compare):
            sides = [part.left, *part.comparators]
            negated = any(isinstance(s, ast.UnaryOp) and isinstance(s.op, ast.Not) for s in sides)
            if len(part.ops) > 1 or negated or any(isinstance(side, ast.Compare) for side in sides):
                return None
        if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not):
            inner = part.operand
            if isinstance(inner, ast.Compare) and not _parenthesised(text, inner):
                return None
    return text


def _parenthesised(text: str, node: ast.Compare) -> bool:
    """Say whether a negated comparison stands in parentheses, in the prepared text."""
    prepared = Text.prepare(text).prepared.encode()
    before = prepared[: node.col_offset].rstrip()
    return before.endswith(b"(") and prepared[node.end_col_offset :].lstrip().startswith(b")")
