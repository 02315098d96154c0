"""What the page must show: every line of the equations from the reference, and numbers as written."""

from __future__ import annotations

import math
import re

import numpy as np

from browser import number
from test_trace import judged
from timelike import reference


def parts(W, U, b_ih, b_hh, x, h, G):
    """Wx + b_ih and U h + b_hh, by gate."""
    zero = np.zeros(len(W))
    first = W @ x + (zero if b_ih is None else b_ih)
    second = U @ h + (zero if b_hh is None else b_hh)
    return np.split(first, G), np.split(second, G)


def forward_of(layer, step):
    """All lines of forward at one step of the reference."""
    w, gates, G = layer.weights, dict(layer.gates), len(layer.gates)
    values = dict(zip(gates, np.split(step.gates, G), strict=True))
    first, second = parts(w["W"], w["U"], w.get("b_ih"), w.get("b_hh"), step.x, step.h_prev, G)
    found = {f"a_{g}": a + b for g, a, b in zip(gates, first, second, strict=True)}
    found |= {} if "h" in gates else values
    if layer.cell == "gru":
        del found["a_n"]
        found |= {"x_n": first[2], "h_n": second[2]}
    if layer.cell == "gru_reset_before":
        k = values["r"] * step.h_prev
        found["k"] = k
        found["a_n"] = parts(w["W"], w["U"], w["b_ih"], w["b_hh"], step.x, k, G)[1][2] + first[2]
    if layer.c is not None:
        found["c"] = step.c
    if layer.cell == "lstm_projected":
        return found | {"m": values["o"] * np.tanh(step.c), "h[]": step.h}
    return found | {"h": step.h}


def backward_of(layer, step, dh, back):
    """All lines of backward at one step of the reference."""
    w, gates, G, H = layer.weights, list(layer.gates), len(layer.gates), layer.units
    found = {f"da_{g}": v for g, v in zip(gates, np.split(back.dgates, G), strict=True)}
    if gates != ["h"]:
        found |= {f"d{g}": v for g, v in zip(gates, np.split(back.dgate_values, G), strict=True)}
    if layer.c is not None:
        found |= {"dc": back.dc, "d+c'": back.dc_prev}
    if layer.cell == "gru":
        found["dh_n"] = found["da_n"] * np.split(step.gates, 3)[0]
    if layer.cell == "gru_reset_before":
        found["dk"] = w["U"][2 * H :].T @ found["da_n"]
    if layer.cell == "lstm_projected":
        return found | {"dm": w["projection"].T @ dh, "dh[]": dh, "d+h'[]": back.dh_prev}
    return found | {"dh": dh, "d+h'": back.dh_prev}


def by_steps(layer, loss, k, b):
    """Forward and backward of sequence b, one step after another as the layer walks, and dx of each."""
    run, gradients = judged(layer, loss, k, 2)
    p, zeros = (
        run.parameters,
        reference.Parameters(*(np.zeros_like(a) for a in vars(run.parameters).values())),
    )
    rows = list(range(int(layer.offsets[b]), int(layer.offsets[b + 1])))
    dc = loss.upstream[2][k][b].numpy() if layer.c is not None else np.zeros(0)
    backs = {}
    for row in rows if layer.reverse else rows[::-1]:
        backs[row] = run.cell.cell_backward(p, zeros, run.tape[row], gradients.dh[row], dc)
        dc = backs[row].dc_prev
    return [
        (
            forward_of(layer, run.tape[r]),
            backward_of(layer, run.tape[r], gradients.dh[r], backs[r]),
            backs[r].dx,
        )
        for r in (rows[::-1] if layer.reverse else rows)
    ]


def same(text, expected):
    """Whether a number is written right in all of its digits.

    Half of the fifth digit, and the rounding of float64 in sums of some ten terms of order 1: 1e-13.
    """
    assert math.isfinite(expected)
    half = 0.5 * 10.0 ** (math.floor(math.log10(abs(expected))) - 4) if expected else 0.0
    return abs(number(text) - expected) <= half * (1 + 1e-9) + 1e-13


def compare(shown, expected, unit):
    assert shown.keys() == expected.keys()
    for name, values in expected.items():
        if name.endswith("[]"):
            texts = shown[name].strip("()").split(", ")
            assert len(texts) == len(values)
            assert all(same(t, v) for t, v in zip(texts, values, strict=True)), (name, texts, values)
        else:
            assert same(shown[name], values[unit]), (name, shown[name], values[unit])


def computed(line):
    """What the right side of a line of the page comes to, from the numbers as they are written."""
    html = line.locator(".filled").inner_html().replace("<sup>2</sup>", "**2")
    assert not re.search("[·+−] −|−[0-9.]+[*][*]", html), f"a negative number without brackets: {html}"
    expression = re.sub(r"^= ", "", html).replace("\u2212", "-").replace("·", "*")
    assert "<" not in expression
    return eval(expression, {"σ": lambda a: 1 / (1 + math.exp(-a)), "tanh": math.tanh})
