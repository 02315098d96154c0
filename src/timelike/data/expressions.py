"""The language of cuts and derived variables: arithmetic on columns of events and of their steps.

    (jet_pt > 550) & (num(part_pt) >= 2)        log(part_pt / jet_pt)        hypot(part_px, part_py)

- **Names** are branches and new variables, and `pi`. A name may have dots (``tracks.d0``); any other name
  stands in backticks (`` `Jets:.pt` ``).
- **Operators**: ``+ - * / % **``; comparisons, also chained (``550 < pt < 650``); conditions by ``& | ~``,
  ``and or not`` or ``&& || !``. As in Python, ``&`` binds tighter than a comparison: write
  ``(a > 1) & (b < 2)`` or ``a > 1 && b < 2``; ``a > 1 & b < 2`` is refused. Of integers, ``& | ^ ~`` work on
  the bits.
- **Functions of numbers**: those of `ELEMENTWISE`, ``where(condition, a, b)`` among them.
- **Functions of the steps of an event**: those of `REDUCERS`, ``num sum mean min max first last any all``. An
  event without steps has num and sum 0, any false, all true; the others are NaN, to which every comparison
  but ``!=`` is false.
- A number per event goes with numbers per step: it is the same for every step of its event.
- **Types**: numbers are computed in float64, integers in int64, a bool counting as 0 or 1. ``/`` and ``**``
  give float64, but an integer to a constant integer power stays an integer where it fits. ``%`` has the sign
  of its right side. An integer result beyond int64 is an error, never wrapped.

A text is parsed with Python's grammar, and evaluated by the walker in this file alone: no attribute is
looked up, nothing is called but the functions above, and nothing is given to `eval`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timelike.data.functions import CONSTANTS, ELEMENTWISE, FUNCTIONS, OPERATORS, REDUCERS, Array
from timelike.data.grammar import Text, checked_names, name_of
from timelike.data.table import Column
from timelike.errors import DataError
from timelike.ragged import check_same_lengths

__all__ = ["CONSTANTS", "ELEMENTWISE", "FUNCTIONS", "REDUCERS", "Expression"]

Entries = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Expression:
    """An expression, checked and ready to be evaluated on the columns of any table.

    Made by `Expression.parse`.

    Examples
    --------
    >>> import numpy as np
    >>> pt = Column(np.array([3.0, 4.0, 5.0]), np.array([0, 2, 3]))
    >>> jet = Column(np.array([10.0, 5.0]))
    >>> x = Expression.parse("part_pt / jet_pt")
    >>> x.names
    ('part_pt', 'jet_pt')
    >>> x.evaluate({"part_pt": pt, "jet_pt": jet}.__getitem__).values
    array([0.3, 0.4, 1. ])
    """

    text: str
    names: tuple[str, ...]
    _node: ast.expr
    _text: Text

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Parse and check the text of an expression.

        Parameters
        ----------
        text : str
            The expression.

        Returns
        -------
        Expression

        Raises
        ------
        DataError
            If the text is no expression of this language; the message gives the position.
        """
        prepared = Text.prepare(text)
        node = prepared.parse()
        names = checked_names(prepared, node)
        return cls(text, names, node, prepared)

    def evaluate(self, lookup: Callable[[str], Column], *, entries: Entries | None = None) -> Column:
        """Compute the expression.

        Parameters
        ----------
        lookup : callable
            Gives the column of a name, or raises `DataError`.
        entries : array [B], optional
            Index of each event in its file, for messages.

        Returns
        -------
        Column
            Per event or per step, as its columns are; of one number for all where there are none.

        Raises
        ------
        DataError
            If columns do not fit together, or an operation has no meaning for them.
        """
        # Division by zero and the like give inf and NaN; whoever uses the result says where.
        with np.errstate(all="ignore"):
            return _Evaluator(self._text, lookup, entries).column(self._node)


class _Evaluator:
    """Walks over a checked expression; every node gives a column."""

    def __init__(self, text: Text, lookup: Callable[[str], Column], entries: Entries | None) -> None:
        self.text = text
        self.lookup = lookup
        self.entries = entries

    def column(self, node: ast.expr) -> Column:
        match node:
            case ast.Constant(value=value):
                return Column(np.asarray(value))
            case ast.Name() | ast.Attribute():
                return self.lookup(name_of(self.text, node) or "")
            case ast.BinOp(left=left, op=op, right=right):
                return self.applied(node, OPERATORS[type(op)], left, right)
            case ast.UnaryOp(op=op, operand=operand):
                return self.applied(node, OPERATORS[type(op)], operand)
            case ast.BoolOp(op=op, values=values):
                return self.chained(node, op, [(value, self.column(value)) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [(side, self.column(side)) for side in (left, *others)]
                pairs = zip(ops, sides[:-1], sides[1:], strict=True)
                parts = [(node, self.combined(node, OPERATORS[type(op)], [a, b])) for op, a, b in pairs]
                return self.chained(node, ast.And(), parts) if len(parts) > 1 else parts[0][1]
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in REDUCERS:
                return self.reduced(node, name, arguments[0])
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.applied(node, ELEMENTWISE[name][0], *arguments)
        raise AssertionError(f"a node that was not checked: {ast.dump(node)}")

    def applied(self, node: ast.expr, function: Callable[..., Array], *operands: ast.expr) -> Column:
        """Apply a function to the columns of nodes."""
        return self.combined(node, function, [(operand, self.column(operand)) for operand in operands])

    def chained(self, node: ast.expr, op: ast.boolop, parts: Sequence[tuple[ast.expr, Column]]) -> Column:
        """Apply an operator of two sides from left to right."""
        whole: tuple[ast.expr, Column] = parts[0]
        for part in parts[1:]:
            whole = (node, self.combined(node, OPERATORS[type(op)], [whole, part]))
        return whole[1]

    def combined(
        self, node: ast.expr, function: Callable[..., Array], operands: list[tuple[ast.expr, Column]]
    ) -> Column:
        """Apply a function to columns, numbers per event being repeated for its steps."""
        first: tuple[ast.expr, Entries] | None = None
        for operand, column in operands:
            if column.offsets is None:
                continue
            if first is None:
                first = (operand, column.offsets)
            else:
                lengths = np.diff(first[1]), np.diff(column.offsets)
                names = self.text.of(first[0]), self.text.of(operand)
                check_same_lengths(names[0], lengths[0], names[1], lengths[1], entries=self.entries)
        offsets = None if first is None else first[1]
        arrays = [column.along(offsets) for _, column in operands]
        try:
            return Column(function(*arrays), offsets)
        except DataError as error:
            raise self.text.error(self.text.position(node), str(error)) from error

    def reduced(self, node: ast.expr, name: str, argument: ast.expr) -> Column:
        """Apply a function of the steps of an event."""
        column = self.column(argument)
        if column.offsets is None:
            what = self.text.of(argument)
            raise self.text.error(self.text.position(node), f"'{name}' works on steps, and '{what}' has none")
        try:
            return Column(REDUCERS[name](column.values, column.offsets))
        except DataError as error:
            raise self.text.error(self.text.position(node), str(error)) from error
