"""What the header of a model file may say of its network: checked before anything is made of it.

Whoever wrote the file may have been anyone. Sizes are whole numbers from 1, and each tensor must be there
with the shape that they give: so none makes more memory than the file has bytes for. Names are text; nothing
is nested deeper than `DEPTH`, so that whoever walks over it may recurse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from timelike.cells import CELLS
from timelike.errors import ModelFileError, nearest

__all__ = ["DEPTH", "LENGTH", "SIZE", "brief", "check_network", "parsed"]

DEPTH = 50
"""Of lists and mappings in each other; ours have fewer than ten."""

LENGTH = 32_000_000
"""Characters of the text: a gigabyte of lists at the worst. A table of a transform has some 10,000."""

SIZE = 2**31 - 1
"""Of units, steps and the like."""


def brief(value: object, most: int = 100) -> str:
    """Give what Python writes for a value, on one line, cut where it is long.

    Examples
    --------
    >>> brief("n" * 1000, most=12)
    "'nnnnnnnn..."
    """
    text = repr(value)  # of text it has neither line breaks nor what a terminal would obey
    return text if len(text) <= most else text[: most - 3] + "..."


def parsed(text: str) -> Any:
    """Read JSON, without what Python adds to it (NaN, Infinity) and what cannot be written again.

    Raises
    ------
    ModelFileError
        If it is none, too long, or nested too deeply.

    Examples
    --------
    >>> parsed('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    if len(text) > LENGTH:
        raise ModelFileError(f"the header has {len(text)} characters; {LENGTH} are read")
    try:
        value = json.loads(text, parse_constant=_refused)
        if "\\u" in text:  # half of a pair, which no file and no terminal takes
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the header is not valid JSON ({' '.join(str(error).split())[:200]})") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise ModelFileError(f"the header is nested more than {DEPTH} deep")
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return value


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def check_network(network: Mapping[str, Any]) -> None:
    """Refuse a network whose values are not of the kinds that they have in a config.

    Which poolings, activations and outputs there are is asked by those who compute them.

    Raises
    ------
    ModelFileError
        Naming the key; without the file.
    KeyError
        If a key is missing that no default stands for.
    """
    for k, layer in enumerate(_list("recurrent", network["recurrent"])):
        where = f"recurrent.{k}"
        if not isinstance(layer, dict):
            raise _error(where, layer, "a mapping")
        _text(f"{where}.cell", layer["cell"])
        if layer["cell"] not in CELLS:
            raise ModelFileError(
                f"unknown cell {brief(layer['cell'])}; {nearest(layer['cell'][:100], CELLS)}"
            )
        units = _size(f"{where}.units", layer["units"])
        _truth(f"{where}.bidirectional", layer["bidirectional"])
        for name in ("peephole", "coupled", "reset_after", "inner_bias"):
            _truth(f"{where}.{name}", layer.get(name, False))
        if layer.get("projection", 0) != 0 and _size(f"{where}.projection", layer["projection"]) >= units:
            raise _error(f"{where}.projection", layer["projection"], f"a size below the {units} units")
    _text("pooling", network.get("pooling", "last"))
    if network.get("steps") is not None:
        _size("steps", network["steps"])
    head = network["head"]
    if not isinstance(head, dict):
        raise _error("head", head, "a mapping")
    _check_head(head)


def _check_head(head: Mapping[str, Any]) -> None:
    units = _list("head.units", head["units"])
    for number in units:
        _size("head.units", number)
    given = head.get("activation", "relu")
    activations = [given] if isinstance(given, str) else _list("head.activation", given)
    for activation in activations:
        _text("head.activation", activation)
    if len(activations) not in (1, len(units)):
        raise _error("head.activation", given, f"one, or one for each of {len(units)} layers")
    _text("head.output", head.get("output", "softmax"))
    quantiles = _list("head.quantiles", head.get("quantiles") or [])
    for share in quantiles:
        if not 0.0 < _number("head.quantiles", share) < 1.0:
            raise _error("head.quantiles", share, "a number between 0 and 1")
    norm = head.get("batch_norm")
    if norm is None:
        return
    if not isinstance(norm, dict):
        raise _error("head.batch_norm", norm, "a mapping")
    for k in _list("head.batch_norm.before", norm["before"]):
        if type(k) is not int or not 0 <= k <= len(units):
            raise _error("head.batch_norm.before", k, f"layers 0..{len(units)}")
    if _number("head.batch_norm.epsilon", norm["epsilon"]) <= 0.0:
        raise _error("head.batch_norm.epsilon", norm["epsilon"], "a number above 0")


def _error(where: str, given: object, needed: str) -> ModelFileError:
    return ModelFileError(f"{where}: {brief(given)}; {needed} is needed")


def _list(where: str, given: object) -> list[Any]:
    if not isinstance(given, list):
        raise _error(where, given, "a list")
    return given


def _text(where: str, given: object) -> None:
    if not isinstance(given, str):
        raise _error(where, given, "text")


def _truth(where: str, given: object) -> None:
    if not isinstance(given, bool):
        raise _error(where, given, "true or false")


def _size(where: str, given: object) -> int:
    if type(given) is not int or not 1 <= given <= SIZE:  # true is an int too
        raise _error(where, given, f"a whole number from 1 to {SIZE}")
    return given


def _number(where: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise _error(where, given, "a number")
    return float(given)
