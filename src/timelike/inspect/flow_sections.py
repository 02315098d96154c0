"""The section of a report on gradient flow: how far the network remembers, and what stands in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from timelike.inspect.diagnosis import Diagnosis, Finding, examine
from timelike.inspect.figures import plot_gradient_flow
from timelike.inspect.flow import Saturation, gradient_flow, label
from timelike.inspect.traces import trace
from timelike.model import Model
from timelike.report.page import Cell, Figure, Row, Section, Table
from timelike.report.typography import number, percent
from timelike.sequences import Sequences

__all__ = ["flow_sections"]


def flow_sections(model: Model, sequences: Sequences, *, n_events: int = 300, seed: int = 0) -> list[Section]:
    """Trace some events, and say how far back the gradient reaches in each layer.

    Parameters
    ----------
    model : timelike.model.Model
    sequences : Sequences
        As read, not transformed.
    n_events : int
        So many at most, drawn with `seed`.

    Returns
    -------
    list of Section
        One; none where no event has two steps, or the network no recurrent layer.
    """
    if not model.network.recurrent:
        return []
    n = len(sequences)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_events])
    found = trace(model, sequences[chosen])
    if found.layers[0].lengths.max(initial=0) < 2:
        return []
    loss = "the loss" if sequences.labels is not None else "what it says"
    facts: list[tuple[str, str]] = []
    figures: list[Figure] = []
    gates: list[Row] = []
    findings: list[Finding] = []
    titles = layer_titles([label(layer) for layer in found.layers])
    for k, layer in enumerate(found.layers):
        name = titles[label(layer)]
        examined = examine(layer)
        findings += [replace(finding, layer=name) for finding in examined.findings]
        gates += _gates(name if len(titles) > 1 else "", examined.saturation)
        remembers = examined.memory
        if remembers is None:  # the diagnosis says why
            continue
        facts.append((f"memory of {name}", f"nine tenths of the gradient are gone after {remembers}"))
        axes = plot_gradient_flow(gradient_flow(layer), remembers)
        caption = (
            f"Gradient of {loss} with respect to the states of {name}, by the number of steps to the end: "
            f"median of those of {len(chosen)} events that reach so far, in grey their number; the bands "
            "hold 68 % of them. The dashed line is the horizon, after which less than a tenth of the "
            "gradient of the last hidden state is left, by its Jacobians."
        )
        alt = f"Norm of the gradient over the distance from the end, {name}"
        figures.append(Figure(f"flow-{k + 1}", axes, alt, caption))
    facts += [("diagnosis", line) for line in str(Diagnosis(tuple(findings))).splitlines()]
    lead = "What of the gradient arrives at a step is what training can change there."
    head = ("gate", "mean", "at the lower end", "at the upper end", "units mostly at an end")
    tables = (Table(head, tuple(gates)),) if gates else ()
    return [Section("memory", "How far it remembers", lead, tuple(figures), tables, facts=tuple(facts))]


def layer_titles(labels: Sequence[str]) -> dict[str, str]:
    """Name layers as a reader counts them, by the labels of `timelike.inspect.flow.label`.

    Examples
    --------
    >>> list(layer_titles(["a forward", "a reverse", "b forward"]).values())
    ['layer 1', 'layer 1, reverse', 'layer 2']
    """
    names = list(dict.fromkeys(text.rpartition(" ")[0] for text in labels))  # both directions have one
    found = {}
    for text in labels:
        name, _, direction = text.rpartition(" ")
        found[text] = f"layer {names.index(name) + 1}" + (", reverse" if direction == "reverse" else "")
    return found


def _gates(layer: str, found: Saturation) -> list[Row]:
    """Say of each gate how much of it is saturated."""
    rows = []
    for letter, low in found.low.items():
        stuck = int((found.by_unit[letter] > 0.5).sum())
        ends = percent(low), percent(found.high[letter])
        cells = (number(found.means[letter]), *ends, f"{stuck} of {len(found.by_unit[letter])}")
        rows.append(Row(f"{layer}: {letter}".removeprefix(": "), tuple(map(Cell, cells))))
    return rows
