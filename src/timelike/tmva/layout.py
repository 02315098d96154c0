"""TMVA's layout strings: the layers of a network, and where in the string each of them stands.

    LSTM|10|30|10|0|1,RESHAPE|FLAT,DENSE|64|TANH,LINEAR

Layers are separated by ``,`` and their fields by ``|``. TMVA takes a field that is missing or no number as 0,
and a layer that it does not know as a dense one; here each of these is an error with its column.

`Piece` and the numbers that are read from it serve the other option strings too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from timelike.errors import ConfigError, nearest

__all__ = [
    "ACTIVATIONS",
    "BatchNorm",
    "Dense",
    "Layer",
    "Piece",
    "Recurrent",
    "Reshape",
    "parse_layout",
    "suggestion",
    "width_of",
]

MOST_LAYERS = 100
LARGEST_SIZE = 1_000_000  # of a layer, an input, a number of steps

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?")

# TMVA's name -> its code in a weight file. FTANH is what its parser knows, FASTTANH what its manual says.
ACTIVATIONS: dict[str, int] = {
    "LINEAR": 0,
    "RELU": 1,
    "SIGMOID": 2,
    "TANH": 3,
    "SYMMRELU": 4,
    "SOFTSIGN": 5,
    "GAUSS": 6,
    "FTANH": 7,
    "FASTTANH": 7,
}
_KINDS = ("RNN", "LSTM", "GRU", "RESHAPE", "DENSE", "LINEAR", "BNORM")
_FIELDS = ("stateSize", "inputSize", "timeSteps", "rememberState", "returnSequence", "resetGateAfter")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known names are nearest to a name, whatever the case of their letters.

    Examples
    --------
    >>> suggestion("maxepoch", ["MaxEpochs", "BatchSize"])
    "nearest: 'MaxEpochs'"
    """
    by_lower = {k.lower(): k for k in known}
    text = nearest(name[:60].lower(), by_lower, most=1)
    for lower, word in by_lower.items():
        text = text.replace(f"'{lower}'", f"'{word}'")
    return text


@dataclass(frozen=True)
class Piece:
    """A part of an option string.

    Parameters
    ----------
    text : str
    start : int
        Position of its first character in the whole string, from 0.
    key : str
        The option that it belongs to, for messages.
    """

    text: str
    start: int
    key: str = "options"

    def split(self, separator: str) -> list[Piece]:
        """Give the parts between separators, empty ones included."""
        parts, at = [], self.start
        for text in self.text.split(separator):
            parts.append(Piece(text, at, self.key))
            at += len(text) + len(separator)
        return parts

    def cut(self, separator: str) -> tuple[Piece, Piece | None]:
        """Give what is before and what is after the first separator; None where there is none."""
        before, found, after = self.text.partition(separator)
        rest = Piece(after, self.start + len(before) + 1, self.key) if found else None
        return Piece(before, self.start, self.key), rest

    def stripped(self) -> Piece:
        """Give the piece without blanks at its ends."""
        start = self.start + len(self.text) - len(self.text.lstrip())
        return Piece(self.text.strip(), start, self.key)

    def error(self, message: str) -> ConfigError:
        """Make an error that says where the piece is and what it reads."""
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        text = f"{self.key}, column {self.start + 1}: {shown!r}: {message}"
        # Names of classes may hold anything: the error stays on one line.
        return ConfigError("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))

    def whole(self, name: str, *, least: int = 0, most: int = LARGEST_SIZE) -> int:
        """Read a whole number within bounds."""
        if not _INTEGER.fullmatch(self.text):
            raise self.error(f"{name} is a whole number")
        value = int(self.text)
        if not least <= value <= most:
            raise self.error(f"{name} is from {least} to {most}")
        return value

    def number(self, name: str, *, least: float = -1e300, most: float = 1e300) -> float:
        """Read a finite number within bounds."""
        if not _NUMBER.fullmatch(self.text):
            raise self.error(f"{name} is a number, such as 1e-3")
        value = float(self.text)
        if not (math.isfinite(value) and least <= value <= most):
            raise self.error(f"{name} is from {least:g} to {most:g}")
        return value

    def flag(self, name: str) -> bool:
        """Read 0 or 1."""
        if self.text not in ("0", "1"):
            raise self.error(f"{name} is 0 or 1")
        return self.text == "1"

    def choice(self, name: str, known: Iterable[str]) -> str:
        """Read one of some words, in their own letters."""
        known = tuple(known)
        if self.text not in known:
            raise self.error(f"no such {name}; {suggestion(self.text, known)}")
        return self.text


# -- layers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recurrent:
    """``RNN|stateSize|inputSize|timeSteps|rememberState|returnSequence``, LSTM and GRU alike.

    A GRU has ``resetGateAfter`` behind that.
    """

    piece: Piece
    cell: str  # "RNN", "LSTM", "GRU"
    state_size: int
    input_size: int
    time_steps: int
    remember_state: bool = False
    return_sequence: bool = False
    reset_gate_after: bool = False


@dataclass(frozen=True)
class Reshape:
    """``RESHAPE|FLAT``, or ``RESHAPE|depth|height|width`` with or without ``FLAT``."""

    piece: Piece
    shape: tuple[int, ...]  # () or (depth, height, width)
    flat: bool


@dataclass(frozen=True)
class Dense:
    """``DENSE|width|ACTIVATION`` in any order; ``LINEAR`` alone is one without a width.

    The width is a formula in N, the number of variables; None is the number of outputs.
    """

    piece: Piece
    width: str | None
    activation: str


@dataclass(frozen=True)
class BatchNorm:
    """``BNORM|momentum|epsilon``; a momentum below 0 is the mean over all batches."""

    piece: Piece
    momentum: float = -1.0
    epsilon: float = 1e-4


Layer = Recurrent | Reshape | Dense | BatchNorm


def parse_layout(piece: Piece) -> tuple[Layer, ...]:
    """Parse the value of ``Layout=``.

    Parameters
    ----------
    piece : Piece

    Returns
    -------
    tuple of Layer

    Raises
    ------
    ConfigError
        Naming the column and the field that cannot be used.

    Examples
    --------
    >>> [type(layer).__name__ for layer in parse_layout(Piece("GRU|8|3|5|0|1,RESHAPE|FLAT,LINEAR", 0))]
    ['Recurrent', 'Reshape', 'Dense']
    """
    texts = [part for part in piece.split(",") if part.text]
    if not texts:
        raise piece.error("a layout has at least one layer")
    if len(texts) > MOST_LAYERS:
        raise texts[MOST_LAYERS].error(f"more than {MOST_LAYERS} layers")
    return tuple(_layer(part) for part in texts)


def _layer(piece: Piece) -> Layer:
    kind, *fields = piece.split("|")
    for field in (kind, *fields):
        if not field.text:  # TMVA drops it, and all that follow move up
            raise Piece(piece.text, field.start, piece.key).error("an empty field between '|'")
    if kind.text in ("RNN", "LSTM", "GRU"):
        return _recurrent(piece, kind.text, fields)
    if kind.text in ("CONV", "MAXPOOL"):
        raise piece.error(
            f"{kind.text} is a layer of images; of the layers here the recurrent ones read steps"
        )
    if kind.text == "RESHAPE":
        return _reshape(piece, fields)
    if kind.text == "BNORM":
        return _batch_norm(piece, fields)
    if kind.text == "DENSE":
        return _dense(piece, fields)
    if kind.text in ACTIVATIONS:
        return _dense(piece, [kind, *fields])
    raise piece.error(f"no such layer as {kind.text[:60]!r}; {suggestion(kind.text, _KINDS)}")


def _recurrent(piece: Piece, cell: str, fields: list[Piece]) -> Recurrent:
    most = 6 if cell == "GRU" else 5
    if len(fields) < 3:
        raise piece.error(f"{cell} needs {'|'.join(_FIELDS[:3])}; there are {len(fields)} fields")
    for index, field in enumerate(fields):
        if field.text in _KINDS:
            raise field.error("the next layer begins with ',', not '|'")
        if index >= most:
            raise field.error(f"{cell} has no more fields than {'|'.join(_FIELDS[:most])}")
    sizes = [field.whole(name, least=1) for field, name in zip(fields[:3], _FIELDS[:3], strict=True)]
    flags = [field.flag(name) for field, name in zip(fields[3:], _FIELDS[3:], strict=False)]
    state, inputs, steps = sizes
    return Recurrent(piece, cell, state, inputs, steps, *flags)


def _reshape(piece: Piece, fields: list[Piece]) -> Reshape:
    flat = bool(fields) and fields[-1].text == "FLAT"
    numbers = fields[:-1] if flat else fields
    for field in numbers:
        if field.text in _KINDS:
            raise field.error("the next layer begins with ',', not '|'")
    if len(numbers) not in (0, 3) or not fields:
        raise piece.error("RESHAPE|FLAT and RESHAPE|depth|height|width|FLAT are possible")
    return Reshape(piece, tuple(f.whole("a size", least=1) for f in numbers), flat)


def _batch_norm(piece: Piece, fields: list[Piece]) -> BatchNorm:
    if len(fields) > 2:
        raise fields[2].error("BNORM has no more fields than momentum|epsilon")
    values: dict[str, float] = {}
    if fields:
        values["momentum"] = fields[0].number("the momentum", least=-1.0, most=1.0)
        if values["momentum"] == 1.0:
            raise fields[0].error("a momentum of 1 leaves the means as they were in the beginning, 0")
    if len(fields) > 1:
        values["epsilon"] = fields[1].number("epsilon", least=1e-300, most=1e6)
    return BatchNorm(piece, **values)


def _dense(piece: Piece, fields: list[Piece]) -> Dense:
    activation: Piece | None = None
    width: Piece | None = None
    for field in fields:
        if field.text in _KINDS and field.text != "LINEAR":
            raise field.error("the next layer begins with ',', not '|'")
        if field.text in ACTIVATIONS:
            if activation is not None:
                raise field.error(f"a second activation, after {activation.text!r}")
            activation = field
        elif width is not None:
            raise field.error(
                f"no width, for that is {width.text!r}, and no activation; "
                f"{suggestion(field.text, ACTIVATIONS)}"
            )
        else:
            _checked_width(field)
            width = field
    given = None if width is None or width.text == "0" else width.text
    return Dense(piece, given, "TANH" if activation is None else activation.text)


def _checked_width(field: Piece) -> None:
    if re.search(r"[A-Za-z]{2}", field.text):
        raise field.error(f"no activation; {suggestion(field.text, ACTIVATIONS)}")
    _evaluated(field, math.e)  # no N for which a formula divides by 0


# -- the width of a dense layer ------------------------------------------------------------------------------

_TOKEN = re.compile(r"[0-9]{1,18}(?:\.[0-9]{0,18})?(?![0-9.])|[-+*/()]|[Nn]")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


def width_of(layer: Dense, n_variables: int | None, n_outputs: int) -> int:
    """Give the units of a dense layer.

    Parameters
    ----------
    layer : Dense
    n_variables : int or None
        N of its formula.
    n_outputs : int
        Width of a layer that has none of its own.

    Raises
    ------
    ConfigError
        If the formula has N and that is not known, or the result is no number of units.

    Examples
    --------
    >>> width_of(Dense(Piece("DENSE|(N+2)*2", 0), "(N+2)*2", "TANH"), 30, 1)
    64
    """
    if layer.width is None:
        return n_outputs
    field = Piece(layer.width, layer.piece.start + layer.piece.text.index(layer.width), layer.piece.key)
    if n_variables is None and "N" in layer.width.upper():
        raise field.error("N is the number of variables, which is not known here; give InputLayout=T|D")
    value = _evaluated(field, float(n_variables or 0))
    if not 1 <= value <= LARGEST_SIZE:
        raise field.error(f"gives {value:g} units; from 1 to {LARGEST_SIZE} are possible")
    return int(value)  # TMVA cuts off what is behind the point


def _evaluated(field: Piece, n: float) -> float:
    """Compute a formula of numbers, N, + - * / and parentheses: two stacks, after Dijkstra."""
    if len(field.text) > 200:
        raise field.error("a formula of at most 200 characters is possible")
    values: list[float] = []
    operators: list[tuple[str, int]] = []

    def apply() -> None:
        operator, at = operators.pop()
        right, left = values.pop(), values.pop()
        if operator == "/" and right == 0.0:
            raise Piece(field.text, at, field.key).error("division by 0")
        results = {"+": left + right, "-": left - right, "*": left * right}
        values.append(left / right if operator == "/" else results[operator])

    at, operand = 0, True  # whether an operand is due
    while at < len(field.text):
        match = _TOKEN.match(field.text, at)
        here = Piece(field.text, field.start + at, field.key)
        if match is None:
            raise here.error("a width is a formula of numbers, N, + - * / and parentheses")
        token, at = match[0], match.end()
        if (token == "(" or token not in "+-*/)") != operand:
            raise here.error(f"{token!r} cannot stand at this place of a width")
        if token == "(":
            operators.append((token, here.start))
        elif token == ")":
            while operators and operators[-1][0] != "(":
                apply()
            if not operators:
                raise here.error("a ')' without its '('")
            operators.pop()
        elif token in _PRECEDENCE:
            while operators and _PRECEDENCE.get(operators[-1][0], 0) >= _PRECEDENCE[token]:
                apply()
            operators.append((token, here.start))
            operand = True
        else:
            values.append(n if token in "Nn" else float(token))
            operand = False
    if operand:
        raise field.error("a width is a formula of numbers, N, + - * / and parentheses")
    while operators:
        if operators[-1][0] == "(":
            raise Piece(field.text, operators[-1][1], field.key).error("a '(' without its ')'")
        apply()
    return values[0]
