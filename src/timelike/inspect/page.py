"""One page in which one looks into a recurrent network: every step, forward and backward, unit by unit.

`write_page` puts a `Trace` into a single HTML file that needs nothing else: no network, no other files. The
numbers in it are those of the trace to the last bit; what follows from them by one line of the equations
(pre-activations, gradients of gate values) the page computes in double precision.

How the page looks and moves is in ``templates/inspect.html``, ``.css`` and ``.js``.

Letters: ``B`` sequences, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``C`` classes.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import __version__
from timelike.errors import ConfigError, DataError, require
from timelike.files import replacing
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.traces import Trace
from timelike.sequences import Sequences

__all__ = ["as_json", "packed", "render", "write_page"]

Array = npt.NDArray[Any]

# In this order: each builds on those before it.
SCRIPTS = ("cells.js", "drawing.js", "values.js", "maps.js", "js")


def write_page(
    trace: Trace,
    path: str | os.PathLike[str],
    *,
    sequences: Sequences | None = None,
    title: str = "Inside the network",
    class_names: Sequence[str] = (),
    loss: str = "",
    losses: npt.ArrayLike | None = None,
) -> Path:
    """Write the page of a trace.

    Parameters
    ----------
    trace : Trace
        As `timelike.trace` gives it.
    path : path
        The HTML file; an older one is replaced.
    sequences : Sequences, optional
        What was traced, for event numbers, labels and the values as read; those of the trace when not given.
    title : str
        Heading of the page.
    class_names : sequence of C str
        Names of the classes, where the output of the trace are their probabilities.
    loss : str
        In words what the gradients are of.
    losses : array_like, shape (B,), optional
        The loss of each sequence.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ConfigError
        If the file cannot be written, or the layers of the trace read different sequences.
    DataError
        If sequences, losses or classes do not fit the trace, or a number in it is not finite.
    MissingExtraError
        If Jinja2 is not installed.

    Examples
    --------
    >>> import tempfile, torch, timelike
    >>> from timelike.nn import GRU
    >>> found = timelike.trace(GRU(3, 4), torch.randn(5, 1, 3))
    >>> page = write_page(found, Path(tempfile.mkdtemp()) / "page.html", title="A GRU")
    >>> page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    True
    """
    content = packed(trace, sequences, class_names, losses)
    text = render(content, title=title, loss=loss)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def render(
    content: dict[str, Any], *, title: str, loss: str = "", update: dict[str, Any] | None = None
) -> str:
    """Put a page together.

    Parameters
    ----------
    content : dict
        As `packed` gives it.
    title, loss : str
        Heading, and in words what the gradients are of.
    update : dict, optional
        The steps of an example behind the backward pass; see `timelike.inspect.example`.

    Returns
    -------
    str
        The page.
    """
    jinja2 = require("jinja2", "train")
    markup = require("markupsafe", "train").Markup
    loader = jinja2.PackageLoader("timelike")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def source(name: str) -> Any:
        return markup(loader.get_source(environment, name)[0])

    content = content | {"loss_text": loss, "update": update}
    page: str = environment.get_template("inspect.html").render(
        title=title,
        loss=loss,
        update=update,
        layers=content["layers"],
        sequences=content["sequences"],
        style=source("inspect.css"),
        script=markup("\n").join(source(f"inspect.{part}") for part in SCRIPTS),
        data=markup(as_json(content)),
        version=__version__,
    )
    return page


def as_json(value: Any) -> str:
    r"""Write JSON that may stand in a script element: no ``<`` is left that could end it.

    Examples
    --------
    >>> print(as_json(["</script>", 0.5]))
    ["\u003c/script>",0.5]
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# What is in it


def packed(
    trace: Trace,
    sequences: Sequences | None = None,
    class_names: Sequence[str] = (),
    losses: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Give all that the page shows, ready for JSON."""
    sequences = trace.sequences if sequences is None else sequences
    offsets = trace.layers[0].offsets
    for layer in trace.layers:
        if not np.array_equal(layer.offsets, offsets):
            raise ConfigError(
                f"the page needs layers that read the same sequences; {layer!r} does not read those of "
                f"{trace.layers[0]!r}"
            )
    B = len(offsets) - 1
    if B == 0:
        raise DataError("there are no sequences to look at")
    if sequences is not None and len(sequences) != B:
        raise DataError(f"{len(sequences)} sequences are given, the trace has {B}")
    return {
        "loss": _finite("the loss", trace.loss),
        "offsets": offsets.tolist(),
        "classes": list(class_names),
        "sequences": _sequences(trace, sequences, B, tuple(class_names), losses),
        "layers": [_layer(trace, k) for k in range(len(trace.layers))],
        "raw": _raw(trace, sequences),
    }


def _finite(what: str, value: float) -> float:
    if not np.isfinite(value):
        raise DataError(f"{what} is {value}; a page needs finite numbers")
    return float(value)


def _sequences(
    trace: Trace,
    sequences: Sequences | None,
    B: int,
    class_names: tuple[str, ...],
    losses: npt.ArrayLike | None,
) -> list[dict[str, Any]]:
    """Give name, true class, scores and loss of each sequence."""
    scores = None
    if class_names:
        scores = np.asarray(trace.output)
        if scores.shape != (B, len(class_names)):
            raise DataError(
                f"{len(class_names)} classes of {B} sequences need an output of shape "
                f"{(B, len(class_names))}; that of the trace has {scores.shape}"
            )
    own = None if losses is None else np.asarray(losses, dtype=np.float64)
    if own is not None and own.shape != (B,):
        raise DataError(f"losses have shape {own.shape}; one number for each of the {B} sequences is needed")
    labels = None if sequences is None else sequences.labels
    names = _names(sequences, B)
    found: list[dict[str, Any]] = []
    for b in range(B):
        one: dict[str, Any] = {"name": names[b]}
        if labels is not None:
            label = int(labels[b])
            one["truth"] = class_names[label] if label < len(class_names) else str(label)
        if scores is not None:
            one["scores"] = [_finite(f"a score of {names[b]}", float(score)) for score in scores[b]]
        if own is not None:
            one["loss"] = _finite(f"the loss of {names[b]}", float(own[b]))
        found.append(one)
    return found


def _names(sequences: Sequences | None, B: int) -> list[str]:
    """Name the sequences by event number; events that share one are counted."""
    if sequences is None or sequences.events is None:
        return [f"sequence {b + 1}" for b in range(B)]
    numbers = sequences.events.tolist()
    names, seen = [], dict.fromkeys(numbers, 0)
    for number in numbers:
        seen[number] += 1
        several = numbers.count(number)
        names.append(f"event {number}" + (f" ({seen[number]} of {several})" if several > 1 else ""))
    return names


def _layer(trace: Trace, k: int) -> dict[str, Any]:
    layer = trace.layers[k]
    arrays: dict[str, Array | None] = {"x": layer.x, "h": layer.h, "c": layer.c}
    arrays |= {"dh": layer.dh, "dc": layer.dc}
    arrays |= {f"gate_{letter}": values for letter, values in layer.gates.items()}
    arrays |= {f"da_{letter}": values for letter, values in layer.dgates.items()}
    arrays |= {"h0": layer.h0, "c0": layer.c0} | layer.weights
    where = _title(layer)
    return {
        "title": where,
        "cell": layer.cell,
        "reverse": layer.reverse,
        "gates": list(layer.gates),
        "inputs": _inputs(trace, layer),
        "first": layer.x.shape[1] == len(trace.names) and layer.name == trace.layers[0].name,
        "D": layer.x.shape[1],
        "H": layer.units,
        "R": layer.h.shape[1],
        "type": "f8" if layer.x.dtype == np.float64 else "f4",
        "arrays": {name: _bits(f"{where}: {name}", a) for name, a in arrays.items() if a is not None},
    }


def _title(layer: LayerTrace) -> str:
    name = f"layer{layer.name}" if layer.name[:1] in ("", ":") else layer.name
    return f"{name}, {layer.direction}"


def _inputs(trace: Trace, layer: LayerTrace) -> list[str]:
    """Name what a layer reads: the variables, or the states of the layer below."""
    first, D = trace.layers[0], layer.x.shape[1]
    if layer.name == first.name and len(trace.names) == D:
        return list(trace.names)
    return [f"h {j + 1} below" for j in range(D)]


def _bits(what: str, array: Array) -> str:
    """Give the numbers of an array, little-endian and bit by bit."""
    if not np.isfinite(array).all():
        raise DataError(f"{what} has numbers that are not finite; a page needs finite ones")
    kind = "<f8" if array.dtype == np.float64 else "<f4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode("ascii")


def _raw(trace: Trace, sequences: Sequences | None) -> str | None:
    """Give the variables as read, where they are other numbers than the network reads."""
    first = trace.layers[0]
    if sequences is None or not set(trace.names) <= set(sequences.names):
        return None
    columns = [sequences.names.index(name) for name in trace.names]
    values = sequences.values[:, columns].astype(np.float64)
    if values.shape != first.x.shape or np.array_equal(values, first.x):
        return None
    return _bits("the input", values)
