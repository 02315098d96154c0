"""The worked example: one LSTM unit, two inputs, two steps, from the first forward step to the new weights.

Everything is computed here by the layers of `timelike.nn` and `timelike.trace`; the numbers published beside
the example are in its tests alone.

References
----------
A. Gomez, Backpropogating an LSTM: a numerical example (2016).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from timelike.files import replacing
from timelike.inspect.page import packed, render
from timelike.inspect.traces import Trace, trace
from timelike.nn import LSTM, Ragged

__all__ = ["Example", "example_page", "run_example"]

Array = npt.NDArray[Any]

RATE = 0.1
TARGETS = (0.5, 1.25)
INPUTS = ((1.0, 2.0), (0.5, 3.0))
# By gate: W, U, b
WEIGHTS = {
    "i": ((0.95, 0.8), 0.8, 0.65),
    "f": ((0.7, 0.45), 0.1, 0.15),
    "g": ((0.45, 0.25), 0.15, 0.2),
    "o": ((0.6, 0.4), 0.25, 0.1),
}


@dataclass(frozen=True, eq=False)
class Example:
    """The example before and after one step of gradient descent.

    Attributes
    ----------
    before, after : Trace
        Runs of the same sequence with the weights as given and as updated.
    """

    before: Trace
    after: Trace


def run_example() -> Example:
    """Run the example forward and backward, update the weights, and run it again.

    Examples
    --------
    >>> done = run_example()
    >>> f"{done.before.loss:.8f} -> {done.after.loss:.8f}"
    '0.11491036 -> 0.11088080'
    """
    layer = LSTM(2, 1, dtype=torch.float64)
    W, U, b, b_hh = layer.parameters()
    with torch.no_grad():
        for row, (w, u, bias) in enumerate(WEIGHTS.values()):
            W[row], U[row], b[row] = torch.tensor(w, dtype=torch.float64), u, bias
        b_hh.zero_()  # the example has one bias: the other is no parameter of it and stays zero
    sequence = Ragged(torch.tensor(INPUTS, dtype=torch.float64), torch.tensor([0, len(INPUTS)]))
    names = ("x1", "x2")
    before = trace(layer, sequence, loss=_loss, names=names)
    with torch.no_grad():
        for name, weight in zip(("W", "U", "b_ih"), layer.parameters(), strict=False):
            weight.sub_(RATE * torch.from_numpy(before[0].dweights[name]))
    return Example(before, trace(layer, sequence, loss=_loss, names=names))


def _loss(output: Any) -> Tensor:
    """Half the squared distance to the targets, summed over the steps."""
    targets = torch.tensor(TARGETS, dtype=torch.float64)[:, None]
    distance: Tensor = output[0].values - targets
    return 0.5 * distance.square().sum()


def example_page(path: str | os.PathLike[str]) -> Path:
    """Write the page of the example: forward, loss, backward, the sums over the steps, the update, the loss.

    Parameters
    ----------
    path : path
        The HTML file; an older one is replaced.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    MissingExtraError
        If Jinja2 is not installed.
    """
    done = run_example()
    content = packed(done.before) | {"digits": 8}
    content["sequences"][0] |= {"name": "the example", "loss": done.before.loss}
    text = render(
        content,
        title="Backpropagation through an LSTM, number by number",
        loss="half the squared distance of h to its target, summed over both steps",
        update=_update(done),
    )
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def _update(done: Example) -> dict[str, Any]:
    """Give what comes behind the backward pass, as text."""
    before, after = done.before[0], done.after[0]
    steps, parts = before.contributions(0), []
    for row, letter in enumerate(before.gates):
        for name, symbol in (("W", "W"), ("U", "U"), ("b_ih", "b")):
            old, d, new = (
                np.atleast_1d(w[name][row]) for w in (before.weights, before.dweights, after.weights)
            )
            added = steps[name][:, row].reshape(len(TARGETS), -1)
            for column in range(len(old)):
                label = f"{symbol}{letter}" + (f"{column + 1}" if len(old) > 1 else "")
                numbers = [old[column], *added[:, column], d[column], new[column]]
                parts.append(
                    {
                        "id": label,
                        "symbol": symbol,
                        "index": f"{letter}{f',{column + 1}' if len(old) > 1 else ''}",
                        "numbers": [_text(float(value)) for value in numbers],
                    }
                )
    return {
        "rate": RATE,
        "rows": parts,
        "before": _text(done.before.loss, 17),
        "after": _text(done.after.loss, 17),
        "before_short": _text(done.before.loss),
        "after_short": _text(done.after.loss),
        "terms": _terms(done.before),
        "new_terms": _terms(done.after),
    }


def _terms(run: Trace) -> list[dict[str, str]]:
    """Give the loss, one term for each step."""
    return [
        {"h": _text(float(h)), "target": f"{target:g}", "value": _text(0.5 * (float(h) - target) ** 2)}
        for h, target in zip(run[0].h[:, 0], TARGETS, strict=True)
    ]


def _text(value: float, digits: int = 8) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")
