"""Diagnosis: what a trace says about a network in plain words, what to do about it, and by which numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timelike.inspect.flow import Memory, Saturation, is_finite, label, memory, saturation
from timelike.inspect.layertrace import LayerTrace
from timelike.inspect.traces import Trace

__all__ = [
    "FORGETS",
    "GREW",
    "SATURATED",
    "SELDOM",
    "SHORT",
    "Diagnosis",
    "Examination",
    "Finding",
    "diagnose",
    "examine",
]

SHORT = 0.25
"""Share of the median length: of a shorter memory, most of a sequence cannot teach the end (Bengio 1994)."""
GREW = 10.0
"""A gradient that grows tenfold on its way back rules the step: the case for clipping (Pascanu 2013)."""
FORGETS = 0.2
"""Mean forget gate: at 0.2, less than a twentieth of the cell is left after two steps (Gers 2000)."""
SATURATED = 0.5
"""Share of a gate's values at an end: beyond, most steps give its weights next to no gradient."""
SELDOM = 0.1
"""A forget gate that is shut less often remembers: a bias of log T opens it so (Tallec 2018)."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : {"overflow", "vanishing", "exploding", "forgets", "saturated", "dead"}
    layer, text, proposal : str
        Where it is, what it is, and what to do about it.
    evidence : dict of str to float
        The numbers.
    """

    kind: str
    layer: str
    text: str
    proposal: str
    evidence: dict[str, float]

    def __str__(self) -> str:
        where = f"{self.layer}: " if self.layer else ""
        return f"{where}{self.text} {self.proposal}"


@dataclass(frozen=True)
class Diagnosis:
    """All findings; none for a healthy network."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        if self.healthy:
            return "Healthy: gradients reach back, gates are within their range, every unit moves."
        return "\n".join(map(str, self.findings))


@dataclass(frozen=True, eq=False)
class Examination:
    """What one layer's diagnosis rests on.

    Attributes
    ----------
    saturation : Saturation
    memory : Memory or None
        None where there is nothing to remember: no sequence has two steps, no unit moves, or numbers are
        not finite.
    findings : tuple of Finding
    """

    saturation: Saturation
    memory: Memory | None
    findings: tuple[Finding, ...]


def diagnose(trace: Trace) -> Diagnosis:
    """Look for vanishing and exploding gradients, gates that forget or are saturated, and dead units.

    Parameters
    ----------
    trace : Trace

    Returns
    -------
    Diagnosis

    Raises
    ------
    DataError
        If no sequence has a step.

    References
    ----------
    Bengio, Simard & Frasconi, IEEE Trans. Neural Netw. 5 (1994) 157; Pascanu, Mikolov & Bengio, ICML 2013,
    sections 2 and 3; Gers, Schmidhuber & Cummins, Neural Comput. 12 (2000) 2451; Jozefowicz, Zaremba &
    Sutskever, ICML 2015, section 4 (forget bias 1); Tallec & Ollivier, ICLR 2018 (forget bias log T).
    """
    return Diagnosis(tuple(found for layer in trace.layers for found in examine(layer).findings))


def examine(layer: LayerTrace, *, most: int = 16, probes: int = 64) -> Examination:
    """Diagnose one layer, and give what that rests on.

    Parameters
    ----------
    layer : LayerTrace
    most, probes : int
        As for `timelike.inspect.memory`.

    Raises
    ------
    DataError
        If no sequence has a step.
    """
    name, gates = label(layer), saturation(layer)
    if not is_finite(layer):
        text = "States, gradients or weights are not finite: from there on all is lost."
        proposal = "Look for missing inputs; else clip the norm of the gradient and lower the learning rate."
        return Examination(gates, None, (Finding("overflow", name, text, proposal, {}),))
    remembers, found = None, []
    if layer.lengths.max(initial=0) >= 2 and len(gates.dead) < layer.units:  # dead units remember nothing
        remembers = memory(layer, most=most, probes=probes)
        found += _of_memory(layer, remembers)
    if gates.means.get("f", 1.0) < FORGETS:
        text = f"The forget gate is {gates.means['f']:.3f} in the mean: the cell is emptied at each step."
        proposal = "Start the forget bias at 1, or at log T to remember T steps."
        found.append(Finding("forgets", name, text, proposal, {"mean": gates.means["f"]}))
    for letter, low in gates.low.items():
        if letter == "f" and low < SELDOM:  # open it keeps what it is to keep: that is no fault
            continue
        share = low + gates.high[letter]
        if share > SATURATED:
            text = f"{share:.0%} of the values of gate {letter} are saturated: its weights hardly learn."
            proposal = (
                "Standardise the inputs, use smaller initial weights and biases, or a lower learning rate."
            )
            numbers = {"low": low, "high": gates.high[letter]}
            found.append(Finding("saturated", name, text, proposal, numbers))
    if len(gates.dead):
        text = f"{len(gates.dead)} of {layer.units} units never move."
        proposal = "Lower the learning rate, standardise the inputs, or take fewer units."
        found.append(Finding("dead", name, text, proposal, {"units": float(len(gates.dead))}))
    return Examination(gates, remembers, tuple(found))


def _of_memory(layer: LayerTrace, found: Memory) -> list[Finding]:
    name, length = found.layer, float(np.median(layer.lengths[layer.lengths >= 2]))
    largest = float(found.left.max())
    if largest > GREW:
        text = f"The gradient grows {largest:.3g} times on its way back: it explodes."
        proposal = "Clip the norm of the gradient, lower the learning rate, or truncate backpropagation."
        return [Finding("exploding", name, text, proposal, {"growth": largest})]
    if found.horizon < SHORT * length:
        text = f"Nine tenths of the gradient are gone after {found}: it vanishes."
        proposal = (
            "Take an LSTM or a GRU." if layer.c is None and "h" in layer.gates else "Raise the forget bias."
        )
        if layer.cell.startswith("gru"):
            proposal = "Raise the bias of the update gate z."
        if layer.cell == "lstm_coupled":
            proposal = "Lower the bias of the input gate i: the cell keeps 1 - i."
        return [Finding("vanishing", name, text, proposal, {"horizon": found.horizon, "length": length})]
    return []
