"""Changes of a model file that leave it one to read: of the text, of a tensor's entry, of numbers.

Of bytes changed at random nearly all only make a file no safetensors file; these go deeper. The fuzzer and
the tests of the gate share them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from timelike.description import describe
from timelike.errors import DataError, ModelFileError
from timelike.modelfile import read_model_file
from timelike.scorer import load

KEY = "timelike"
VALUES: list[Any] = [None, True, False, 0, 1, 2, 3, -1, 2.0, 0.5, 1e308, 1e-308, 10**30, -(2**63), 2**64]
VALUES += [float("nan"), float("inf"), "", "x", "gru", "lstm", "mean", "flatten", "none", "gauss", "sigmoid"]
VALUES += ["2", "a\nb", "\ud800", "\x1b[2J", [], [[]], {}, {"a": 1}, "__class__", "/etc/hostname"]
NUMBERS = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e38, 1e-45, -1e38]


def taken_apart(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytearray]:
    """Give the header of a model file without its text, what the text says, and the bytes of the tensors.

    Raises
    ------
    ValueError
        If it is none.
    """
    n = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + n])
        text = json.loads(header.pop("__metadata__")[KEY])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no model file") from error
    if not isinstance(text, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError("no model file")
    return header, text, bytearray(content[8 + n :])


def put_together(header: dict[str, Any], text: dict[str, Any], body: bytes) -> bytes:
    """Make a file of what `taken_apart` gives."""
    whole = {"__metadata__": {KEY: json.dumps(text)}, **header}
    written = json.dumps(whole).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + body


def changed(content: bytes, rng: random.Random) -> bytes:
    """Change one to three things of a model file.

    Raises
    ------
    ValueError
        If it is none.
    """
    header, text, body = taken_apart(content)
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.75:
            _change_value(text, rng)
        elif kind < 0.85 and header:
            _change_value(header, rng)
        elif len(body) >= 8:
            at = rng.randrange(len(body) // 4) * 4
            body[at : at + 4] = np.float32(rng.choice(NUMBERS)).tobytes()
    return put_together(header, text, bytes(body))


def _change_value(values: Any, rng: random.Random) -> None:
    """Put another value at one place, take the place away, or name it otherwise."""
    spots: list[tuple[Any, Any]] = []

    def walk(value: Any, depth: int) -> None:
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        # Of a table of hundreds of numbers a few are as good as all.
        for key in list(keys)[:12]:
            spots.append((value, key))
            if depth < 50:
                walk(value[key], depth + 1)

    walk(values, 0)
    if not spots:
        return
    (inner, key), (other, from_key) = rng.choice(spots), rng.choice(spots)
    how = rng.random()
    if how < 0.1:
        del inner[key]
    elif how < 0.2 and isinstance(inner, dict):
        inner[rng.choice(["x", "quantiles", "projection", "steps", "inputs"])] = inner.pop(key)
    elif how < 0.3 and isinstance(inner, list):
        inner.insert(key, json.loads(json.dumps(other[from_key])))
    else:
        inner[key] = rng.choice([rng.choice(VALUES), json.loads(json.dumps(other[from_key]))])


def used(path: Path) -> str:
    """Read a file, describe it, load it and score a few sequences, and give the one line if it is refused.

    Whatever is not refused must give numbers of the promised shape.
    """
    try:
        model = load(path)
        networks = describe(read_model_file(path))
    except ModelFileError as error:
        return checked_line(error, path)
    described = networks[0]
    lengths = [described.steps] * 2 if described.steps is not None else [2, 0, 3]
    if sum(lengths) * len(described.variables) > 10_000:
        return ""
    D = len(described.variables)
    rows = [np.linspace(-2, 2, n * D).reshape(n, D).astype("f4") for n in lengths]
    try:
        with np.errstate(all="ignore"):
            scores = model.predict(rows)
            if not (any(layer.bidirectional for layer in described.layers) or described.steps is not None):
                streams = model.stream(ordered=True)
                streams.step(rows[0][0])
    except DataError as error:
        return str(error)
    assert scores.shape == (sum(lengths) if model.per_step else len(lengths), len(model.output_names))
    assert scores.dtype == np.float64
    return ""


def checked_line(error: Exception, path: Path) -> str:
    """Check that an error is one line of reasonable length that names the file, and give it."""
    message = str(error)
    assert message.startswith(f"{path}: "), message
    assert "\n" not in message, message
    assert len(message) < 1000, len(message)
    return message
